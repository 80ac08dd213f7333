//! Tests of the review as a whole, on throwaway repositories.

use super::testing::TempRepo;
use super::*;

/// Takes a repository through the whole review, by way of JSON as between processes.
fn review(repo: &TempRepo) -> (Vec<FileReport>, report::Summary) {
    let opened = repo.open();
    let snapshot = opened.snapshot().unwrap();
    let chunks = plan_chunks(&snapshot.files, ChunkLimits::default());
    let mut reports = Vec::new();
    let mut values = Vec::new();
    for (number, files) in chunks.into_iter().enumerate() {
        let request = ChunkRequest {
            commit: snapshot.commit.clone().unwrap(),
            chunk: number as u32,
            checks: CheckKind::ALL.to_vec(),
            files,
        };
        let json = serde_json::to_string(&request).unwrap();
        let request = serde_json::from_str(&json).unwrap();
        let result = review_chunk(&opened, &request).unwrap();
        assert_eq!(result, review_chunk(&opened, &request).unwrap());
        values.push(serde_json::to_value(&result).unwrap());
        reports.extend(result.files);
    }
    reports.sort_by_key(|report| report.index);
    let summary = report::merge(&snapshot, &CheckKind::ALL, &values);
    assert!(summary.integrity.is_complete(), "{:?}", summary.integrity);
    (reports, summary)
}

#[test]
fn a_mixed_repository() {
    let repo = TempRepo::with_files(&[
        ("src/lib.rs", "pub fn a() {\n    unsafe { b() }\n}\n"),
        ("app.py", "def f(x):\n    '''Doc.'''\n    return eval(x)\n"),
        ("README.md", "# A\n"),
        ("odd\nname.js", "console.log(1)"),
        ("empty.rs", ""),
    ]);
    repo.write("image.png", b"\x89PNG\0\0");
    repo.write("latin.txt", b"gr\xfcn\n");
    repo.commit();
    let (reports, summary) = review(&repo);
    assert_eq!(reports.len(), 7);
    assert_eq!((summary.files_reviewed, summary.binary_files), (7, 1));
    assert_eq!((summary.docs.public, summary.docs.documented), (2, 1));
    for check in [
        "unsafe.rust",
        "unsafe.eval",
        "docs.missing",
        "lint.debug_leftover",
        "lint.no_final_newline",
        "inventory.binary",
        "inventory.encoding",
    ] {
        assert_eq!(summary.by_check.get(check), Some(&1), "{check}: {:?}", summary.by_check);
    }
    let report = markdown::render("mixed", &summary);
    assert!(report.contains("Every file went through every check exactly once."));
    assert!(report.contains("odd\\nname.js"));
}

#[test]
fn an_empty_repository_and_one_file() {
    let (reports, summary) = review(&TempRepo::new());
    assert!(reports.is_empty());
    assert_eq!((summary.files, summary.commit), (0, None));
    let (reports, _) = review(&TempRepo::with_files(&[("a", "x\n")]));
    assert_eq!(reports[0].lines.total, 1);
}

#[test]
fn code_of_others_is_only_searched_for_secrets() {
    let token = format!("ghp_{}", "q7Rk2ZpX9vLm4TsWc8YbN3dHf6JgA5eUoQ1i");
    let text = format!("eval(x)\nvar t = '{token}'\ndebugger;\n");
    let (reports, _) = review(&TempRepo::with_files(&[("vendor/a.js", &text)]));
    let checks: Vec<&str> = reports[0].findings.iter().map(|f| f.check.as_str()).collect();
    assert_eq!(checks, ["inventory.foreign", "secrets.github_token"]);
}

#[test]
fn large_files_are_quick() {
    let repo = TempRepo::new();
    let minified = "function a(b){return b/2}var c=\"x\";/['/`]/;".repeat(10_000);
    repo.write("bundle.js", minified.as_bytes());
    repo.write("long.rs", "    let a = b('c', \"d\"); // e\n".repeat(15_000).as_bytes());
    repo.write("slashes.js", "(/".repeat(100_000).as_bytes());
    repo.write("quotes.rs", "r#'\"/*".repeat(50_000).as_bytes());
    repo.commit();
    let started = std::time::Instant::now();
    let (reports, _) = review(&repo);
    assert_eq!(reports.len(), 4);
    // Generous for an unoptimised build on a busy machine; quadratic time would be far beyond.
    assert!(started.elapsed().as_secs() < 60);
}

#[test]
fn a_missing_blob_is_a_finding() {
    let repo = TempRepo::with_files(&[("a", "x\n")]);
    let opened = repo.open();
    let request = ChunkRequest {
        commit: opened.snapshot().unwrap().commit.unwrap(),
        chunk: 0,
        checks: CheckKind::ALL.to_vec(),
        files: vec![testing::entry("a", 1)],
    };
    let result = review_chunk(&opened, &request).unwrap();
    assert_eq!(result.files[0].content, Content::Missing);
    assert_eq!(result.files[0].findings[0].check, "inventory.missing_blob");
}

#[test]
fn the_findings_of_a_chunk_are_limited_gravest_first() {
    let entry = testing::entry("a", 1);
    let mut file = review_file(&entry, None, &[], &TestIndex::default());
    let mut findings = Findings::new("a");
    for line in 1..50 {
        findings.push(line, Severity::Info, "lint.a", "m");
    }
    findings.push(90, Severity::High, "lint.b", "m");
    (file.findings, _) = findings.finish();
    let mut result = ChunkResult {
        commit: String::new(),
        chunk: 0,
        checks: Vec::new(),
        files: vec![file],
    };
    result.limit_findings(10);
    let files = result.files;
    assert_eq!(files[0].findings.len(), 10);
    assert_eq!(files[0].findings[9].severity, Severity::High);
    assert_eq!(files[0].omitted[0].count, 40);
}
