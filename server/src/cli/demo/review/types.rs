//! What the parts of the review hand each other, and what goes between processes as JSON.

use serde::{Deserialize, Serialize};

use super::{DocCount, FileEntry, LineCounts, TestStatus};

/// The kinds of check. The identifier of a finding starts with the name of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// Languages, lines, binary and cut files.
    Inventory,
    /// Layout, leftovers and work markers.
    Lint,
    /// Credentials.
    Secrets,
    /// Unsafe code and dangerous calls.
    Unsafe,
    /// Tests present and missing.
    Tests,
    /// Documentation of public items.
    Docs,
}

impl CheckKind {
    /// All kinds, in the order they are run.
    pub const ALL: [Self; 6] = [
        Self::Inventory,
        Self::Lint,
        Self::Secrets,
        Self::Unsafe,
        Self::Tests,
        Self::Docs,
    ];

    /// The name, as in JSON and at the start of the identifiers of findings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inventory => "inventory",
            Self::Lint => "lint",
            Self::Secrets => "secrets",
            Self::Unsafe => "unsafe",
            Self::Tests => "tests",
            Self::Docs => "docs",
        }
    }

    /// The kind that a finding with this identifier belongs to.
    pub fn of(check: &str) -> Option<Self> {
        let name = check.split('.').next()?;
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth tidying up.
    Low,
    /// Should be looked at.
    Medium,
    /// Should be looked at now.
    High,
}

impl Severity {
    /// All severities, the gravest first.
    pub const ALL: [Self; 4] = [Self::High, Self::Medium, Self::Low, Self::Info];

    /// The name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

    /// The next severity down, for what is found in tests and examples.
    pub fn lowered(self) -> Self {
        match self {
            Self::High => Self::Medium,
            Self::Medium => Self::Low,
            Self::Low | Self::Info => Self::Info,
        }
    }
}

/// Something that was found in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file.
    pub path: String,
    /// The line, counted from 1; 0 for the file as a whole.
    pub line: u32,
    /// How much it matters.
    pub severity: Severity,
    /// The check that found it, such as `lint.long_line`.
    pub check: String,
    /// What was found. It never holds the text of a secret.
    pub message: String,
}

/// Findings of one check that are counted and not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    /// The check.
    pub check: String,
    /// Their severity.
    pub severity: Severity,
    /// How many there are.
    pub count: u64,
}

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Text, which was checked.
    Text,
    /// A binary file, which is inventoried only.
    Binary,
    /// A blob that is not in the object store.
    Missing,
}

/// What was found out about one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Its place in the snapshot.
    pub index: u32,
    /// Its path.
    pub path: String,
    /// The object id of what was looked at.
    pub blob: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its language; `Binary` for a binary file.
    pub language: String,
    /// Text, binary or missing.
    pub content: Content,
    /// Its lines, as far as it was read.
    pub lines: LineCounts,
    /// Whether it has tests, if that was checked.
    pub tests: Option<TestStatus>,
    /// Its public items, if that was checked.
    pub docs: Option<DocCount>,
    /// What was found, by line.
    pub findings: Vec<Finding>,
    /// What was found beyond that.
    pub omitted: Vec<Omitted>,
}

/// A chunk of files to look at: the payload of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRequest {
    /// The commit under review.
    pub commit: String,
    /// The number of the chunk.
    pub chunk: u32,
    /// Which checks to run.
    pub checks: Vec<CheckKind>,
    /// The files.
    pub files: Vec<FileEntry>,
}

/// What came out of a chunk: the result of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkResult {
    /// The commit that was reviewed.
    pub commit: String,
    /// The number of the chunk.
    pub chunk: u32,
    /// The checks that were run.
    pub checks: Vec<CheckKind>,
    /// Each file of the chunk, in the order of the request.
    pub files: Vec<FileReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_tell_their_kind() {
        for kind in CheckKind::ALL {
            assert_eq!(CheckKind::of(&format!("{}.x", kind.name())), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        assert_eq!(CheckKind::of("other.x"), None);
    }
}
