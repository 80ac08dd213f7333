//! Tests of putting results together.

use serde_json::json;

use super::super::testing::entry;
use super::super::{FileEntry, Omitted, markdown};
use super::*;

const KINDS: [CheckKind; 2] = [CheckKind::Lint, CheckKind::Docs];

fn snapshot(paths: &[&str]) -> Snapshot {
    let numbered = paths.iter().enumerate();
    Snapshot {
        commit: Some("c".repeat(40)),
        prefix: String::new(),
        files: numbered
            .map(|(index, path)| FileEntry {
                index: index as u32,
                ..entry(path, 10)
            })
            .collect(),
        skipped: Vec::new(),
    }
}

fn file(entry: &FileEntry, findings: usize) -> FileReport {
    let finding = |line| Finding {
        path: entry.path.clone(),
        line: line as u32,
        severity: Severity::Low,
        check: "lint.marker".to_owned(),
        message: "m".to_owned(),
    };
    FileReport {
        index: entry.index,
        path: entry.path.clone(),
        blob: entry.blob.clone(),
        bytes: entry.size,
        language: "Rust".to_owned(),
        content: Content::Text,
        lines: LineCounts {
            total: 3,
            blank: 1,
            comment: 1,
            code: 1,
        },
        tests: None,
        docs: Some(DocCount {
            public: 2,
            documented: 1,
        }),
        findings: (0..findings).map(finding).collect(),
        omitted: Vec::new(),
    }
}

fn result(snapshot: &Snapshot, chunk: u32, checks: &[CheckKind], files: Vec<FileReport>) -> Value {
    let result = ChunkResult {
        commit: snapshot.commit.clone().unwrap(),
        chunk,
        checks: checks.to_vec(),
        files,
    };
    serde_json::to_value(result).unwrap()
}

#[test]
fn complete_results_add_up() {
    let snapshot = snapshot(&["a", "b"]);
    let mut second = file(&snapshot.files[1], 2);
    second.omitted.push(Omitted {
        check: "lint.marker".to_owned(),
        severity: Severity::High,
        count: 7,
    });
    let results = [
        result(&snapshot, 1, &KINDS, vec![second]),
        result(&snapshot, 0, &KINDS, vec![file(&snapshot.files[0], 1)]),
    ];
    let summary = merge(&snapshot, &KINDS, &results);
    assert!(summary.integrity.is_complete());
    assert_eq!((summary.files, summary.files_reviewed), (2, 2));
    assert_eq!(summary.findings_total, 10);
    assert_eq!(summary.by_severity, [7, 0, 3, 0]);
    assert_eq!(summary.by_check["lint.marker"], 10);
    assert_eq!(summary.top_files[0].path, "b");
    assert_eq!(summary.languages[0].files, 2);
    assert_eq!((summary.docs.public, summary.docs.documented), (4, 2));
    let reversed: Vec<Value> = results.iter().rev().cloned().collect();
    assert_eq!(summary, merge(&snapshot, &KINDS, &reversed));
}

#[test]
fn checks_may_be_spread_over_results() {
    let snapshot = snapshot(&["a"]);
    let results = [
        result(&snapshot, 0, &KINDS[..1], vec![file(&snapshot.files[0], 1)]),
        result(&snapshot, 0, &KINDS[1..], vec![file(&snapshot.files[0], 0)]),
    ];
    let summary = merge(&snapshot, &KINDS, &results);
    assert!(summary.integrity.is_complete());
    assert_eq!((summary.lines.total, summary.docs.public), (3, 2));
    assert_eq!(summary.findings_total, 1);
}

#[test]
fn what_is_lost_or_doubled_is_reported() {
    let snapshot = snapshot(&["a", "b"]);
    let once = result(&snapshot, 0, &KINDS, vec![file(&snapshot.files[0], 1)]);
    let mut stranger = file(&snapshot.files[1], 1);
    stranger.blob = "f".repeat(40);
    let mut elsewhere = result(&snapshot, 3, &KINDS, Vec::new());
    elsewhere["commit"] = json!("d");
    let results = [
        once.clone(),
        once,
        result(&snapshot, 2, &KINDS, vec![stranger]),
        elsewhere,
        json!({"chunk": "no"}),
    ];
    let summary = merge(&snapshot, &KINDS, &results);
    let integrity = &summary.integrity;
    assert_eq!(integrity.repeated.count, 2);
    assert_eq!(integrity.missing.examples, ["b (lint)", "b (docs)"]);
    assert_eq!(integrity.unexpected.count, 2);
    assert_eq!(integrity.unreadable.count, 1);
    assert_eq!((summary.findings_total, summary.files_reviewed), (1, 1));
    assert!(markdown::render("x", &summary).contains("## Irregularities"));
}

#[test]
fn the_report_is_bounded() {
    let names: Vec<String> = (0..600).map(|n| format!("{n}{}", "d/".repeat(900))).collect();
    let paths: Vec<&str> = names.iter().map(String::as_str).collect();
    let snapshot = snapshot(&paths);
    let files = snapshot.files.iter().map(|entry| file(entry, 50)).collect();
    let summary = merge(&snapshot, &KINDS, &[result(&snapshot, 0, &KINDS, files)]);
    assert_eq!(summary.findings_total, 30_000);
    assert_eq!(summary.findings.len(), MAX_LISTED);
    let report = markdown::render("x", &summary);
    assert!(report.len() < 100_000);
    assert!(report.contains("... and 29800 more."));
}
