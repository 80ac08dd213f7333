//! A commit as a hint, and the sealed message that carries it.
//!
//! ```text
//! message = version, kind, sender (16 bytes), serial, [hint], seal (32 bytes)
//! hint    = header, [shape of the tables (8 bytes), events, rows table by table]
//! ```
//! The seal covers all that is before it. Rows are columns as the store has them, so one encoding serves every table; a replica of
//! another version whose tables look different takes only the header.

use std::sync::{Arc, LazyLock};

use data_encoding::HEXLOWER;
use ring::hmac;

use super::codec::{Malformed, Reader, Writer};
use crate::events::Event;
use crate::lane::Commit;
use crate::locks::Lock;
use crate::payload::Payload;
use crate::registry::Agent;
use crate::sessions::Session;
use crate::state::Document;
use crate::store::Head;
use crate::store::row::{Row, Table};
use crate::tasks::{StoredPayload, Task};
use crate::time::Time;
use crate::workflows::Workflow;

/// The version of messages, and of the header of hints.
const VERSION: u8 = 1;
const SEAL: usize = 32;
/// A message that is larger goes without events and rows. In bytes.
pub(super) const MAX_MESSAGE: usize = 256 << 10;

/// What another replica says that it has committed.
#[derive(Clone, Debug)]
pub struct Hint {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The head after the batch, with its number: the one before it is one less.
    pub head: Head,
    /// How many events the batch has; they end at the head's position.
    pub events: u64,
    /// When the earliest of the changed rows wants to be looked at again.
    pub next_due: Option<Time>,
    /// The whole of it. Not there if it is large, or comes from another version, or the sender thought that nobody was listening.
    pub commit: Option<Arc<Commit>>,
}

impl Hint {
    /// Of a commit, with or without the whole of it.
    pub(super) fn of(commit: &Arc<Commit>, whole: bool) -> Hint {
        Hint {
            namespace: Arc::clone(&commit.namespace),
            head: commit.head.clone(),
            events: commit.events.len() as u64,
            next_due: commit.next_due,
            commit: whole.then(|| Arc::clone(commit)),
        }
    }
}

/// Who a process is among those on the bus: made by chance when it starts.
pub(super) type Sender = [u8; 16];

/// What a message says.
#[derive(Debug)]
pub(super) enum Word {
    /// One's own message with this number.
    Own(u64),
    /// Another is there.
    Beat,
    /// Another has committed.
    Hint(Hint),
}

/// The key of a store's seals.
#[derive(Clone)]
pub(super) struct Seal(hmac::Key);

impl Seal {
    pub(super) fn new(store_id: &str) -> Seal {
        Seal(hmac::Key::new(hmac::HMAC_SHA256, store_id.as_bytes()))
    }

    /// The channel of the store: it tells those who know the id from others, and does not tell the id.
    pub(super) fn channel(&self) -> String {
        let name = hmac::sign(&self.0, b"channel");
        let hex = HEXLOWER.encode(&name.as_ref()[..16]);
        format!("drumline:{hex}")
    }

    /// A message: a hint, or a sign of life.
    pub(super) fn close(&self, sender: &Sender, serial: u64, hint: Option<&Hint>) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.byte(VERSION);
        writer.byte(u8::from(hint.is_some()));
        writer.raw(sender);
        writer.number(serial);
        if let Some(hint) = hint {
            write_header(&mut writer, hint);
            if let Some(commit) = &hint.commit {
                let header = writer.bytes.len();
                write_body(&mut writer, commit);
                if writer.bytes.len() + SEAL > MAX_MESSAGE {
                    writer.bytes.truncate(header);
                }
            }
        }
        self.seal(writer.bytes)
    }

    pub(super) fn seal(&self, mut message: Vec<u8>) -> Vec<u8> {
        let seal = hmac::sign(&self.0, &message);
        message.extend_from_slice(seal.as_ref());
        message
    }

    /// The inverse of [`Seal::close`], for the process that is `me`.
    pub(super) fn open(&self, me: &Sender, message: &[u8]) -> Result<Word, Malformed> {
        let sealed = message.len().checked_sub(SEAL).ok_or(Malformed)?;
        let (message, seal) = message.split_at(sealed);
        let mut reader = Reader::new(message);
        if reader.byte()? != VERSION {
            return Err(Malformed);
        }
        let kind = reader.byte()?;
        let sender = reader.raw(16)?;
        let serial = reader.number()?;
        hmac::verify(&self.0, message, seal).map_err(|_| Malformed)?;
        match kind {
            _ if sender == me => Ok(Word::Own(serial)),
            0 => reader.end().map(|()| Word::Beat),
            1 => read_hint(&mut reader).map(Word::Hint),
            _ => Err(Malformed),
        }
    }
}

