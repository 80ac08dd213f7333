//! Counts the public functions and classes of a Python file and their docstrings.
//!
//! Scopes are told from the indentation and open brackets from the masked code, so that a text
//! that is not well formed gives odd counts at worst. The time is linear: a header that never
//! ends also ends the search. Nothing here fails.

use super::docs::{DocCount, Item, identifier};
use super::{Findings, Line, Source};

/// A function or class whose body the current line may be in.
#[derive(Debug)]
struct Scope {
    indent: usize,
    /// Whether what is defined right inside is public: in public classes, not in functions.
    open: bool,
}

/// Counts the public items of a Python text. Overloads and setters are not counted, since their
/// documentation is elsewhere.
pub(super) fn check(source: &Source, findings: &mut Findings) -> DocCount {
    let lines: Vec<Line<'_>> = source
        .checked_lines()
        .filter(|line| !line.code.trim().is_empty())
        .collect();
    let mut count = DocCount::default();
    let mut scopes: Vec<Scope> = Vec::new();
    let mut brackets = 0;
    let mut documented_elsewhere = false;
    for (place, line) in lines.iter().enumerate() {
        let code = line.code.trim();
        let continues = brackets > 0;
        brackets = (brackets + bracket_balance(code)).max(0);
        if continues {
            continue;
        }
        if code.starts_with('@') {
            let setter = code.ends_with(".setter") || code.ends_with(".deleter");
            documented_elsewhere |= setter || code.contains("overload");
            continue;
        }
        // A string may be the end of one that goes over lines, and then its indentation is chance.
        if code.starts_with(['"', '\'']) {
            continue;
        }
        let indent = line.code.len() - line.code.trim_start().len();
        while scopes.last().is_some_and(|scope| scope.indent >= indent) {
            scopes.pop();
        }
        if let Some(item) = definition(code) {
            let reachable = scopes.last().is_none_or(|scope| scope.open);
            let public = reachable && !item.name.starts_with('_');
            if public && !documented_elsewhere {
                count.add(has_docstring(&lines[place..]), line.number, &item, findings);
            }
            let open = public && item.kind == "class";
            scopes.push(Scope { indent, open });
        }
        documented_elsewhere = false;
    }
    count
}

fn definition(code: &str) -> Option<Item<'_>> {
    let code = code.strip_prefix("async ").unwrap_or(code);
    let (kind, rest) = code.split_once(' ')?;
    let name = identifier(rest.trim_start());
    (matches!(kind, "def" | "class") && !name.is_empty()).then_some(Item { kind, name })
}

/// Whether a string follows the header that the first of these lines starts.
fn has_docstring(lines: &[Line<'_>]) -> bool {
    let mut brackets = 0;
    for (place, line) in lines.iter().enumerate() {
        let code = line.code.trim();
        brackets += bracket_balance(code);
        if brackets <= 0 {
            let body = lines.get(place + 1).filter(|_| code.ends_with(':'));
            return body.is_some_and(|body| {
                let text = body.code.trim().trim_start_matches(['r', 'R', 'u', 'U']);
                text.starts_with(['"', '\''])
            });
        }
    }
    false
}

fn bracket_balance(code: &str) -> i64 {
    code.bytes()
        .map(|byte| match byte {
            b'(' | b'[' | b'{' => 1,
            b')' | b']' | b'}' => -1,
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    fn run(text: &str) -> (u64, u64, Vec<u32>) {
        let mut findings = Findings::new("a.py");
        let count = check(&source("a.py", text), &mut findings);
        let lines = findings.finish().0.iter().map(|f| f.line).collect();
        (count.public, count.documented, lines)
    }

    #[test]
    fn functions_classes_and_methods() {
        let text = "\
def a(
    x: int = f(1),
) -> None:
    # first
    r'''Doc.

def not_me(): pass
'''
    def inner():
        pass

def b():
    return 1

class C:
    \"Doc.\"

    def d(self): pass

    def _e(self):
        pass

class _F:
    def g(self):
        pass

async def h(): # why
    \"\"\"Doc.\"\"\"
";
        assert_eq!(run(text), (5, 3, vec![12, 18]));
    }

    #[test]
    fn overloads_and_setters_are_left_out() {
        let text = "\
@overload
def a(x): ...
@x.setter
def b(self, x):
    pass
@cache
def c(): ...
";
        assert_eq!(run(text), (1, 0, vec![7]));
    }

    #[test]
    fn broken_text_is_read_once() {
        let text = "def a(:\n".repeat(50_000);
        assert_eq!(run(&text).0, 1);
    }
}
