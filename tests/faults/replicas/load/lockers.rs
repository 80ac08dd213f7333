//! Callers that take locks, write under them, show tokens that are stale, and give the locks back, or do not.

use std::time::Duration;

use drumline_proto::v1;
use tonic::Status;

use super::caller::{Answer, Called, Caller, LONG, SHORT, said};
use super::{Kind, Notes};
use crate::support::history::Recorded;
use crate::support::history::lock::{Acquired, Operation, Shown, Written, end_of_lease};
use crate::support::{duration, json, metadata_of, reason_of};

/// How many resources there are.
const RESOURCES: usize = 4;
/// The lease of who gives the lock back.
const LEASE: Duration = Duration::from_secs(120);
/// The lease of who does not.
const SHORT_LEASE: Duration = Duration::from_secs(1);
/// How long to queue.
const WAIT: Duration = Duration::from_secs(1);

/// A locker at work.
struct Locker {
    caller: Caller,
    resource: String,
    notes: Vec<Recorded<Operation>>,
    /// A token that was its own.
    stale: Option<i64>,
}

/// A lease, as its holder knows it.
struct Lease {
    holder: String,
    token: i64,
    ttl: Duration,
    /// From when it is counted.
    counted: Duration,
    patience: Duration,
}

/// Takes locks until it is told to stop.
pub async fn work(caller: Caller) -> Notes {
    let mut notes = Notes::default();
    let mut locker = Locker {
        resource: String::new(),
        caller,
        notes: Vec::new(),
        stale: None,
    };
    while !locker.caller.shared.is_over() {
        locker.caller.wander();
        let resource = (locker.caller.number + locker.caller.calls as usize / 64) % RESOURCES;
        let resource = format!("resource-{resource}");
        if resource != locker.resource {
            locker.stale = None;
            locker.resource = resource;
        }
        locker.turn().await;
        let history = notes.locks.entry(locker.resource.clone()).or_default();
        history.append(&mut locker.notes);
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    notes
}

impl Locker {
    /// Takes the lock once, and does what it does under it.
    async fn turn(&mut self) {
        let count = self.caller.calls;
        if count.is_multiple_of(7) {
            self.look().await;
        }
        if let Some(token) = self.stale.filter(|_| count.is_multiple_of(5)) {
            self.write(token, LONG).await;
        }
        let Some(mut lease) = self.acquire().await else {
            return;
        };
        self.write(lease.token, lease.patience).await;
        if count.is_multiple_of(4) {
            self.renew(&mut lease).await;
        }
        // Some leave it to time to end the lease.
        if !count.is_multiple_of(11) || lease.ttl == LEASE {
            self.release(&lease).await;
        }
        self.stale = Some(lease.token);
        self.notes.push(end_of_lease(&lease.holder, lease.counted, lease.ttl));
    }

    async fn acquire(&mut self) -> Option<Lease> {
        let (count, number) = (self.caller.calls, self.caller.number);
        let holder = format!("holder-{number}-{count}");
        // Who gives up soon must not leave a long lease that nobody knows of.
        let (patience, ttl) = match count % 11 {
            0 => (LONG, SHORT_LEASE),
            5 => (SHORT, SHORT_LEASE),
            _ => (LONG, LEASE),
        };
        let wait = if count.is_multiple_of(3) { Duration::ZERO } else { WAIT };
        let request = v1::AcquireLockRequest {
            namespace: self.caller.shared.namespace.clone(),
            request_id: holder.clone(),
            resource_id: self.resource.clone(),
            holder_id: holder.clone(),
            ttl: duration(ttl),
            wait_timeout: duration(wait),
            ..Default::default()
        };
        let acquiring = self
            .caller
            .call(patience, wait, &request, |channel, request| async move {
                v1::lock_service_client::LockServiceClient::new(channel)
                    .acquire_lock(request)
                    .await
            });
        let called = acquiring.await;
        let (sent, answered) = (called.sent, called.answered);
        let acquired = |holder: &str, outcome| Operation::Acquire {
            holder: holder.to_owned(),
            outcome,
        };
        let held_by = match called.answer {
            Answer::Done(response) => {
                let token = response.lock.expect("a lock").fencing_token;
                self.record(acquired(&holder, Acquired::Granted(token)), sent, Some(answered));
                let shared = &self.caller.shared;
                shared.succeeded(Kind::Lock, sent, answered, Some(&response.cursor));
                return Some(Lease {
                    holder,
                    token,
                    ttl,
                    counted: sent,
                    patience,
                });
            }
            Answer::Refused(status) => match reason_of(&status).as_str() {
                "LOCK_HELD" => Some(Some(metadata_of(&status, "holder_id"))),
                // Who holds it when the wait is over may be another than the one because of whom it was in vain.
                "LOCK_WAIT_TIMEOUT" => Some(None),
                // It was granted to a try whose answer was lost.
                "LEASE_ENDED" if called.is_doubtful => None,
                _ => {
                    self.unexpected("AcquireLock", &status);
                    None
                }
            },
            Answer::GivenUp => None,
        };
        // What may have been granted ends whenever the server finds that nobody is there.
        if held_by.is_none() || called.is_doubtful {
            self.record(acquired(&holder, Acquired::Unknown), sent, None);
            self.notes.push(end_of_lease(&holder, sent, Duration::ZERO));
        }
        if let Some(other) = held_by {
            self.record(acquired("", Acquired::HeldBy(other)), sent, Some(answered));
        }
        None
    }

    async fn renew(&mut self, lease: &mut Lease) {
        let request = v1::RenewLockRequest {
            namespace: self.caller.shared.namespace.clone(),
            resource_id: self.resource.clone(),
            fencing_token: lease.token,
            ..Default::default()
        };
        let renewing = self.caller.call(
            lease.patience,
            Duration::ZERO,
            &request,
            |channel, request| async move {
                v1::lock_service_client::LockServiceClient::new(channel)
                    .renew_lock(request)
                    .await
            },
        );
        let called = renewing.await;
        if matches!(called.answer, Answer::Done(_)) {
            lease.counted = called.sent;
        }
        self.shown(lease.token, false, &called);
    }

    async fn release(&mut self, lease: &Lease) {
        let request = v1::ReleaseLockRequest {
            namespace: self.caller.shared.namespace.clone(),
            request_id: format!("release-{}", lease.holder),
            resource_id: self.resource.clone(),
            fencing_token: lease.token,
            ..Default::default()
        };
        let releasing = self.caller.call(
            lease.patience,
            Duration::ZERO,
            &request,
            |channel, request| async move {
                v1::lock_service_client::LockServiceClient::new(channel)
                    .release_lock(request)
                    .await
            },
        );
        let called = releasing.await;
        self.shown(lease.token, true, &called);
    }

    /// Notes what came of a token that was shown.
    fn shown<R>(&mut self, token: i64, gives_back: bool, called: &Called<R>) {
        let outcome = match &called.answer {
            Answer::Done(_) => Shown::Holds,
            Answer::GivenUp => Shown::Unknown,
            Answer::Refused(status) => match reason_of(status).as_str() {
                "STALE_FENCING_TOKEN" => Shown::Stale,
                "LOCK_NOT_FOUND" => Shown::NotHeld,
                _ => return self.unexpected("a token that is shown", status),
            },
        };
        let operation = |outcome| Operation::Show {
            token,
            gives_back,
            outcome,
        };
        self.note(operation, outcome, Shown::Unknown, called);
    }

    /// Writes the document under the lock.
    async fn write(&mut self, token: i64, patience: Duration) {
        let shared = &self.caller.shared;
        let guard = v1::Guard {
            resource_id: self.resource.clone(),
            fencing_token: token,
        };
        let request = v1::PutStateRequest {
            namespace: shared.namespace.clone(),
            request_id: uuid::Uuid::new_v4().to_string(),
            state_id: format!("under-{}", self.resource),
            payload: json("1"),
            guards: vec![guard],
            ..Default::default()
        };
        let writing = self
            .caller
            .call(patience, Duration::ZERO, &request, |channel, request| async move {
                v1::state_service_client::StateServiceClient::new(channel)
                    .put_state(request)
                    .await
            });
        let called = writing.await;
        let outcome = match &called.answer {
            Answer::Done(response) => {
                let shared = &self.caller.shared;
                shared.succeeded(Kind::Guarded, called.sent, called.answered, Some(&response.cursor));
                Written::Made(response.version)
            }
            Answer::GivenUp => Written::Unknown,
            Answer::Refused(status) if reason_of(status) == "STALE_FENCING_TOKEN" => Written::Stale,
            Answer::Refused(status) => return self.unexpected("a guarded write", status),
        };
        let operation = |outcome| Operation::Write { token, outcome };
        self.note(operation, outcome, Written::Unknown, &called);
    }

    /// Looks who has the lock.
    async fn look(&mut self) {
        let request = v1::GetLockRequest {
            namespace: self.caller.shared.namespace.clone(),
            resource_id: self.resource.clone(),
        };
        let looking = self
            .caller
            .call(LONG, Duration::ZERO, &request, |channel, request| async move {
                v1::lock_service_client::LockServiceClient::new(channel)
                    .get_lock(request)
                    .await
            });
        let called = looking.await;
        let seen = match called.answer {
            Answer::Done(response) => {
                let lock = response.lock.expect("a lock");
                Some((lock.holder_id, lock.fencing_token))
            }
            Answer::Refused(status) if reason_of(&status) == "LOCK_NOT_FOUND" => None,
            Answer::Refused(status) => return self.unexpected("GetLock", &status),
            Answer::GivenUp => return,
        };
        self.record(Operation::Get(seen), called.sent, Some(called.answered));
    }

    /// Notes an operation, and one more of unknown outcome where a try of it may have been carried out besides.
    fn note<O: PartialEq, R>(
        &mut self,
        operation: impl Fn(O) -> Operation,
        outcome: O,
        unknown: O,
        called: &Called<R>,
    ) {
        let is_unknown = outcome == unknown;
        let is_refused = matches!(called.answer, Answer::Refused(_));
        if !is_unknown {
            self.record(operation(outcome), called.sent, Some(called.answered));
        }
        if is_unknown || (is_refused && called.is_doubtful) {
            self.record(operation(unknown), called.sent, None);
        }
    }

    fn record(&mut self, operation: Operation, sent: Duration, answered: Option<Duration>) {
        self.notes.push(Recorded {
            operation,
            sent,
            answered,
        });
    }

    fn unexpected(&self, what: &str, status: &Status) {
        self.caller
            .shared
            .complain(format!("{what} was refused: {}", said(status)));
    }
}
