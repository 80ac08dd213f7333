//! Looks for credentials that should not be in a repository.
//!
//! Only patterns with a fixed shape are looked for, and passwords that are assigned as quoted
//! text; placeholders are left out. What was found is never repeated: a message holds at most the
//! first four characters, which tell the kind of token. In tests, examples and documents the
//! severity is one step lower. The patterns run in linear time over the whole text, long lines
//! included. Nothing here fails.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::bytes::{Captures, Regex, RegexBuilder};

use super::languages::Kind;
use super::{Findings, Severity, Source, coverage};

/// What else must be true of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// Nothing: the shape says enough.
    Shape,
    /// It looks random.
    Random,
    /// It is followed by the start of a key.
    KeyFollows,
    /// It may well be a password: neither a placeholder nor a name.
    Password,
}

/// A kind of credential. The group `s`, or else the whole match, is the secret.
struct Pattern {
    check: &'static str,
    what: &'static str,
    severity: Severity,
    condition: Condition,
    regex: Regex,
}

fn pattern(check: &'static str, what: &'static str, severity: Severity, condition: Condition, regex: &str) -> Pattern {
    let built = RegexBuilder::new(regex)
        .unicode(false)
        .multi_line(true)
        .size_limit(4 * 1024 * 1024)
        .build();
    Pattern {
        check,
        what,
        severity,
        condition,
        regex: built.expect("the patterns of this module are well formed"),
    }
}

static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    use Condition::{KeyFollows, Password, Random, Shape};
    use Severity::{High, Low, Medium};
    vec![
        pattern(
            "secrets.aws_key_id",
            "AWS access key id",
            High,
            Shape,
            r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
        ),
        pattern(
            "secrets.aws_secret_key",
            "AWS secret access key",
            High,
            Random,
            r#"(?i:secret_?access_?key)["']?\s{0,4}[:=]\s{0,4}["']?(?<s>[A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)"#,
        ),
        pattern(
            "secrets.private_key",
            "private key",
            High,
            KeyFollows,
            r"-----BEGIN (?:[A-Z]{1,12} ){0,2}PRIVATE KEY(?: BLOCK)?-----",
        ),
        pattern(
            "secrets.github_token",
            "GitHub token",
            High,
            Random,
            r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b",
        ),
        pattern(
            "secrets.gitlab_token",
            "GitLab token",
            High,
            Random,
            r"\bglpat-[A-Za-z0-9_-]{20}\b",
        ),
        pattern(
            "secrets.slack_token",
            "Slack token",
            High,
            Random,
            r"\bxox[abposr]-[0-9]{6,16}-[A-Za-z0-9-]{10,80}",
        ),
        pattern(
            "secrets.slack_webhook",
            "Slack webhook address",
            Medium,
            Random,
            r"\bhooks\.slack\.com/services/T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,30}",
        ),
        pattern(
            "secrets.google_key",
            "Google API key",
            High,
            Random,
            r"\bAIza[0-9A-Za-z_-]{35}\b",
        ),
        pattern(
            "secrets.stripe_key",
            "Stripe live key",
            High,
            Random,
            r"\b[sr]k_live_[0-9A-Za-z]{20,99}\b",
        ),
        pattern(
            "secrets.npm_token",
            "npm token",
            High,
            Random,
            r"\bnpm_[A-Za-z0-9]{36}\b",
        ),
        pattern(
            "secrets.ai_key",
            "key of a model provider",
            High,
            Random,
            r"\bsk-(?:ant|proj)-[A-Za-z0-9_-]{30,200}",
        ),
        pattern(
            "secrets.jwt",
            "JSON web token",
            Medium,
            Random,
            r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}",
        ),
        pattern(
            "secrets.url_password",
            "password in an address",
            Medium,
            Password,
            r#"://[^\s:/@'"<>]{1,64}:(?<s>[^\s:/@'"<>]{6,64})@[A-Za-z0-9]"#,
        ),
        pattern(
            "secrets.password",
            "password or key as literal text",
            Medium,
            Password,
            concat!(
                r"(?i:passwd|password|secret|api_?key|access_?token|auth_?token)(?i:_?(?:key|value|token))?",
                r#"["']?\s{0,8}(?:=|:|:=|=>)\s{0,8}"#,
                r#"(?:"(?<s>[^"\s\\]{8,100})"|'(?<t>[^'\s\\]{8,100})')"#
            ),
        ),
        pattern(
            "secrets.env_password",
            "password or key in a settings file",
            Low,
            Password,
            r"^(?:export )?[A-Z0-9_]{0,40}(?:PASSWORD|SECRET|TOKEN|API_KEY)=(?<s>[^\s'\x22]{8,100})\s*$",
        ),
    ]
});

