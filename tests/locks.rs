//! Locks: one holder, first come first served, tokens that only grow, and calls that disappear.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use drumline_proto::v1;
use tonic::{Code, Request, Status};

use crate::support::server::Server;
use crate::support::wait::{PATIENCE, soon, until};
use crate::support::{Stage, duration, json, metadata_of, on_every_composition, reason, reason_of};

const LONG: Duration = Duration::from_secs(30);

fn wish(stage: &Stage, resource: &str, holder: &str) -> v1::AcquireLockRequest {
    v1::AcquireLockRequest {
        namespace: stage.ns(),
        resource_id: resource.into(),
        holder_id: holder.into(),
        ..Default::default()
    }
}

fn waiting(stage: &Stage, resource: &str, holder: &str) -> v1::AcquireLockRequest {
    v1::AcquireLockRequest {
        wait_timeout: duration(LONG),
        ..wish(stage, resource, holder)
    }
}

async fn acquire(stage: &Stage, request: v1::AcquireLockRequest) -> Result<v1::AcquireLockResponse, Status> {
    Ok(stage.locks().acquire_lock(request).await?.into_inner())
}

async fn hold(stage: &Stage, resource: &str, holder: &str) -> i64 {
    token(&acquire(stage, wish(stage, resource, holder)).await.unwrap())
}

fn token(answer: &v1::AcquireLockResponse) -> i64 {
    answer.lock.as_ref().expect("a lock").fencing_token
}

async fn release(stage: &Stage, resource: &str, token: i64) -> Result<v1::ReleaseLockResponse, Status> {
    let request = v1::ReleaseLockRequest {
        namespace: stage.ns(),
        resource_id: resource.into(),
        fencing_token: token,
        ..Default::default()
    };
    Ok(stage.locks().release_lock(request).await?.into_inner())
}

async fn renew(stage: &Stage, resource: &str, token: i64, ttl: Duration) -> Result<v1::Lock, Status> {
    let request = v1::RenewLockRequest {
        namespace: stage.ns(),
        resource_id: resource.into(),
        fencing_token: token,
        ttl: duration(ttl),
        ..Default::default()
    };
    Ok(stage
        .locks()
        .renew_lock(request)
        .await?
        .into_inner()
        .lock
        .expect("a lock"))
}

async fn get(stage: &Stage, resource: &str) -> Result<v1::Lock, Status> {
    let request = v1::GetLockRequest {
        namespace: stage.ns(),
        resource_id: resource.into(),
    };
    Ok(stage
        .locks()
        .get_lock(request)
        .await?
        .into_inner()
        .lock
        .expect("a lock"))
}

async fn queue_is(stage: &Stage, resource: &str, length: i32) {
    until("the queue", || async {
        get(stage, resource).await.is_ok_and(|lock| lock.queue_length == length)
    })
    .await;
}

/// A call in the background; dropped, it is cancelled.
fn call(
    stage: &Stage,
    request: v1::AcquireLockRequest,
) -> tokio::task::JoinHandle<Result<v1::AcquireLockResponse, Status>> {
    let stage = stage.clone();
    tokio::spawn(async move { acquire(&stage, request).await })
}

#[tokio::test]
async fn a_lock_has_one_holder_and_goes_to_the_next_with_its_release() {
    on_every_composition(|stage| async move {
        let first = hold(&stage, "r", "a").await;
        let refused = acquire(&stage, wish(&stage, "r", "b")).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason_of(&refused).as_str()),
            (Code::Aborted, "LOCK_HELD")
        );
        assert_eq!(metadata_of(&refused, "holder_id"), "a");
        assert!(metadata_of(&refused, "expire_time").ends_with('Z'));
        let next = call(&stage, waiting(&stage, "r", "b"));
        queue_is(&stage, "r", 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        release(&stage, "r", first).await.unwrap();
        let next = soon("the grant", next).await.unwrap().unwrap();
        let lock = next.lock.clone().unwrap();
        assert!(lock.fencing_token > first);
        assert_eq!(
            (lock.holder_id.as_str(), lock.queue_length, lock.bound_to_session),
            ("b", 0, false)
        );
        let queued = Duration::try_from(next.queued.unwrap()).unwrap();
        assert!(queued >= Duration::from_millis(50), "{queued:?}");
        assert_eq!(reason(release(&stage, "r", first).await), "STALE_FENCING_TOKEN");
        assert_eq!(reason(renew(&stage, "r", first, LONG).await), "STALE_FENCING_TOKEN");
        // The grant was taken: it does not lapse.
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        assert_eq!(get(&stage, "r").await.unwrap().fencing_token, lock.fencing_token);
        release(&stage, "r", lock.fencing_token).await.unwrap();
        assert_eq!(reason(get(&stage, "r").await), "LOCK_NOT_FOUND");
        assert_eq!(reason(release(&stage, "r", lock.fencing_token).await), "LOCK_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_and_the_next_has_the_lock() {
    on_every_composition(|stage| async move {
        let short = v1::AcquireLockRequest {
            ttl: duration(Duration::from_secs(1)),
            ..wish(&stage, "r", "a")
        };
        let first = token(&acquire(&stage, short).await.unwrap());
        let next = call(&stage, waiting(&stage, "r", "b"));
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(600)).await;
            renew(&stage, "r", first, Duration::from_secs(1)).await.unwrap();
        }
        assert!(!next.is_finished(), "a renewed lease holds");
        let began = Instant::now();
        let next = soon("the grant", next).await.unwrap().unwrap();
        assert!(token(&next) > first && began.elapsed() > Duration::from_millis(900));
    })
    .await;
}

