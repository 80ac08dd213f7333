//! Counts the public items of a file and how many of them are documented.
//!
//! Rust, Go, JavaScript, TypeScript and Java keep the documentation above the item; this module
//! reads their files line by line and remembers whether a documentation comment is pending.
//! Python keeps it inside, see [`super::python_docs`]. What is public is judged by the item alone:
//! a public function in a private module counts. Tests are passed over. Nothing here fails.

use serde::{Deserialize, Serialize};

use super::languages::Family;
use super::{Findings, Line, Severity, Source, coverage, python_docs};

/// Public items, and those of them that are documented.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocCount {
    /// All public items.
    pub public: u64,
    /// The documented ones.
    pub documented: u64,
}

impl DocCount {
    /// Counts one more item, and reports it if it is not documented.
    pub(super) fn add(&mut self, documented: bool, line: usize, item: &Item<'_>, findings: &mut Findings) {
        self.public += 1;
        if documented {
            self.documented += 1;
            return;
        }
        let message = format!("{} {} is public and not documented", item.kind, item.name);
        findings.push(line, Severity::Info, "docs.missing", &message);
    }
}

/// A public item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item<'a> {
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
}

/// Counts the public items of a text; none if its language is not known here or it is a test.
pub fn check(source: &Source, findings: &mut Findings) -> Option<DocCount> {
    if coverage::is_test_path(&source.path) {
        return None;
    }
    match source.family() {
        Family::Python => Some(python_docs::check(source, findings)),
        Family::Rust | Family::Go | Family::Script | Family::Java => Some(check_above(source, findings)),
        _ => None,
    }
}

/// Goes through a file of a language with documentation above items.
fn check_above(source: &Source, findings: &mut Findings) -> DocCount {
    let family = source.family();
    let mut count = DocCount::default();
    let mut state = State::default();
    for line in source.checked_lines() {
        let Some(code) = state.take_in(&line, family) else {
            continue;
        };
        if state.test_module && code.contains("mod ") && !code.ends_with(';') {
            break;
        }
        if let Some(item) = item_of(code, family)
            && !state.overrides
        {
            count.add(state.documented, line.number, &item, findings);
        }
        state = State::default();
    }
    count
}

/// What is known of the item that comes next.
#[derive(Debug, Default)]
struct State {
    documented: bool,
    /// How many brackets of an attribute or annotation are still open.
    open_brackets: i64,
    /// Whether the attribute for tests was seen.
    test_module: bool,
    /// Whether the annotation for overridden methods was seen.
    overrides: bool,
}

impl State {
    /// Takes in a line; gives its code if that is neither a comment nor an attribute.
    fn take_in<'a>(&mut self, line: &Line<'a>, family: Family) -> Option<&'a str> {
        let code = line.code.trim();
        if code.is_empty() {
            if !line.is_blank() {
                self.documented |= is_doc_comment(line.comment.trim(), family);
            } else if family == Family::Go {
                self.documented = false;
            }
            return None;
        }
        let attribute = self.open_brackets > 0
            || code.starts_with("#[")
            || code.starts_with("#!")
            || (code.starts_with('@') && !code.starts_with("@interface"));
        if !attribute {
            return Some(code);
        }
        self.documented |= code.starts_with("#[doc");
        self.test_module |= code.starts_with("#[cfg(test)]");
        self.overrides |= code.starts_with("@Override");
        let rest = self.after_attribute(code);
        (!rest.is_empty()).then_some(rest)
    }

    /// Follows the brackets of an attribute; gives what comes after it on the same line.
    fn after_attribute<'a>(&mut self, code: &'a str) -> &'a str {
        let item = |rest: &'a str| match rest.trim_start() {
            rest if rest.starts_with(['#', '@']) => "",
            rest => rest,
        };
        let mut body = code;
        if self.open_brackets == 0 && code.starts_with('@') {
            let is_name = |c: char| c.is_alphanumeric() || matches!(c, '@' | '.' | '_' | '$');
            body = code.trim_start_matches(is_name);
            if !body.starts_with('(') {
                return item(body);
            }
        }
        for (at, c) in body.char_indices() {
            match c {
                '(' | '[' | '{' => self.open_brackets += 1,
                ')' | ']' | '}' => self.open_brackets -= 1,
                _ => continue,
            }
            if self.open_brackets <= 0 {
                self.open_brackets = 0;
                return item(&body[at + 1..]);
            }
        }
        ""
    }
}

fn is_doc_comment(comment: &str, family: Family) -> bool {
    let block = comment.starts_with("/**") && !comment.starts_with("/**/");
    match family {
        Family::Rust => block || (comment.starts_with("///") && !comment.starts_with("////")),
        Family::Go => !comment.starts_with("//go:") && !comment.starts_with("// +build"),
        _ => block,
    }
}

fn item_of(code: &str, family: Family) -> Option<Item<'_>> {
    match family {
        Family::Rust => rust_item(code),
        Family::Go => go_item(code),
        Family::Script => script_item(code),
        Family::Java => java_item(code),
        _ => None,
    }
}

