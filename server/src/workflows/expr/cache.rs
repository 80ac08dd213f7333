//! The compiled expressions of the process, remembered by their text.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::Expression;
use super::error::ExprError;

/// Most expressions remembered.
const MAX_ENTRIES: usize = 1024;
/// Most text remembered; a compiled expression takes up to some hundred times its text.
const MAX_TOTAL_BYTES: usize = 256 << 10;

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

/// As [`Expression::compile`], but remembers the expressions compiled last.
///
/// Only successes are remembered. Two callers compiling the same new text at once may both compile
/// it, and get equal expressions.
///
/// # Errors
///
/// Those of [`Expression::compile`].
pub fn compile_cached(text: &str) -> Result<Arc<Expression>, ExprError> {
    if let Some(known) = cache().get(text) {
        return Ok(known);
    }
    let expression = Expression::compile(text)?;
    cache().insert(Arc::clone(&expression));
    Ok(expression)
}

fn cache() -> MutexGuard<'static, Cache> {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<String, Entry>,
    total_bytes: usize,
    clock: u64,
}

struct Entry {
    expression: Arc<Expression>,
    last_used: u64,
}

impl Cache {
    pub(super) fn get(&mut self, text: &str) -> Option<Arc<Expression>> {
        self.clock += 1;
        let entry = self.entries.get_mut(text)?;
        entry.last_used = self.clock;
        Some(Arc::clone(&entry.expression))
    }

    /// Adds an expression, and forgets those not used for longest until the limits hold.
    pub(super) fn insert(&mut self, expression: Arc<Expression>) {
        self.clock += 1;
        let text = expression.text().to_owned();
        self.total_bytes += text.len();
        let last_used = self.clock;
        let entry = Entry { expression, last_used };
        if let Some(replaced) = self.entries.insert(text, entry) {
            self.total_bytes -= replaced.expression.text().len();
        }
        while self.entries.len() > MAX_ENTRIES || self.total_bytes > MAX_TOTAL_BYTES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_used);
            let Some(oldest) = oldest.map(|(text, _)| text.clone()) else {
                break;
            };
            self.entries.remove(&oldest);
            self.total_bytes -= oldest.len();
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.total_bytes)
    }
}
