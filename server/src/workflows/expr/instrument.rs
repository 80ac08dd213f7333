//! Rewrites a checked tree so that evaluating it is metered.
//!
//! The library offers no hook to count work, so the tree is given calls to functions of
//! [`meter`](super::meter), whose names (`@…`) no author can write:
//!
//! - an operand which an operator reads or copies as a whole (`==`, arithmetic, list elements) is
//!   wrapped in [`DEEP`]; one of which only a string is read (function arguments) in [`FLAT`]; the
//!   list of an `in` in [`HAYSTACK`]; an index in [`KEY`]; a range of a comprehension in [`RANGE`];
//! - each step of a comprehension calls [`STEP`] with the weight of the body;
//! - `a + b + c` becomes one [`SUM`], which neither copies partial sums nor recurses;
//! - `matches` becomes [`MATCHES`].
//!
//! Literals, and results which are small scalars by their operator, are not wrapped: the weight of
//! the body covers them, and outside of a comprehension the text itself bounds them.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, operators};

use super::error::{ErrorKind, ExprError};
use super::limits::NODE_COST;

/// Charges for the whole of a value.
pub(super) const DEEP: &str = "@deep";
/// Charges for a string or bytes by length, and for anything else as one value.
pub(super) const FLAT: &str = "@flat";
/// Charges for a list as a whole, since `in` searches it, and for anything else as one value.
pub(super) const HAYSTACK: &str = "@haystack";
/// Charges for an index or key, and refuses those no container has.
pub(super) const KEY: &str = "@key";
/// Charges for a list as a whole; turns a map into the sorted list of its keys.
pub(super) const RANGE: &str = "@range";
/// Charges its first argument, a weight; gives back its second one, or true.
pub(super) const STEP: &str = "@step";
/// The sum of any number of operands.
pub(super) const SUM: &str = "@sum";
/// A metered `matches`.
pub(super) const MATCHES: &str = "@matches";

const CHARGING_CALLS: [&str; 5] = [DEEP, FLAT, HAYSTACK, KEY, RANGE];

/// Calls whose results are small whatever their operands are.
const SCALAR_CALLS: [&str; 22] = [
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::IN,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::NEGATE,
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    MATCHES,
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "int",
    "double",
];

/// The metered form of `node`. Recursive over the tree.
///
/// # Errors
///
/// [`ErrorKind::Syntax`] for a comprehension of a form no known macro has.
pub(super) fn instrument(mut node: IdedExpr) -> Result<IdedExpr, ExprError> {
    node.expr = match node.expr {
        Expr::Select(mut select) => {
            select.operand = Box::new(instrument(*select.operand)?);
            Expr::Select(select)
        }
        Expr::List(list) => Expr::List(ListExpr::new(wrap_all(DEEP, list.elements)?)),
        Expr::Map(mut map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    entry.key = wrap(DEEP, std::mem::take(&mut entry.key))?;
                    entry.value = wrap(DEEP, std::mem::take(&mut entry.value))?;
                }
            }
            Expr::Map(map)
        }
        Expr::Call(call) => instrument_call(call)?,
        Expr::Comprehension(comprehension) => Expr::Comprehension(Box::new(instrument_comprehension(*comprehension)?)),
        other => other,
    };
    Ok(node)
}

/// The number of nodes on the longest path of a tree, which is the depth of its evaluation.
pub(super) fn height(node: &IdedExpr) -> usize {
    1 + children(node).into_iter().map(height).max().unwrap_or(0)
}

/// The cost of evaluating each node of a tree once, whatever its values; the charging calls
/// themselves come on top, as they pay for what they are given.
fn weight(node: &IdedExpr) -> u64 {
    let own = match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => NODE_COST + text.inner().len() as u64,
        Expr::Literal(LiteralValue::Bytes(bytes)) => NODE_COST + bytes.inner().len() as u64,
        Expr::Call(call) if CHARGING_CALLS.contains(&call.func_name.as_str()) => 0,
        _ => NODE_COST,
    };
    own + children(node).into_iter().map(weight).sum::<u64>()
}

fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Select(select) => vec![select.operand.as_ref()],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Map(map) => {
            let entries = map.entries.iter().map(|entry| &entry.expr);
            entries
                .flat_map(|entry| match entry {
                    EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
                    EntryExpr::StructField(field) => vec![&field.value],
                })
                .collect()
        }
        Expr::Comprehension(comprehension) => vec![
            &comprehension.iter_range,
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ],
        _ => Vec::new(),
    }
}

fn instrument_call(mut call: CallExpr) -> Result<Expr, ExprError> {
    if call.func_name == "matches" {
        let operands = call.target.take().map(|target| *target).into_iter();
        let operands = operands.chain(call.args).map(instrument);
        return Ok(function(MATCHES, operands.collect::<Result<_, _>>()?));
    }
    if let Some(target) = call.target.take() {
        call.target = Some(Box::new(wrap(FLAT, *target)?));
        call.args = wrap_all(FLAT, call.args)?;
        return Ok(Expr::Call(call));
    }
    call.args = match call.func_name.as_str() {
        operators::ADD => return Ok(function(SUM, sum_operands(call.args)?)),
        operators::CONDITIONAL
        | operators::LOGICAL_AND
        | operators::LOGICAL_OR
        | operators::LOGICAL_NOT
        | operators::NOT_STRICTLY_FALSE => {
            let operands = call.args.into_iter().map(instrument);
            operands.collect::<Result<_, _>>()?
        }
        operators::IN => wrap_pair(DEEP, HAYSTACK, call.args)?,
        operators::INDEX => {
            let mut operands = call.args.into_iter();
            let container = instrument(operands.next().unwrap_or_default())?;
            vec![container, wrap(KEY, operands.next().unwrap_or_default())?]
        }
        name if name.starts_with(|first: char| first.is_ascii_alphabetic()) => wrap_all(FLAT, call.args)?,
        _ => wrap_all(DEEP, call.args)?,
    };
    Ok(Expr::Call(call))
}

