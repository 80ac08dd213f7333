//! The expression language of workflows: CEL, guarded so that text and data written by strangers
//! can be compiled and evaluated inside the server.
//!
//! # What an expression is
//!
//! An [`Expression`] is a CEL text over four variables: `input` (JSON), `steps` (step id to
//! `{"result": JSON, "state": string}`), `item` (JSON) and `index` (a whole number). It has no
//! side effects, no clock and no randomness: the same expression over the same [`Scope`] gives the
//! same value, or the same error, on every replay. (A map is iterated in the order of its keys; the
//! bare library iterates it in a random order.) A [`Template`] is JSON whose strings hold `${ … }`.
//!
//! Whole JSON numbers written without fraction or exponent are CEL ints (uints above `i64::MAX`),
//! every other number is a double. Arithmetic does not mix them: `1.0 + 1` is an error, write
//! `1.0 + double(1)`. Comparisons do mix them. Not part of the language: optional syntax (`a.?b`),
//! message construction (`T{…}`), timestamps and durations, and any function not in the table of
//! `analysis`; `matches` uses the linear-time `regex` crate with a bounded automaton.
//!
//! # How it fails
//!
//! With an [`ExprError`], never with a panic, an overflowing stack or unbounded work:
//!
//! - *Compiling* refuses text over [`MAX_TEXT_BYTES`], nesting over [`MAX_NESTING`], a tree taller
//!   than [`MAX_TREE_HEIGHT`], a comprehension inside another one's body, and unknown names. The
//!   text is scanned before it is parsed, and the recursive parser runs on a thread of its own with
//!   a deep stack (whatever it refuses is also dropped there); a panic in it is a syntax error.
//! - *Evaluating* is metered: the compiled tree carries calls which charge for every operand before
//!   an operator reads or copies it (see `instrument`), and each comprehension step is charged
//!   for the size of its body. An evaluation which spends more than [`WORK_LIMIT`] units stops with
//!   [`ErrorKind::TooMuchWork`]; no operator can absorb that error. Memory is bounded by the same
//!   limit, because nothing is allocated before it is paid for.
//! - Low trees are evaluated on the caller's stack, of which they need less than 1 MiB even in a
//!   debug build; taller ones run on a short-lived thread with a deep stack. Either way the call is
//!   synchronous, and bounded to a fraction of a second in a release build.

mod analysis;
mod cache;
mod error;
mod instrument;
mod limits;
mod meter;
mod scope;
mod stack;
mod template;
#[cfg(test)]
mod tests;
mod value;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::IdedExpr;
use cel::parser::Parser;
use cel::{Context, Env};

pub use analysis::References;
pub use cache::compile_cached;
pub use error::{ErrorKind, ExprError};
pub use limits::{
    MAX_NESTING, MAX_RESULT_BYTES, MAX_RESULT_DEPTH, MAX_TEMPLATE_BYTES, MAX_TEMPLATE_EXPRESSIONS, MAX_TEXT_BYTES,
    MAX_TREE_HEIGHT, WORK_LIMIT,
};
pub use scope::Scope;
pub use template::Template;

use meter::Meter;
use value::ResultBudget;

/// The functions and types an expression can name: the standard library without optional values.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let environment = Env::default().with_optional_support(false);
    Arc::new(environment.with_stdlib())
});

/// A compiled expression: immutable, cheap to share between threads and to evaluate repeatedly.
#[derive(Debug)]
pub struct Expression {
    text: String,
    tree: IdedExpr,
    height: usize,
    references: References,
}

impl Expression {
    /// Compiles `text`.
    ///
    /// Takes about a millisecond for a usual expression; see [`compile_cached`] for a variant which
    /// remembers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLong`], [`ErrorKind::TooDeep`], [`ErrorKind::Syntax`],
    /// [`ErrorKind::NestedComprehension`], [`ErrorKind::UnknownVariable`] or
    /// [`ErrorKind::UnknownFunction`]: the text itself is at fault, compiling it again gives the
    /// same error. [`ErrorKind::Evaluation`] only if the system cannot start a thread.
    pub fn compile(text: &str) -> Result<Arc<Expression>, ExprError> {
        limits::check_text(text)?;
        let compiled = stack::on_deep_stack(|| compile_here(text));
        match compiled? {
            Ok(outcome) => outcome.map(Arc::new),
            Err(panic) => Err(ExprError::new(
                ErrorKind::Syntax,
                format!("the parser failed on this text: {panic}"),
            )),
        }
    }

