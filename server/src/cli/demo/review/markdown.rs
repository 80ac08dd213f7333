//! Writes a summary as a Markdown report.
//!
//! The length is bounded whatever the repository holds: every list has a limit and says how much
//! it leaves out. Paths and messages come from the files under review, so they are put where
//! they cannot change the layout: no line breaks, no control characters, no table bars.
//! Nothing here fails.

use std::fmt::Write;

use super::git::SkippedEntry;
use super::report::{Irregularities, MAX_LISTED, Summary};
use super::{CheckKind, Severity, shorten};

/// Most rows of the tables by language and by check.
const MAX_ROWS: usize = 40;

/// Most links and submodules that are named.
const MAX_SKIPPED: usize = 20;

/// Longest path that is shown whole, in characters.
const MAX_PATH: usize = 120;

/// Renders a summary; `title` names the repository.
pub fn render(title: &str, summary: &Summary) -> String {
    let mut out = String::new();
    render_head(&mut out, title, summary);
    render_integrity(&mut out, summary);
    render_counts(&mut out, summary);
    render_languages(&mut out, summary);
    render_tests_and_docs(&mut out, summary);
    render_top_files(&mut out, summary);
    render_findings(&mut out, summary);
    render_skipped(&mut out, &summary.skipped);
    out
}

/// Adds a line. Writing to a string cannot fail.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
    out.push('\n');
}

fn render_head(out: &mut String, title: &str, summary: &Summary) {
    line(out, format_args!("# Review of {}\n", code(title)));
    let Some(commit) = &summary.commit else {
        line(
            out,
            format_args!("HEAD has no commits yet, so there was nothing to review."),
        );
        return;
    };
    line(out, format_args!("- Commit: {}", code(commit)));
    if !summary.prefix.is_empty() {
        line(out, format_args!("- Limited to: {}", code(&summary.prefix)));
    }
    let kinds: Vec<&str> = summary.checks_run.iter().map(|kind| kind.name()).collect();
    line(out, format_args!("- Checks: {}", kinds.join(", ")));
    let (reviewed, files) = (summary.files_reviewed, summary.files);
    let binary = summary.binary_files;
    line(
        out,
        format_args!("- Files reviewed: {reviewed} of {files}, {binary} of them binary"),
    );
    let (lines, bytes) = (&summary.lines, summary.bytes);
    line(
        out,
        format_args!(
            "- Lines: {} ({} code, {} comment, {} blank) in {bytes} bytes",
            lines.total, lines.code, lines.comment, lines.blank
        ),
    );
    line(out, format_args!("- Findings: {}\n", summary.findings_total));
}

fn render_integrity(out: &mut String, summary: &Summary) {
    let integrity = &summary.integrity;
    if integrity.is_complete() {
        if summary.files > 0 {
            line(out, format_args!("Every file went through every check exactly once.\n"));
        }
        return;
    }
    line(out, format_args!("## Irregularities\n"));
    let mut list = |name: &str, found: &Irregularities| {
        if found.count == 0 {
            return;
        }
        line(out, format_args!("{name}: {}\n", found.count));
        for example in &found.examples {
            line(out, format_args!("- {}", code(example)));
        }
        more(out, found.count as usize, found.examples.len());
        out.push('\n');
    };
    list("Files that a check did not reach", &integrity.missing);
    list("Files that a check went through more than once", &integrity.repeated);
    list("Results for what is not part of the review", &integrity.unexpected);
    list("Results that could not be read", &integrity.unreadable);
}

fn render_counts(out: &mut String, summary: &Summary) {
    if summary.findings_total == 0 {
        return;
    }
    line(out, format_args!("## Findings by severity and check\n"));
    line(out, format_args!("| Severity | Findings |\n| --- | ---: |"));
    for (severity, count) in Severity::ALL.iter().zip(summary.by_severity) {
        line(out, format_args!("| {} | {count} |", severity.name()));
    }
    line(out, format_args!("\n| Check | Findings |\n| --- | ---: |"));
    let mut checks: Vec<(&String, &u64)> = summary.by_check.iter().collect();
    checks.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    for (name, count) in checks.iter().take(MAX_ROWS) {
        line(out, format_args!("| {} | {count} |", code(name)));
    }
    more(out, checks.len(), MAX_ROWS);
    out.push('\n');
}

fn render_languages(out: &mut String, summary: &Summary) {
    if summary.languages.is_empty() {
        return;
    }
    line(out, format_args!("## Languages\n"));
    line(
        out,
        format_args!("| Language | Files | Code | Comment | Blank | Bytes |"),
    );
    line(out, format_args!("| --- | ---: | ---: | ---: | ---: | ---: |"));
    for total in summary.languages.iter().take(MAX_ROWS) {
        let lines = &total.lines;
        line(
            out,
            format_args!(
                "| {} | {} | {} | {} | {} | {} |",
                text(&total.language),
                total.files,
                lines.code,
                lines.comment,
                lines.blank,
                total.bytes
            ),
        );
    }
    more(out, summary.languages.len(), MAX_ROWS);
    out.push('\n');
}

