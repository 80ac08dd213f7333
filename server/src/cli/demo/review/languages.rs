//! The languages that are told apart, by file name, extension or `#!` line.
//!
//! A file that no rule fits is of the language "Other", which has no lexical rules: its whole
//! text then counts as code and no language-specific check looks at it.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::lexer::Syntax;
use super::syntaxes::{C, CSS, DASHES, GO, JVM, MARKUP, PHP, PYTHON, RUBY, RUST, SCRIPT, SHELL, SQL};

/// Languages that share their checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Rust.
    Rust,
    /// Python.
    Python,
    /// Go.
    Go,
    /// JavaScript and TypeScript.
    Script,
    /// Java.
    Java,
    /// C and C++.
    C,
    /// Ruby.
    Ruby,
    /// PHP.
    Php,
    /// Shell scripts.
    Shell,
    /// Everything else.
    Other,
}

/// What a file is mainly for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A program.
    Code,
    /// Configuration and build files.
    Config,
    /// Text for people.
    Prose,
    /// Data, generated text and everything unknown.
    Data,
}

/// A language and how to read it.
#[derive(Debug)]
pub struct LanguageRules {
    /// The name that is shown.
    pub name: &'static str,
    /// Which checks fit it.
    pub family: Family,
    /// What its files are for.
    pub kind: Kind,
    /// Its lexical rules, if comments can be told from code.
    pub syntax: Option<&'static Syntax>,
    /// File extensions, and whole file names starting with `=`; in lower case.
    names: &'static [&'static str],
}

/// A language, which is always one of the table in this file.
pub type Language = &'static LanguageRules;

const fn rules(
    name: &'static str,
    family: Family,
    kind: Kind,
    syntax: Option<&'static Syntax>,
    names: &'static [&'static str],
) -> LanguageRules {
    LanguageRules {
        name,
        family,
        kind,
        syntax,
        names,
    }
}

use Family::Other;
use Kind::{Code, Config, Data, Prose};

static UNKNOWN: LanguageRules = rules("Other", Other, Data, None, &[]);

static LANGUAGES: &[LanguageRules] = &[
    rules("Rust", Family::Rust, Code, Some(&RUST), &["rs"]),
    rules("Python", Family::Python, Code, Some(&PYTHON), &["py", "pyi", "pyw"]),
    rules("Go", Family::Go, Code, Some(&GO), &["go"]),
    rules(
        "JavaScript",
        Family::Script,
        Code,
        Some(&SCRIPT),
        &["js", "jsx", "mjs", "cjs"],
    ),
    rules(
        "TypeScript",
        Family::Script,
        Code,
        Some(&SCRIPT),
        &["ts", "tsx", "mts", "cts"],
    ),
    rules("Java", Family::Java, Code, Some(&JVM), &["java"]),
    rules("C", Family::C, Code, Some(&C), &["c", "h"]),
    rules(
        "C++",
        Family::C,
        Code,
        Some(&C),
        &["cc", "cpp", "cxx", "hh", "hpp", "hxx", "inl"],
    ),
    rules(
        "Ruby",
        Family::Ruby,
        Code,
        Some(&RUBY),
        &["rb", "rake", "gemspec", "=rakefile", "=gemfile"],
    ),
    rules("PHP", Family::Php, Code, Some(&PHP), &["php"]),
    rules(
        "Shell",
        Family::Shell,
        Code,
        Some(&SHELL),
        &["sh", "bash", "zsh", "ksh"],
    ),
    rules("Kotlin", Other, Code, Some(&JVM), &["kt", "kts"]),
    rules("Scala", Other, Code, Some(&JVM), &["scala", "sc"]),
    rules("Swift", Other, Code, Some(&JVM), &["swift"]),
    rules("C#", Other, Code, Some(&C), &["cs"]),
    rules("Objective-C", Other, Code, Some(&C), &["m", "mm"]),
    rules("Dart", Other, Code, Some(&JVM), &["dart"]),
    rules("Zig", Other, Code, Some(&C), &["zig"]),
    rules("Perl", Other, Code, Some(&SHELL), &["pl", "pm"]),
    rules("Elixir", Other, Code, Some(&PYTHON), &["ex", "exs"]),
    rules("Lua", Other, Code, Some(&DASHES), &["lua"]),
    rules("Haskell", Other, Code, Some(&DASHES), &["hs"]),
    rules("SQL", Other, Code, Some(&SQL), &["sql"]),
    rules("Protocol Buffers", Other, Code, Some(&C), &["proto"]),
    rules("Vue", Other, Code, Some(&MARKUP), &["vue"]),
    rules("Svelte", Other, Code, Some(&MARKUP), &["svelte"]),
    rules("CSS", Other, Code, Some(&CSS), &["css"]),
    rules("SCSS", Other, Code, Some(&C), &["scss", "less"]),
    rules("HTML", Other, Prose, Some(&MARKUP), &["html", "htm", "xhtml"]),
    rules("XML", Other, Data, Some(&MARKUP), &["xml", "svg", "xsd", "plist"]),
    rules("YAML", Other, Config, Some(&SHELL), &["yml", "yaml"]),
    rules("TOML", Other, Config, Some(&SHELL), &["toml"]),
    rules(
        "INI",
        Other,
        Config,
        Some(&SHELL),
        &[
            "ini",
            "cfg",
            "conf",
            "properties",
            "env",
            "=.env",
            "=.gitconfig",
            "=.editorconfig",
            "=.npmrc",
        ],
    ),
    rules(
        "Ignore list",
        Other,
        Config,
        Some(&SHELL),
        &["gitignore", "dockerignore", "=.gitattributes"],
    ),
    rules(
        "Dockerfile",
        Other,
        Config,
        Some(&SHELL),
        &["dockerfile", "=dockerfile", "=containerfile"],
    ),
    rules(
        "Makefile",
        Other,
        Config,
        Some(&SHELL),
        &["mk", "=makefile", "=gnumakefile"],
    ),
    rules("CMake", Other, Config, Some(&SHELL), &["cmake", "=cmakelists.txt"]),
    rules("Terraform", Other, Config, Some(&SHELL), &["tf", "hcl"]),
    rules("Nix", Other, Config, Some(&SHELL), &["nix"]),
    rules("Gradle", Other, Config, Some(&C), &["gradle"]),
    rules("Markdown", Other, Prose, None, &["md", "markdown", "mdx"]),
    rules("reStructuredText", Other, Prose, None, &["rst"]),
    rules(
        "Text",
        Other,
        Prose,
        None,
        &[
            "txt",
            "adoc",
            "org",
            "=license",
            "=readme",
            "=authors",
            "=changelog",
            "=notice",
            "=copying",
        ],
    ),
    rules(
        "JSON",
        Other,
        Data,
        None,
        &["json", "jsonl", "json5", "map", "ipynb", "webmanifest"],
    ),
    rules("CSV", Other, Data, None, &["csv", "tsv"]),
    rules("Patch", Other, Data, None, &["patch", "diff"]),
    rules(
        "Lock file",
        Other,
        Data,
        None,
        &["lock", "sum", "=package-lock.json", "=pnpm-lock.yaml"],
    ),
];

