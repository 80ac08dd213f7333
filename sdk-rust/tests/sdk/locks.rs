//! Lock guards against a server that goes away, says no, or is slow.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drumline::v1::lock_service_server::{LockService, LockServiceServer};
use drumline::v1::{self as pb, connect_response::Frame as Down};
use drumline::{Client, Kind, Reason, TaskContext, TaskFailure};
use tonic::{Code, Request, Response, Status};

use crate::fake::{Streams, refusal, serve, session_service, soon};
use crate::handlers::{self, LONG, agent};

pub const TTL: Duration = Duration::from_secs(1);

/// What the server does with renewals.
#[derive(Clone, Copy, PartialEq)]
enum Renewals {
    Granted,
    Unavailable,
    Stale,
}

#[derive(Clone)]
pub struct Locks {
    renewals: Arc<Mutex<Renewals>>,
    pub renewed: Arc<AtomicUsize>,
    released: Arc<AtomicUsize>,
    /// How many acquisitions break before one is answered.
    breaks: Arc<AtomicU32>,
    request_ids: Arc<Mutex<Vec<String>>>,
}

impl Locks {
    fn set(&self, renewals: Renewals) {
        *self.renewals.lock().expect("not poisoned") = renewals;
    }

    fn lock(resource_id: String) -> Option<pb::Lock> {
        let ttl = Some(TTL.try_into().expect("a duration"));
        Some(pb::Lock {
            resource_id,
            holder_id: "me".into(),
            fencing_token: 7,
            ttl,
            ..Default::default()
        })
    }
}

#[tonic::async_trait]
impl LockService for Locks {
    async fn acquire_lock(
        &self,
        request: Request<pb::AcquireLockRequest>,
    ) -> Result<Response<pb::AcquireLockResponse>, Status> {
        let request = request.into_inner();
        self.request_ids.lock().expect("not poisoned").push(request.request_id);
        let left = self
            .breaks
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err(Status::unavailable("broken"));
        }
        let lock = Self::lock(request.resource_id);
        Ok(Response::new(pb::AcquireLockResponse {
            lock,
            ..Default::default()
        }))
    }

    async fn renew_lock(
        &self,
        request: Request<pb::RenewLockRequest>,
    ) -> Result<Response<pb::RenewLockResponse>, Status> {
        let renewals = *self.renewals.lock().expect("not poisoned");
        match renewals {
            Renewals::Unavailable => Err(Status::unavailable("not now")),
            Renewals::Stale => Err(refusal(Code::FailedPrecondition, Reason::StaleFencingToken, &[])),
            Renewals::Granted => {
                self.renewed.fetch_add(1, Ordering::SeqCst);
                let lock = Self::lock(request.into_inner().resource_id);
                Ok(Response::new(pb::RenewLockResponse {
                    lock,
                    ..Default::default()
                }))
            }
        }
    }

    async fn release_lock(
        &self,
        request: Request<pb::ReleaseLockRequest>,
    ) -> Result<Response<pb::ReleaseLockResponse>, Status> {
        assert_eq!(request.into_inner().fencing_token, 7);
        self.released.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(Default::default()))
    }

    async fn get_lock(&self, _request: Request<pb::GetLockRequest>) -> Result<Response<pb::GetLockResponse>, Status> {
        let metadata = [("resource_id", "r")];
        Err(refusal(Code::NotFound, Reason::LockNotFound, &metadata))
    }

    async fn list_locks(
        &self,
        _request: Request<pb::ListLocksRequest>,
    ) -> Result<Response<pb::ListLocksResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

pub fn new_locks() -> Locks {
    Locks {
        renewals: Arc::new(Mutex::new(Renewals::Granted)),
        renewed: Arc::default(),
        released: Arc::default(),
        breaks: Arc::default(),
        request_ids: Arc::default(),
    }
}

async fn locks() -> (Locks, Client) {
    let locks = new_locks();
    let service = LockServiceServer::new(locks.clone());
    let (_, client) = serve(tonic::transport::Server::builder().add_service(service)).await;
    (locks, client)
}

