//! A job: what it reads, and a closure that decides. The lane does not know what jobs are about.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::RequestRecord;
use super::queue::Urgency;
use super::table::{Decision, Halt};
use super::world::World;
use crate::error::{Reason, Refusal};
use crate::machine::{self, Instant};
use crate::store::Head;

/// What a lane must know of the call behind a job.
#[derive(Clone, Debug)]
pub struct Call {
    /// The namespace.
    pub namespace: Arc<str>,
    /// After this the answer is of no use.
    pub deadline: Option<Instant>,
    /// The request's id, if the client wants a retry to be safe.
    pub request: Option<Request>,
    /// Which jobs go first.
    pub urgency: Urgency,
    /// About how many bytes it writes.
    pub bytes: usize,
}

/// A request that may be repeated.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: &'static str,
    /// The client's id.
    pub request_id: String,
    /// What the request said, hashed: a repetition says the same.
    pub fingerprint: Bytes,
}

impl Request {
    fn key(&self) -> (String, String) {
        (self.method.to_owned(), self.request_id.clone())
    }
}

impl Call {
    /// A call that the server makes itself.
    pub fn internal(namespace: &Arc<str>, urgency: Urgency) -> Call {
        Call {
            namespace: Arc::clone(namespace),
            deadline: None,
            request: None,
            urgency,
            bytes: 0,
        }
    }
}

/// A decision that is committed.
#[derive(Clone, Debug)]
pub struct Committed<T> {
    /// What was decided.
    pub answer: T,
    /// The position that it was committed at: that of its last event, or the log's.
    pub position: i64,
    /// The epoch that it was committed in.
    pub epoch: i64,
    /// The store's time of it.
    pub at: crate::time::Time,
    /// Whether a request before this one with the same id did it.
    pub repeated: bool,
}

/// A job whose types are forgotten.
pub(super) struct Job {
    work: Box<dyn Work>,
    deadline: Option<Instant>,
    seed: u128,
    pub(super) bytes: usize,
}

trait Work: Send {
    fn reads(&self, world: &mut World);
    fn decide(&mut self, world: &mut World) -> Decision<()>;
    fn is_given_up(&self) -> bool;
    fn answer(self: Box<Self>, outcome: Result<&Head, Refusal>);
}

struct Typed<T, R, D> {
    reads: R,
    decide: D,
    request: Option<Request>,
    decided: Option<Decided<T>>,
    answer: oneshot::Sender<Result<Committed<T>, Refusal>>,
}

struct Decided<T> {
    answer: T,
    position: i64,
    repeated: bool,
}

pub(super) fn make<T, R, D>(call: &Call, reads: R, decide: D) -> (Job, oneshot::Receiver<Result<Committed<T>, Refusal>>)
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    R: Fn(&mut World) + Send + 'static,
    D: FnMut(&mut World) -> Decision<T> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let work = Typed {
        reads,
        decide,
        request: call.request.clone(),
        decided: None,
        answer: sender,
    };
    let job = Job {
        work: Box::new(work),
        deadline: call.deadline,
        seed: machine::random(),
        bytes: call.bytes,
    };
    (job, receiver)
}

impl Job {
    /// Notes what it will read.
    pub(super) fn reads(&self, world: &mut World) {
        self.work.reads(world);
    }

    /// Decides, on a world without the traces of an earlier run. What it does before it fails is for the caller to undo.
    pub(super) fn decide(&mut self, world: &mut World) -> Decision<()> {
        world.begin_job(self.seed);
        self.work.decide(world)
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.work.is_given_up()
    }

    /// Whether its caller's deadline has passed.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Answers it: with what it decided, now that the head is committed, or with why not.
    pub(super) fn answer(self, outcome: Result<&Head, Refusal>) {
        self.work.answer(outcome);
    }
}

impl<T, R, D> Typed<T, R, D>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
    D: FnMut(&mut World) -> Decision<T>,
{
    /// The stored answer, if this request is known to have been answered before.
    fn stored_answer(&self, request: &Request, world: &mut World) -> Decision<Option<Decided<T>>> {
        if world.requests.is_unknown(&request.key()) {
            return Ok(None);
        }
        let Some(record) = world.requests.get(&request.key())? else {
            return Ok(None);
        };
        if record.fingerprint != request.fingerprint {
            let refusal = Refusal::new(
                Reason::RequestIdReused,
                "this request_id was used before with other contents",
            );
            return Err(refusal.with("request_id", &request.request_id).into());
        }
        let answer = serde_json::from_slice(&record.answer)
            .map_err(|_| Refusal::new(Reason::Internal, "the stored answer cannot be read"))?;
        Ok(Some(Decided {
            answer,
            position: record.position,
            repeated: true,
        }))
    }
}

impl<T, R, D> Work for Typed<T, R, D>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send,
    R: Fn(&mut World) + Send,
    D: FnMut(&mut World) -> Decision<T> + Send,
{
    fn reads(&self, world: &mut World) {
        if let Some(request) = &self.request {
            world.want_request(&request.key());
        }
        (self.reads)(world);
    }

    fn decide(&mut self, world: &mut World) -> Decision<()> {
        if let Some(request) = self.request.clone() {
            if let Some(decided) = self.stored_answer(&request, world)? {
                self.decided = Some(decided);
                return Ok(());
            }
            let answer = match (self.decide)(world) {
                // What it asks for may have been refused only because it was done before.
                Err(Halt::Refuse(_)) if world.requests.is_unknown(&request.key()) => {
                    world.requests.want(&request.key());
                    return Err(Halt::Load);
                }
                decided => decided?,
            };
            let position = world.head().position;
            world.requests.add(RequestRecord {
                method: request.method.to_owned(),
                request_id: request.request_id,
                fingerprint: request.fingerprint,
                answer: serde_json::to_vec(&answer).map_err(|_| internal())?.into(),
                position,
                at: world.now(),
            });
            self.decided = Some(Decided {
                answer,
                position,
                repeated: false,
            });
        } else {
            let answer = (self.decide)(world)?;
            self.decided = Some(Decided {
                answer,
                position: world.head().position,
                repeated: false,
            });
        }
        Ok(())
    }

    fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }

    fn answer(self: Box<Self>, outcome: Result<&Head, Refusal>) {
        let Typed {
            decided,
            answer: sender,
            ..
        } = *self;
        let result = outcome.and_then(|head| {
            let Decided {
                answer,
                position,
                repeated,
            } = decided.ok_or_else(internal)?;
            Ok(Committed {
                answer,
                position,
                epoch: head.epoch,
                at: head.now,
                repeated,
            })
        });
        // Nobody listens any more: what was decided stands.
        let _ = sender.send(result);
    }
}

pub(super) fn internal() -> Refusal {
    Refusal::new(Reason::Internal, "the server failed on this request")
}
