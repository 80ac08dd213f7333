//! What a parsed expression may contain, and what it refers to.

use std::collections::BTreeSet;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::error::{ErrorKind, ExprError};
use super::limits::{MAX_NESTING, too_nested};

/// The variables of every expression.
const VARIABLES: [&str; 4] = ["input", "steps", "item", "index"];

/// The types an expression can name, as in `type(input) == string`.
const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// The functions of the language: name, whether it is called on a receiver, number of arguments.
const FUNCTIONS: [(&str, bool, usize); 15] = [
    ("bool", false, 1),
    ("bytes", false, 1),
    ("double", false, 1),
    ("dyn", false, 1),
    ("int", false, 1),
    ("matches", false, 2),
    ("size", false, 1),
    ("string", false, 1),
    ("type", false, 1),
    ("uint", false, 1),
    ("contains", true, 1),
    ("endsWith", true, 1),
    ("matches", true, 1),
    ("size", true, 0),
    ("startsWith", true, 1),
];

/// The operators whose operands count as nested; those of the others continue a chain.
const NESTING_OPERATORS: [&str; 4] = [
    operators::CONDITIONAL,
    operators::INDEX,
    operators::LOGICAL_NOT,
    operators::NEGATE,
];

const CHAINING_OPERATORS: [&str; 15] = [
    operators::ADD,
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::IN,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::NOT_STRICTLY_FALSE,
];

/// What an expression, or a template, can look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// The top-level variables it names, among `input`, `steps`, `item` and `index`.
    pub variables: BTreeSet<String>,
    /// The ids of the steps it names, as `steps.<id>` or `steps["<id>"]`; a step it names need not
    /// exist (`has(steps.a)`).
    pub steps: BTreeSet<String>,
    /// Whether it uses `steps` in another way as well (`steps[item]`, `steps.map(…)`), and so can
    /// look at any step.
    pub all_steps: bool,
}

impl References {
    /// Adds what `other` refers to.
    pub fn merge(&mut self, other: &References) {
        self.variables.extend(other.variables.iter().cloned());
        self.steps.extend(other.steps.iter().cloned());
        self.all_steps |= other.all_steps;
    }
}

/// Checks a tree as the parser made it, and collects its references. Recursive over the tree.
pub(super) fn check(tree: &IdedExpr) -> Result<References, ExprError> {
    let mut checker = Checker::default();
    checker.visit(tree, 0)?;
    Ok(checker.references)
}

#[derive(Default)]
struct Checker {
    references: References,
    /// The variables of the comprehension whose body is being visited; empty outside of one.
    bound: Vec<String>,
}

