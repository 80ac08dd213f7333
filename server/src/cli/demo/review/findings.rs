//! Collects the findings of one file within bounds: the gravest are kept, the rest is counted.

use super::{Finding, MAX_FINDINGS_PER_FILE, Omitted, Severity};

/// Longest message of a finding, in characters.
pub(super) const MAX_MESSAGE: usize = 200;

/// Collects the findings of one file and keeps their number within bounds.
#[derive(Debug)]
pub struct Findings {
    path: String,
    listed: Vec<Finding>,
    omitted: Vec<Omitted>,
}

impl Findings {
    /// An empty collection for a file.
    pub fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            listed: Vec::new(),
            omitted: Vec::new(),
        }
    }

    /// Adds a finding; `line` is counted from 1, and 0 stands for the whole file.
    pub fn push(&mut self, line: usize, severity: Severity, check: &str, message: &str) {
        self.listed.push(Finding {
            path: self.path.clone(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            severity,
            check: check.to_owned(),
            message: shorten(message, MAX_MESSAGE),
        });
        // Weeding out now and then bounds the memory that a file full of findings takes.
        if self.listed.len() >= MAX_FINDINGS_PER_FILE * 20 {
            self.weed();
        }
    }

    /// The findings to list, by line, and the count of the rest. Graver ones are listed first.
    pub fn finish(mut self) -> (Vec<Finding>, Vec<Omitted>) {
        self.weed();
        let order = |a: &Finding, b: &Finding| (a.line, &a.check).cmp(&(b.line, &b.check));
        self.listed.sort_by(order);
        (self.listed, self.omitted)
    }

    fn weed(&mut self) {
        let key = |f: &Finding| (std::cmp::Reverse(f.severity), f.line);
        self.listed.sort_by(|a, b| (key(a), &a.check).cmp(&(key(b), &b.check)));
        let keep = self.listed.len().min(MAX_FINDINGS_PER_FILE);
        for finding in self.listed.drain(keep..) {
            omit(&mut self.omitted, &finding);
        }
    }
}

/// Counts a finding instead of listing it.
pub(super) fn omit(omitted: &mut Vec<Omitted>, finding: &Finding) {
    let same = |o: &&mut Omitted| o.check == finding.check && o.severity == finding.severity;
    if let Some(entry) = omitted.iter_mut().find(same) {
        entry.count += 1;
        return;
    }
    omitted.push(Omitted {
        check: finding.check.clone(),
        severity: finding.severity,
        count: 1,
    });
}

/// Cuts a text to `limit` characters, with a sign that it was cut.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some((cut, _)) => format!("{}\u{2026}", &text[..cut]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_limited_gravest_first() {
        let mut findings = Findings::new("a");
        for line in 1..=5000 {
            findings.push(line, Severity::Info, "lint.a", "m");
        }
        findings.push(9000, Severity::High, "lint.b", &"m".repeat(500));
        let (listed, omitted) = findings.finish();
        assert_eq!(listed.len(), MAX_FINDINGS_PER_FILE);
        assert_eq!(listed.last().unwrap().severity, Severity::High);
        assert_eq!(listed.last().unwrap().message.chars().count(), MAX_MESSAGE + 1);
        assert_eq!(listed[0].line, 1);
        assert_eq!(omitted[0].count, 5001 - MAX_FINDINGS_PER_FILE as u64);
    }
}