/// The operands of a chain of `+`, left to right, without recursing along the chain.
fn sum_operands(mut operands: Vec<IdedExpr>) -> Result<Vec<IdedExpr>, ExprError> {
    let mut reversed = Vec::new();
    loop {
        let first = operands.remove(0);
        reversed.extend(operands.into_iter().rev());
        match first.expr {
            Expr::Call(call) if call.func_name == operators::ADD && call.args.len() == 2 => {
                operands = call.args;
            }
            _ => {
                reversed.push(first);
                break;
            }
        }
    }
    reversed.into_iter().rev().map(instrument).collect()
}

/// Meters the comprehension of a macro: its range, its body, and each of its steps.
///
/// The steps of `all` and `exists` are charged in the loop condition, because errors of their
/// bodies are absorbed; those of the others in the body, because the library only builds a list
/// in place when the condition is the literal `true`.
fn instrument_comprehension(mut comprehension: ComprehensionExpr) -> Result<ComprehensionExpr, ExprError> {
    let range = instrument(comprehension.iter_range)?;
    comprehension.iter_range = node(function(RANGE, vec![range]));
    let Expr::Call(mut step) = comprehension.loop_step.expr else {
        return Err(unknown_macro());
    };
    match (step.func_name.as_str(), step.args.as_mut_slice()) {
        (operators::LOGICAL_AND | operators::LOGICAL_OR, [_, body]) => {
            *body = instrument(std::mem::take(body))?;
            let paid = node(function(STEP, vec![weight_literal(weight(body))]));
            let never = node(Expr::Literal(LiteralValue::Boolean(false.into())));
            let condition = std::mem::take(&mut comprehension.loop_cond);
            let operands = vec![paid, condition, never];
            comprehension.loop_cond = node(function(operators::CONDITIONAL, operands));
        }
        (operators::CONDITIONAL, [guard, append, _]) => {
            *guard = instrument(std::mem::take(guard))?;
            let added = appended(append)?;
            let total = weight(guard) + added.as_deref().map_or(0, weight);
            *guard = paid_step(total, std::mem::take(guard));
        }
        (operators::ADD, [_, _]) => {
            let mut append = node(Expr::Call(step));
            let added = appended(&mut append)?.ok_or_else(unknown_macro)?;
            *added = paid_step(weight(added), std::mem::take(added));
            comprehension.loop_step = append;
            return Ok(comprehension);
        }
        _ => return Err(unknown_macro()),
    }
    comprehension.loop_step = node(Expr::Call(step));
    Ok(comprehension)
}

/// Meters the `x` of the `accumulator + [x]` a macro made and gives it back; `None` for
/// `accumulator + 1`.
fn appended(append: &mut IdedExpr) -> Result<Option<&mut IdedExpr>, ExprError> {
    let Expr::Call(call) = &mut append.expr else {
        return Err(unknown_macro());
    };
    match call.args.get_mut(1).map(|operand| &mut operand.expr) {
        Some(Expr::Literal(_)) => Ok(None),
        Some(Expr::List(list)) if list.elements.len() == 1 => {
            list.elements[0] = wrap(DEEP, std::mem::take(&mut list.elements[0]))?;
            Ok(list.elements.first_mut())
        }
        _ => Err(unknown_macro()),
    }
}

fn paid_step(weight: u64, value: IdedExpr) -> IdedExpr {
    node(function(STEP, vec![weight_literal(weight), value]))
}

fn weight_literal(weight: u64) -> IdedExpr {
    let weight = i64::try_from(weight).unwrap_or(i64::MAX);
    node(Expr::Literal(LiteralValue::Int(weight.into())))
}

/// The metered form of `operand`, wrapped in a call to `charge` unless it is small anyway.
fn wrap(charge: &str, operand: IdedExpr) -> Result<IdedExpr, ExprError> {
    let operand = instrument(operand)?;
    let small = match &operand.expr {
        Expr::Literal(LiteralValue::Double(_)) => charge != KEY,
        Expr::Literal(_) => true,
        Expr::Select(select) => select.test,
        Expr::Call(call) => charge != KEY && SCALAR_CALLS.contains(&call.func_name.as_str()),
        _ => false,
    };
    Ok(if small {
        operand
    } else {
        node(function(charge, vec![operand]))
    })
}

fn wrap_all(charge: &str, operands: Vec<IdedExpr>) -> Result<Vec<IdedExpr>, ExprError> {
    let wrapped = operands.into_iter().map(|operand| wrap(charge, operand));
    wrapped.collect()
}

fn wrap_pair(left: &str, right: &str, operands: Vec<IdedExpr>) -> Result<Vec<IdedExpr>, ExprError> {
    let charges = [left, right].into_iter();
    let wrapped = charges.zip(operands).map(|(charge, operand)| wrap(charge, operand));
    wrapped.collect()
}

fn function(name: &str, args: Vec<IdedExpr>) -> Expr {
    Expr::Call(CallExpr {
        func_name: name.to_owned(),
        target: None,
        args,
    })
}

/// A node of our own; ids only serve the positions of the parser's errors.
fn node(expr: Expr) -> IdedExpr {
    IdedExpr { id: 0, expr }
}

fn unknown_macro() -> ExprError {
    ExprError::new(ErrorKind::Syntax, "this kind of comprehension is not supported")
}
