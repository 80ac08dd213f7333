//! What it would cost to hold an input against a schema: a walk over both that takes every branch and stops when it has had enough.
//! Schemas that refer to themselves in several places at once would otherwise take time exponential in the depth of the input.

use serde_json::{Map, Value};

/// How deep a schema may nest.
pub(super) const MAX_NESTING: usize = 96;
/// How many steps a check may take.
const MAX_STEPS: usize = 2_000_000;
/// How deep a check may go: each level of the input, each reference and each combination counts.
const MAX_DEPTH: usize = 200;

/// How many steps the check takes at most.
///
/// # Errors
/// It takes too many, or goes too deep.
pub(super) fn of(schema: &Value, input: &Value) -> Result<usize, &'static str> {
    let mut walk = Walk { root: schema, steps: 0 };
    walk.visit(schema, input, 0)?;
    Ok(walk.steps)
}

/// What a reference within a schema points at.
pub(super) fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#')?;
    root.pointer(&percent_decoded(pointer)?)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

struct Walk<'a> {
    root: &'a Value,
    steps: usize,
}

type Walked = Result<(), &'static str>;

impl<'a> Walk<'a> {
    fn spend(&mut self, steps: usize) -> Walked {
        self.steps += steps;
        if self.steps > MAX_STEPS {
            return Err("the schema takes too many steps on it");
        }
        Ok(())
    }

    fn visit(&mut self, schema: &'a Value, input: &Value, depth: usize) -> Walked {
        if depth > MAX_DEPTH {
            return Err("the schema goes too deep on it");
        }
        self.spend(1)?;
        let Value::Object(keywords) = schema else {
            return Ok(());
        };
        // What is unevaluated is found by evaluating what stands beside it once more.
        let again = keywords.contains_key("unevaluatedProperties") || keywords.contains_key("unevaluatedItems");
        for _ in 0..=usize::from(again) {
            for (keyword, value) in keywords {
                self.in_place(keyword, value, input, depth + 1)?;
                match input {
                    Value::Object(fields) => self.of_object(keyword, value, fields, depth + 1)?,
                    Value::Array(items) => self.of_array(keyword, value, items, depth + 1)?,
                    Value::String(text) if keyword == "pattern" => self.spend(text.len() / 16)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Keywords that hold other schemas against the same input.
    fn in_place(&mut self, keyword: &str, value: &'a Value, input: &Value, depth: usize) -> Walked {
        match (keyword, value) {
            ("$ref", Value::String(reference)) => match resolve(self.root, reference) {
                Some(target) => self.visit(target, input, depth),
                None => Err("the schema refers to nothing"),
            },
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                schemas.iter().try_for_each(|schema| self.visit(schema, input, depth))
            }
            ("not" | "if" | "then" | "else", schema) => self.visit(schema, input, depth),
            ("dependentSchemas" | "dependencies", Value::Object(schemas)) => schemas
                .values()
                .filter(|schema| schema.is_object())
                .try_for_each(|schema| self.visit(schema, input, depth)),
            ("enum" | "required", Value::Array(values)) => self.spend(values.len()),
            _ => Ok(()),
        }
    }

    fn of_object(&mut self, keyword: &str, value: &'a Value, fields: &Map<String, Value>, depth: usize) -> Walked {
        match (keyword, value) {
            ("properties", Value::Object(schemas)) => {
                self.spend(schemas.len().min(fields.len()))?;
                for (name, field) in fields {
                    if let Some(schema) = schemas.get(name) {
                        self.visit(schema, field, depth)?;
                    }
                }
                Ok(())
            }
            ("patternProperties", Value::Object(schemas)) => {
                for schema in schemas.values() {
                    for (name, field) in fields {
                        self.spend(name.len() / 16)?;
                        self.visit(schema, field, depth)?;
                    }
                }
                Ok(())
            }
            ("additionalProperties" | "unevaluatedProperties", schema) => {
                fields.values().try_for_each(|field| self.visit(schema, field, depth))
            }
            ("propertyNames", schema) => fields.keys().try_for_each(|name| {
                self.spend(name.len() / 16)?;
                self.visit(schema, &Value::Null, depth)
            }),
            _ => Ok(()),
        }
    }

    fn of_array(&mut self, keyword: &str, value: &'a Value, items: &[Value], depth: usize) -> Walked {
        match (keyword, value) {
            ("items" | "prefixItems", Value::Array(schemas)) => schemas
                .iter()
                .zip(items)
                .try_for_each(|(schema, item)| self.visit(schema, item, depth)),
            ("items" | "additionalItems" | "unevaluatedItems" | "contains", schema) => {
                items.iter().try_for_each(|item| self.visit(schema, item, depth))
            }
            ("uniqueItems", Value::Bool(true)) => self.spend(items.len() * 4),
            _ => Ok(()),
        }
    }
}
