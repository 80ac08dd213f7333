//! JSON Schemas of capabilities: checked when an agent registers, used when a task is delegated.
//!
//! Agents are strangers, and a schema is a program. So references stay inside the schema, patterns run in linear time and are small, and
//! before an input is held against a schema, [`cost`] walks both and refuses what would take too long or go too deep.
//! Compiled schemas are kept in a bounded cache.

mod cost;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::Violation;

/// The longest schema, in bytes.
pub const MAX_SCHEMA: usize = 64 << 10;
/// How many places at fault are told.
const MAX_VIOLATIONS: usize = 20;
/// How many patterns a schema may have.
const MAX_PATTERNS: usize = 64;
/// How large a compiled pattern may be.
const MAX_PATTERN_BYTES: usize = 512 << 10;
/// How much the cache may hold, by a generous estimate.
const CACHE_BYTES: usize = 64 << 20;
/// Up to this cost every place at fault is looked for; beyond it the first will do.
const COST_OF_ALL: usize = 50_000;
/// The dialects that are understood, by what their `$schema` contains.
const DIALECTS: [&str; 4] = ["2020-12", "2019-09", "draft-07", "draft-06"];

struct Compiled {
    schema: Value,
    validator: Validator,
    weight: usize,
}

/// Checks that a schema can be used.
///
/// # Errors
/// What is wrong with it, in a sentence without its subject.
pub fn check(schema: &str) -> Result<(), String> {
    compiled(schema).map(|_| ())
}

/// Holds an input against a schema that [`check`] has accepted. The empty schema takes anything.
///
/// # Errors
/// The places at fault, at most 20.
pub fn check_input(schema: &str, input: &Value) -> Result<(), Vec<Violation>> {
    if schema.is_empty() {
        return Ok(());
    }
    let fault = |field: String, description: String| Violation { field, description };
    let compiled = compiled(schema).map_err(|problem| {
        vec![fault(
            "input".to_owned(),
            format!("cannot be checked: the schema {problem}"),
        )]
    })?;
    let cost = cost::of(&compiled.schema, input)
        .map_err(|problem| vec![fault("input".to_owned(), format!("cannot be checked: {problem}"))])?;
    if compiled.validator.is_valid(input) {
        return Ok(());
    }
    let tell = |error: jsonschema::ValidationError| {
        let mut description = error.to_string();
        if description.len() > 300 {
            let end = (0..=300).rev().find(|end| description.is_char_boundary(*end));
            description.truncate(end.unwrap_or(0));
            description.push('…');
        }
        fault(format!("input{}", error.instance_path().as_str()), description)
    };
    let mut violations: Vec<Violation> = if cost > COST_OF_ALL {
        compiled.validator.validate(input).err().map(tell).into_iter().collect()
    } else {
        compiled
            .validator
            .iter_errors(input)
            .take(MAX_VIOLATIONS)
            .map(tell)
            .collect()
    };
    if violations.is_empty() {
        violations.push(fault("input".to_owned(), "does not fit the schema".to_owned()));
    }
    Err(violations)
}

fn compiled(text: &str) -> Result<Arc<Compiled>, String> {
    let key: [u8; 32] = Sha256::digest(text).into();
    if let Some(compiled) = CACHE.lock().expect("no panic under this lock").get(&key) {
        return Ok(compiled);
    }
    let compiled = Arc::new(compile(text)?);
    CACHE
        .lock()
        .expect("no panic under this lock")
        .put(key, Arc::clone(&compiled));
    Ok(compiled)
}

fn compile(text: &str) -> Result<Compiled, String> {
    if text.len() > MAX_SCHEMA {
        return Err(format!("has {} bytes, at most {MAX_SCHEMA} are allowed", text.len()));
    }
    let schema: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let Some(root) = schema.as_object() else {
        return Err("must be a JSON object".to_owned());
    };
    if let Some(dialect) = root.get("$schema") {
        let known = dialect
            .as_str()
            .is_some_and(|uri| DIALECTS.iter().any(|part| uri.contains(part)));
        if !known {
            return Err("has a $schema that is not one of 2020-12, 2019-09, draft-07 and draft-06".to_owned());
        }
    }
    let mut patterns = 0;
    inspect(&schema, &schema, true, 0, &mut patterns)?;
    if patterns > MAX_PATTERNS {
        return Err(format!("has {patterns} patterns, at most {MAX_PATTERNS} are allowed"));
    }
    let validator = jsonschema::options()
        .with_pattern_options(
            PatternOptions::regex()
                .size_limit(MAX_PATTERN_BYTES)
                .dfa_size_limit(MAX_PATTERN_BYTES),
        )
        .build(&schema)
        .map_err(|error| {
            let place = error.instance_path().to_string();
            let message: String = error.to_string().chars().take(300).collect();
            format!("is not a JSON Schema: at \"{place}\": {message}")
        })?;
    Ok(Compiled {
        weight: text.len() * 16 + patterns * MAX_PATTERN_BYTES,
        schema,
        validator,
    })
}

/// Looks through all of a schema for what is not allowed, whether or not it is in a place where it means anything.
fn inspect(root: &Value, value: &Value, is_root: bool, depth: usize, patterns: &mut usize) -> Result<(), String> {
    if depth > cost::MAX_NESTING {
        return Err(format!("nests deeper than {}", cost::MAX_NESTING));
    }
    match value {
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| inspect(root, item, false, depth + 1, patterns)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                        return Err(format!("uses {name}, which is not supported"));
                    }
                    ("$id", Value::String(_)) if !is_root => {
                        return Err("has an $id below its root, which is not supported".to_owned());
                    }
                    ("$ref", Value::String(reference)) => {
                        cost::resolve(root, reference)
                            .ok_or_else(|| format!("has the $ref {reference:?}: only references within the schema, such as \"#/$defs/name\", are supported"))?;
                    }
                    ("pattern", Value::String(_)) => *patterns += 1,
                    ("patternProperties", Value::Object(fields)) => *patterns += fields.len(),
                    _ => {}
                }
                inspect(root, value, false, depth + 1, patterns)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Cache {
    entries: HashMap<[u8; 32], (Arc<Compiled>, u64)>,
    weight: usize,
    uses: u64,
}

impl Cache {
    fn get(&mut self, key: &[u8; 32]) -> Option<Arc<Compiled>> {
        self.uses += 1;
        let (compiled, last_use) = self.entries.get_mut(key)?;
        *last_use = self.uses;
        Some(Arc::clone(compiled))
    }

    /// Adds a schema, and forgets those that were not used for the longest time.
    fn put(&mut self, key: [u8; 32], compiled: Arc<Compiled>) {
        self.uses += 1;
        self.weight += compiled.weight;
        if let Some((before, _)) = self.entries.insert(key, (compiled, self.uses)) {
            self.weight -= before.weight;
        }
        while self.weight > CACHE_BYTES && self.entries.len() > 1 {
            let oldest = self
                .entries
                .iter()
                .min_by_key(|(_, (_, last_use))| *last_use)
                .map(|(key, _)| *key);
            if let Some((forgotten, _)) = oldest.and_then(|oldest| self.entries.remove(&oldest)) {
                self.weight -= forgotten.weight;
            }
        }
    }
}

#[cfg(test)]
mod tests;
