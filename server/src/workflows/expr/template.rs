//! JSON with expressions in its strings.

use std::sync::Arc;

use serde_json::Value as Json;

use super::Expression;
use super::analysis::References;
use super::cache::compile_cached;
use super::error::{ErrorKind, ExprError};
use super::limits::{MAX_RESULT_DEPTH, MAX_TEMPLATE_BYTES, MAX_TEMPLATE_EXPRESSIONS, MAX_TEXT_BYTES, Significant};
use super::meter::Meter;
use super::scope::Scope;
use super::value::{ResultBudget, quoted_bytes};

/// A JSON value whose strings may hold expressions.
///
/// A string which is one `${ expr }` as a whole becomes the value of the expression, of whatever
/// type. In any other string each `${ expr }` is replaced by text: a string as it is, any other
/// value as compact JSON. `$${` stands for a literal `${`; any other `$` for itself. Keys of
/// objects are not expressions.
#[derive(Debug)]
pub struct Template {
    root: Node,
    references: References,
}

#[derive(Debug)]
enum Node {
    /// JSON without expressions, and the bytes it takes.
    Constant(Json, usize),
    Expression(Arc<Expression>),
    Text(Vec<Part>),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Expression(Arc<Expression>),
}

impl Template {
    /// Compiles every expression in `json`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLong`] for a template over [`MAX_TEMPLATE_BYTES`] or with more than
    /// [`MAX_TEMPLATE_EXPRESSIONS`] expressions, [`ErrorKind::TooDeep`] for one deeper than
    /// [`MAX_RESULT_DEPTH`], [`ErrorKind::Syntax`] for a `${` without its `}`, and the errors of
    /// [`Expression::compile`].
    pub fn compile(json: &Json) -> Result<Template, ExprError> {
        let mut compiler = Compiler {
            references: References::default(),
            expressions: 0,
            bytes: 0,
        };
        let root = compiler.node(json, 0)?;
        Ok(Template {
            root,
            references: compiler.references,
        })
    }

    /// Evaluates every expression over `scope` and puts the values in their places.
    ///
    /// The whole template has the limits of a single expression: one budget of work, and one of
    /// result size.
    ///
    /// # Errors
    ///
    /// Those of [`Expression::evaluate`].
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<Json, ExprError> {
        let mut evaluation = Evaluation {
            scope,
            meter: Arc::new(Meter::new()),
            budget: ResultBudget::new(),
        };
        evaluation.node(&self.root)
    }

    /// What the expressions of this template refer to, together.
    pub fn references(&self) -> &References {
        &self.references
    }
}

struct Compiler {
    references: References,
    expressions: usize,
    bytes: usize,
}

impl Compiler {
    fn node(&mut self, json: &Json, depth: usize) -> Result<Node, ExprError> {
        if depth > MAX_RESULT_DEPTH {
            return Err(ExprError::new(
                ErrorKind::TooDeep,
                format!("the template is nested deeper than {MAX_RESULT_DEPTH} levels"),
            ));
        }
        match json {
            Json::String(text) => {
                self.count(quoted_bytes(text))?;
                self.text(text)
            }
            Json::Array(items) => {
                self.count(2 + items.len())?;
                let nodes = items.iter().map(|item| self.node(item, depth + 1));
                Ok(join_array(nodes.collect::<Result<_, _>>()?))
            }
            Json::Object(entries) => {
                self.count(2 + entries.len() * 2)?;
                let mut nodes = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    self.count(quoted_bytes(key))?;
                    nodes.push((key.clone(), self.node(value, depth + 1)?));
                }
                Ok(join_object(nodes))
            }
            scalar => {
                let bytes = scalar.to_string().len();
                self.count(bytes)?;
                Ok(Node::Constant(scalar.clone(), bytes))
            }
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), ExprError> {
        self.bytes += bytes;
        if self.bytes <= MAX_TEMPLATE_BYTES {
            return Ok(());
        }
        Err(ExprError::new(
            ErrorKind::TooLong,
            format!("a template takes at most {MAX_TEMPLATE_BYTES} bytes as JSON"),
        ))
    }