fn rust_item(code: &str) -> Option<Item<'_>> {
    const KINDS: [&str; 9] = [
        "fn", "struct", "enum", "trait", "type", "mod", "static", "union", "const",
    ];
    let rest = code.strip_prefix("pub ")?;
    let words: Vec<&str> = rest.split_whitespace().take(7).collect();
    let modifier = |word: &str| matches!(word, "async" | "unsafe" | "extern" | "safe" | "auto");
    let mut place = 0;
    while let Some(word) = words.get(place) {
        let next = words.get(place + 1).copied().unwrap_or("");
        let constant = *word == "const" && (next == "fn" || modifier(next));
        if !(modifier(word) || constant || word.starts_with('"') || *word == "\"") {
            break;
        }
        place += 1;
    }
    let kind = KINDS.into_iter().find(|kind| words.get(place) == Some(kind))?;
    let name = identifier(words.get(place + 1..)?.iter().find(|word| **word != "mut")?);
    if name.is_empty() || (kind == "mod" && rest.ends_with(';')) {
        return None;
    }
    Some(Item { kind, name })
}

fn go_item(code: &str) -> Option<Item<'_>> {
    let exported = |name: &str| name.starts_with(char::is_uppercase);
    let (kind, rest) = code.split_once(' ')?;
    if !matches!(kind, "func" | "type" | "var" | "const") {
        return None;
    }
    let mut rest = rest.trim_start();
    if let Some(method) = rest.strip_prefix('(').filter(|_| kind == "func") {
        let (receiver, method) = method.split_once(')')?;
        let receiver = receiver.split('[').next().unwrap_or(receiver);
        let of = receiver.rsplit([' ', '*']).next().unwrap_or("");
        if !exported(of) {
            return None;
        }
        rest = method.trim_start();
    }
    let name = identifier(rest);
    exported(name).then_some(Item { kind, name })
}

fn script_item(code: &str) -> Option<Item<'_>> {
    const KINDS: [&str; 9] = [
        "function",
        "class",
        "const",
        "let",
        "var",
        "interface",
        "type",
        "enum",
        "namespace",
    ];
    let mut rest = code.strip_prefix("export ")?.trim_start();
    let mut default = false;
    for modifier in ["default ", "declare ", "abstract ", "async "] {
        if let Some(cut) = rest.strip_prefix(modifier) {
            default |= modifier == "default ";
            rest = cut.trim_start();
        }
    }
    let kind = KINDS.into_iter().find(|kind| identifier(rest) == *kind)?;
    let name = identifier(rest[kind.len()..].trim_start_matches(['*', ' ']));
    match name {
        "" if default => Some(Item { kind, name: "default" }),
        "" | "enum" => None,
        _ => Some(Item { kind, name }),
    }
}

fn java_item(code: &str) -> Option<Item<'_>> {
    const KINDS: [&str; 5] = ["class", "interface", "enum", "record", "@interface"];
    let rest = code.strip_prefix("public ")?;
    let head = rest.split(['(', '=', '{', ';']).next().unwrap_or(rest);
    let words: Vec<&str> = head.split_whitespace().collect();
    if let Some(place) = words.iter().position(|word| KINDS.contains(word)) {
        let name = identifier(words.get(place + 1)?);
        return Some(Item {
            kind: KINDS.into_iter().find(|kind| *kind == words[place])?,
            name,
        });
    }
    let name = words.last()?;
    let method = rest[head.len()..].starts_with('(') && *name != "main";
    method.then_some(Item { kind: "method", name })
}

/// The identifier that a text starts with.
pub(super) fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '$'));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    fn run(path: &str, text: &str) -> (u64, u64, Vec<u32>) {
        let mut findings = Findings::new(path);
        let count = check(&source(path, text), &mut findings).unwrap();
        let lines = findings.finish().0.iter().map(|f| f.line).collect();
        (count.public, count.documented, lines)
    }

    #[test]
    fn rust() {
        let text = "/// A.\n#[derive(\n    Debug\n)]\npub struct A {\n    pub x: u8,\n}\n\
            pub const fn b() {}\n/// C.\n\npub async unsafe fn c<T>() {}\npub(crate) fn d() {}\n\
            pub use x::y;\npub mod e;\n#[doc = \"f\"] pub const F: u8 = 1;\n// no\npub extern \"C\" fn g() {}\n\
            #[cfg(test)]\nmod tests {\n    pub fn h() {}\n}\n";
        assert_eq!(run("a.rs", text), (5, 3, vec![8, 17]));
    }

    #[test]
    fn go() {
        let text = "// A does.\nfunc A() {}\nfunc b() {}\n// far\n\nfunc (t *T) C() {}\n\
            func (t *t) D() {}\n// E is.\ntype E struct{}\nvar F = 1\nfunc (l List[K]) G() {}\n";
        assert_eq!(run("a.go", text), (5, 2, vec![6, 10, 11]));
    }

    #[test]
    fn scripts() {
        let text = "/** A. */\nexport function a() {}\nexport default class {}\n/* no */\n\
            export const b = 1;\nexport { c };\nexport * from 'd';\nfunction e() {}\n\
            /**\n * F.\n */\nexport async function* f() {}\nexport type { G };\n";
        assert_eq!(run("a.ts", text), (4, 2, vec![3, 5]));
    }

    #[test]
    fn java() {
        let text = "/** A. */\n@Foo(\n  x = 1)\npublic class A {\n  public int x = f(1);\n\
            \x20 public List<A> b(int c) {\n  }\n  @Override\n  public String toString() {}\n\
            \x20 @Bar public void c() {}\n  public static void main(String[] a) {}\n}\n";
        assert_eq!(run("A.java", text), (3, 1, vec![6, 10]));
    }

    #[test]
    fn tests_and_other_languages_are_passed_over() {
        let mut findings = Findings::new("a");
        assert_eq!(check(&source("tests/a.rs", "pub fn a() {}\n"), &mut findings), None);
        assert_eq!(check(&source("a.c", "int a();\n"), &mut findings), None);
    }
}
