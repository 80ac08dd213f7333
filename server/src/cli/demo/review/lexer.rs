//! Tells code from comments and string literals, well enough for line-based checks.
//!
//! [`mask`] gives two copies of a text with the same length and lines: one with comments and the
//! inside of strings blanked, one with everything but comments blanked. A check that looks for
//! calls reads the first and is not misled by prose.
//!
//! How it fails: it is no parser. Constructs it does not know (nested template literals, here
//! documents, a regular expression after a closing bracket) can turn code into string or back,
//! at worst up to the end of the file; nothing panics and the time stays linear.

/// How a kind of string literal is written.
#[derive(Debug, Clone, Copy)]
pub struct StringRule {
    /// What opens and closes it.
    pub delimiter: &'static str,
    /// Whether it may go on over the end of a line.
    pub multiline: bool,
    /// Whether a backslash takes away the meaning of the next byte.
    pub escapes: bool,
}

/// The lexical rules of a language.
#[derive(Debug, Clone, Copy)]
pub struct Syntax {
    /// What opens a comment that ends with the line.
    pub line_comments: &'static [&'static str],
    /// Whether such a comment needs white space or the start of a line before it.
    pub comment_after_space: bool,
    /// What opens and closes a block comment.
    pub block_comment: Option<(&'static str, &'static str)>,
    /// Whether block comments nest.
    pub nested_comments: bool,
    /// The string literals, longer delimiters first.
    pub strings: &'static [StringRule],
    /// Whether there are lifetimes, `char` literals and raw strings as in Rust.
    pub rust_literals: bool,
    /// Whether there are regular expression literals as in JavaScript.
    pub regex_literals: bool,
}

/// The two copies of a text that [`mask`] makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masks {
    /// The text with comments and the inside of strings blanked.
    pub code: String,
    /// The text with everything but comments blanked.
    pub comments: String,
}

/// Longest regular expression literal that is recognised; bounds the look ahead.
const MAX_REGEX: usize = 400;

/// Splits `text` into code and comments.
pub fn mask(text: &str, syntax: &Syntax) -> Masks {
    let blank: Vec<u8> = text
        .bytes()
        .map(|byte| if byte == b'\n' { b'\n' } else { b' ' })
        .collect();
    let mut masker = Masker {
        text: text.as_bytes(),
        syntax,
        at: 0,
        code: text.as_bytes().to_vec(),
        comments: blank,
        last: b'\n',
    };
    while masker.at < masker.text.len() {
        masker.step();
    }
    // Only whole characters are blanked, since every delimiter is ASCII.
    Masks {
        code: String::from_utf8_lossy(&masker.code).into_owned(),
        comments: String::from_utf8_lossy(&masker.comments).into_owned(),
    }
}

struct Masker<'a> {
    text: &'a [u8],
    syntax: &'a Syntax,
    at: usize,
    code: Vec<u8>,
    comments: Vec<u8>,
    /// The last byte of code that is not white space.
    last: u8,
}

