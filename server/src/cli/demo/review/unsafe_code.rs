//! Looks for unsafe code and calls that are dangerous with the wrong input.
//!
//! Calls are looked for in code, not in comments and strings. Whether the input is trusted cannot
//! be seen here, so a finding asks for a look. Nothing here fails.

use super::languages::Family;
use super::lint::{finds_start, finds_word};
use super::{Findings, Line, Severity, Source, coverage};

/// How many lines after the one with `yaml.load(` may name the loader.
const CALL_LINES: usize = 3;

/// How many lines before an unsafe block may hold the comment that justifies it.
const SAFETY_LINES: usize = 4;

/// A call to look for.
struct Rule {
    family: Family,
    needle: &'static str,
    /// Whether a dot before it, as in a method call, makes it something else.
    free_function: bool,
    severity: Severity,
    check: &'static str,
    message: &'static str,
}

const fn call(
    family: Family,
    needle: &'static str,
    severity: Severity,
    check: &'static str,
    message: &'static str,
) -> Rule {
    Rule {
        family,
        needle,
        free_function: false,
        severity,
        check,
        message,
    }
}

const fn function(
    family: Family,
    needle: &'static str,
    severity: Severity,
    check: &'static str,
    message: &'static str,
) -> Rule {
    Rule {
        free_function: true,
        ..call(family, needle, severity, check, message)
    }
}

use Family::{C, Go, Java, Php, Python, Ruby, Script, Shell};
use Severity::{High, Info, Low, Medium};

const EVAL: &str = "evaluates text as code";
const UNBOUNDED: &str = "writes without a bound";
const COMMAND: &str = "runs a shell command";

const RULES: &[Rule] = &[
    function(Python, "eval(", Medium, "unsafe.eval", EVAL),
    function(Python, "exec(", Medium, "unsafe.eval", EVAL),
    call(Python, "shell=True", Medium, "unsafe.shell", COMMAND),
    call(Python, "os.system(", Medium, "unsafe.shell", COMMAND),
    call(
        Python,
        "pickle.load(",
        Low,
        "unsafe.deserialize",
        "unpickling can run code",
    ),
    call(
        Python,
        "pickle.loads(",
        Low,
        "unsafe.deserialize",
        "unpickling can run code",
    ),
    function(Script, "eval(", Medium, "unsafe.eval", EVAL),
    call(Script, "new Function(", Medium, "unsafe.eval", EVAL),
    call(
        Script,
        "document.write(",
        Low,
        "unsafe.markup",
        "writes unescaped markup",
    ),
    call(
        Script,
        "dangerouslySetInnerHTML",
        Low,
        "unsafe.markup",
        "writes unescaped markup",
    ),
    function(C, "gets(", High, "unsafe.unbounded", UNBOUNDED),
    function(C, "strcpy(", Medium, "unsafe.unbounded", UNBOUNDED),
    function(C, "strcat(", Medium, "unsafe.unbounded", UNBOUNDED),
    function(C, "sprintf(", Low, "unsafe.unbounded", UNBOUNDED),
    function(C, "system(", Medium, "unsafe.shell", COMMAND),
    call(
        Go,
        "unsafe.Pointer",
        Low,
        "unsafe.pointer",
        "goes around the type system",
    ),
    call(Java, "getRuntime().exec(", Low, "unsafe.shell", "runs a program"),
    function(Ruby, "eval(", Medium, "unsafe.eval", EVAL),
    function(Ruby, "system(", Low, "unsafe.shell", COMMAND),
    function(Php, "eval(", Medium, "unsafe.eval", EVAL),
    function(Php, "shell_exec(", Medium, "unsafe.shell", COMMAND),
    function(Shell, "eval ", Low, "unsafe.eval", EVAL),
];

/// Looks for all that this module knows of.
pub fn check(source: &Source, findings: &mut Findings) {
    let lines: Vec<Line<'_>> = source.checked_lines().collect();
    let in_test = coverage::is_test_path(&source.path);
    let grade = |severity: Severity| {
        if in_test { severity.lowered() } else { severity }
    };
    let family = source.family();
    for rule in RULES.iter().filter(|rule| rule.family == family) {
        for line in lines.iter().filter(|line| is_hit(rule, line.code)) {
            let needle = rule.needle.trim_end_matches(['(', ' ']);
            let message = format!("{needle}: {}", rule.message);
            findings.push(line.number, grade(rule.severity), rule.check, &message);
        }
    }
    match family {
        Family::Rust => check_rust(&lines, findings),
        Family::Python => check_yaml(&lines, grade(Medium), findings),
        Family::Script => check_inner_html(&lines, grade(Medium), findings),
        _ => {}
    }
}

fn is_hit(rule: &Rule, code: &str) -> bool {
    if !rule.free_function {
        return finds_start(code, rule.needle);
    }
    code.match_indices(rule.needle).any(|(at, _)| {
        let before = &code[..at];
        let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
        let scope = before.strip_suffix("::").map(|scope| scope.ends_with("std"));
        let defines = ["def ", "fn ", "function ", "func "];
        !before.ends_with(word)
            && !before.ends_with("->")
            && scope != Some(false)
            && !defines.iter().any(|define| before.ends_with(define))
    })
}