/// Parts of a value, in lower case, that show it to be a placeholder or a reference.
const PLACEHOLDERS: &[&str] = &[
    "example",
    "changeme",
    "change_me",
    "change-me",
    "your",
    "xxx",
    "***",
    "...",
    "placeholder",
    "dummy",
    "fake",
    "sample",
    "test",
    "mock",
    "redacted",
    "${",
    "$(",
    "{{",
    "<",
    "%s",
    "%(",
    "secret",
    "password",
    "passwd",
    "env.",
    "env[",
    "getenv",
    "12345",
    "foobar",
    "todo",
    "none",
];

/// Looks for credentials in the whole text.
pub fn check(source: &Source, findings: &mut Findings) {
    let text = source.text.as_bytes();
    let lenient = source.language.kind == Kind::Prose || coverage::is_sample_path(&source.path);
    let settings = source.language.name == "INI";
    let mut seen = BTreeSet::new();
    let mut lines = LineFinder::default();
    for pattern in PATTERNS.iter() {
        if pattern.check == "secrets.env_password" && !settings {
            continue;
        }
        lines.restart();
        for captures in pattern.regex.captures_iter(text) {
            let (start, value) = secret_of(&captures);
            if !holds(pattern.condition, value, &text[end_of(&captures)..]) {
                continue;
            }
            // A token that two patterns match is one finding.
            if !seen.insert((start, value.len())) {
                continue;
            }
            let severity = match lenient {
                true => pattern.severity.lowered(),
                false => pattern.severity,
            };
            let message = format!("{}: {}", pattern.what, redact(pattern.condition, value));
            findings.push(lines.number(text, start), severity, pattern.check, &message);
        }
    }
}

/// Where the secret of a match starts, and the secret.
fn secret_of<'a>(captures: &Captures<'a>) -> (usize, &'a [u8]) {
    let named = captures.name("s").or_else(|| captures.name("t"));
    let whole = captures.get(0);
    named
        .or(whole)
        .map_or((0, b"".as_slice()), |found| (found.start(), found.as_bytes()))
}

fn end_of(captures: &Captures<'_>) -> usize {
    captures.get(0).map_or(0, |found| found.end())
}

/// Turns ascending positions into line numbers in one pass.
#[derive(Debug, Default)]
struct LineFinder {
    at: usize,
    breaks: usize,
}

impl LineFinder {
    fn restart(&mut self) {
        *self = Self::default();
    }

    fn number(&mut self, text: &[u8], position: usize) -> usize {
        let between = text.get(self.at..position).unwrap_or_default();
        self.breaks += between.iter().filter(|byte| **byte == b'\n').count();
        self.at = position.max(self.at);
        self.breaks + 1
    }
}

fn holds(condition: Condition, value: &[u8], rest: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value).to_lowercase();
    match condition {
        Condition::Shape => !text.ends_with("example"),
        Condition::Random => !is_placeholder(&text) && entropy(value) >= 3.0,
        Condition::KeyFollows => key_follows(rest),
        Condition::Password => !is_placeholder(&text) && may_be_password(&text, value),
    }
}

fn is_placeholder(text: &str) -> bool {
    PLACEHOLDERS.iter().any(|part| text.contains(part))
}

/// A password mixes letters with digits; names, paths and sentences mostly do not.
fn may_be_password(text: &str, value: &[u8]) -> bool {
    let has = |test: fn(&u8) -> bool| value.iter().any(test);
    let reference = text.starts_with(['$', '/', '.', '@', '{', '[', '%', '&']);
    !reference
        && !text.contains("://")
        && !text.ends_with(".json")
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
        && entropy(value) >= 2.5
}

/// Whether key material comes after the heading of a key: a run of base64 within some lines.
fn key_follows(rest: &[u8]) -> bool {
    let head = &rest[..rest.len().min(400)];
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    head.split(|byte| !base64(byte))
        .any(|run| run.len() >= 40 && entropy(run) >= 3.5)
}

/// The entropy of the bytes of a value, in bits for each byte.
fn entropy(value: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in value {
        counts[usize::from(*byte)] += 1;
    }
    let total = value.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / total)
        .map(|share| -share * share.log2())
        .sum()
}

/// What is shown of a secret: how long it is and, for tokens, how it starts.
fn redact(condition: Condition, value: &[u8]) -> String {
    let length = value.len();
    match condition {
        Condition::KeyFollows => "a key block with key material".to_owned(),
        Condition::Password => format!("{length} characters, not shown"),
        Condition::Shape | Condition::Random => {
            let start = String::from_utf8_lossy(&value[..length.min(4)]);
            format!("{start}\u{2026} ({length} characters)")
        }
    }
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
