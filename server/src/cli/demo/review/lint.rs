//! Checks of layout and leftovers, line by line.
//!
//! Findings that a file tends to have many of, such as trailing white space, are put together
//! into one per file with a count and the first line. Lines over the size limit of [`Source`] are
//! passed over. Nothing here fails.

use super::languages::{Family, Kind};
use super::source::MAX_LINE_BYTES;
use super::{Findings, Line, Severity, Source, coverage};

/// Lines of a program with more characters are remarked on.
const LONG_LINE: usize = 160;

/// Words that mark work to be done; they are looked for in comments and as whole words.
const MARKERS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// A leftover of debugging.
struct Leftover {
    family: Family,
    needle: &'static str,
    severity: Severity,
    check: &'static str,
}

const fn leftover(family: Family, needle: &'static str, severity: Severity) -> Leftover {
    Leftover {
        family,
        needle,
        severity,
        check: "lint.debug_leftover",
    }
}

const LEFTOVERS: &[Leftover] = &[
    leftover(Family::Rust, "dbg!(", Severity::Low),
    Leftover {
        check: "lint.unfinished",
        ..leftover(Family::Rust, "todo!(", Severity::Low)
    },
    Leftover {
        check: "lint.unfinished",
        ..leftover(Family::Rust, "unimplemented!(", Severity::Low)
    },
    leftover(Family::Python, "breakpoint()", Severity::Medium),
    leftover(Family::Python, "pdb.set_trace(", Severity::Medium),
    leftover(Family::Script, "console.log(", Severity::Info),
    leftover(Family::Script, "debugger;", Severity::Medium),
    leftover(Family::Ruby, "binding.pry", Severity::Medium),
    leftover(Family::Ruby, "byebug", Severity::Medium),
    leftover(Family::Php, "var_dump(", Severity::Low),
    leftover(Family::Java, ".printStackTrace()", Severity::Info),
];

/// How often something was seen, and where first.
#[derive(Debug, Default)]
struct Tally {
    count: usize,
    first: usize,
}

impl Tally {
    fn add(&mut self, line: usize) {
        if self.count == 0 {
            self.first = line;
        }
        self.count += 1;
    }
}

/// Looks for all that this module knows of.
pub fn check(source: &Source, findings: &mut Findings) {
    check_layout(source, findings);
    check_indentation(source, findings);
    check_conflicts(source, findings);
    check_markers(source, findings);
    check_leftovers(source, findings);
}

/// White space at line ends, long lines, line ends of two kinds, a missing last line end.
fn check_layout(source: &Source, findings: &mut Findings) {
    let mut trailing = Tally::default();
    let mut long = Tally::default();
    let mut oversized = Tally::default();
    let (mut longest, mut carriage, mut lines) = (0, Tally::default(), 0);
    for line in source.lines() {
        lines = line.number;
        if line.carriage_return {
            carriage.add(line.number);
        }
        if line.is_oversized() {
            oversized.add(line.number);
            continue;
        }
        if line.raw.ends_with([' ', '\t']) {
            trailing.add(line.number);
        }
        if line.raw.len() > LONG_LINE {
            let length = line.raw.chars().count();
            if length > LONG_LINE {
                long.add(line.number);
                longest = longest.max(length);
            }
        }
    }
    let mut report = |tally: &Tally, severity, check, message: String| {
        if tally.count > 0 {
            findings.push(tally.first, severity, check, &message);
        }
    };
    let kind = source.language.kind;
    if matches!(kind, Kind::Code | Kind::Config) {
        let message = format!("white space at the end of {}", lines_of(trailing.count));
        report(&trailing, Severity::Info, "lint.trailing_whitespace", message);
    }
    if kind == Kind::Code {
        let amount = lines_of(long.count);
        let message = format!("{amount} over {LONG_LINE} characters, the longest has {longest}");
        report(&long, Severity::Info, "lint.long_line", message);
        let amount = lines_of(oversized.count);
        let message = format!("{amount} over {MAX_LINE_BYTES} bytes, not looked at line by line");
        report(&oversized, Severity::Low, "lint.oversized_line", message);
    }
    if carriage.count < lines.saturating_sub(1) {
        let message = format!("CRLF at the end of {} out of {lines}", lines_of(carriage.count));
        report(&carriage, Severity::Low, "lint.mixed_line_ends", message);
    }
    let ends = source.truncated || source.text.is_empty() || source.text.ends_with('\n');
    if !ends && kind != Kind::Data {
        let message = "the last line does not end with a line feed";
        findings.push(lines, Severity::Info, "lint.no_final_newline", message);
    }
}

