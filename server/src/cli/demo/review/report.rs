//! Puts the results of all chunks together and checks that nothing was lost or done twice.
//!
//! Results come as JSON from other processes and are not trusted: one that cannot be read, or that
//! speaks of a file or commit nobody asked for, is counted in [`Integrity`] and otherwise left
//! out. Of a file that was checked twice, the first result in the order of the chunks counts.
//! The summary does not depend on the order in which results arrive. Nothing here fails.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    CheckKind, ChunkResult, Content, DocCount, FileReport, Finding, LineCounts, Severity, SkippedEntry, Snapshot,
    TestStatus,
};

/// Most findings that a summary lists.
pub const MAX_LISTED: usize = 200;

/// Most files in the list of those with the most findings.
const MAX_TOP_FILES: usize = 20;

/// Most examples of each kind of irregularity.
const MAX_EXAMPLES: usize = 20;

/// How often something went wrong, with the first examples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Irregularities {
    /// How often.
    pub count: u64,
    /// What, for the first ones.
    pub examples: Vec<String>,
}

impl Irregularities {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// Whether every file went through every check exactly once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integrity {
    /// Files that no result holds, for each check that is missing.
    pub missing: Irregularities,
    /// Files that more than one result holds, for each check that was repeated.
    pub repeated: Irregularities,
    /// Files and commits in results that are not part of the review.
    pub unexpected: Irregularities,
    /// Results that could not be read.
    pub unreadable: Irregularities,
}

impl Integrity {
    /// Whether nothing went wrong.
    pub fn is_complete(&self) -> bool {
        let all = [&self.missing, &self.repeated, &self.unexpected, &self.unreadable];
        all.iter().all(|kind| kind.count == 0)
    }
}

/// The files of a language.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanguageTotal {
    /// The language.
    pub language: String,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their lines.
    pub lines: LineCounts,
    /// Their public items.
    pub docs: DocCount,
}

/// The findings in a file, by severity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTotal {
    /// The file.
    pub path: String,
    /// Findings by severity, high first, as in [`Severity::ALL`].
    pub counts: [u64; 4],
}

/// How many files have tests, as in [`TestStatus`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestTotals {
    /// Files that are tests.
    pub tests: u64,
    /// Files with tests inside.
    pub inline: u64,
    /// Files that another file tests.
    pub companion: u64,
    /// Files without a test.
    pub missing: u64,
}

impl TestTotals {
    /// Files that should have tests, and those that do.
    pub fn tested(&self) -> (u64, u64) {
        let with = self.inline + self.companion;
        (with + self.missing, with)
    }
}

/// What the whole review found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The commit; none for a repository without commits.
    pub commit: Option<String>,
    /// The directory the review was limited to, if any.
    pub prefix: String,
    /// The checks that were asked for.
    pub checks_run: Vec<CheckKind>,
    /// Files in the snapshot.
    pub files: u64,
    /// Files that went through every check.
    pub files_reviewed: u64,
    /// Binary files.
    pub binary_files: u64,
    /// Bytes of all files seen.
    pub bytes: u64,
    /// Lines of all files seen.
    pub lines: LineCounts,
    /// Links and submodules.
    pub skipped: Vec<SkippedEntry>,
    /// By language, the one with the most lines of code first.
    pub languages: Vec<LanguageTotal>,
    /// How many findings there are.
    pub findings_total: u64,
    /// Findings by severity, high first, as in [`Severity::ALL`].
    pub by_severity: [u64; 4],
    /// Findings by check.
    pub by_check: BTreeMap<String, u64>,
    /// The files with the gravest and most findings.
    pub top_files: Vec<FileTotal>,
    /// Tests present and missing.
    pub tests: TestTotals,
    /// Public items and documented ones.
    pub docs: DocCount,
    /// The gravest findings, at most [`MAX_LISTED`].
    pub findings: Vec<Finding>,
    /// Whether every file was checked exactly once.
    pub integrity: Integrity,
}

/// Puts results together. `checks` are the kinds of check that every file should have gone
/// through, in one chunk result or in several.
pub fn merge(snapshot: &Snapshot, checks: &[CheckKind], results: &[Value]) -> Summary {
    let mut merger = Merger::new(snapshot, checks);
    for result in readable(results, &mut merger.summary.integrity) {
        merger.add_result(result);
    }
    merger.finish()
}

