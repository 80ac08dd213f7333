//! Results: from CEL values to JSON, bounded.

use std::sync::Arc;

use cel::common::types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelString, CelUInt, Kind};
use cel::common::value::Val;
use serde_json::{Number, Value as Json};

use super::error::{ErrorKind, ExprError};
use super::limits::{MAX_RESULT_BYTES, MAX_RESULT_DEPTH};

/// How much more JSON text a result may take.
pub(super) struct ResultBudget {
    left: usize,
}

impl ResultBudget {
    pub(super) fn new() -> Self {
        ResultBudget { left: MAX_RESULT_BYTES }
    }

    /// Takes `bytes` from the budget.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), ExprError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            ExprError::new(
                ErrorKind::ResultTooLarge,
                format!("the result takes more than {MAX_RESULT_BYTES} bytes as JSON"),
            )
        })?;
        Ok(())
    }

    fn spend_text(&mut self, text: &str) -> Result<(), ExprError> {
        self.spend(quoted_bytes(text))
    }
}

/// The bytes `text` takes as a JSON string.
pub(super) fn quoted_bytes(text: &str) -> usize {
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    });
    2 + escaped.sum::<usize>()
}

/// The JSON form of `value`, paid from `budget`.
pub(super) fn to_json(value: &dyn Val, budget: &mut ResultBudget) -> Result<Json, ExprError> {
    convert(value, budget, 0)
}

fn convert(value: &dyn Val, budget: &mut ResultBudget, depth: usize) -> Result<Json, ExprError> {
    if depth > MAX_RESULT_DEPTH {
        return Err(ExprError::new(
            ErrorKind::ResultTooLarge,
            format!("the result is nested deeper than {MAX_RESULT_DEPTH} levels"),
        ));
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        budget.spend(2)?;
        let items = list.iter().map(|item| {
            budget.spend(1)?;
            convert(item.as_ref(), budget, depth + 1)
        });
        return items.collect::<Result<_, _>>().map(Json::Array);
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        return convert_map(map, budget, depth);
    }
    let json = convert_scalar(value, budget)?;
    if let Json::Bool(_) | Json::Null | Json::Number(_) = &json {
        budget.spend(json.to_string().len())?;
    }
    Ok(json)
}

/// Converts a value which contains no others; pays for text, as it is copied, but not for numbers.
fn convert_scalar(value: &dyn Val, budget: &mut ResultBudget) -> Result<Json, ExprError> {
    if let Some(text) = value.downcast_ref::<CelString>() {
        budget.spend_text(text.inner())?;
        return Ok(Json::String(text.inner().to_owned()));
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        budget.spend(2 + bytes.inner().len().div_ceil(3) * 4)?;
        let bytes = cel::Value::Bytes(Arc::new(bytes.inner().to_vec()));
        return bytes.json().map_err(|_| no_json_form("bytes"));
    }
    if let Some(boolean) = value.downcast_ref::<CelBool>() {
        return Ok(Json::Bool(*boolean.inner()));
    }
    if let Some(whole) = value.downcast_ref::<CelInt>() {
        return Ok(Json::from(*whole.inner()));
    }
    if let Some(whole) = value.downcast_ref::<CelUInt>() {
        return Ok(Json::from(*whole.inner()));
    }
    if let Some(double) = value.downcast_ref::<CelDouble>() {
        let number = Number::from_f64(*double.inner());
        return number
            .map(Json::Number)
            .ok_or_else(|| no_json_form("a double which is not a finite number"));
    }
    match value.get_type().kind() {
        Kind::NullType => Ok(Json::Null),
        Kind::Type => match cel::Value::try_from(value) {
            Ok(cel::Value::String(name)) => {
                budget.spend_text(&name)?;
                Ok(Json::String(name.as_str().to_owned()))
            }
            _ => Err(no_json_form("a type")),
        },
        _ => Err(no_json_form(value.get_type().name())),
    }
}

/// Converts a map in the order of its keys, so that even errors are the same every time.
fn convert_map(map: &CelMap<'_>, budget: &mut ResultBudget, depth: usize) -> Result<Json, ExprError> {
    budget.spend(2 + 2 * map.len())?;
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    let mut object = serde_json::Map::new();
    for (key, value) in entries {
        let Some(key) = key.inner().downcast_ref::<CelString>() else {
            return Err(no_json_form("a map with a key which is not a string"));
        };
        budget.spend_text(key.inner())?;
        let value = convert(value.as_ref(), budget, depth + 1)?;
        object.insert(key.inner().to_owned(), value);
    }
    Ok(Json::Object(object))
}

fn no_json_form(what: &str) -> ExprError {
    ExprError::new(ErrorKind::Evaluation, format!("{what} has no JSON form"))
}
