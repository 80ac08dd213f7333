//! The data that clients give and get back, as the house keeps it.
//!
//! A payload is one column in the store: a line that names its form and content type, then the content. A person can read it.

use bytes::Bytes;

/// How deep JSON may nest.
pub const MAX_DEPTH: usize = 32;

/// In which form a client sent a payload, and gets it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Form {
    /// A `google.protobuf.Value`, kept as JSON text.
    Value,
    /// JSON text.
    Json,
    /// Opaque bytes.
    Data,
}

/// Data with its form and content type. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Payload {
    /// The form that it was sent in.
    pub form: Form,
    /// The media type that the client gave; may be empty.
    pub content_type: String,
    /// The content: JSON text, or opaque bytes.
    pub body: Bytes,
}

impl Payload {
    /// A payload made by the server, in the form that grpcurl shows best.
    pub fn of_json(value: &serde_json::Value) -> Payload {
        Payload {
            form: Form::Value,
            content_type: String::new(),
            body: Bytes::from(value.to_string()),
        }
    }

    /// What schemas and expressions see: the JSON value, or nothing if the payload is opaque.
    pub fn json(&self) -> Option<serde_json::Value> {
        match self.form {
            Form::Value | Form::Json => serde_json::from_slice(&self.body).ok(),
            Form::Data => None,
        }
    }

    /// Its size, as limits count it.
    pub fn len(&self) -> usize {
        self.body.len() + self.content_type.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// As one column: `form content-type\n` and the content.
    pub fn encode(&self) -> Bytes {
        let form: &[u8] = match self.form {
            Form::Value => b"value",
            Form::Json => b"json",
            Form::Data => b"data",
        };
        let mut bytes = Vec::with_capacity(self.body.len() + self.content_type.len() + 8);
        bytes.extend_from_slice(form);
        bytes.push(b' ');
        bytes.extend_from_slice(self.content_type.as_bytes());
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.body);
        Bytes::from(bytes)
    }

    /// The inverse of [`Payload::encode`]; `None` if the column holds something else.
    pub fn decode(column: &Bytes) -> Option<Payload> {
        let end = column.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&column[..end]).ok()?;
        let (form, content_type) = line.split_once(' ')?;
        let form = match form {
            "value" => Form::Value,
            "json" => Form::Json,
            "data" => Form::Data,
            _ => return None,
        };
        Some(Payload {
            form,
            content_type: content_type.to_owned(),
            body: column.slice(end + 1..),
        })
    }
}

impl serde::Serialize for Payload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.form, &self.content_type, self.body.as_ref()).serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        let (form, content_type, body) = <(Form, String, Vec<u8>)>::deserialize(deserializer)?;
        Ok(Payload {
            form,
            content_type,
            body: Bytes::from(body),
        })
    }
}
