//! The limits, and the scan of a text before it reaches the recursive parser.

use super::error::{ErrorKind, ExprError};

/// Longest text of one expression.
pub const MAX_TEXT_BYTES: usize = 4096;
/// Deepest nesting of brackets, arguments, ternaries and unary operators.
pub const MAX_NESTING: usize = 8;
/// Tallest tree which is evaluated, in operations from the root to a leaf, charging calls
/// included: bounds chains such as `a - b - c …` or `a.b.c …` (a chain of `+`, `&&` or `||` is
/// flattened or balanced, and only bounded by the text).
pub const MAX_TREE_HEIGHT: usize = 128;
/// What one evaluation, or one evaluation of a whole template, may cost, in units: a unit is about
/// the cost of one byte of text, and each value costs 16 more.
pub const WORK_LIMIT: u64 = 32 << 20;
/// Largest result of an expression or a template, as JSON text.
pub const MAX_RESULT_BYTES: usize = 1 << 20;
/// Deepest result of an expression; templates add their own depth, limited likewise.
pub const MAX_RESULT_DEPTH: usize = 32;
/// Largest template, as JSON text.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Most expressions in one template.
pub const MAX_TEMPLATE_EXPRESSIONS: usize = 256;

/// Tallest tree which is evaluated on the caller's stack: about 50 KiB per operation in a debug
/// build of the library, a tenth of that in a release build.
pub(super) const MAX_INLINE_HEIGHT: usize = 16;
/// Deepest JSON a variable may hold: what the JSON parser accepts.
pub(super) const MAX_VARIABLE_DEPTH: usize = 128;
/// Cost of looking at or copying one value, whatever its size.
pub(super) const NODE_COST: u64 = 16;
/// Second line of defence in the parser itself: the scan below lets less than this through.
pub(super) const PARSER_RECURSION: u16 = 32;
/// How many syntax errors the parser tries to recover from.
pub(super) const PARSER_RECOVERIES: u32 = 4;

/// Refuses text which is empty, too long, or nested too deeply to be given to the parser.
pub(super) fn check_text(text: &str) -> Result<(), ExprError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(ExprError::new(
            ErrorKind::TooLong,
            format!(
                "an expression has at most {MAX_TEXT_BYTES} bytes, this one has {}",
                text.len()
            ),
        ));
    }
    if text.trim().is_empty() {
        return Err(ExprError::new(ErrorKind::Syntax, "the expression is empty"));
    }
    let mut ternaries = vec![0_usize];
    let mut depth = 0_usize;
    let mut unary_run = 0_usize;
    for (_, byte) in Significant::of(text) {
        match byte {
            b'(' | b'[' | b'{' => {
                ternaries.push(0);
                depth += 1;
            }
            b')' | b']' | b'}' if ternaries.len() > 1 => {
                depth -= 1 + ternaries.pop().unwrap_or(0);
            }
            b',' => depth -= ternaries.last_mut().map_or(0, std::mem::take),
            b'?' => {
                depth += 1;
                if let Some(level) = ternaries.last_mut() {
                    *level += 1;
                }
            }
            _ => {}
        }
        match byte {
            b'!' | b'-' => unary_run += 1,
            _ if byte.is_ascii_whitespace() => {}
            _ => unary_run = 0,
        }
        if depth > MAX_NESTING || unary_run > MAX_NESTING {
            return Err(too_nested());
        }
    }
    Ok(())
}

/// The error of anything nested deeper than [`MAX_NESTING`].
pub(super) fn too_nested() -> ExprError {
    ExprError::new(
        ErrorKind::TooDeep,
        format!("the expression is nested deeper than {MAX_NESTING} levels"),
    )
}

/// The bytes of a CEL text which are neither in a string literal nor in a comment, with their
/// offsets. Ends at a literal which is not closed: the parser refuses the text anyway.
pub(super) struct Significant<'t> {
    bytes: &'t [u8],
    position: usize,
}

impl<'t> Significant<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Significant {
            bytes: text.as_bytes(),
            position: 0,
        }
    }

    /// Moves past the literal whose opening quote is at the current position.
    fn skip_literal(&mut self) {
        let quote = self.bytes[self.position];
        let raw = self.follows_raw_prefix();
        let rest = &self.bytes[self.position..];
        let fence = if rest.starts_with(&[quote; 3]) { 3 } else { 1 };
        let mut at = fence;
        while at < rest.len() {
            if rest[at] == b'\\' && !raw {
                at += 2;
            } else if rest[at] == quote && (fence == 1 || rest[at..].starts_with(&[quote; 3])) {
                self.position += at + fence;
                return;
            } else {
                at += 1;
            }
        }
        self.position = self.bytes.len();
    }

    /// Whether the word right before the current position makes a string literal a raw one.
    fn follows_raw_prefix(&self) -> bool {
        let before = &self.bytes[..self.position];
        let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let length = before.iter().rev().take_while(|byte| in_word(byte)).count();
        matches!(
            &before[before.len() - length..],
            [b'r' | b'R'] | [b'b' | b'B', b'r' | b'R']
        )
    }
}

impl Iterator for Significant<'_> {
    type Item = (usize, u8);

    fn next(&mut self) -> Option<(usize, u8)> {
        loop {
            let byte = *self.bytes.get(self.position)?;
            let rest = &self.bytes[self.position..];
            if byte == b'"' || byte == b'\'' {
                self.skip_literal();
            } else if rest.starts_with(b"//") {
                let line = rest.iter().take_while(|byte| **byte != b'\n').count();
                self.position += line;
            } else {
                self.position += 1;
                return Some((self.position - 1, byte));
            }
        }
    }
}