    /// Evaluates the expression over `scope`, synchronously and without side effects.
    ///
    /// The result is JSON: ints and uints become whole numbers, doubles numbers, bytes a base64
    /// string, a type its name.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::UnknownVariable`]: the expression refers to a variable `scope` does not hold;
    /// - [`ErrorKind::Evaluation`]: the expression failed on these values (a missing key, a type
    ///   mismatch, an overflow), or its result has no JSON form (NaN, an infinity, a map with a key
    ///   which is not a string);
    /// - [`ErrorKind::ResultTooLarge`]: the result takes more than [`MAX_RESULT_BYTES`] as JSON or
    ///   is deeper than [`MAX_RESULT_DEPTH`];
    /// - [`ErrorKind::TooMuchWork`]: evaluating cost more than [`WORK_LIMIT`], or a variable is too
    ///   large to be looked at.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<serde_json::Value, ExprError> {
        self.evaluate_within(scope, &Arc::new(Meter::new()), &mut ResultBudget::new())
    }

    /// The text this expression was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The variables and steps this expression can look at: all a [`Scope`] has to hold for it.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// As [`evaluate`](Self::evaluate), but sharing the limits with other evaluations: the
    /// expressions of one template have one budget of work and one of result size.
    fn evaluate_within(
        &self,
        scope: &Scope<'_>,
        meter: &Arc<Meter>,
        budget: &mut ResultBudget,
    ) -> Result<serde_json::Value, ExprError> {
        scope.prepare(&self.references)?;
        let before = meter.left();
        let outcome = if self.height <= limits::MAX_INLINE_HEIGHT {
            let here = catch_unwind(AssertUnwindSafe(|| self.evaluate_here(scope, meter, budget)));
            here.map_err(|panic| stack::panic_message(panic.as_ref()))
        } else {
            stack::on_deep_stack(|| self.evaluate_here(scope, meter, budget))?
        };
        scope.note_work(before.saturating_sub(meter.left()));
        match outcome {
            Ok(outcome) if !meter.is_exhausted() => outcome,
            Ok(_) => Err(meter::too_much_work()),
            Err(panic) => Err(ExprError::new(
                ErrorKind::Evaluation,
                format!("the evaluator failed on these values: {panic}"),
            )),
        }
    }

    fn evaluate_here(
        &self,
        scope: &Scope<'_>,
        meter: &Arc<Meter>,
        budget: &mut ResultBudget,
    ) -> Result<serde_json::Value, ExprError> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(scope);
        meter::add_intrinsics(&mut context, meter)?;
        let value = cel::Value::resolve_val(&self.tree, &context).map_err(ExprError::evaluation)?;
        value::to_json(value.as_ref(), budget)
    }
}

/// Parses, checks and instruments `text`; recursive, so only to be called on a deep stack.
fn compile_here(text: &str) -> Result<Expression, ExprError> {
    let parser = Parser::new()
        .max_recursion_depth(limits::PARSER_RECURSION)
        .error_recovery_limit(limits::PARSER_RECOVERIES);
    let tree = parser.parse(text).map_err(ExprError::syntax)?;
    let references = analysis::check(&tree)?;
    let tree = instrument::instrument(tree)?;
    let height = instrument::height(&tree);
    if height > MAX_TREE_HEIGHT {
        return Err(ExprError::new(
            ErrorKind::TooDeep,
            format!("the expression chains too many operations (at most about {MAX_TREE_HEIGHT})"),
        ));
    }
    Ok(Expression {
        text: text.to_owned(),
        tree,
        height,
        references,
    })
}
