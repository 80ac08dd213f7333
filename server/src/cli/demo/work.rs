//! The work of the demo as a workflow: its steps, and what they hand each other.
//!
//! `review.list` lists the files of one commit and cuts the list into chunks; `review.chunk` looks at the files of one chunk, once for
//! each; `review.reduce` puts the results together; `review.write` writes the report. A chunk goes from process to process as its
//! number alone, since every process cuts the same commit into the same chunks: so the list fits into a payload however many files
//! there are. What fails is a [`GitError`].

use std::path::{Path, PathBuf};

use drumline::{Step, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::review::report::Summary;
use super::review::{
    CheckKind, ChunkLimits, ChunkRequest, ChunkResult, FileEntry, GitError, Repository, Snapshot, TestIndex,
    plan_chunks,
};

/// Lists the files.
pub const LIST: &str = "review.list";
/// Looks at the files of a chunk.
pub const CHUNK: &str = "review.chunk";
/// Puts the results together.
pub const REDUCE: &str = "review.reduce";
/// Writes the report.
pub const WRITE: &str = "review.write";
/// All that an agent of the demo can do.
pub const CAPABILITIES: [&str; 4] = [LIST, CHUNK, REDUCE, WRITE];

/// The step whose results are the reviewed files.
pub const REVIEW_STEP: &str = "review";
/// The steps, in order, each with the capability that it needs.
pub const STEPS: [(&str, &str); 4] = [
    ("list", LIST),
    (REVIEW_STEP, CHUNK),
    ("reduce", REDUCE),
    ("write", WRITE),
];
/// The lock that the report is written under.
pub const REPORT_LOCK: &str = "review/report";
/// The document that says where the report is.
pub const REPORT_STATE: &str = "review/report";
/// The event that says that the report is written.
pub const CHECKPOINT: &str = "review.checkpoint";

/// Tasks in flight at once: as many as three agents have slots, so that the work of a fourth finds one at once.
pub const CONCURRENCY: i32 = 6;
/// Tasks that one agent takes at once.
pub const SLOTS: i32 = 2;

/// Attempts that a task may have.
pub const MOST_ATTEMPTS: i32 = 5;

/// A result larger than this is cut down: payloads have a limit, and what they are put into takes room, too.
const MAX_RESULT_BYTES: usize = 768 << 10;

/// What the workflow is to work on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The commit under review; none in a repository without commits.
    pub commit: Option<String>,
    /// What the report calls the repository.
    pub title: String,
    /// The file that the report goes into.
    pub report: String,
}

/// The list of files, as its step records it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileList {
    /// The commit.
    pub commit: Option<String>,
    /// How many files there are.
    pub files: usize,
    /// The chunks that they are cut into: every file is in one.
    pub chunks: Vec<Chunk>,
}

/// One chunk: the item that a task of the map is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The commit.
    pub commit: String,
    /// Its number, from 0.
    pub chunk: u32,
    /// How many files it has.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What the reduce gets.
#[derive(Clone, Debug, Deserialize)]
pub struct Results {
    /// The commit.
    pub commit: Option<String>,
    /// The results of all chunks, or a reference to them where they are too large to be handed around.
    pub results: Value,
}

/// What the writer gets.
#[derive(Clone, Debug, Deserialize)]
pub struct Draft {
    /// See [`Order::title`].
    pub title: String,
    /// See [`Order::report`].
    pub report: String,
    /// What was found.
    pub summary: Summary,
}

/// What the writer has done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Written {
    /// The file that the report is in.
    pub report: String,
    /// How many findings it speaks of.
    pub findings: u64,
    /// The version of the document that says so.
    pub state_version: i64,
    /// The token of the lock that it was written under.
    pub fencing_token: i64,
}

/// The workflow.
pub fn workflow(order: &Order, correlation_id: &str) -> Workflow {
    let step = |(id, capability)| Step::new(id).capability(capability).max_attempts(MOST_ATTEMPTS);
    let [list, review, reduce, write] = STEPS.map(step);
    Workflow::sequential("code review")
        .step(list.input(&json!({ "commit": "${input.commit}" })))
        .step(review.for_each("steps.list.result.chunks"))
        .step(reduce.input(&json!({ "commit": "${input.commit}", "results": "${steps.review.result}" })))
        .step(write.input(&json!({
            "title": "${input.title}",
            "report": "${input.report}",
            "summary": "${steps.reduce.result}",
        })))
        .input(order)
        .max_concurrent_delegates(CONCURRENCY)
        .correlation_id(correlation_id)
        .label("demo", "review")
}

/// One commit, listed and cut into chunks: the same in every process.
#[derive(Debug)]
pub struct Plan {
    /// What the commit holds.
    pub snapshot: Snapshot,
    chunks: Vec<Vec<FileEntry>>,
    tests: TestIndex,
}

