//! The text of a file, prepared for the checks: its lines, and what of it is code or comment.
//!
//! Bytes that are not UTF-8 are replaced. Nothing here fails.

use super::inventory;
use super::languages::{self, Family, Kind, Language};
use super::lexer::{self, Masks};

/// Lines longer than this are not looked at by the checks that go through lines.
pub const MAX_LINE_BYTES: usize = 10_000;

/// The text of a file.
#[derive(Debug)]
pub struct Source {
    /// Its path.
    pub path: String,
    /// Its language.
    pub language: Language,
    /// What was read of it.
    pub text: String,
    /// Whether there is more of it that was not read.
    pub truncated: bool,
    /// Whether it held bytes that are not UTF-8.
    pub replaced: bool,
    masks: Option<Masks>,
    foreign: bool,
}

/// A line of a text, without its line end.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Counted from 1.
    pub number: usize,
    /// As it is, but for a carriage return at its end.
    pub raw: &'a str,
    /// With comments and the inside of strings blanked.
    pub code: &'a str,
    /// With all but comments blanked; empty where comments cannot be told from code.
    pub comment: &'a str,
    /// Whether it ended in a carriage return and a line feed.
    pub carriage_return: bool,
}

impl Line<'_> {
    /// Whether nothing but white space is on it.
    pub fn is_blank(&self) -> bool {
        self.raw.trim().is_empty()
    }

    /// Whether it holds a comment and no code.
    pub fn is_comment(&self) -> bool {
        self.code.trim().is_empty() && !self.comment.trim().is_empty()
    }

    /// Whether it is too long for the checks that go through lines.
    pub fn is_oversized(&self) -> bool {
        self.raw.len() > MAX_LINE_BYTES
    }
}

impl Source {
    /// Prepares what was read of a file. What was cut off is cut back to the last whole line.
    pub fn new(path: &str, content: &[u8], truncated: bool) -> Self {
        let content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
        let end = match content.iter().rposition(|byte| *byte == b'\n') {
            Some(last) if truncated => last + 1,
            _ => content.len(),
        };
        let text = String::from_utf8_lossy(&content[..end]);
        let replaced = matches!(text, std::borrow::Cow::Owned(_));
        let text = text.into_owned();
        let language = languages::detect(path, &text);
        let masks = language.syntax.map(|syntax| lexer::mask(&text, syntax));
        Self {
            path: path.to_owned(),
            language,
            foreign: inventory::foreign_reason(path, &text).is_some(),
            text,
            truncated,
            replaced,
            masks,
        }
    }

    /// The lines. What follows the last line end is a line only if it is not empty.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let (code, comments) = match &self.masks {
            Some(masks) => (masks.code.as_str(), masks.comments.as_str()),
            None => (self.text.as_str(), ""),
        };
        let mut at = 0;
        let pieces = self.text.split_inclusive('\n').enumerate();
        pieces.map(move |(place, piece)| {
            let body = piece.strip_suffix('\n').unwrap_or(piece);
            let raw = body.strip_suffix('\r').unwrap_or(body);
            let range = at..at + raw.len();
            at += piece.len();
            Line {
                number: place + 1,
                raw,
                code: code.get(range.clone()).unwrap_or(""),
                comment: comments.get(range).unwrap_or(""),
                carriage_return: raw.len() < body.len() && body.len() < piece.len(),
            }
        })
    }

    /// The lines that are not oversized.
    pub fn checked_lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.lines().filter(|line| !line.is_oversized())
    }

    /// The text with comments and the inside of strings blanked.
    pub fn code(&self) -> &str {
        self.masks.as_ref().map_or(&self.text, |masks| &masks.code)
    }

    /// Whether comments can be told from code.
    pub fn knows_comments(&self) -> bool {
        self.masks.is_some()
    }

    /// Which checks fit its language.
    pub fn family(&self) -> Family {
        self.language.family
    }

    /// Whether it is a program.
    pub fn is_code(&self) -> bool {
        self.language.kind == Kind::Code
    }

    /// Whether it was generated or copied from elsewhere.
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    #[test]
    fn lines_are_split() {
        let source = source("a.rs", "fn a() {} // b\r\n\n\"x\"");
        let lines: Vec<Line> = source.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].carriage_return && lines[1].is_blank());
        assert_eq!(lines[0].code.trim(), "fn a() {}");
        assert_eq!(lines[0].comment.trim(), "// b");
        assert_eq!(lines[2].code, "\" \"");
        assert_eq!(super::super::testing::source("a", "").lines().count(), 0);
    }

    #[test]
    fn odd_bytes_are_replaced_and_a_cut_text_ends_with_a_line() {
        let source = Source::new("a.txt", b"\xEF\xBB\xBFone\ntwo\xff\nthr", true);
        assert_eq!(source.text, "one\ntwo\u{fffd}\n");
        assert!(source.replaced);
    }
}