impl Masker<'_> {
    /// Takes in one token: a comment, a literal or a single byte of code.
    fn step(&mut self) {
        if let Some(end) = self.comment_end() {
            self.comments[self.at..end].copy_from_slice(&self.text[self.at..end]);
            self.blank_code(self.at, end);
            self.at = end;
            return;
        }
        if let Some((inside, inside_end, end)) = self.literal() {
            self.blank_code(inside, inside_end);
            self.at = end;
            self.last = b'"';
            return;
        }
        let byte = self.text[self.at];
        if !byte.is_ascii_whitespace() {
            self.last = byte;
        }
        self.at += 1;
    }

    fn blank_code(&mut self, from: usize, to: usize) {
        for byte in &mut self.code[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }

    fn starts_with(&self, at: usize, what: &str) -> bool {
        self.text[at..].starts_with(what.as_bytes())
    }

    fn line_end(&self, from: usize) -> usize {
        let rest = &self.text[from..];
        from + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
    }

    /// Where the comment that starts here ends, if one starts here.
    fn comment_end(&self) -> Option<usize> {
        let free = !self.syntax.comment_after_space || self.at == 0 || self.text[self.at - 1].is_ascii_whitespace();
        let opens = |open: &&str| self.starts_with(self.at, open);
        if free && self.syntax.line_comments.iter().any(opens) {
            return Some(self.line_end(self.at));
        }
        let (open, close) = self.syntax.block_comment?;
        if !self.starts_with(self.at, open) {
            return None;
        }
        let mut depth = 1;
        let mut at = self.at + open.len();
        while at < self.text.len() {
            if self.starts_with(at, close) {
                at += close.len();
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            } else if self.syntax.nested_comments && self.starts_with(at, open) {
                at += open.len();
                depth += 1;
            } else {
                at += 1;
            }
        }
        Some(at)
    }

    /// The literal that starts here: start and end of its inside, and where it ends.
    fn literal(&self) -> Option<(usize, usize, usize)> {
        if self.syntax.rust_literals
            && let Some(found) = self.rust_literal()
        {
            return Some(found);
        }
        if self.syntax.regex_literals
            && self.text[self.at] == b'/'
            && let Some(end) = self.regex_end()
        {
            return Some((self.at + 1, end - 1, end));
        }
        let rule = self
            .syntax
            .strings
            .iter()
            .find(|rule| self.starts_with(self.at, rule.delimiter))?;
        let inside = self.at + rule.delimiter.len();
        let mut at = inside;
        while at < self.text.len() {
            match self.text[at] {
                b'\\' if rule.escapes => at += 2,
                b'\n' if !rule.multiline => return Some((inside, at, at)),
                _ if self.starts_with(at, rule.delimiter) => {
                    return Some((inside, at, at + rule.delimiter.len()));
                }
                _ => at += 1,
            }
        }
        let end = self.text.len();
        Some((inside.min(end), end, end))
    }

    /// A raw string or a `char` literal, or the quote of a lifetime (with an empty inside).
    fn rust_literal(&self) -> Option<(usize, usize, usize)> {
        let rest = &self.text[self.at..];
        match rest[0] {
            b'r' => {
                let before = self.at.checked_sub(1).map_or(b' ', |at| self.text[at]);
                let word = before.is_ascii_alphanumeric() || before == b'_';
                let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
                if (word && !matches!(before, b'b' | b'c')) || rest.get(1 + hashes) != Some(&b'"') {
                    return None;
                }
                let close = format!("\"{}", "#".repeat(hashes));
                let inside = self.at + hashes + 2;
                let length = find(&self.text[inside..], close.as_bytes());
                let inside_end = length.map_or(self.text.len(), |length| inside + length);
                let end = (inside_end + close.len()).min(self.text.len());
                Some((inside, inside_end, end))
            }
            b'\'' => {
                let inside = self.at + 1;
                let close = match rest.get(1)? {
                    b'\\' => 3 + rest.iter().skip(3).take(9).position(|b| *b == b'\'')?,
                    first => 1 + character_length(*first),
                };
                if rest.get(close) == Some(&b'\'') {
                    return Some((inside, self.at + close, self.at + close + 1));
                }
                Some((inside, inside, inside))
            }
            _ => None,
        }
    }

    /// Where the regular expression literal that may start here ends.
    fn regex_end(&self) -> Option<usize> {
        let before = &self.text[self.at.saturating_sub(8)..self.at];
        let keyword = before.ends_with(b"return ") || before.ends_with(b"typeof ");
        if !keyword && !b"\n(,=:[!&|?{};+".contains(&self.last) {
            return None;
        }
        let mut in_class = false;
        let mut at = self.at + 1;
        let limit = self.text.len().min(self.at + MAX_REGEX);
        while at < limit {
            match self.text[at] {
                b'\n' => return None,
                b'\\' => at += 1,
                b'[' => in_class = true,
                b']' => in_class = false,
                b'/' if !in_class => return Some(at + 1),
                _ => {}
            }
            at += 1;
        }
        None
    }
}

/// How many bytes a character takes that starts with this byte.
fn character_length(first: u8) -> usize {
    match first {
        0..0xC0 => 1,
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::super::languages::{self, Language};
    use super::*;

    fn masks(path: &str, text: &str) -> Masks {
        let language: Language = languages::detect(path, text);
        let masks = mask(text, language.syntax.unwrap());
        assert_eq!(masks.code.len(), text.len());
        assert_eq!(masks.comments.len(), text.len());
        masks
    }

    #[test]
    fn rust_literals_and_nested_comments() {
        let text = "let a = r#\"x // \"y\" \"#; // c\n/* a /* b */ c */ fn f<'a>(x: &'a u8) { '\"'; '\\u{1F}'; }";
        let masks = masks("a.rs", text);
        assert!(masks.comments.contains("// c") && masks.comments.contains("c */"));
        assert!(!masks.code.contains('x') || !masks.code.contains("// "));
        assert!(masks.code.contains("fn f<'a>(x: &'a u8) { ' '; '      '; }"));
    }

    #[test]
    fn python_strings() {
        let masks = masks("a.py", "x = '''a # b\n'c' '''  # real\ny = 'it\\'s'\n");
        assert_eq!(masks.comments.trim(), "# real");
        assert!(masks.code.contains("y = '     '"));
    }

    #[test]
    fn unfinished_strings_end_with_the_line() {
        let masks = masks("a.py", "x = 'oops\n# c\n");
        assert_eq!(masks.comments.trim(), "# c");
    }

    #[test]
    fn javascript_regular_expressions() {
        let masks = masks("a.js", "a = /['\"`]\\/[/]/; b = 1 / 2 / c; // d\n`t // ${x}\n` + eval");
        assert_eq!(masks.comments.trim(), "// d");
        assert!(masks.code.contains("b = 1 / 2 / c;"));
        assert!(masks.code.ends_with("` + eval"));
    }

    #[test]
    fn hostile_texts_end() {
        for text in [
            "\"",
            "'",
            "r#",
            "r#\"",
            "/*",
            "'\\",
            "\"\\",
            "\u{fc}'\u{fc}",
            "'\u{fc}",
            "/",
        ] {
            for path in ["a.rs", "a.py", "a.js", "a.c", "a.go", "a.sh"] {
                masks(path, text);
            }
        }
    }
}