/// The results that can be read, in an order that does not depend on the one they came in.
fn readable(results: &[Value], integrity: &mut Integrity) -> Vec<ChunkResult> {
    let mut parsed = Vec::new();
    let mut errors = Vec::new();
    for value in results {
        match ChunkResult::deserialize(value) {
            Ok(result) => parsed.push((value, result)),
            Err(error) => errors.push(error.to_string()),
        }
    }
    errors.sort();
    for error in errors {
        integrity.unreadable.add(|| error);
    }
    parsed.sort_by(|(value, a), (other, b)| {
        let order = (a.chunk, &a.checks).cmp(&(b.chunk, &b.checks));
        order.then_with(|| value.to_string().cmp(&other.to_string()))
    });
    parsed.into_iter().map(|(_, result)| result).collect()
}

/// Sorts findings, the gravest first and credentials before the rest, and keeps those that are
/// listed.
fn keep_gravest(findings: &mut Vec<Finding>) {
    let rank = |finding: &Finding| {
        let secret = CheckKind::of(&finding.check) == Some(CheckKind::Secrets);
        std::cmp::Reverse((finding.severity, secret))
    };
    findings.sort_by(|a, b| {
        let place = || (&a.path, a.line, &a.check, &a.message);
        let order = rank(a).cmp(&rank(b));
        order.then_with(|| place().cmp(&(&b.path, b.line, &b.check, &b.message)))
    });
    findings.truncate(MAX_LISTED);
}

struct Merger<'a> {
    snapshot: &'a Snapshot,
    /// Where in the snapshot the file with an index is.
    places: HashMap<u32, usize>,
    /// For each file, the checks it went through.
    seen: Vec<Vec<CheckKind>>,
    totals: Vec<FileTotal>,
    languages: BTreeMap<String, LanguageTotal>,
    summary: Summary,
}

impl<'a> Merger<'a> {
    fn new(snapshot: &'a Snapshot, checks: &[CheckKind]) -> Self {
        let files = snapshot.files.iter();
        let mut wanted = checks.to_vec();
        wanted.sort();
        wanted.dedup();
        Self {
            snapshot,
            places: files.enumerate().map(|(place, file)| (file.index, place)).collect(),
            seen: vec![Vec::new(); snapshot.files.len()],
            totals: vec![FileTotal::default(); snapshot.files.len()],
            languages: BTreeMap::new(),
            summary: Summary {
                commit: snapshot.commit.clone(),
                prefix: snapshot.prefix.clone(),
                checks_run: wanted,
                files: snapshot.files.len() as u64,
                skipped: snapshot.skipped.clone(),
                ..Summary::default()
            },
        }
    }

    fn add_result(&mut self, result: ChunkResult) {
        if Some(&result.commit) != self.snapshot.commit.as_ref() {
            let unexpected = &mut self.summary.integrity.unexpected;
            return unexpected.add(|| format!("chunk {} of another commit", result.chunk));
        }
        for file in result.files {
            self.add_file(file, &result.checks);
        }
    }

    fn add_file(&mut self, file: FileReport, checks: &[CheckKind]) {
        let place = self.places.get(&file.index).copied().filter(|place| {
            let entry = &self.snapshot.files[*place];
            entry.path == file.path && entry.blob == file.blob
        });
        let Some(place) = place else {
            return self.summary.integrity.unexpected.add(|| file.path);
        };
        let first = self.seen[place].is_empty();
        let mut fresh = Vec::new();
        for kind in checks {
            if self.seen[place].contains(kind) {
                let repeated = &mut self.summary.integrity.repeated;
                repeated.add(|| format!("{} ({})", file.path, kind.name()));
            } else if self.summary.checks_run.contains(kind) {
                self.seen[place].push(*kind);
                fresh.push(*kind);
            }
        }
        if first && !fresh.is_empty() {
            self.count_file(&file);
        }
        self.count_checks(place, file, &fresh);
    }

