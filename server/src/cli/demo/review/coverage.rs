//! Finds out which source files have tests.
//!
//! A file has tests if it holds some, or if a tracked file anywhere in the repository has the
//! name its test would have. Names are compared, not contents, so that this says where a look is
//! worth it and is no measure of coverage. Nothing here fails.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::languages::{self, Family};
use super::{Findings, LineCounts, Severity, Source};

/// Files with fewer lines of code are not expected to have tests.
const SMALL_FILE: u64 = 20;

/// Files with more lines of code should have tests the most.
const LARGE_FILE: u64 = 200;

/// Directories that hold tests.
const TEST_DIRECTORIES: &[&str] = &["test", "tests", "__tests__", "spec", "specs", "testing"];

/// Other directories that hold samples, where a secret is rather a made up one.
const SAMPLE_DIRECTORIES: &[&str] = &[
    "testdata",
    "test-data",
    "test_data",
    "fixtures",
    "fixture",
    "examples",
    "example",
    "mocks",
    "docs",
    "doc",
];

/// Whether a file has tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestStatus {
    /// It is a test itself.
    Test,
    /// It holds tests of its own.
    Inline,
    /// Another file looks like its test.
    Companion,
    /// No test was found.
    Missing,
    /// It needs none: no program, too small, generated, or in a language that is not known.
    NotApplicable,
}

/// The tests among the tracked files, by what they seem to be the test of.
#[derive(Debug, Clone, Default)]
pub struct TestIndex {
    /// For a family and a subject in lower case: the first file that looks like its test.
    subjects: HashMap<(Family, String), String>,
    /// Directories of Go packages that hold a test.
    go_packages: HashMap<String, String>,
}

impl TestIndex {
    /// Looks through the paths of all tracked files.
    pub fn new(paths: &[String]) -> Self {
        let mut index = Self::default();
        for path in paths.iter().filter(|path| is_test_path(path)) {
            let family = languages::detect(path, "").family;
            if family == Family::Go {
                let package = parent(path).to_owned();
                index.go_packages.entry(package).or_insert_with(|| path.clone());
            }
            for subject in subjects_of(path) {
                let key = (family, subject);
                index.subjects.entry(key).or_insert_with(|| path.clone());
            }
        }
        index
    }

    /// The file that looks like the test of the one at `path`, if there is one.
    pub fn companion(&self, path: &str, family: Family) -> Option<&str> {
        let found = self.subjects.get(&(family, subject_name(path)));
        let package = || {
            let go = family == Family::Go;
            go.then(|| self.go_packages.get(parent(path))).flatten()
        };
        found.or_else(package).map(String::as_str)
    }
}

/// Whether a path is that of a test.
pub fn is_test_path(path: &str) -> bool {
    let lower = path.to_lowercase();
    let (directory, name) = lower.rsplit_once('/').unwrap_or(("", &lower));
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    let java = path.ends_with(".java") && test_affix(stem_of(path)).is_some();
    java || directory.split('/').any(|part| TEST_DIRECTORIES.contains(&part))
        || name.contains(".test.")
        || name.contains(".spec.")
        || matches!(stem, "test" | "tests" | "conftest")
        || stem.starts_with("test_")
        || ["_test", "_tests", "_spec", "_unittest", "-test"]
            .iter()
            .any(|end| stem.ends_with(end))
}

/// Whether a path is that of a test, an example, a fixture or a document.
pub fn is_sample_path(path: &str) -> bool {
    let lower = path.to_lowercase();
    is_test_path(path) || lower.split('/').any(|part| SAMPLE_DIRECTORIES.contains(&part))
}

