//! Pages of lists: how many rows, and from where.

use data_encoding::HEXLOWER;

use crate::error::{Reason, Refusal};
use crate::store::row::Value;

/// How many rows a page has unless it is asked for another number.
const DEFAULT_PAGE: usize = 100;
/// How many rows a page may have.
const MAX_PAGE: usize = 1_000;

/// Which page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// At most this many rows.
    pub size: usize,
    /// After this place of the index that the list goes by.
    pub after: Option<Vec<Value>>,
}

impl Page {
    /// The page that a request asks for. `list` names the list and what it is filtered by: a token of another is refused.
    ///
    /// # Errors
    /// INVALID_PAGE_TOKEN, INVALID_REQUEST.
    pub fn new(page_size: i32, page_token: &str, list: &str) -> Result<Page, Refusal> {
        let size = match usize::try_from(page_size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => return Err(Refusal::invalid("page_size", "must not be negative")),
        };
        let after = if page_token.is_empty() {
            None
        } else {
            Some(decode(page_token, list)?)
        };
        Ok(Page { size, after })
    }
}

/// The token of the page after this place.
pub fn token(after: &[Value], list: &str) -> String {
    let mut bytes = list_hash(list).to_be_bytes().to_vec();
    for value in after {
        match value {
            Value::Null => bytes.push(0),
            Value::Int(number) => {
                bytes.push(1);
                bytes.extend_from_slice(&number.to_be_bytes());
            }
            Value::Text(text) => push_bytes(&mut bytes, 2, text.as_bytes()),
            Value::Blob(blob) => push_bytes(&mut bytes, 3, blob),
        }
    }
    HEXLOWER.encode(&bytes)
}

fn push_bytes(bytes: &mut Vec<u8>, tag: u8, content: &[u8]) {
    bytes.push(tag);
    bytes.extend_from_slice(&(content.len() as u32).to_be_bytes());
    bytes.extend_from_slice(content);
}

fn decode(token: &str, list: &str) -> Result<Vec<Value>, Refusal> {
    let invalid = || Refusal::new(Reason::InvalidPageToken, "the page token is not one of this list's");
    parse(token, list).ok_or_else(invalid)
}

fn parse(token: &str, list: &str) -> Option<Vec<Value>> {
    if token.len() > 4_096 {
        return None;
    }
    let bytes = HEXLOWER.decode(token.as_bytes()).ok()?;
    let (hash, mut rest) = bytes.split_at_checked(8)?;
    if hash != list_hash(list).to_be_bytes() {
        return None;
    }
    let mut after = Vec::new();
    while let Some((tag, tail)) = rest.split_first() {
        let (value, tail) = match tag {
            0 => (Value::Null, tail),
            1 => {
                let (number, tail) = tail.split_at_checked(8)?;
                (Value::Int(i64::from_be_bytes(number.try_into().ok()?)), tail)
            }
            2 | 3 => {
                let (length, tail) = tail.split_at_checked(4)?;
                let (content, tail) = tail.split_at_checked(u32::from_be_bytes(length.try_into().ok()?) as usize)?;
                let value = match tag {
                    2 => Value::Text(String::from_utf8(content.to_vec()).ok()?),
                    _ => Value::Blob(bytes::Bytes::copy_from_slice(content)),
                };
                (value, tail)
            }
            _ => return None,
        };
        after.push(value);
        rest = tail;
    }
    Some(after)
}

/// FNV-1a: stable over versions of the program, as page tokens must be.
fn list_hash(list: &str) -> u64 {
    list.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_place(text in ".*", number: i64, blob: Vec<u8>) {
            let after = vec![Value::Text(text), Value::Int(number), Value::Null, Value::Blob(blob.into())];
            let page = Page::new(0, &token(&after, "list"), "list").unwrap();
            prop_assert_eq!(page.after, Some(after));
        }

        #[test]
        fn no_text_is_taken_for_a_token_of_another_list(text in "\\PC*") {
            let _ = Page::new(0, &text, "list");
            let other = token(&[Value::Text(text)], "other");
            prop_assert!(Page::new(0, &other, "list").is_err());
        }
    }
}
