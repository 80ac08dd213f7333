//! The error of everything in this module, and its messages.

use std::fmt;

use cel::{ExecutionError, ParseErrors, Value};

/// Longest message an error carries; longer ones are cut.
const MAX_MESSAGE_BYTES: usize = 400;

/// Why an expression was refused, or why its evaluation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is not an expression of the language.
    Syntax,
    /// The text, or a template, is longer than allowed.
    TooLong,
    /// Brackets, operators or chains are nested deeper than allowed.
    TooDeep,
    /// A comprehension (`map`, `filter`, `all`, `exists`, `exists_one`) in the body of another.
    NestedComprehension,
    /// A variable which does not exist, or has no value in this scope.
    UnknownVariable,
    /// A function which does not exist, or not with this many arguments.
    UnknownFunction,
    /// The expression failed on the values it was given.
    Evaluation,
    /// The result is larger or deeper than allowed.
    ResultTooLarge,
    /// Evaluating would cost more than allowed.
    TooMuchWork,
}

/// A refused expression, or a failed evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    /// What went wrong, for the author of the expression: one line, at most a few hundred bytes. It
    /// names the types of the values involved, and of the values themselves only a missing key.
    pub message: String,
    /// What kind of failure it is, for code.
    pub kind: ErrorKind,
}

impl ExprError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into().replace(['\n', '\r', '\0'], " ");
        if message.len() > MAX_MESSAGE_BYTES {
            let mut ends = (0..=MAX_MESSAGE_BYTES).rev();
            let end = ends.find(|&end| message.is_char_boundary(end));
            message.truncate(end.unwrap_or(0));
            message.push('…');
        }
        ExprError { message, kind }
    }

    /// The first of the parser's errors: the others are usually its echoes.
    pub(super) fn syntax(errors: ParseErrors) -> Self {
        let message = match errors.errors.first() {
            Some(first) => format!("line {}, column {}: {}", first.pos.0, first.pos.1, first.msg),
            None => "not an expression".to_owned(),
        };
        ExprError::new(ErrorKind::Syntax, message)
    }

    /// An error of the evaluator, described by the types of its values: the values themselves may
    /// be large, private, or maps printed in a random order.
    pub(super) fn evaluation(error: ExecutionError) -> Self {
        let message = match &error {
            ExecutionError::UnsupportedBinaryOperator(operator, left, right) => format!(
                "no operator '{operator}' for {} and {}",
                type_name(left),
                type_name(right)
            ),
            ExecutionError::ValuesNotComparable(left, right) => {
                format!("{} can not be compared to {}", type_name(left), type_name(right))
            }
            ExecutionError::UnsupportedIndex(index, value) => {
                format!("{} can not index {}", type_name(index), type_name(value))
            }
            ExecutionError::UnsupportedKeyType(key) => {
                format!("{} can not be a map key", type_name(key))
            }
            ExecutionError::UnsupportedTargetType { target } => {
                format!("invalid argument of type {}", type_name(target))
            }
            ExecutionError::NotSupportedAsMethod { method, target } => {
                format!("no method '{method}' on {}", type_name(target))
            }
            ExecutionError::Overflow(operator, _, _) => {
                format!("overflow in operator '{operator}'")
            }
            ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
            ExecutionError::RemainderByZero(_) => "remainder by zero".to_owned(),
            ExecutionError::IndexOutOfBounds(_) => "index out of bounds".to_owned(),
            ExecutionError::DuplicateKey(_) => "a key is repeated in a map".to_owned(),
            other => other.to_string(),
        };
        ExprError::new(ErrorKind::Evaluation, message)
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ExprError {}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "bool",
        Value::Null => "null",
        _ => "a value of another type",
    }
}