/// Finds out whether a text has tests, and looks for tests that are switched off.
pub fn check(source: &Source, lines: &LineCounts, tests: &TestIndex, findings: &mut Findings) -> TestStatus {
    let family = source.family();
    let known = matches!(
        family,
        Family::Rust | Family::Python | Family::Go | Family::Script | Family::Java | Family::C
    );
    if !known || source.is_foreign() {
        return TestStatus::NotApplicable;
    }
    let inline = holds_tests(source);
    let is_test = is_test_path(&source.path);
    if inline || is_test {
        check_switched_off(source, findings);
    }
    if is_test {
        return TestStatus::Test;
    }
    if inline {
        return TestStatus::Inline;
    }
    if tests.companion(&source.path, family).is_some() {
        return TestStatus::Companion;
    }
    if lines.code < SMALL_FILE || is_declaration(source) || is_sample_path(&source.path) {
        return TestStatus::NotApplicable;
    }
    let severity = match lines.code > LARGE_FILE {
        true => Severity::Low,
        false => Severity::Info,
    };
    let message = format!("no test found for {} lines of code", lines.code);
    findings.push(0, severity, "tests.missing", &message);
    TestStatus::Missing
}

/// Files that only declare or wire up things.
fn is_declaration(source: &Source) -> bool {
    let path = source.path.to_lowercase();
    let name = path.rsplit('/').next().unwrap_or(&path);
    let declares = [".d.ts", ".h", ".hh", ".hpp", ".hxx", ".pyi"];
    let wires = ["build.rs", "setup.py", "package-info.java", "module-info.java"];
    declares.iter().any(|end| name.ends_with(end)) || wires.contains(&name) || name.contains(".config.")
}

fn holds_tests(source: &Source) -> bool {
    let code = source.code();
    let any = |needles: &[&str]| needles.iter().any(|needle| code.contains(needle));
    match source.family() {
        Family::Rust => any(&["#[cfg(test)]", "#[test]", "::test]", "#[rstest]", "proptest! {"]),
        Family::Python => any(&["\ndef test_", "(unittest.TestCase)"]),
        Family::Java => any(&["@Test"]),
        Family::C => any(&["TEST(", "TEST_F(", "TEST_CASE("]),
        Family::Script => any(&["\ndescribe(", "import.meta.vitest"]),
        _ => false,
    }
}