impl Plan {
    /// Lists a commit.
    ///
    /// # Errors
    /// When git fails.
    pub fn new(repository: &Repository, commit: Option<String>) -> Result<Plan, GitError> {
        let snapshot = repository.snapshot_at(commit)?;
        let paths = match &snapshot.commit {
            Some(commit) => repository.tracked_paths(commit)?,
            None => Vec::new(),
        };
        Ok(Plan {
            chunks: plan_chunks(&snapshot.files, ChunkLimits::default()),
            tests: TestIndex::new(&paths),
            snapshot,
        })
    }

    /// How many chunks there are.
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// The list as its step records it.
    pub fn file_list(&self) -> FileList {
        let commit = self.snapshot.commit.clone();
        let number = |(chunk, files): (u32, &Vec<FileEntry>)| Chunk {
            commit: commit.clone().unwrap_or_default(),
            chunk,
            files: files.len(),
            bytes: files.iter().map(|file| file.size).sum(),
        };
        FileList {
            files: self.snapshot.files.len(),
            chunks: (0..).zip(&self.chunks).map(number).collect(),
            commit: commit.clone(),
        }
    }

    /// Whether this is the plan of that commit.
    pub fn is_of(&self, commit: Option<&str>) -> bool {
        self.snapshot.commit.as_deref() == commit
    }

    /// What is to be done for a chunk; nothing if there is no such chunk.
    pub fn request(&self, chunk: &Chunk) -> Option<ChunkRequest> {
        let files = self.chunks.get(usize::try_from(chunk.chunk).ok()?)?;
        Some(ChunkRequest {
            commit: chunk.commit.clone(),
            chunk: chunk.chunk,
            checks: CheckKind::ALL.to_vec(),
            files: files.clone(),
        })
    }

    /// The tests among all tracked files.
    pub fn tests(&self) -> &TestIndex {
        &self.tests
    }
}

/// The file beside the report that an attempt writes before it puts it in its place.
pub fn part(report: &Path, attempt: i32) -> PathBuf {
    let mut part = report.as_os_str().to_owned();
    part.push(format!(".{attempt}.part"));
    part.into()
}

/// A chunk's result with fewer findings listed, until it fits into a payload.
pub fn fitting(mut result: ChunkResult) -> Result<ChunkResult, serde_json::Error> {
    let mut limit = super::review::MAX_FINDINGS_PER_CHUNK;
    while serde_json::to_vec(&result)?.len() > MAX_RESULT_BYTES && limit > 0 {
        limit /= 2;
        result.limit_findings(limit);
    }
    Ok(result)
}

/// A summary with fewer findings and files listed, until it fits into a payload.
pub fn fitting_summary(mut summary: Summary) -> Result<Summary, serde_json::Error> {
    let mut limit = summary.findings.len().max(summary.skipped.len());
    while serde_json::to_vec(&summary)?.len() > MAX_RESULT_BYTES && limit > 0 {
        limit /= 2;
        summary.findings.truncate(limit);
        summary.skipped.truncate(limit);
        summary.top_files.truncate(limit);
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::super::review::{Finding, Severity, SkippedEntry};
    use super::*;

    #[test]
    fn a_large_result_is_cut_until_it_fits() {
        let path = "p".repeat(4_000);
        let finding = Finding {
            path: path.clone(),
            line: 1,
            severity: Severity::Info,
            check: "lint.x".to_owned(),
            message: "m".to_owned(),
        };
        let summary = Summary {
            findings: vec![finding; 200],
            skipped: vec![
                SkippedEntry {
                    path,
                    reason: "symbolic link".to_owned()
                };
                10_000
            ],
            findings_total: 12_345,
            ..Summary::default()
        };
        let summary = fitting_summary(summary).expect("JSON");
        let size = serde_json::to_vec(&summary).expect("JSON").len();
        assert!(size <= MAX_RESULT_BYTES, "{size}");
        assert!(!summary.findings.is_empty());
        assert_eq!(summary.findings_total, 12_345, "what is not listed still counts");
    }

    #[test]
    fn the_workflow_maps_over_what_its_first_step_lists() {
        let order = Order {
            commit: None,
            title: "t".to_owned(),
            report: "/r".to_owned(),
        };
        let request = workflow(&order, "c").into_request().expect("a request");
        let steps: Vec<(&str, &str)> = request
            .steps
            .iter()
            .map(|step| (step.step_id.as_str(), step.capability.as_str()))
            .collect();
        assert_eq!(steps, STEPS);
        assert_eq!(request.steps[1].for_each, "steps.list.result.chunks");
        assert_eq!(request.correlation_id, "c");
    }
}