/// Unsafe blocks, functions, traits and implementations of Rust.
fn check_rust(lines: &[Line<'_>], findings: &mut Findings) {
    for (place, line) in lines.iter().enumerate() {
        if !finds_word(line.code, "unsafe") {
            continue;
        }
        let attribute = line.code.trim_start().starts_with('#');
        let function_type = line.code.contains("unsafe extern") && line.code.contains("fn(");
        if attribute || function_type || line.code.contains("unsafe(") {
            continue;
        }
        let declares = ["unsafe fn", "unsafe trait", "unsafe extern"]
            .iter()
            .any(|item| line.code.contains(item));
        let from = place.saturating_sub(SAFETY_LINES);
        let justified = lines[from..=place]
            .iter()
            .any(|near| near.comment.contains("SAFETY") || near.comment.contains("# Safety"));
        let (severity, message) = match justified {
            true => (Info, "unsafe code, with a comment on why it is sound"),
            false if declares => (Low, "an unsafe item without a comment on safety"),
            false => (Medium, "unsafe code without a SAFETY comment"),
        };
        findings.push(line.number, severity, "unsafe.rust", message);
    }
}

/// `yaml.load` where neither the line nor the next ones name a safe loader.
fn check_yaml(lines: &[Line<'_>], severity: Severity, findings: &mut Findings) {
    for (place, line) in lines.iter().enumerate() {
        if !finds_start(line.code, "yaml.load(") {
            continue;
        }
        let to = lines.len().min(place + CALL_LINES);
        let safe = lines[place..to].iter().any(|near| near.code.contains("SafeLoader"));
        if !safe {
            let message = "yaml.load without a safe loader can run code";
            findings.push(line.number, severity, "unsafe.deserialize", message);
        }
    }
}

/// Assignments to `innerHTML`, but not comparisons and not clearing it.
fn check_inner_html(lines: &[Line<'_>], severity: Severity, findings: &mut Findings) {
    let writes = |line: &Line<'_>| {
        line.code.match_indices(".innerHTML").any(|(at, name)| {
            let rest = line.code[at + name.len()..].trim_start();
            let value = rest.strip_prefix("+=").or_else(|| rest.strip_prefix('='));
            value.is_some_and(|value| {
                let cleared = value.trim_start().trim_end_matches(';').trim_end();
                !value.starts_with('=') && !matches!(cleared, "\"\"" | "''" | "``")
            })
        })
    };
    for line in lines.iter().filter(|line| writes(line)) {
        let message = "innerHTML: writes unescaped markup";
        findings.push(line.number, severity, "unsafe.markup", message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(String, Severity)> {
        let mut findings = Findings::new(path);
        check(&source(path, text), &mut findings);
        let listed = findings.finish().0;
        listed.into_iter().map(|f| (f.check, f.severity)).collect()
    }

    fn count(path: &str, text: &str) -> usize {
        found(path, text).len()
    }

    #[test]
    fn rust() {
        let block = "fn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(found("a.rs", block), [("unsafe.rust".to_owned(), Medium)]);
        let justified = "// SAFETY: g is fine\nunsafe { g() }\n";
        assert_eq!(found("a.rs", justified), [("unsafe.rust".to_owned(), Info)]);
        let none = "#![forbid(unsafe_code)]\n// unsafe\nlet a = \"unsafe {\";\n#[unsafe(no_mangle)]\n";
        assert_eq!(count("a.rs", none), 0);
    }

    #[test]
    fn python() {
        assert_eq!(count("a.py", "eval(x)\nexec(y)\n"), 2);
        assert_eq!(
            count("a.py", "model.eval()\n'eval(x)'\nre_eval(x)\ndef eval(x): pass\n"),
            0
        );
        assert_eq!(count("a.py", "run(x, shell=True)\n"), 1);
        assert_eq!(count("a.py", "yaml.load(f)\n"), 1);
        assert_eq!(count("a.py", "yaml.load(\n  f,\n  Loader=yaml.SafeLoader)\n"), 0);
    }

    #[test]
    fn scripts() {
        assert_eq!(count("a.js", "a.innerHTML = x;\n"), 1);
        assert_eq!(
            count("a.js", "a.innerHTML = '';\na.innerHTML == x;\nb = a.innerHTML;\n"),
            0
        );
        assert_eq!(count("a.ts", "new Function('x')\neval(x)\n"), 2);
    }

    #[test]
    fn c_and_others() {
        assert_eq!(found("a.c", "gets(b);\n")[0].1, High);
        assert_eq!(count("a.c", "fgets(b);\nx->system(y);\na::system(y);\n"), 0);
        assert_eq!(count("a.cpp", "std::strcpy(a, b);\n"), 1);
        assert_eq!(found("a_test.c", "gets(b);\n")[0].1, Medium);
        assert_eq!(count("a.sh", "eval \"$x\"\n"), 1);
        assert_eq!(count("a.txt", "eval(x)\n"), 0);
    }
}