/// Tests that are skipped, and those that make all others be skipped.
fn check_switched_off(source: &Source, findings: &mut Findings) {
    let (skips, only): (&[&str], &[&str]) = match source.family() {
        Family::Rust => (&["#[ignore"], &[]),
        Family::Python => (&["@pytest.mark.skip", "@unittest.skip", "pytest.skip("], &[]),
        Family::Go => (&["t.Skip(", "t.Skipf(", "t.SkipNow("], &[]),
        Family::Script => (
            &["it.skip(", "test.skip(", "describe.skip(", "xit(", "xdescribe("],
            &["it.only(", "test.only(", "describe.only("],
        ),
        Family::Java => (&["@Disabled", "@Ignore"], &[]),
        _ => return,
    };
    for line in source.checked_lines() {
        let code = line.code.trim_start();
        if skips.iter().any(|needle| code.starts_with(needle)) {
            findings.push(line.number, Severity::Info, "tests.skipped", "a test is switched off");
        }
        if only.iter().any(|needle| code.starts_with(needle)) {
            let message = "the other tests of the file are left out";
            findings.push(line.number, Severity::Medium, "tests.only", message);
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn stem_of(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

/// What a source file is called by its tests: its stem, or its directory where the name of the
/// file says nothing.
fn subject_name(path: &str) -> String {
    let stem = stem_of(path);
    let stem = match stem {
        "mod" | "index" | "__init__" | "lib" | "main" => {
            let directory = parent(path);
            let named = directory.strip_suffix("/src").unwrap_or(directory);
            named.rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or(stem)
        }
        _ => stem,
    };
    stem.to_lowercase()
}

/// What the test at `path` seems to be the test of.
fn subjects_of(path: &str) -> Vec<String> {
    let stem = stem_of(path);
    let mut subjects = vec![subject_name(path)];
    if let Some(subject) = test_affix(stem) {
        subjects.push(subject.to_lowercase());
    }
    // `parser/tests.rs` is the test of `parser.rs` and of `parser/mod.rs`.
    if matches!(stem, "test" | "tests") {
        subjects.extend(parent(path).rsplit('/').next().map(str::to_lowercase));
    }
    subjects
}

/// What is left of a stem without the part that makes it a test.
fn test_affix(stem: &str) -> Option<&str> {
    const ENDS: [&str; 9] = [
        "_unittest",
        "_tests",
        "_test",
        "_spec",
        "-test",
        "Tests",
        "Test",
        "TestCase",
        "IT",
    ];
    let cut = |end: &&str| stem.strip_suffix(*end);
    let start = || stem.strip_prefix("test_").or_else(|| stem.strip_prefix("Test"));
    let found = ENDS.iter().find_map(cut).or_else(start);
    found.filter(|subject| !subject.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::inventory::count_lines;
    use super::super::testing::source;
    use super::*;

    fn status(path: &str, text: &str, tracked: &[&str]) -> (TestStatus, usize) {
        let tracked: Vec<String> = tracked.iter().map(|path| (*path).to_owned()).collect();
        let source = source(path, text);
        let mut findings = Findings::new(path);
        let index = TestIndex::new(&tracked);
        let status = check(&source, &count_lines(&source), &index, &mut findings);
        (status, findings.finish().0.len())
    }

    fn companion(path: &str, tracked: &str) -> bool {
        let text = "x = 1;\n".repeat(30);
        status(path, &text, &[path, tracked]).0 == TestStatus::Companion
    }

    #[test]
    fn test_paths() {
        for path in [
            "tests/a.rs",
            "src/a/tests.rs",
            "a_test.go",
            "x/test_a.py",
            "a.test.tsx",
            "src/__tests__/a.js",
            "src/FooTest.java",
            "foo_unittest.cc",
            "Tests/a.py",
        ] {
            assert!(is_test_path(path), "{path}");
        }
        for path in ["src/latest.rs", "contest.py", "a.rs", "testament.c", "attest.js"] {
            assert!(!is_test_path(path), "{path}");
        }
    }

    #[test]
    fn companions() {
        assert!(companion("src/parser.rs", "tests/parser.rs"));
        assert!(companion("src/parser/mod.rs", "src/parser/tests.rs"));
        assert!(companion("pkg/a.py", "tests/test_a.py"));
        assert!(companion("pkg/a.go", "pkg/b_test.go"));
        assert!(companion("src/a.ts", "src/a.spec.ts"));
        assert!(companion("src/main/java/Foo.java", "src/test/java/FooTest.java"));
        assert!(companion("lib/a.c", "tests/test_a.c"));
        assert!(!companion("pkg/a.go", "other/b_test.go"));
        assert!(!companion("src/a.ts", "tests/test_a.py"));
    }

    #[test]
    fn missing_inline_and_small() {
        let long = "x = 1;\n".repeat(30);
        assert_eq!(status("a.rs", &long, &[]), (TestStatus::Missing, 1));
        assert_eq!(status("a.rs", "x();\n", &[]), (TestStatus::NotApplicable, 0));
        let inline = format!("{long}#[cfg(test)]\nmod t {{}}\n");
        assert_eq!(status("a.rs", &inline, &[]), (TestStatus::Inline, 0));
        let text = format!("{long}let a = \"#[cfg(test)]\";\n");
        assert_eq!(status("a.rs", &text, &[]), (TestStatus::Missing, 1));
        assert_eq!(status("a.toml", &long, &[]), (TestStatus::NotApplicable, 0));
        assert_eq!(status("tests/a.rs", &long, &[]), (TestStatus::Test, 0));
    }

    #[test]
    fn tests_that_are_switched_off() {
        assert_eq!(status("tests/a.rs", "#[ignore]\n", &[]).1, 1);
        assert_eq!(status("a.test.js", "it.only('x')\n", &[]).1, 1);
    }
}