    fn text(&mut self, text: &str) -> Result<Node, ExprError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                literal.push_str(&rest[..at - 1]);
                literal.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            literal.push_str(&rest[..at]);
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            let body = &rest[at + 2..];
            let end = closing_brace(body)?;
            parts.push(Part::Expression(self.expression(&body[..end])?));
            rest = &body[end + 1..];
        }
        literal.push_str(rest);
        if parts.is_empty() {
            let bytes = quoted_bytes(&literal);
            return Ok(Node::Constant(Json::String(literal), bytes));
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(match parts.as_slice() {
            [Part::Expression(expression)] => Node::Expression(Arc::clone(expression)),
            _ => Node::Text(parts),
        })
    }

    fn expression(&mut self, text: &str) -> Result<Arc<Expression>, ExprError> {
        self.expressions += 1;
        if self.expressions > MAX_TEMPLATE_EXPRESSIONS {
            return Err(ExprError::new(
                ErrorKind::TooLong,
                format!("a template has at most {MAX_TEMPLATE_EXPRESSIONS} expressions"),
            ));
        }
        let expression = compile_cached(text.trim())?;
        self.references.merge(expression.references());
        Ok(expression)
    }
}

/// The offset of the `}` which ends the expression `body` begins with.
fn closing_brace(body: &str) -> Result<usize, ExprError> {
    let mut open = 0_usize;
    for (offset, byte) in Significant::of(body) {
        match byte {
            b'{' => open += 1,
            b'}' if open == 0 => return Ok(offset),
            b'}' => open -= 1,
            _ => {}
        }
        if offset > MAX_TEXT_BYTES * 2 {
            break;
        }
    }
    Err(ExprError::new(
        ErrorKind::Syntax,
        "a '${' in a template has no '}' (write '$${' for the characters themselves)",
    ))
}

/// An array node, or a constant if all of its items are.
fn join_array(nodes: Vec<Node>) -> Node {
    if !nodes.iter().all(|node| matches!(node, Node::Constant(..))) {
        return Node::Array(nodes);
    }
    let mut bytes = 2 + nodes.len();
    let mut items = Vec::with_capacity(nodes.len());
    for node in nodes {
        if let Node::Constant(json, size) = node {
            bytes += size;
            items.push(json);
        }
    }
    Node::Constant(Json::Array(items), bytes)
}

/// An object node, or a constant if all of its values are.
fn join_object(nodes: Vec<(String, Node)>) -> Node {
    if !nodes.iter().all(|(_, node)| matches!(node, Node::Constant(..))) {
        return Node::Object(nodes);
    }
    let mut bytes = 2 + nodes.len() * 2;
    let mut entries = serde_json::Map::new();
    for (key, node) in nodes {
        if let Node::Constant(json, size) = node {
            bytes += size + quoted_bytes(&key);
            entries.insert(key, json);
        }
    }
    Node::Constant(Json::Object(entries), bytes)
}

struct Evaluation<'s, 'v> {
    scope: &'s Scope<'v>,
    meter: Arc<Meter>,
    budget: ResultBudget,
}

impl Evaluation<'_, '_> {
    fn node(&mut self, node: &Node) -> Result<Json, ExprError> {
        match node {
            Node::Constant(json, bytes) => {
                self.budget.spend(*bytes)?;
                Ok(json.clone())
            }
            Node::Expression(expression) => self.expression(expression),
            Node::Text(parts) => self.text(parts).map(Json::String),
            Node::Array(nodes) => {
                self.budget.spend(2 + nodes.len())?;
                let items = nodes.iter().map(|node| self.node(node));
                items.collect::<Result<_, _>>().map(Json::Array)
            }
            Node::Object(nodes) => {
                let mut object = serde_json::Map::new();
                for (key, node) in nodes {
                    self.budget.spend(2 + quoted_bytes(key))?;
                    object.insert(key.clone(), self.node(node)?);
                }
                Ok(Json::Object(object))
            }
        }
    }

    fn text(&mut self, parts: &[Part]) -> Result<String, ExprError> {
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Literal(literal) => {
                    self.budget.spend(quoted_bytes(literal))?;
                    text.push_str(literal);
                }
                Part::Expression(expression) => {
                    let value = match self.interpolated(expression)? {
                        Json::String(value) => value,
                        other => other.to_string(),
                    };
                    self.budget.spend(quoted_bytes(&value))?;
                    text.push_str(&value);
                }
            }
        }
        Ok(text)
    }

    fn expression(&mut self, expression: &Expression) -> Result<Json, ExprError> {
        expression.evaluate_within(self.scope, &self.meter, &mut self.budget)
    }

    /// A value on its way into a text, where it takes another size than as JSON.
    fn interpolated(&mut self, expression: &Expression) -> Result<Json, ExprError> {
        expression.evaluate_within(self.scope, &self.meter, &mut ResultBudget::new())
    }
}
