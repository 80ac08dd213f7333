//! Reviews the files of a git repository: real work for the agents of `drumline demo`.
//!
//! One process takes a [`Snapshot`] of HEAD and cuts it into chunks with [`plan_chunks`]. Any
//! process that sees the repository can then run [`review_chunk`] on a chunk and hand on the
//! [`ChunkResult`] as JSON. [`report::merge`] puts the results together, checks that every file
//! was looked at exactly once, and [`markdown::render`] writes the report.
//!
//! Everything works on the blobs of one commit and on nothing else, so that the same chunk gives
//! the same result in every process, however often it is run. There is no network and no program
//! but `git`. The time is linear in the bytes looked at, of which a file gives at most
//! [`git::MAX_BLOB_BYTES`].
//!
//! How it fails: reading the repository gives a [`GitError`], and then there is no result for the
//! chunk. What is odd about a single file (binary, cut, not UTF-8, missing from the object store)
//! never fails a chunk and is a finding instead. The checks read text line by line without
//! parsing it, so that a finding is a hint to look and not a proof.

pub mod chunk;
pub mod coverage;
pub mod docs;
mod findings;
pub mod git;
mod git_process;
pub mod inventory;
pub mod languages;
pub mod lexer;
pub mod lint;
pub mod markdown;
pub mod python_docs;
pub mod report;
pub mod secrets;
mod source;
mod syntaxes;
#[cfg(test)]
mod testing;
mod types;
pub mod unsafe_code;

pub use chunk::{ChunkLimits, plan_chunks};
pub use coverage::{TestIndex, TestStatus};
pub use docs::DocCount;
pub use findings::Findings;
use findings::{omit, shorten};
pub use git::{Blob, FileEntry, GitError, Repository, SkippedEntry, Snapshot};
pub use inventory::LineCounts;
pub use source::{Line, Source};
pub use types::{CheckKind, ChunkRequest, ChunkResult, Content, FileReport, Finding, Omitted, Severity};

/// Most findings that are listed for one file; the rest is counted.
pub const MAX_FINDINGS_PER_FILE: usize = 50;

/// Most findings that are listed for one chunk, which bounds the size of its result.
pub const MAX_FINDINGS_PER_CHUNK: usize = 1000;

/// Runs checks on the files of a chunk.
///
/// # Errors
/// A [`GitError`] when the commit or a blob id is malformed or git fails.
pub fn review_chunk(repository: &Repository, request: &ChunkRequest) -> Result<ChunkResult, GitError> {
    let tests = if request.checks.contains(&CheckKind::Tests) {
        TestIndex::new(&repository.tracked_paths(&request.commit)?)
    } else {
        TestIndex::default()
    };
    review_chunk_with(repository, request, &tests, |_| {})
}

/// The same with an index of tests that was made before; `each` is told how many files are done.
///
/// # Errors
/// As [`review_chunk`].
pub fn review_chunk_with(
    repository: &Repository,
    request: &ChunkRequest,
    tests: &TestIndex,
    mut each: impl FnMut(usize),
) -> Result<ChunkResult, GitError> {
    let ids: Vec<&str> = request.files.iter().map(|file| file.blob.as_str()).collect();
    let mut files = Vec::with_capacity(ids.len());
    repository.read_blobs(&ids, |place, blob| {
        let file = &request.files[place];
        files.push(review_file(file, blob.as_ref(), &request.checks, tests));
        each(files.len());
    })?;
    let mut result = ChunkResult {
        commit: request.commit.clone(),
        chunk: request.chunk,
        checks: request.checks.clone(),
        files,
    };
    result.limit_findings(MAX_FINDINGS_PER_CHUNK);
    Ok(result)
}

/// Runs checks on one file; `blob` is none when it is not in the object store.
pub fn review_file(file: &FileEntry, blob: Option<&Blob>, checks: &[CheckKind], tests: &TestIndex) -> FileReport {
    let mut findings = Findings::new(&file.path);
    let runs = |kind| checks.contains(&kind);
    let mut report = FileReport {
        index: file.index,
        path: file.path.clone(),
        blob: file.blob.clone(),
        bytes: blob.map_or(file.size, |blob| blob.size),
        language: "Binary".to_owned(),
        content: inventory::content_of(blob),
        lines: LineCounts::default(),
        tests: None,
        docs: None,
        findings: Vec::new(),
        omitted: Vec::new(),
    };
    match blob {
        Some(blob) if report.content == Content::Text => {
            let source = Source::new(&file.path, &blob.content, blob.is_truncated());
            report.language = source.language.name.to_owned();
            report.lines = inventory::count_lines(&source);
            run_checks(&source, &mut report, &mut findings, checks, tests);
        }
        _ if runs(CheckKind::Inventory) => inventory::check_unread(&report, &mut findings),
        _ => {}
    }
    (report.findings, report.omitted) = findings.finish();
    report
}

/// Runs the checks on a text. Code that others wrote or that was generated is only searched for
/// secrets.
fn run_checks(
    source: &Source,
    report: &mut FileReport,
    findings: &mut Findings,
    checks: &[CheckKind],
    tests: &TestIndex,
) {
    let own = !source.is_foreign();
    for kind in checks {
        match kind {
            CheckKind::Inventory => inventory::check(source, findings),
            CheckKind::Secrets => secrets::check(source, findings),
            CheckKind::Lint if own => lint::check(source, findings),
            CheckKind::Unsafe if own => unsafe_code::check(source, findings),
            CheckKind::Tests => {
                report.tests = Some(coverage::check(source, &report.lines, tests, findings));
            }
            CheckKind::Docs if own => report.docs = docs::check(source, findings),
            CheckKind::Lint | CheckKind::Unsafe | CheckKind::Docs => {}
        }
    }
}

impl ChunkResult {
    /// Keeps the gravest `limit` findings of all files and counts the rest.
    pub fn limit_findings(&mut self, limit: usize) {
        let mut left = limit;
        for severity in Severity::ALL {
            for file in &mut self.files {
                let (findings, omitted) = (&mut file.findings, &mut file.omitted);
                findings.retain(|finding| {
                    if finding.severity != severity {
                        return true;
                    }
                    if left == 0 {
                        omit(omitted, finding);
                        return false;
                    }
                    left -= 1;
                    true
                });
            }
        }
    }
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