impl Checker {
    fn visit(&mut self, node: &IdedExpr, nesting: usize) -> Result<(), ExprError> {
        if nesting > MAX_NESTING {
            return Err(too_nested());
        }
        match &node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.visit_variable(name),
            Expr::Select(select) if self.is_steps(&select.operand) => {
                self.add_step(&select.field);
                Ok(())
            }
            Expr::Select(select) => self.visit(&select.operand, nesting),
            Expr::Call(call) => self.visit_call(call, nesting),
            Expr::List(list) => self.visit_all(&list.elements, nesting + 1),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.visit(&entry.key, nesting + 1)?;
                    self.visit(&entry.value, nesting + 1)
                }
                EntryExpr::StructField(_) => Err(unsupported("a field outside of a message")),
            }),
            Expr::Comprehension(comprehension) => self.visit_comprehension(comprehension, nesting),
            Expr::Struct(_) => Err(unsupported("the construction of a message")),
            Expr::Unspecified => Err(unsupported("an empty expression")),
        }
    }

    fn visit_all(&mut self, nodes: &[IdedExpr], nesting: usize) -> Result<(), ExprError> {
        nodes.iter().try_for_each(|node| self.visit(node, nesting))
    }

    fn visit_variable(&mut self, name: &str) -> Result<(), ExprError> {
        if self.bound.iter().any(|bound| bound == name) {
            return Ok(());
        }
        if VARIABLES.contains(&name) {
            self.references.all_steps |= name == "steps";
            self.references.variables.insert(name.to_owned());
            return Ok(());
        }
        if TYPES.contains(&name) {
            return Ok(());
        }
        Err(ExprError::new(
            ErrorKind::UnknownVariable,
            format!("unknown variable '{name}': there are input, steps, item and index"),
        ))
    }

    fn visit_call(&mut self, call: &CallExpr, nesting: usize) -> Result<(), ExprError> {
        let name = call.func_name.as_str();
        let Some(target) = &call.target else {
            if CHAINING_OPERATORS.contains(&name) {
                return self.visit_all(&call.args, nesting);
            }
            if let (operators::INDEX, [operand, key]) = (name, call.args.as_slice()) {
                return self.visit_index(operand, key, nesting);
            }
            if !NESTING_OPERATORS.contains(&name) {
                check_function(call)?;
            }
            return self.visit_all(&call.args, nesting + 1);
        };
        check_function(call)?;
        self.visit(target, nesting)?;
        self.visit_all(&call.args, nesting + 1)
    }

    fn visit_index(&mut self, operand: &IdedExpr, key: &IdedExpr, nesting: usize) -> Result<(), ExprError> {
        if let (true, Expr::Literal(LiteralValue::String(id))) = (self.is_steps(operand), &key.expr) {
            self.add_step(id.inner());
            return Ok(());
        }
        self.visit(operand, nesting)?;
        self.visit(key, nesting + 1)
    }

    fn visit_comprehension(&mut self, comprehension: &ComprehensionExpr, nesting: usize) -> Result<(), ExprError> {
        if !self.bound.is_empty() {
            return Err(ExprError::new(
                ErrorKind::NestedComprehension,
                "map, filter, all, exists and exists_one can not be used inside one another; \
                 chaining them is fine",
            ));
        }
        self.visit(&comprehension.iter_range, nesting)?;
        self.visit(&comprehension.accu_init, nesting)?;
        self.bound = vec![comprehension.iter_var.clone(), comprehension.accu_var.clone()];
        let parts = [
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ];
        let outcome = parts.into_iter().try_for_each(|part| self.visit_body(part, nesting));
        self.bound.clear();
        outcome
    }

    /// Visits what a macro made: its own operators are not nesting of the author's.
    fn visit_body(&mut self, node: &IdedExpr, nesting: usize) -> Result<(), ExprError> {
        match &node.expr {
            Expr::Call(call) if call.target.is_none() && self.folds_accumulator(call) => {
                call.args.iter().try_for_each(|arg| match &arg.expr {
                    Expr::List(list) => self.visit_all(&list.elements, nesting + 1),
                    Expr::Call(inner) if self.folds_accumulator(inner) => self.visit_body(arg, nesting),
                    _ => self.visit(arg, nesting + 1),
                })
            }
            _ => self.visit(node, nesting),
        }
    }

    /// Whether a call has the accumulator, which no author can name, as an operand.
    fn folds_accumulator(&self, call: &CallExpr) -> bool {
        let accumulator = self.bound.last();
        call.args.iter().any(|arg| match &arg.expr {
            Expr::Ident(name) => Some(name) == accumulator,
            _ => false,
        })
    }

    fn is_steps(&self, node: &IdedExpr) -> bool {
        match &node.expr {
            Expr::Ident(name) => name == "steps" && !self.bound.contains(name),
            _ => false,
        }
    }

    fn add_step(&mut self, id: &str) {
        self.references.variables.insert("steps".to_owned());
        self.references.steps.insert(id.to_owned());
    }
}

fn check_function(call: &CallExpr) -> Result<(), ExprError> {
    let name = call.func_name.as_str();
    let wanted = (name, call.target.is_some(), call.args.len());
    if FUNCTIONS.contains(&wanted) {
        return Ok(());
    }
    let known = FUNCTIONS.iter().any(|(known, _, _)| *known == name);
    let message = if known {
        format!("the function '{name}' is called in a way it does not support")
    } else {
        format!("unknown function '{name}'")
    };
    Err(ExprError::new(ErrorKind::UnknownFunction, message))
}

fn unsupported(what: &str) -> ExprError {
    ExprError::new(ErrorKind::Syntax, format!("{what} is not supported"))
}