#[tokio::test]
async fn a_wait_ends_in_time_and_leaves_the_queue() {
    on_every_composition(|stage| async move {
        hold(&stage, "r", "a").await;
        let short = v1::AcquireLockRequest {
            wait_timeout: duration(Duration::from_millis(300)),
            ..wish(&stage, "r", "b")
        };
        let refused = acquire(&stage, short).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason_of(&refused).as_str()),
            (Code::Aborted, "LOCK_WAIT_TIMEOUT")
        );
        assert_eq!(metadata_of(&refused, "queue_length"), "0");
        assert_eq!(metadata_of(&refused, "holder_id"), "a");
        assert!(metadata_of(&refused, "expire_time").ends_with('Z'));
        let mut hurried = Request::new(waiting(&stage, "r", "b"));
        hurried.set_timeout(Duration::from_secs(1));
        let refused = stage.locks().acquire_lock(hurried).await.unwrap_err();
        assert_eq!(reason_of(&refused), "LOCK_WAIT_TIMEOUT", "before the caller's deadline");
        assert_eq!(get(&stage, "r").await.unwrap().queue_length, 0);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_call_leaves_the_queue() {
    on_every_composition(|stage| async move {
        let first = hold(&stage, "r", "a").await;
        let gone = call(&stage, waiting(&stage, "r", "b"));
        queue_is(&stage, "r", 1).await;
        let next = call(&stage, waiting(&stage, "r", "c"));
        queue_is(&stage, "r", 2).await;
        gone.abort();
        queue_is(&stage, "r", 1).await;
        release(&stage, "r", first).await.unwrap();
        let next = soon("the grant", next).await.unwrap().unwrap();
        assert_eq!(next.lock.unwrap().holder_id, "c");
    })
    .await;
}

#[tokio::test]
async fn a_storm_of_cancelled_calls_leaves_nothing_behind() {
    on_every_composition(|stage| async move {
        let calls = (0..400u64).map(|number| {
            let stage = stage.clone();
            // An answer that crosses its cancellation on the way is nobody's: such a lease ends by itself.
            let request = v1::AcquireLockRequest {
                ttl: duration(Duration::from_secs(1)),
                wait_timeout: (number % 2 == 0).then(|| duration(LONG)).flatten(),
                ..wish(&stage, "r", "storm")
            };
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number * 5)).await;
                let mut storm = call(&stage, request);
                // Some stay, whatever the others do.
                let stays = number % 40 == 38;
                let patience = if stays {
                    PATIENCE
                } else {
                    Duration::from_micros(number * 9_973 % 40_000)
                };
                let Ok(answer) = tokio::time::timeout(patience, &mut storm).await else {
                    storm.abort();
                    return None;
                };
                let token = token(&answer.expect("no panic").ok()?);
                release(&stage, "r", token).await.unwrap();
                Some(token)
            })
        });
        let calls: Vec<_> = calls.collect();
        let mut answered = HashSet::new();
        for call in calls {
            answered.extend(call.await.unwrap());
        }
        eprintln!("{} of 400 were answered with the lock", answered.len());
        assert!(!answered.is_empty(), "a storm in which nothing succeeds shows nothing");
        let last = soon("the lock", acquire(&stage, waiting(&stage, "r", "after")))
            .await
            .unwrap();
        assert!(answered.iter().all(|token_of_storm| *token_of_storm < token(&last)));
        queue_is(&stage, "r", 0).await;
    })
    .await;
}