#[tokio::test]
async fn a_guard_renews_itself_and_is_given_back() {
    let (server, client) = locks().await;
    let guard = client
        .locks()
        .acquire("r")
        .holder_id("me")
        .ttl(TTL)
        .await
        .expect("a lock");
    assert_eq!((guard.token(), guard.guard().fencing_token), (7, 7));
    tokio::time::sleep(TTL * 2).await;
    assert!(guard.is_held());
    assert!(server.renewed.load(Ordering::SeqCst) >= 4);
    guard.release().await.expect("given back");
    assert_eq!(server.released.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_dropped_guard_is_given_back_too() {
    let (server, client) = locks().await;
    drop(client.locks().acquire("r").await.expect("a lock"));
    let begun = Instant::now();
    while server.released.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < TTL);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_holder_hears_of_the_loss_before_the_lease_ends() {
    let (server, client) = locks().await;
    let asked = Instant::now();
    let guard = client.locks().acquire("r").await.expect("a lock");
    server.set(Renewals::Unavailable);
    let error = soon(guard.lost()).await;
    let after = asked.elapsed();
    assert_eq!(error.kind(), Kind::Lost);
    assert!(after < TTL, "told after {after:?}");
    assert!(after > TTL / 2, "one failed renewal is no loss: {after:?}");
    assert!(!guard.is_held() && guard.remaining().is_zero());
    assert!(guard.release().await.is_err());
}

#[tokio::test]
async fn a_few_failed_renewals_are_no_loss() {
    let (server, client) = locks().await;
    let guard = client.locks().acquire("r").await.expect("a lock");
    server.set(Renewals::Unavailable);
    tokio::time::sleep(TTL / 2).await;
    server.set(Renewals::Granted);
    tokio::time::sleep(TTL).await;
    assert!(guard.is_held());
}

#[tokio::test]
async fn a_refused_renewal_is_loss_at_once() {
    let (server, client) = locks().await;
    let guard = client.locks().acquire("r").await.expect("a lock");
    server.set(Renewals::Stale);
    let work = guard.protect(std::future::pending::<()>());
    let error = soon(work).await.expect_err("the work was dropped");
    assert!(error.is_lease_over());
    drop(guard);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        server.released.load(Ordering::SeqCst),
        0,
        "what is another's is not given back"
    );
}

#[tokio::test]
async fn a_retried_acquisition_has_one_request_id_and_is_renewed_to_know_its_lease() {
    let (server, client) = locks().await;
    server.breaks.store(2, Ordering::SeqCst);
    let guard = client.locks().acquire("r").await.expect("a lock");
    let ids = server.request_ids.lock().expect("not poisoned").clone();
    assert_eq!(ids.len(), 3);
    assert!(!ids[0].is_empty() && ids.iter().all(|id| *id == ids[0]));
    assert_eq!(server.renewed.load(Ordering::SeqCst), 1);
    assert!(guard.is_held());
}

#[tokio::test]
async fn a_refusal_brings_its_reason_and_metadata() {
    let (_server, client) = locks().await;
    let error = client.locks().get("r").await.expect_err("nobody holds it");
    assert!(error.is_not_found());
    assert_eq!(
        (error.reason(), error.get("resource_id")),
        (Reason::LockNotFound, Some("r"))
    );
}

/// A server of locks and sessions.
async fn locks_and_sessions() -> (Locks, Client, Streams) {
    let locks = new_locks();
    let (sessions, streams) = session_service();
    let router = tonic::transport::Server::builder().add_service(sessions);
    let (_, client) = serve(router.add_service(LockServiceServer::new(locks.clone()))).await;
    (locks, client, streams)
}

#[tokio::test]
async fn a_lock_that_the_server_takes_away_is_lost_at_once() {
    let (_server, client, mut streams) = locks_and_sessions().await;
    let agent = agent(&client).build().start().expect("an agent");
    let stream = streams.welcomed("s1", handlers::TTL).await;
    soon(agent.ready()).await.expect("online");
    let guard = agent
        .client()
        .expect("a client")
        .locks()
        .acquire("r")
        .await
        .expect("a lock");
    let lost = pb::connect_notice::LockLost {
        resource_id: "r".into(),
        fencing_token: 7,
    };
    let notice = Some(pb::connect_notice::Notice::LockLost(lost));
    stream.answer(0, Down::Notice(pb::ConnectNotice { notice }));
    assert_eq!(soon(guard.lost()).await.kind(), Kind::Lost);
    assert!(!guard.is_held());
}

#[tokio::test]
async fn a_lock_ends_with_its_session() {
    let (_server, client, mut streams) = locks_and_sessions().await;
    let agent = agent(&client).build().start().expect("an agent");
    let stream = streams.welcomed("s1", handlers::TTL).await;
    soon(agent.ready()).await.expect("online");
    let guard = agent
        .client()
        .expect("a client")
        .locks()
        .acquire("r")
        .await
        .expect("a lock");
    stream.end(refusal(Code::FailedPrecondition, Reason::SessionEnded, &[]));
    soon(guard.lost()).await;
}

#[tokio::test]
async fn a_completion_under_a_lock_carries_its_guard_and_keeps_it_until_it_is_answered() {
    async fn locked(task: TaskContext, _number: i64) -> Result<(), TaskFailure> {
        let lock = task.lock("r").await?;
        task.complete_under(lock);
        Ok(())
    }
    let (server, client, mut streams) = locks_and_sessions().await;
    let _agent = agent(&client)
        .capability("work", locked)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", handlers::TTL).await;
    stream.assign("t", 1, "1", LONG);
    let (number, result) = stream.result().await;
    assert_eq!(
        result.guards,
        [pb::Guard {
            resource_id: "r".into(),
            fencing_token: 7
        }]
    );
    tokio::time::timeout(TTL / 5, stream.next_frame())
        .await
        .expect_err("it waits for the answer");
    assert_eq!(server.released.load(Ordering::SeqCst), 0);
    handlers::complete(&stream, number);
}
