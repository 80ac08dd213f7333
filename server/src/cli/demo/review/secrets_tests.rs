//! Tests of the search for credentials.

use super::super::Finding;
use super::super::testing::source;
use super::*;

fn run(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Findings::new(path);
    check(&source(path, text), &mut findings);
    findings.finish().0
}

/// A token that is put together here, so that this file holds none.
fn token(prefix: &str, length: usize) -> String {
    let random = "q7Rk2ZpX9vLm4TsWc8YbN3dHf6JgA5eUoQ1iKrPtVxGzBnMyCwDhSjFlE";
    format!("{prefix}{}", random.chars().cycle().take(length).collect::<String>())
}

#[test]
fn tokens_are_found_and_redacted() {
    for (prefix, length, check) in [
        ("ghp_", 36, "secrets.github_token"),
        ("AIza", 35, "secrets.google_key"),
        ("npm_", 36, "secrets.npm_token"),
        ("glpat-", 20, "secrets.gitlab_token"),
        ("sk_live_", 24, "secrets.stripe_key"),
        ("xoxb-2839471650-", 24, "secrets.slack_token"),
    ] {
        let token = token(prefix, length);
        let findings = run("a.py", &format!("\nx = f({token})\n"));
        assert_eq!(findings.len(), 1, "{prefix}");
        assert_eq!((findings[0].line, findings[0].check.as_str()), (2, check));
        assert!(!findings[0].message.contains(&token[5..]), "{}", findings[0].message);
    }
}

#[test]
fn aws_keys() {
    let id = format!("AKIA{}", "Q3ZT5MWXHL2RVNBC");
    let secret = token("", 40);
    let findings = run(".env", &format!("id={id}\naws_secret_access_key = {secret}\n"));
    let checks: Vec<&str> = findings.iter().map(|f| f.check.as_str()).collect();
    assert_eq!(checks, ["secrets.aws_key_id", "secrets.aws_secret_key"]);
    assert!(run("a.py", &format!("AKIA{}EXAMPLE", "IOSFODNN7")).is_empty());
}

#[test]
fn private_keys_need_key_material() {
    let heading = format!("-----BEGIN RSA {} KEY-----", "PRIVATE");
    let key = format!("{heading}\n{}\n", token("MIIE", 60));
    assert_eq!(run("id_rsa", &key)[0].severity, Severity::High);
    assert_eq!(run("tests/data/id_rsa", &key)[0].severity, Severity::Medium);
    assert!(run("a.py", &format!("if '{heading}' in text:\n    pass\n")).is_empty());
}

#[test]
fn passwords() {
    let findings = run("a.py", &format!("db_password = '{}'\n", "hunter2hunter9"));
    assert_eq!(findings[0].check, "secrets.password");
    assert!(!findings[0].message.contains("hunter"));
    for text in [
        "password = 'changeme123'",
        "password = os.environ['DB_PASSWORD_1']",
        "password: \"${DB_PASS_1}\"",
        "secret = \"aaaaaaaaa1\"",
        "password = \"Password1234\"",
        "token_password = get('x')",
        "api_key = ''",
    ] {
        assert!(run("a.py", text).is_empty(), "{text}");
    }
}

#[test]
fn addresses_and_settings() {
    let url = format!("u = 'postgres://bob:{}@db1/x'", "s3cr9tPq7");
    assert_eq!(run("a.py", &url)[0].check, "secrets.url_password");
    assert!(run("a.py", "u = 'postgres://test:test@localhost/x'").is_empty());
    let setting = "A=1\nSERVICE_TOKEN=q7Rk2ZpX9vLm\n";
    assert_eq!(run(".env", setting)[0].line, 2);
    assert!(run("a.sh", setting).is_empty());
}

#[test]
fn long_lines_are_searched_in_linear_time() {
    let text = "password=\"a:b@c ://x:y eyJ".repeat(10_000);
    assert!(run("a.js", &text).len() <= 50);
    let token = format!("{} {}", "x".repeat(900_000), token("ghp_", 36));
    assert_eq!(run("a.js", &token).len(), 1);
}