/// Programs named by a `#!` line, and an extension of their language.
const INTERPRETERS: &[(&str, &str)] = &[
    ("python", "py"),
    ("bash", "sh"),
    ("zsh", "sh"),
    ("dash", "sh"),
    ("ksh", "sh"),
    ("sh", "sh"),
    ("node", "js"),
    ("deno", "ts"),
    ("bun", "ts"),
    ("ruby", "rb"),
    ("perl", "pl"),
    ("php", "php"),
    ("lua", "lua"),
];

static BY_NAME: LazyLock<HashMap<&'static str, Language>> = LazyLock::new(|| {
    let pairs = |rules: &'static LanguageRules| rules.names.iter().map(move |name| (*name, rules));
    LANGUAGES.iter().flat_map(pairs).collect()
});

/// The language of a file, from its path and, where that says nothing, its first line.
pub fn detect(path: &str, text: &str) -> Language {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    if let Some(language) = BY_NAME.get(format!("={name}").as_str()) {
        return language;
    }
    if let Some((stem, extension)) = name.rsplit_once('.') {
        if let Some(language) = BY_NAME.get(extension) {
            return language;
        }
        // Names such as `Dockerfile.dev` and `.env.local`.
        if let Some(language) = BY_NAME.get(format!("={stem}").as_str()) {
            return language;
        }
    }
    by_interpreter(text).unwrap_or(&UNKNOWN)
}

fn by_interpreter(text: &str) -> Option<Language> {
    let line = text.lines().next()?.strip_prefix("#!")?;
    let mut words = line
        .split_ascii_whitespace()
        .map(|word| word.rsplit('/').next().unwrap_or(word))
        .filter(|word| *word != "env" && !word.starts_with('-'));
    let program = words.next()?.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (_, extension) = INTERPRETERS.iter().find(|(name, _)| *name == program)?;
    BY_NAME.get(extension).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_found() {
        for (path, text, name) in [
            ("src/a.rs", "", "Rust"),
            ("A.PY", "", "Python"),
            ("x/Makefile", "", "Makefile"),
            ("Dockerfile.dev", "", "Dockerfile"),
            (".env.local", "", "INI"),
            (".gitignore", "", "Ignore list"),
            ("package-lock.json", "", "Lock file"),
            ("run", "#!/usr/bin/env -S python3.12 -u\n", "Python"),
            ("run", "#!/bin/bash", "Shell"),
            ("run", "#!", "Other"),
            ("run", "", "Other"),
            ("", "", "Other"),
            ("a.b/c", "", "Other"),
        ] {
            assert_eq!(detect(path, text).name, name, "{path}");
        }
    }

    #[test]
    fn no_name_is_claimed_twice() {
        let count: usize = LANGUAGES.iter().map(|rules| rules.names.len()).sum();
        assert_eq!(BY_NAME.len(), count);
    }
}