#[tokio::test]
async fn the_same_request_is_the_same_lease() {
    on_every_composition(|stage| async move {
        let of_request = |holder: &str| v1::AcquireLockRequest {
            request_id: "q".into(),
            ..wish(&stage, "r", holder)
        };
        let first = acquire(&stage, of_request("a")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let again = acquire(&stage, of_request("a")).await.unwrap();
        assert_eq!(token(&first), token(&again));
        let expiry = |answer: &v1::AcquireLockResponse| {
            let time = answer.lock.as_ref().unwrap().expire_time.unwrap();
            (time.seconds, time.nanos)
        };
        assert!(
            expiry(&again) > expiry(&first),
            "a repeated acquire never has an old expiry"
        );
        assert_eq!(reason(acquire(&stage, of_request("b")).await), "REQUEST_ID_REUSED");
        let shown = v1::AcquireLockRequest {
            fencing_token: token(&first),
            ..wish(&stage, "r", "a")
        };
        assert_eq!(token(&acquire(&stage, shown.clone()).await.unwrap()), token(&first));
        release(&stage, "r", token(&first)).await.unwrap();
        let ended = acquire(&stage, of_request("a")).await.unwrap_err();
        assert_eq!(reason_of(&ended), "LEASE_ENDED");
        assert_eq!(metadata_of(&ended, "fencing_token"), token(&first).to_string());
        assert_eq!(reason(acquire(&stage, shown).await), "STALE_FENCING_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn a_retry_keeps_its_place_in_the_queue() {
    on_every_composition(|stage| async move {
        let first = hold(&stage, "r", "a").await;
        let of_request = v1::AcquireLockRequest {
            request_id: "q".into(),
            ..waiting(&stage, "r", "b")
        };
        let gone = call(&stage, of_request.clone());
        queue_is(&stage, "r", 1).await;
        let behind = call(&stage, waiting(&stage, "r", "c"));
        queue_is(&stage, "r", 2).await;
        gone.abort();
        let _ = gone.await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let retry = call(&stage, of_request);
        tokio::time::sleep(Duration::from_millis(100)).await;
        release(&stage, "r", first).await.unwrap();
        let granted = soon("the grant", retry).await.unwrap().unwrap();
        assert_eq!(granted.lock.as_ref().unwrap().queue_length, 1);
        assert!(!behind.is_finished());
        release(&stage, "r", token(&granted)).await.unwrap();
        soon("the next grant", behind).await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_write_under_a_stale_guard_is_refused() {
    on_every_composition(|stage| async move {
        let write = |token: i64| v1::PutStateRequest {
            namespace: stage.ns(),
            state_id: "report".into(),
            payload: json("1"),
            guards: vec![v1::Guard {
                resource_id: "r".into(),
                fencing_token: token,
            }],
            ..Default::default()
        };
        let first = hold(&stage, "r", "a").await;
        stage.state().put_state(write(first)).await.unwrap();
        release(&stage, "r", first).await.unwrap();
        assert_eq!(
            reason(stage.state().put_state(write(first)).await),
            "STALE_FENCING_TOKEN"
        );
        let second = hold(&stage, "r", "b").await;
        assert_eq!(
            reason(stage.state().put_state(write(first)).await),
            "STALE_FENCING_TOKEN"
        );
        stage.state().put_state(write(second)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn locks_are_listed_by_resource_in_pages() {
    on_every_composition(|stage| async move {
        for resource in ["doc", "doc/1", "doc/2", "doc/3", "dog", "cat"] {
            hold(&stage, resource, "a").await;
        }
        let mut request = v1::ListLocksRequest {
            namespace: stage.ns(),
            prefix: "doc".into(),
            page_size: 3,
            ..Default::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = stage.locks().list_locks(request.clone()).await.unwrap().into_inner();
            seen.extend(page.locks.into_iter().map(|lock| lock.resource_id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(seen, ["doc", "doc/1", "doc/2", "doc/3"]);
        request.prefix = "do".into();
        assert_eq!(
            reason(stage.locks().list_locks(request.clone()).await),
            "INVALID_PAGE_TOKEN"
        );
        request.page_token.clear();
        request.agent_id = "nobody".into();
        assert!(
            stage
                .locks()
                .list_locks(request)
                .await
                .unwrap()
                .into_inner()
                .locks
                .is_empty()
        );
    })
    .await;
}

#[tokio::test]
async fn what_is_malformed_is_refused_with_every_field() {
    on_every_composition(|stage| async move {
        let request = v1::AcquireLockRequest {
            resource_id: "a\0b".into(),
            ttl: duration(Duration::from_millis(1)),
            wait_timeout: duration(Duration::from_secs(601)),
            fencing_token: -1,
            ..wish(&stage, "", "")
        };
        let refused = acquire(&stage, request).await.unwrap_err();
        assert_eq!(reason_of(&refused), "INVALID_REQUEST");
        for field in ["resource_id", "ttl", "wait_timeout", "fencing_token"] {
            assert!(refused.message().contains(field), "{field} in {}", refused.message());
        }
        assert_eq!(reason(acquire(&stage, wish(&stage, "r", "")).await), "INVALID_REQUEST");
        assert_eq!(reason(release(&stage, "r", 0).await), "INVALID_REQUEST");
        let ended = v1::AcquireLockRequest {
            session_id: "never was".into(),
            ..wish(&stage, "r", "a")
        };
        assert_eq!(reason(acquire(&stage, ended).await), "SESSION_ENDED");
        let attempt = v1::AcquireLockRequest {
            attempt_token: "task#1".into(),
            ..wish(&stage, "r", "a")
        };
        assert_eq!(reason(acquire(&stage, attempt).await), "SESSION_REQUIRED");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_wait_for_one_lock_and_each_has_it_once() {
    on_every_composition(|stage| async move {
        let first = hold(&stage, "r", "first").await;
        let held = Arc::new(AtomicBool::new(false));
        let last_token = Arc::new(AtomicI64::new(first));
        let calls = (0..1_000).map(|number| {
            let (stage, held, last_token) = (stage.clone(), Arc::clone(&held), Arc::clone(&last_token));
            tokio::spawn(async move {
                let request = v1::AcquireLockRequest {
                    wait_timeout: duration(Duration::from_secs(300)),
                    ..wish(&stage, "r", &format!("w{number}"))
                };
                let token = token(&acquire(&stage, request).await?);
                assert!(!held.swap(true, Ordering::SeqCst), "two holders");
                assert!(last_token.swap(token, Ordering::SeqCst) < token, "tokens grow");
                held.store(false, Ordering::SeqCst);
                release(&stage, "r", token).await
            })
        });
        let calls: Vec<_> = calls.collect();
        queue_is(&stage, "r", 1_000).await;
        let began = Instant::now();
        release(&stage, "r", first).await.unwrap();
        for call in calls {
            tokio::time::timeout(Duration::from_secs(120), call)
                .await
                .expect("in time")
                .unwrap()
                .unwrap();
        }
        eprintln!("1,000 hand-overs in {:?}", began.elapsed());
        assert_eq!(reason(get(&stage, "r").await), "LOCK_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_killed_knows_its_locks_and_its_tokens_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "127.0.0.1:0");
    let stage = Stage::new(&server.address).await;
    let held = hold(&stage, "held", "a").await;
    let released = hold(&stage, "released", "a").await;
    release(&stage, "released", released).await.unwrap();
    let _dead = call(&stage, waiting(&stage, "held", "dead"));
    queue_is(&stage, "held", 1).await;
    let (listen, namespace) = (server.listen_address().to_owned(), stage.ns());
    server.kill();

    let server = Server::start(dir.path(), &listen);
    let stage = Stage {
        namespace,
        ..Stage::new(&server.address).await
    };
    assert_eq!(get(&stage, "held").await.unwrap().fencing_token, held);
    assert!(hold(&stage, "released", "b").await > released);
    let next = call(&stage, waiting(&stage, "held", "alive"));
    queue_is(&stage, "held", 2).await;
    release(&stage, "held", held).await.unwrap();
    let next = soon("the grant, after that to the dead has lapsed", next)
        .await
        .unwrap()
        .unwrap();
    assert!(token(&next) > held);
}

#[tokio::test]
async fn a_call_that_waits_is_told_that_the_server_stops() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "127.0.0.1:0");
    let stage = Stage::new(&server.address).await;
    hold(&stage, "r", "a").await;
    let waits = call(&stage, waiting(&stage, "r", "b"));
    queue_is(&stage, "r", 1).await;
    server.signal("TERM");
    let refused = soon("the end of the wait", waits).await.unwrap().unwrap_err();
    assert_eq!(
        (refused.code(), reason_of(&refused).as_str()),
        (Code::Unavailable, "DRAINING")
    );
    assert!(server.wait().success());
}