fn render_tests_and_docs(out: &mut String, summary: &Summary) {
    let (should, with) = summary.tests.tested();
    if summary.checks_run.contains(&CheckKind::Tests) && should + summary.tests.tests > 0 {
        let tests = &summary.tests;
        line(out, format_args!("## Tests\n"));
        line(out, format_args!("- Source files with tests: {}", share(with, should)));
        line(
            out,
            format_args!(
                "- {} hold tests, {} have a test file, {} have neither; {} files are tests\n",
                tests.inline, tests.companion, tests.missing, tests.tests
            ),
        );
    }
    if summary.checks_run.contains(&CheckKind::Docs) && summary.docs.public > 0 {
        let docs = summary.docs;
        line(out, format_args!("## Documentation\n"));
        let all = share(docs.documented, docs.public);
        line(out, format_args!("- Documented public items: {all}"));
        for total in summary.languages.iter().filter(|total| total.docs.public > 0) {
            let part = share(total.docs.documented, total.docs.public);
            line(out, format_args!("- {}: {part}", text(&total.language)));
        }
        out.push('\n');
    }
}

fn render_top_files(out: &mut String, summary: &Summary) {
    if summary.top_files.is_empty() {
        return;
    }
    line(out, format_args!("## Files with the gravest findings\n"));
    line(out, format_args!("| File | High | Medium | Low | Info |"));
    line(out, format_args!("| --- | ---: | ---: | ---: | ---: |"));
    for total in &summary.top_files {
        let [high, medium, low, info] = total.counts;
        let path = code(&total.path);
        line(out, format_args!("| {path} | {high} | {medium} | {low} | {info} |"));
    }
    out.push('\n');
}

fn render_findings(out: &mut String, summary: &Summary) {
    if summary.findings_total == 0 {
        return;
    }
    line(out, format_args!("## Findings\n"));
    line(
        out,
        format_args!("| Severity | Place | Check | Message |\n| --- | --- | --- | --- |"),
    );
    for finding in summary.findings.iter().take(MAX_LISTED) {
        let place = match finding.line {
            0 => code(&finding.path),
            number => format!("{} line {number}", code(&finding.path)),
        };
        let (severity, check) = (finding.severity.name(), text(&finding.check));
        let message = text(&finding.message);
        line(out, format_args!("| {severity} | {place} | {check} | {message} |"));
    }
    let listed = summary.findings.len().min(MAX_LISTED);
    let total = usize::try_from(summary.findings_total).unwrap_or(usize::MAX);
    more(out, total, listed);
    out.push('\n');
}

fn render_skipped(out: &mut String, skipped: &[SkippedEntry]) {
    if skipped.is_empty() {
        return;
    }
    line(out, format_args!("## Not reviewed\n"));
    for entry in skipped.iter().take(MAX_SKIPPED) {
        line(out, format_args!("- {}: {}", code(&entry.path), text(&entry.reason)));
    }
    more(out, skipped.len(), MAX_SKIPPED);
}

/// Says how many entries a list leaves out.
fn more(out: &mut String, all: usize, shown: usize) {
    if all > shown {
        line(out, format_args!("\n... and {} more.", all - shown));
    }
}

fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => "0 of 0".to_owned(),
        _ => format!("{part} of {whole} ({} %)", part.saturating_mul(100) / whole),
    }
}

/// A text as inline code, with what could end it or the table cell taken out.
fn code(value: &str) -> String {
    let plain = visible(&shorten(value, MAX_PATH)).replace('`', "'");
    format!("`{}`", plain.replace('|', "\\|"))
}

/// A text as prose, with the characters that mean something in Markdown or HTML escaped.
fn text(value: &str) -> String {
    let mut out = String::new();
    for c in visible(value).chars() {
        if matches!(
            c,
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '&' | '~'
        ) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A text with control characters, and those that turn the writing direction, spelled out.
fn visible(value: &str) -> String {
    let odd = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::new();
    for c in value.chars() {
        match odd(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_is_escaped() {
        assert_eq!(code("a`b|c\nd"), "`a'b\\|c\\nd`");
        assert_eq!(text("<b>*x*"), "\\<b\\>\\*x\\*");
        assert_eq!(visible("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn a_repository_without_commits_says_so() {
        let report = render("x", &Summary::default());
        assert!(report.contains("no commits yet"));
    }
}
