//! The values an expression is evaluated over.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use serde_json::Value as Json;

use super::analysis::References;
use super::error::{ErrorKind, ExprError};
use super::limits::{MAX_VARIABLE_DEPTH, NODE_COST, WORK_LIMIT};
use super::meter::too_much_work;

/// The values of the variables, borrowed from the caller.
///
/// A variable is converted for the evaluator when the first expression which refers to it is
/// evaluated, and kept for the next ones; strings are never copied. Variables nobody refers to cost
/// nothing, but `steps` is converted as a whole: give it only the steps the
/// [`References`] ask for. A variable which the caller does not set has no value, and an expression
/// which needs it fails with [`ErrorKind::UnknownVariable`]; `steps` is then an empty map.
#[derive(Default)]
pub struct Scope<'v> {
    input: Option<&'v Json>,
    item: Option<&'v Json>,
    index: Option<i64>,
    steps: BTreeMap<&'v str, (&'v Json, &'v str)>,
    converted: [OnceLock<Box<dyn Val + 'v>>; 4],
    work: AtomicU64,
}

/// The names of the variables, in the order of `Scope::converted`.
const NAMES: [&str; 4] = ["input", "steps", "item", "index"];

impl<'v> Scope<'v> {
    /// A scope without values.
    pub fn new() -> Self {
        Scope::default()
    }

    /// Sets `input`.
    #[must_use]
    pub fn input(mut self, input: &'v Json) -> Self {
        self.input = Some(input);
        self.forget(0)
    }

    /// Adds the step `id` to `steps`, replacing one of the same id.
    #[must_use]
    pub fn step(mut self, id: &'v str, result: &'v Json, state: &'v str) -> Self {
        self.steps.insert(id, (result, state));
        self.forget(1)
    }

    /// Sets `item`.
    #[must_use]
    pub fn item(mut self, item: &'v Json) -> Self {
        self.item = Some(item);
        self.forget(2)
    }

    /// Sets `index`.
    #[must_use]
    pub fn index(mut self, index: i64) -> Self {
        self.index = Some(index);
        self.forget(3)
    }

    /// What the evaluations over this scope have cost so far, in the units of [`WORK_LIMIT`].
    pub fn work(&self) -> u64 {
        self.work.load(Relaxed)
    }

    pub(super) fn note_work(&self, units: u64) {
        self.work.fetch_add(units, Relaxed);
    }

    /// Forgets the converted form of one variable; the others keep theirs, so that a list's items can be gone through without
    /// converting `input` and `steps` each time.
    fn forget(mut self, position: usize) -> Self {
        self.converted[position] = OnceLock::new();
        self
    }

    /// Converts the variables `references` names, as far as they are not yet.
    pub(super) fn prepare(&self, references: &References) -> Result<(), ExprError> {
        for (name, cell) in NAMES.iter().zip(&self.converted) {
            if references.variables.contains(*name) && cell.get().is_none() {
                let value = self.convert(name)?;
                cell.get_or_init(|| value);
            }
        }
        Ok(())
    }

    fn convert(&self, name: &str) -> Result<Box<dyn Val + 'v>, ExprError> {
        let mut conversion = Conversion { left: WORK_LIMIT };
        let value = match name {
            "input" => self.input.map(|input| conversion.value(input, 0)),
            "item" => self.item.map(|item| conversion.value(item, 0)),
            "index" => self.index.map(|index| Ok(boxed(CelInt::from(index)))),
            _ => Some(self.convert_steps(&mut conversion)),
        };
        value.unwrap_or_else(|| {
            Err(ExprError::new(
                ErrorKind::UnknownVariable,
                format!("the variable '{name}' has no value here"),
            ))
        })
    }

    fn convert_steps(&self, conversion: &mut Conversion) -> Result<Box<dyn Val + 'v>, ExprError> {
        let mut steps = HashMap::with_capacity(self.steps.len());
        for (&id, &(result, state)) in &self.steps {
            conversion.spend(NODE_COST * 4)?;
            let step = HashMap::from([
                (CelMapKey::from("result"), conversion.value(result, 0)?),
                (CelMapKey::from("state"), boxed(CelString::from(state))),
            ]);
            steps.insert(CelMapKey::from(id), boxed(CelMap::from(step)));
        }
        Ok(boxed(CelMap::from(steps)))
    }
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let position = NAMES.iter().position(|name| *name == variable)?;
        let value = self.converted[position].get()?;
        Some(CowVal::Borrowed(value.as_ref()))
    }
}

/// Conversion of JSON, bounded in depth and in size: converted values take several times the
/// memory of their JSON text.
struct Conversion {
    left: u64,
}

impl Conversion {
    fn spend(&mut self, units: u64) -> Result<(), ExprError> {
        self.left = self.left.checked_sub(units).ok_or_else(too_much_work)?;
        Ok(())
    }

    fn value<'v>(&mut self, json: &'v Json, depth: usize) -> Result<Box<dyn Val + 'v>, ExprError> {
        if depth > MAX_VARIABLE_DEPTH {
            return Err(ExprError::new(
                ErrorKind::Evaluation,
                format!("a variable is nested deeper than {MAX_VARIABLE_DEPTH} levels"),
            ));
        }
        self.spend(NODE_COST)?;
        Ok(match json {
            Json::Null => boxed(CelNull),
            Json::Bool(value) => boxed(CelBool::from(*value)),
            Json::Number(number) => convert_number(number)?,
            Json::String(text) => {
                self.spend(text.len() as u64)?;
                boxed(CelString::from(text.as_str()))
            }
            Json::Array(items) => {
                let items = items.iter().map(|item| self.value(item, depth + 1));
                boxed(CelList::from(items.collect::<Result<Vec<_>, _>>()?))
            }
            Json::Object(entries) => {
                let mut map = HashMap::with_capacity(entries.len());
                for (key, value) in entries {
                    self.spend(NODE_COST * 2 + key.len() as u64)?;
                    map.insert(CelMapKey::from(key.as_str()), self.value(value, depth + 1)?);
                }
                boxed(CelMap::from(map))
            }
        })
    }
}

fn convert_number<'v>(number: &serde_json::Number) -> Result<Box<dyn Val + 'v>, ExprError> {
    if let Some(whole) = number.as_i64() {
        return Ok(boxed(CelInt::from(whole)));
    }
    if let Some(whole) = number.as_u64() {
        return Ok(boxed(CelUInt::from(whole)));
    }
    match number.as_f64().filter(|double| double.is_finite()) {
        Some(double) => Ok(boxed(CelDouble::from(double))),
        None => Err(ExprError::new(
            ErrorKind::Evaluation,
            "a variable holds a number too large for a double",
        )),
    }
}

fn boxed<'v>(value: impl Val + 'v) -> Box<dyn Val + 'v> {
    Box::new(value)
}
