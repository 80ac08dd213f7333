//! What is pushed down: assignments, cancellations, lost locks.
//!
//! Events that are meant for the agent say when. What they are about comes from their commit, or from the store. A session that goes on is
//! first sent what it was assigned and has not answered.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::connect_notice::{LockLost, Notice};
use drumline_proto::v1::connect_response::Frame;

use super::connect::Link;
use super::down::Ending;
use super::hello::filter;
use crate::error::Refusal;
use crate::events::Event;
use crate::lane::refusal_of;
use crate::machine::{HashSet, Instant};
use crate::store::row::{Row, Value};
use crate::store::{Head, Selection};
use crate::tail::Delivery;
use crate::tasks::{self, Task, TaskState};

/// How many tasks are read at a time.
const PAGE: usize = 100;
/// How long to wait before what could not be read is read again.
const RETRY: Duration = Duration::from_millis(250);

/// What was sent from the store, so that the events of it are not followed by the same again.
#[derive(Default)]
pub(super) struct Loaded {
    /// Everything that was assigned up to here was sent.
    from: i64,
    /// Up to here the store was read while things went on.
    up_to: i64,
    /// The attempts that were found.
    attempts: HashSet<String>,
    /// When to read it again, because that failed.
    pub(super) again_at: Option<Instant>,
}

impl Loaded {
    /// Nothing was sent yet. A session that goes on may hold something: that is read at once.
    pub(super) fn when(goes_on: bool) -> Loaded {
        Loaded {
            again_at: goes_on.then(Instant::now),
            ..Loaded::default()
        }
    }

    /// Whether this assignment was sent.
    fn has(&mut self, event: &Event, task: &Task) -> bool {
        if event.position > self.up_to {
            self.attempts.clear();
        }
        event.position <= self.from || self.attempts.contains(&task.attempt_token)
    }
}

impl Link {
    /// Sends what the session was assigned and has not answered.
    pub(super) async fn load(&mut self) -> Result<(), Ending> {
        self.loaded.again_at = None;
        let mut after = None;
        let mut is_first = true;
        loop {
            let Ok((head, page)) = self.read(after.clone()).await else {
                self.loaded.again_at = Some(Instant::now() + RETRY);
                return Ok(());
            };
            if std::mem::take(&mut is_first) {
                self.loaded.from = self.loaded.from.max(head.position);
            }
            self.loaded.up_to = self.loaded.up_to.max(head.position);
            after = page
                .last()
                .and_then(|task| task.place(&Task::TABLE.indexes[Task::BY_SESSION]))
                .map(|(_, place)| place);
            let is_last = page.len() < PAGE;
            for task in page {
                if task.state == TaskState::Assigned && self.loaded.attempts.insert(task.attempt_token.clone()) {
                    self.assign(Arc::new(task), None).await?;
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn read(&mut self, after: Option<Vec<Value>>) -> Result<(Head, Vec<Task>), Refusal> {
        let selection = Selection {
            index: Task::BY_SESSION,
            prefix: vec![Value::Text(self.session_id.clone())],
            after,
            limit: PAGE,
            backwards: false,
        };
        let read = self.app.store.select::<Task>(&self.context.namespace, selection).await;
        read.map_err(|error| refusal_of(&error))
    }

    /// Takes an event that is meant for the agent; nothing if the stream was cut off from them.
    pub(super) async fn delivered(&mut self, delivery: Option<Delivery>) -> Result<(), Ending> {
        let Some(delivery) = delivery else {
            if self.feed.retired().is_some() {
                return Err(Ending::Slow);
            }
            self.events = self.feed.subscribe(filter(&self.agent_id));
            return self.load().await;
        };
        let event = &delivery.event;
        let cause = match event.event_type.as_str() {
            "task.assigned" => return self.assigned(&delivery).await,
            "resource.expired" => return self.lock_lost(event).await,
            "task.cancelled" => "CANCELLED",
            "task.timed_out" => "TIMED_OUT",
            "task.reassigned" => "REASSIGNED",
            _ => return Ok(()),
        };
        if event.position <= self.opened_at {
            return Ok(());
        }
        let cancellation = v1::TaskCancellation {
            task_id: event.subject.clone(),
            attempt: i32::try_from(number(event, "attempt")).unwrap_or(0),
            cause: cause.to_owned(),
        };
        self.down.send(0, Frame::Cancellation(cancellation)).await
    }

    async fn assigned(&mut self, delivery: &Delivery) -> Result<(), Ending> {
        let task_id = &delivery.event.subject;
        let in_commit = delivery.commit.as_ref().and_then(|commit| commit.tasks.get(task_id));
        let task = match in_commit {
            Some(task) => task.clone(),
            None => match self.app.store.get::<Task>(&self.context.namespace, task_id).await {
                Ok(task) => task.map(Arc::new),
                Err(_) => {
                    self.loaded.again_at = Some(Instant::now() + RETRY);
                    None
                }
            },
        };
        let mine =
            task.filter(|task| task.state == TaskState::Assigned && task.session_id.as_ref() == Some(&self.session_id));
        match mine {
            Some(task) if !self.loaded.has(&delivery.event, &task) => self.assign(task, Some(delivery)).await,
            _ => Ok(()),
        }
    }

    async fn assign(&mut self, task: Arc<Task>, delivery: Option<&Delivery>) -> Result<(), Ending> {
        let commit = delivery.and_then(|delivery| delivery.commit.as_deref());
        let token = task.attempt_token.clone();
        match tasks::rpc::assignment(&self.app, &self.context.namespace, task, commit).await {
            Ok(Some(assignment)) => self.down.send(0, Frame::Assignment(assignment)).await,
            Ok(None) => Ok(()),
            Err(_) => {
                // Its input cannot be read now: what is unanswered is sent again, with this.
                self.loaded.attempts.remove(&token);
                self.loaded.again_at = Some(Instant::now() + RETRY);
                Ok(())
            }
        }
    }

    async fn lock_lost(&mut self, event: &Event) -> Result<(), Ending> {
        if event.position <= self.opened_at {
            return Ok(());
        }
        let lost = LockLost {
            resource_id: event.subject.clone(),
            fencing_token: number(event, "fencing_token"),
        };
        let notice = v1::ConnectNotice {
            notice: Some(Notice::LockLost(lost)),
        };
        self.down.send(0, Frame::Notice(notice)).await
    }
}

/// A number in an event's data; 0 if there is none.
fn number(event: &Event, field: &str) -> i64 {
    let data = event.payload.as_ref().and_then(|payload| payload.json());
    data.and_then(|data| data.get(field)?.as_i64()).unwrap_or(0)
}
