//! Values as compact bytes: what a hint is made of.
//!
//! A value begins with a byte that holds its kind and, if it is small, its number or length; else a varint follows. Reading is total:
//! whatever the bytes are it ends with a value or with [`Malformed`], and it allocates no more than in proportion to them.

use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::row::{Key, Row, Value};

const NULL: u8 = 0;
const INT: u8 = 1;
const TEXT: u8 = 2;
const BLOB: u8 = 3;
/// In the place of a small number: it follows.
const FOLLOWS: u8 = 63;

/// The bytes are not what this version of the program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hint of this version")]
pub(super) struct Malformed;

/// Writes what [`Reader`] reads.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    pub(super) fn signed(&mut self, number: i64) {
        self.number(zigzag(number));
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.raw(text.as_bytes());
    }

    pub(super) fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.byte(NULL),
            Value::Int(number) => self.lead(INT, zigzag(*number)),
            Value::Text(text) => {
                self.lead(TEXT, text.len() as u64);
                self.raw(text.as_bytes());
            }
            Value::Blob(bytes) => {
                self.lead(BLOB, bytes.len() as u64);
                self.raw(bytes);
            }
        }
    }

    fn lead(&mut self, kind: u8, number: u64) {
        if number < u64::from(FOLLOWS) {
            self.byte(kind | (number as u8) << 2);
        } else {
            self.byte(kind | FOLLOWS << 2);
            self.number(number);
        }
    }

    pub(super) fn row<R: Row>(&mut self, row: &R) {
        for column in 0..R::TABLE.columns.len() {
            self.value(&row.column(column));
        }
    }

    /// Rows by key; nothing for those that are gone.
    pub(super) fn rows<'a, R: Row>(&mut self, rows: impl ExactSizeIterator<Item = (&'a R::Key, &'a Option<Arc<R>>)>) {
        self.number(rows.len() as u64);
        for (key, row) in rows {
            self.byte(u8::from(row.is_some()));
            match row {
                Some(row) => self.row(&**row),
                None => key.columns().iter().for_each(|column| self.value(column)),
            }
        }
    }
}

/// Reads what [`Writer`] writes, from the front.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(super) fn raw(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for place in 0..10 {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if place == 9 && part > 1 {
                return Err(Malformed);
            }
            number |= part << (7 * place);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    pub(super) fn signed(&mut self) -> Result<i64, Malformed> {
        self.number().map(unzigzag)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.number()?;
        std::str::from_utf8(self.raw(length)?).map_err(|_| Malformed)
    }

    pub(super) fn value(&mut self) -> Result<Value, Malformed> {
        let lead = self.byte()?;
        let (kind, number) = (lead & 3, lead >> 2);
        let number = match number {
            FOLLOWS => self.number()?,
            number => u64::from(number),
        };
        match kind {
            INT => Ok(Value::Int(unzigzag(number))),
            TEXT => {
                let text = std::str::from_utf8(self.raw(number)?).map_err(|_| Malformed)?;
                Ok(Value::Text(text.to_owned()))
            }
            // Copied, so that what a row keeps does not keep the whole message.
            BLOB => Ok(Value::Blob(Bytes::copy_from_slice(self.raw(number)?))),
            _ if number == 0 => Ok(Value::Null),
            _ => Err(Malformed),
        }
    }

    fn values(&mut self, count: usize) -> Result<Vec<Value>, Malformed> {
        // A value is at least a byte.
        let mut values = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            values.push(self.value()?);
        }
        Ok(values)
    }

    pub(super) fn row<R: Row>(&mut self) -> Result<R, Malformed> {
        let columns = self.values(R::TABLE.columns.len())?;
        R::from_columns(columns).map_err(|_| Malformed)
    }

    /// Rows by key; nothing for those that are gone.
    pub(super) fn rows<R: Row, M>(&mut self) -> Result<M, Malformed>
    where
        R::Key: Hash,
        M: Default + Extend<(R::Key, Option<Arc<R>>)>,
    {
        let mut rows = M::default();
        for _ in 0..self.number()? {
            let (key, row) = match self.byte()? {
                0 => {
                    let columns = self.values(R::TABLE.key)?;
                    (R::Key::from_columns(columns).ok_or(Malformed)?, None)
                }
                1 => {
                    let row: R = self.row()?;
                    (row.key(), Some(Arc::new(row)))
                }
                _ => return Err(Malformed),
            };
            rows.extend([(key, row)]);
        }
        Ok(rows)
    }
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