fn write_header(writer: &mut Writer, hint: &Hint) {
    writer.text(&hint.namespace);
    // Named one by one, so that a field that is added is not forgotten here.
    let Head {
        batch,
        position,
        first_position,
        epoch,
        last_token,
        now: Time(now),
    } = hint.head;
    for number in [batch, position, first_position, epoch, last_token, now] {
        writer.signed(number);
    }
    writer.number(hint.events);
    writer.byte(u8::from(hint.next_due.is_some()));
    if let Some(Time(next_due)) = hint.next_due {
        writer.signed(next_due);
    }
}

fn read_hint(reader: &mut Reader) -> Result<Hint, Malformed> {
    let namespace = Arc::from(reader.text()?);
    let head = Head {
        batch: reader.signed()?,
        position: reader.signed()?,
        first_position: reader.signed()?,
        epoch: reader.signed()?,
        last_token: reader.signed()?,
        now: Time(reader.signed()?),
    };
    let events = reader.number()?;
    let next_due = match reader.byte()? {
        0 => None,
        1 => Some(Time(reader.signed()?)),
        _ => return Err(Malformed),
    };
    let mut hint = Hint {
        namespace,
        head,
        events,
        next_due,
        commit: None,
    };
    // The seal was good: what cannot be read comes from another version, and what can be read is of use.
    if !reader.rest().is_empty() {
        hint.commit = read_body(reader, &hint).ok().map(Arc::new);
    }
    Ok(hint)
}

fn write_body(writer: &mut Writer, commit: &Commit) {
    // Named one by one, so that a table that is added is not forgotten here, nor in `TABLES` and `read_body`.
    let Commit {
        namespace: _,
        head: _,
        events,
        agents,
        sessions,
        locks,
        documents,
        tasks,
        payloads,
        workflows,
        next_due: _,
        own: _,
    } = commit;
    writer.raw(&*SHAPE);
    for event in events {
        writer.row(&**event);
    }
    writer.rows::<Agent>(agents.iter());
    writer.rows::<Session>(sessions.iter());
    writer.rows::<Lock>(locks.iter());
    writer.rows::<Document>(documents.iter());
    writer.rows::<Task>(tasks.iter());
    writer.rows::<StoredPayload>(payloads.iter());
    writer.rows::<Workflow>(workflows.iter());
}

fn read_body(reader: &mut Reader, hint: &Hint) -> Result<Commit, Malformed> {
    if reader.raw(8)? != *SHAPE {
        return Err(Malformed);
    }
    let mut events = Vec::new();
    let first = hint.head.position.wrapping_sub_unsigned(hint.events).wrapping_add(1);
    for number in 0..hint.events {
        let event: Event = reader.row()?;
        if event.position != first.wrapping_add_unsigned(number) {
            return Err(Malformed);
        }
        events.push(Arc::new(event));
    }
    let mut commit = Commit::new(Arc::clone(&hint.namespace), &hint.head, events);
    commit.agents = reader.rows::<Agent, _>()?;
    commit.sessions = reader.rows::<Session, _>()?;
    commit.locks = reader.rows::<Lock, _>()?;
    commit.documents = reader.rows::<Document, _>()?;
    commit.tasks = reader.rows::<Task, _>()?;
    commit.payloads = reader.rows::<StoredPayload, _>()?;
    commit.workflows = reader.rows::<Workflow, _>()?;
    commit.next_due = hint.next_due;
    reader.end()?;
    Ok(commit)
}

/// The tables of a body, in its order.
const TABLES: &[&Table] = &[
    Event::TABLE,
    Agent::TABLE,
    Session::TABLE,
    Lock::TABLE,
    Document::TABLE,
    Task::TABLE,
    StoredPayload::TABLE,
    Workflow::TABLE,
];

/// What the tables of a body look like, hashed: another version whose rows would be misread has another.
static SHAPE: LazyLock<[u8; 8]> = LazyLock::new(|| {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    for table in TABLES {
        hash.update(format!("{}/{}\n", table.name, table.key));
        for column in table.columns {
            hash.update(format!("{} {:?} {}\n", column.name, column.kind, column.nullable));
        }
    }
    let hash: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|place| hash[place])
});

/// About how many bytes a whole hint of a commit takes, known without making it: what can be long in it, and a guess at the rest.
pub(super) fn weight(commit: &Commit) -> usize {
    const ROW: usize = 256;
    let events = commit.events.iter().filter_map(|event| event.payload.as_ref());
    let payloads = commit.payloads.values().flatten().map(|row| &row.payload);
    let documents = commit
        .documents
        .values()
        .flatten()
        .filter_map(|row| row.payload.as_ref());
    let rows = commit.events.len()
        + commit.agents.len()
        + commit.sessions.len()
        + commit.locks.len()
        + commit.documents.len()
        + commit.tasks.len()
        + commit.payloads.len()
        + commit.workflows.len();
    events.chain(payloads).chain(documents).map(Payload::len).sum::<usize>() + rows * ROW
}