/// Tabs and spaces: mixed within the indentation of a line, or from line to line.
fn check_indentation(source: &Source, findings: &mut Findings) {
    let python = source.family() == Family::Python;
    if !source.is_code() {
        return;
    }
    let (mut within, mut tabs, mut spaces) = (Tally::default(), Tally::default(), Tally::default());
    let code_lines = source.checked_lines().filter(|line| !line.code.trim().is_empty());
    for line in code_lines {
        let body = line.code.trim_start_matches([' ', '\t']);
        let indent = &line.raw[..line.raw.len() - body.len()];
        // What starts with a blanked string or comment is no indentation.
        if indent.trim().is_empty() {
            if indent.contains(" \t") {
                within.add(line.number);
            } else if indent.starts_with('\t') {
                tabs.add(line.number);
            } else if indent.starts_with("  ") {
                spaces.add(line.number);
            }
        }
    }
    if within.count > 0 {
        let message = format!("a tab after spaces in the indentation of {}", lines_of(within.count));
        findings.push(within.first, Severity::Low, "lint.mixed_indent", &message);
    }
    if tabs.count > 0 && spaces.count > 0 {
        let fewer = if tabs.count < spaces.count { &tabs } else { &spaces };
        let (tab_lines, space_lines) = (lines_of(tabs.count), lines_of(spaces.count));
        let message = format!("tabs indent {tab_lines}, spaces {space_lines}");
        let severity = if python { Severity::Low } else { Severity::Info };
        findings.push(fewer.first, severity, "lint.tabs_and_spaces", &message);
    }
}

