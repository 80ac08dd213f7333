//! Commits of any content. Rows are made from the lists of columns, so that a table that changes is tried as it is.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::events::Event;
use crate::lane::Commit;
use crate::payload::{Form, Payload};
use crate::store::Head;
use crate::store::row::{Kind, Row, Value};
use crate::tasks::RetryPolicy;
use crate::time::Time;

pub(super) fn any_value(kind: Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::Int => prop_oneof![any::<i64>(), -70i64..70, 0i64..100_000]
            .prop_map(Value::Int)
            .boxed(),
        Kind::Text => prop_oneof![".{0,80}", "[a-z]{0,4}"].prop_map(Value::Text).boxed(),
        Kind::Blob => prop::collection::vec(any::<u8>(), 0..200)
            .prop_map(|bytes| Value::Blob(Bytes::from(bytes)))
            .boxed(),
    }
}

/// What a column can hold that is not free: names, JSON, payloads.
fn narrow_values() -> Vec<Value> {
    let retry = serde_json::to_string(&RetryPolicy::default()).expect("JSON");
    let names = [
        "PENDING",
        "RUNNING",
        "COMPLETED",
        "SEQUENTIAL",
        "LIVE",
        "ACTIVE",
        "input",
        "result",
        "{\"a\":\"b\"}",
        "{}",
        "[\"x\"]",
        "[]",
        "null",
    ];
    let payload = Payload {
        form: Form::Data,
        content_type: "a/b".to_owned(),
        body: Bytes::from_static(&[0, 255, 10]),
    };
    let texts = names
        .into_iter()
        .chain([&*retry])
        .map(|text| Value::Text(text.to_owned()));
    texts.chain([Value::Blob(payload.encode()), Value::Int(1)]).collect()
}

/// The row of these columns; those that cannot hold what they were given hold something else.
fn row_of<R: Row>(mut columns: Vec<Value>) -> R {
    let mut others = narrow_values().into_iter().cycle();
    for _ in 0..1_000 {
        match R::from_columns(columns.clone()) {
            Ok(row) => return row,
            Err(corrupt) => {
                let place = R::TABLE.columns.iter().position(|column| column.name == corrupt.column);
                columns[place.expect("a column of the table")] = others.next().expect("an endless list");
            }
        }
    }
    panic!("a column of {} can hold nothing that the test knows", R::TABLE.name);
}

pub(super) fn any_row<R: Row + std::fmt::Debug>() -> BoxedStrategy<R> {
    let columns: Vec<_> = R::TABLE
        .columns
        .iter()
        .map(|column| {
            let known = any_value(column.kind);
            if column.nullable {
                prop_oneof![1 => Just(Value::Null), 3 => known].boxed()
            } else {
                known
            }
        })
        .collect();
    columns.prop_map(row_of).boxed()
}

/// Rows by key, some of them gone.
fn any_rows<R, M>() -> BoxedStrategy<M>
where
    R: Row + std::fmt::Debug,
    M: FromIterator<(R::Key, Option<Arc<R>>)> + std::fmt::Debug + 'static,
{
    prop::collection::vec((any_row::<R>(), any::<bool>()), 0..4)
        .prop_map(|rows| {
            let rows = rows
                .into_iter()
                .map(|(row, is_there)| (row.key(), is_there.then(|| Arc::new(row))));
            rows.collect()
        })
        .boxed()
}

prop_compose! {
    fn any_head()(numbers in any::<[i64; 6]>()) -> Head {
        let [batch, position, first_position, epoch, last_token, now] = numbers;
        Head { batch, position, first_position, epoch, last_token, now: Time(now) }
    }
}

prop_compose! {
    pub(super) fn any_commit()(
        namespace in ".{0,20}",
        head in any_head(),
        mut events in prop::collection::vec(any_row::<Event>(), 0..5),
        next_due in any::<Option<i64>>(),
        agents in any_rows(),
        sessions in any_rows(),
        locks in any_rows(),
        documents in any_rows(),
        tasks in any_rows(),
        payloads in any_rows(),
        workflows in any_rows(),
    ) -> Arc<Commit> {
        for (place, event) in events.iter_mut().rev().enumerate() {
            event.position = head.position.wrapping_sub(place as i64);
        }
        let events = events.into_iter().map(Arc::new).collect();
        let mut commit = Commit::new(namespace.into(), &head, events);
        commit.next_due = next_due.map(Time);
        commit.agents = agents;
        commit.sessions = sessions;
        commit.locks = locks;
        commit.documents = documents;
        commit.tasks = tasks;
        commit.payloads = payloads;
        commit.workflows = workflows;
        Arc::new(commit)
    }
}

/// The batch with this number, of one event that has this much to say.
pub(super) fn batch(number: i64, size: usize) -> Arc<Commit> {
    let head = Head {
        batch: number,
        position: number,
        epoch: 1,
        ..Head::new(Time(number))
    };
    let mut draft = crate::events::Draft::new("test.said", "bus");
    draft.payload = Some(Payload {
        form: Form::Data,
        content_type: String::new(),
        body: Bytes::from(vec![7; size]),
    });
    let event = draft.at(number, head.now);
    Arc::new(Commit::new("default".into(), &head, vec![Arc::new(event)]))
}

#[track_caller]
pub(super) fn assert_same(one: &Commit, other: &Commit) {
    assert_eq!(one.namespace, other.namespace);
    assert_eq!(one.head, other.head);
    assert_eq!(one.events, other.events);
    assert_eq!(one.agents, other.agents);
    assert_eq!(one.sessions, other.sessions);
    assert_eq!(one.locks, other.locks);
    assert_eq!(one.documents, other.documents);
    assert_eq!(one.tasks, other.tasks);
    assert_eq!(one.payloads, other.payloads);
    assert_eq!(one.workflows, other.workflows);
    assert_eq!(one.next_due, other.next_due);
}