    /// Counts what is the same whichever checks a file went through.
    fn count_file(&mut self, file: &FileReport) {
        let summary = &mut self.summary;
        summary.bytes += file.bytes;
        add_lines(&mut summary.lines, &file.lines);
        summary.binary_files += u64::from(file.content == Content::Binary);
        let language = self.languages.entry(file.language.clone()).or_default();
        language.files += 1;
        language.bytes += file.bytes;
        add_lines(&mut language.lines, &file.lines);
    }

    /// Counts what the checks found that this result is the first one for.
    fn count_checks(&mut self, place: usize, file: FileReport, fresh: &[CheckKind]) {
        let is_fresh = |check: &str| CheckKind::of(check).is_some_and(|kind| fresh.contains(&kind));
        if fresh.contains(&CheckKind::Docs)
            && let Some(docs) = file.docs
        {
            add_docs(&mut self.summary.docs, docs);
            let language = self.languages.entry(file.language).or_default();
            add_docs(&mut language.docs, docs);
        }
        if fresh.contains(&CheckKind::Tests) {
            let tests = &mut self.summary.tests;
            match file.tests {
                Some(TestStatus::Test) => tests.tests += 1,
                Some(TestStatus::Inline) => tests.inline += 1,
                Some(TestStatus::Companion) => tests.companion += 1,
                Some(TestStatus::Missing) => tests.missing += 1,
                Some(TestStatus::NotApplicable) | None => {}
            }
        }
        for omitted in file.omitted.iter().filter(|omitted| is_fresh(&omitted.check)) {
            self.count(place, &omitted.check, omitted.severity, omitted.count);
        }
        // Weeding out now and then bounds the memory that many findings take.
        if self.summary.findings.len() > MAX_LISTED * 20 {
            keep_gravest(&mut self.summary.findings);
        }
        for mut finding in file.findings {
            if is_fresh(&finding.check) {
                self.count(place, &finding.check, finding.severity, 1);
                finding.path.clone_from(&file.path);
                self.summary.findings.push(finding);
            }
        }
    }

    fn count(&mut self, place: usize, check: &str, severity: Severity, count: u64) {
        let rank = Severity::ALL.iter().position(|other| *other == severity).unwrap_or(0);
        let summary = &mut self.summary;
        summary.findings_total = summary.findings_total.saturating_add(count);
        for counts in [&mut summary.by_severity, &mut self.totals[place].counts] {
            counts[rank] = counts[rank].saturating_add(count);
        }
        let by_check = summary.by_check.entry(check.to_owned()).or_default();
        *by_check = by_check.saturating_add(count);
    }

    fn finish(mut self) -> Summary {
        let summary = &mut self.summary;
        for (file, seen) in self.snapshot.files.iter().zip(&self.seen) {
            let lost = summary.checks_run.iter().filter(|kind| !seen.contains(kind));
            let names: Vec<&str> = lost.map(|kind| kind.name()).collect();
            for name in &names {
                let missing = &mut summary.integrity.missing;
                missing.add(|| format!("{} ({name})", file.path));
            }
            summary.files_reviewed += u64::from(names.is_empty());
        }
        for (total, file) in self.totals.iter_mut().zip(&self.snapshot.files) {
            total.path.clone_from(&file.path);
        }
        self.totals.retain(|total| total.counts.iter().any(|count| *count > 0));
        let rank = |total: &FileTotal| std::cmp::Reverse(total.counts);
        self.totals.sort_by(|a, b| (rank(a), &a.path).cmp(&(rank(b), &b.path)));
        self.totals.truncate(MAX_TOP_FILES);
        summary.top_files = self.totals;

        keep_gravest(&mut summary.findings);
        let named = self.languages.into_iter();
        let mut languages: Vec<LanguageTotal> = named
            .map(|(language, total)| LanguageTotal { language, ..total })
            .collect();
        languages.sort_by_key(|total| std::cmp::Reverse((total.lines.code, total.files)));
        summary.languages = languages;
        self.summary
    }
}

fn add_lines(to: &mut LineCounts, lines: &LineCounts) {
    to.total += lines.total;
    to.blank += lines.blank;
    to.comment += lines.comment;
    to.code += lines.code;
}

fn add_docs(to: &mut DocCount, docs: DocCount) {
    to.public += docs.public;
    to.documented += docs.documented;
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
