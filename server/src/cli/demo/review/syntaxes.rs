//! The lexical rules of the languages that are known, as data for [`super::lexer`].

use super::lexer::{StringRule, Syntax};

const fn string(delimiter: &'static str, multiline: bool, escapes: bool) -> StringRule {
    StringRule {
        delimiter,
        multiline,
        escapes,
    }
}

const DOUBLE: StringRule = string("\"", false, true);
const SINGLE: StringRule = string("'", false, true);

const PLAIN: Syntax = Syntax {
    line_comments: &[],
    comment_after_space: false,
    block_comment: None,
    nested_comments: false,
    strings: &[],
    rust_literals: false,
    regex_literals: false,
};
const C_LIKE: Syntax = Syntax {
    line_comments: &["//"],
    block_comment: Some(("/*", "*/")),
    strings: &[DOUBLE, SINGLE],
    ..PLAIN
};
pub(super) static C: Syntax = C_LIKE;
pub(super) static RUST: Syntax = Syntax {
    nested_comments: true,
    strings: &[string("\"", true, true)],
    rust_literals: true,
    ..C_LIKE
};
pub(super) static GO: Syntax = Syntax {
    strings: &[DOUBLE, SINGLE, string("`", true, false)],
    ..C_LIKE
};
pub(super) static SCRIPT: Syntax = Syntax {
    strings: &[DOUBLE, SINGLE, string("`", true, true)],
    regex_literals: true,
    ..C_LIKE
};
pub(super) static JVM: Syntax = Syntax {
    strings: &[string("\"\"\"", true, true), DOUBLE, SINGLE],
    ..C_LIKE
};
pub(super) static PYTHON: Syntax = Syntax {
    line_comments: &["#"],
    strings: &[string("\"\"\"", true, true), string("'''", true, true), DOUBLE, SINGLE],
    ..PLAIN
};
pub(super) static RUBY: Syntax = Syntax {
    line_comments: &["#"],
    strings: &[DOUBLE, SINGLE],
    ..PLAIN
};
pub(super) static PHP: Syntax = Syntax {
    line_comments: &["//", "#"],
    comment_after_space: true,
    ..C_LIKE
};
pub(super) static SHELL: Syntax = Syntax {
    line_comments: &["#"],
    comment_after_space: true,
    ..PLAIN
};
pub(super) static CSS: Syntax = Syntax {
    line_comments: &[],
    ..C_LIKE
};
pub(super) static MARKUP: Syntax = Syntax {
    block_comment: Some(("<!--", "-->")),
    ..PLAIN
};
pub(super) static SQL: Syntax = Syntax {
    line_comments: &["--"],
    block_comment: Some(("/*", "*/")),
    strings: &[SINGLE],
    ..PLAIN
};
pub(super) static DASHES: Syntax = Syntax {
    line_comments: &["--"],
    ..PLAIN
};