/// Conflict markers that a merge left behind. The middle one alone is a heading in some formats.
fn check_conflicts(source: &Source, findings: &mut Findings) {
    let is_marker = |line: &Line, sign: &str| {
        let rest = line.raw.strip_prefix(sign);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let mut start: Option<usize> = None;
    let mut halfway = false;
    let half = "half of a merge conflict marker";
    for line in source.checked_lines() {
        if is_marker(&line, "<<<<<<<") {
            if let Some(lost) = start.replace(line.number) {
                findings.push(lost, Severity::Medium, "lint.conflict_marker", half);
            }
            halfway = false;
        } else if start.is_some() && is_marker(&line, "=======") {
            halfway = true;
        } else if is_marker(&line, ">>>>>>>") {
            match start.take() {
                Some(first) if halfway => {
                    let message = format!("unresolved merge conflict up to line {}", line.number);
                    findings.push(first, Severity::High, "lint.conflict_marker", &message);
                }
                _ => findings.push(line.number, Severity::Medium, "lint.conflict_marker", half),
            }
        }
    }
    if let Some(lost) = start {
        findings.push(lost, Severity::Medium, "lint.conflict_marker", half);
    }
}

/// Marks of work to be done.
fn check_markers(source: &Source, findings: &mut Findings) {
    if source.language.kind == Kind::Data {
        return;
    }
    for line in source.checked_lines() {
        let text = if source.knows_comments() {
            line.comment
        } else {
            line.raw
        };
        for marker in MARKERS {
            if finds_word(text, marker) {
                let message = format!("{marker} marker");
                findings.push(line.number, Severity::Info, "lint.marker", &message);
                break;
            }
        }
    }
}

/// Calls that are there for debugging, or for code still to be written.
fn check_leftovers(source: &Source, findings: &mut Findings) {
    let family = source.family();
    let in_test = coverage::is_test_path(&source.path);
    let rules: Vec<&Leftover> = LEFTOVERS.iter().filter(|rule| rule.family == family).collect();
    if rules.is_empty() {
        return;
    }
    for line in source.checked_lines() {
        for rule in &rules {
            if finds_start(line.code, rule.needle) {
                let severity = match in_test {
                    true => rule.severity.lowered(),
                    false => rule.severity,
                };
                let message = format!("{} left in the code", rule.needle.trim_end_matches('('));
                findings.push(line.number, severity, rule.check, &message);
            }
        }
    }
}

/// Whether `needle` is in `text` with nothing of a word right before it, if it starts a word.
pub(super) fn finds_start(text: &str, needle: &str) -> bool {
    let starts_word = needle.starts_with(is_word);
    text.match_indices(needle)
        .any(|(at, _)| !starts_word || !text[..at].ends_with(is_word))
}

/// Whether `word` is in `text` with nothing of a word on either side.
pub(super) fn finds_word(text: &str, word: &str) -> bool {
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn lines_of(count: usize) -> String {
    match count {
        1 => "1 line".to_owned(),
        _ => format!("{count} lines"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::super::{Finding, MAX_FINDINGS_PER_FILE};
    use super::*;

    fn run(path: &str, text: &str) -> Vec<Finding> {
        let mut findings = Findings::new(path);
        check(&source(path, text), &mut findings);
        findings.finish().0
    }

    fn found(path: &str, text: &str) -> Vec<(u32, String)> {
        run(path, text).into_iter().map(|f| (f.line, f.check)).collect()
    }

    fn one(line: u32, check: &str) -> Vec<(u32, String)> {
        vec![(line, check.to_owned())]
    }

    #[test]
    fn layout() {
        assert_eq!(found("a.rs", "a\nb \nc\t\n"), one(2, "lint.trailing_whitespace"));
        assert_eq!(found("a.md", "a  \n"), []);
        assert_eq!(found("a.rs", "a\nb"), one(2, "lint.no_final_newline"));
        assert_eq!(found("a.rs", "a\r\nb\r\n"), []);
        assert_eq!(found("a.rs", "a\nb\r\nc\n"), one(2, "lint.mixed_line_ends"));
        let long = format!("{}\n", "\u{fc}".repeat(161));
        assert_eq!(found("a.rs", &long), one(1, "lint.long_line"));
        assert_eq!(found("a.rs", &long[2..]), []);
        assert_eq!(found("a.rs", ""), []);
    }

    #[test]
    fn indentation() {
        assert_eq!(found("a.c", "\ta;\n\tb;\n  c;\n"), one(3, "lint.tabs_and_spaces"));
        assert_eq!(found("a.c", "\ta;\n \tb;\n"), one(2, "lint.mixed_indent"));
        assert_eq!(found("a.c", "\t/* a\n\t * b */\n\tc;\n"), []);
        assert_eq!(found("Makefile", "\ta\n  b\n"), []);
    }

    #[test]
    fn conflicts() {
        let (start, middle, end) = ("<".repeat(7), "=".repeat(7), ">".repeat(7));
        let text = format!("a\n{start} HEAD\nb\n{middle}\nc\n{end} x\n");
        let findings = run("a.rs", &text);
        assert_eq!((findings[0].line, findings[0].severity), (2, Severity::High));
        assert_eq!(found("a.rst", &format!("Heading\n{middle}\n")), []);
        let half = run("a.rs", &format!("{start} HEAD\n"));
        assert_eq!(half[0].severity, Severity::Medium);
    }

    #[test]
    fn markers_count_in_comments_only() {
        let marker = MARKERS[0];
        assert_eq!(found("a.rs", &format!("a(); // {marker}: b\n")), one(1, "lint.marker"));
        assert_eq!(found("a.rs", &format!("a(\"{marker}\");\n")), []);
        assert_eq!(found("a.md", &format!("{marker}s\n")), []);
        assert_eq!(found("a.md", &format!("- {marker}\n")), one(1, "lint.marker"));
    }

    #[test]
    fn leftovers() {
        assert_eq!(found("a.rs", "dbg!(x);\n"), one(1, "lint.debug_leftover"));
        assert_eq!(found("a.rs", "let a = \"dbg!(\"; // dbg!(\n"), []);
        assert_eq!(found("a.py", "import x\nbreakpoint()\n"), one(2, "lint.debug_leftover"));
        assert_eq!(found("a.rb", "console.log(1)\n"), []);
        assert_eq!(run("a.js", "debugger;\n")[0].severity, Severity::Medium);
        assert_eq!(run("a.test.js", "debugger;\n")[0].severity, Severity::Low);
    }

    #[test]
    fn a_file_full_of_findings_is_capped() {
        let text = "dbg!(x);\n".repeat(5000);
        let mut findings = Findings::new("a.rs");
        check(&source("a.rs", &text), &mut findings);
        let (listed, omitted) = findings.finish();
        assert_eq!(listed.len(), MAX_FINDINGS_PER_FILE);
        assert_eq!(omitted[0].count, 5000 - MAX_FINDINGS_PER_FILE as u64);
        assert_eq!(listed.last().unwrap().line, MAX_FINDINGS_PER_FILE as u32);
    }
}
