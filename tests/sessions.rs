//! Sessions: who is alive, what keeps it alive, and what ends with it.

use std::time::{Duration, Instant};

use drumline_proto::v1;
use tonic::{Code, Status};
use v1::connect_request::Frame as Up;
use v1::connect_response::Frame as Down;

use crate::support::agent::{Line, dial, registration};
use crate::support::server::Server;
use crate::support::wait::{soon, until};
use crate::support::{Stage, duration, json, metadata_of, on_every_composition, reason, reason_of};

const SECOND: Duration = Duration::from_secs(1);

async fn agent(stage: &Stage, agent_id: &str) -> Result<v1::Agent, Status> {
    let request = v1::GetAgentRequest {
        namespace: stage.ns(),
        agent_id: agent_id.into(),
    };
    let response = stage.registry().get_agent(request).await?.into_inner();
    Ok(response.agent.expect("an agent"))
}

async fn is_offline(stage: &Stage, agent_id: &str) -> bool {
    agent(stage, agent_id).await.unwrap().status() == v1::agent::Status::Offline
}

async fn heartbeat(stage: &Stage, session_id: &str) -> Result<v1::HeartbeatResponse, Status> {
    let request = v1::HeartbeatRequest {
        namespace: stage.ns(),
        session_id: session_id.into(),
    };
    Ok(stage.registry().heartbeat(request).await?.into_inner())
}

async fn put(stage: &Stage, session_id: &str) -> Result<v1::PutStateResponse, Status> {
    let request = v1::PutStateRequest {
        namespace: stage.ns(),
        session_id: session_id.into(),
        state_id: "note".into(),
        payload: json("1"),
        ..Default::default()
    };
    Ok(stage.state().put_state(request).await?.into_inner())
}

async fn lock(stage: &Stage, session_id: &str) -> v1::Lock {
    let request = v1::AcquireLockRequest {
        namespace: stage.ns(),
        session_id: session_id.into(),
        resource_id: "resource".into(),
        ..Default::default()
    };
    let response = stage.locks().acquire_lock(request).await.unwrap().into_inner();
    response.lock.expect("a lock")
}

async fn is_locked(stage: &Stage) -> bool {
    let request = v1::GetLockRequest {
        namespace: stage.ns(),
        resource_id: "resource".into(),
    };
    stage.locks().get_lock(request).await.is_ok()
}

#[tokio::test]
async fn a_heartbeat_that_echoes_the_nonce_is_answered_by_the_next() {
    on_every_composition(|stage| async move {
        let mut line = Line::register(&stage, registration(&stage, "a")).await.unwrap();
        assert_eq!(line.welcome.session_ttl, duration(3 * SECOND));
        assert!(!line.welcome.resumed);
        for number in 2..6 {
            let before = line.nonce;
            line.beat(number);
            let answer = line.hear().await.unwrap().unwrap();
            assert_eq!(answer.request_number, number);
            assert_ne!(line.nonce, before);
        }
        assert_eq!(agent(&stage, "a").await.unwrap().status(), v1::agent::Status::Active);
    })
    .await;
}

#[tokio::test]
async fn heartbeats_of_an_agent_that_does_not_hear_do_not_keep_it_alive() {
    on_every_composition(|stage| async move {
        let request = v1::RegisterAgentRequest {
            session_ttl: duration(SECOND),
            ..registration(&stage, "deaf")
        };
        let mut line = Line::register(&stage, request).await.unwrap();
        let (up, began) = (line.up.clone(), Instant::now());
        let beating = tokio::spawn(async move {
            loop {
                let frame = Some(Up::Heartbeat(v1::ConnectHeartbeat { nonce: 7 }));
                let request = v1::ConnectRequest {
                    request_number: 2,
                    frame,
                };
                if up.send(request).is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let status = line.end().await.unwrap_err();
        assert_eq!(reason_of(&status), "SESSION_ENDED");
        assert_eq!(metadata_of(&status, "cause"), "EXPIRED");
        assert!(began.elapsed() < 5 * SECOND);
        assert!(is_offline(&stage, "deaf").await);
        beating.abort();
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_breaks_ends_the_session_soon_with_all_that_it_held() {
    on_every_composition(|stage| async move {
        let request = v1::RegisterAgentRequest {
            session_ttl: duration(60 * SECOND),
            ..registration(&stage, "a")
        };
        let line = Line::register(&stage, request).await.unwrap();
        let session_id = line.session_id();
        lock(&stage, &session_id).await;
        let began = Instant::now();
        drop(line);
        until("the lock's release", || async { !is_locked(&stage).await }).await;
        assert!(began.elapsed() < 5 * SECOND, "long before its TTL");
        assert!(is_offline(&stage, "a").await);
        assert_eq!(reason(put(&stage, &session_id).await), "SESSION_ENDED");
        assert_eq!(reason(heartbeat(&stage, &session_id).await), "SESSION_ENDED");
        let resumed = Line::resume(&stage, &session_id).await;
        assert_eq!(reason(resumed.map(|_| ())), "SESSION_ENDED");
    })
    .await;
}

#[tokio::test]
async fn a_session_that_is_resumed_in_time_goes_on() {
    on_every_composition(|stage| async move {
        let line = Line::register(&stage, registration(&stage, "a")).await.unwrap();
        let session_id = line.session_id();
        lock(&stage, &session_id).await;
        drop(line);
        let mut line = Line::resume(&stage, &session_id).await.unwrap();
        assert!(line.welcome.resumed);
        assert_eq!(line.session_id(), session_id);
        assert_eq!(line.welcome.agent.as_ref().unwrap().session_incarnation, 1);
        // Past the grace of the stream that broke.
        let began = Instant::now();
        while began.elapsed() < 2 * SECOND {
            line.beat(2);
            line.hear().await.unwrap().unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(is_locked(&stage).await);
        put(&stage, &session_id).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_resumes_and_says_no_more_was_perhaps_given_up_and_its_agent_has_its_ttl() {
    on_every_composition(|stage| async move {
        let request = v1::RegisterAgentRequest {
            session_ttl: duration(3 * SECOND),
            ..registration(&stage, "a")
        };
        let line = Line::register(&stage, request).await.unwrap();
        let session_id = line.session_id();
        lock(&stage, &session_id).await;
        drop(line);
        let began = Instant::now();
        drop(Line::resume(&stage, &session_id).await.unwrap());
        until("the lock's release", || async { !is_locked(&stage).await }).await;
        let lasted = began.elapsed();
        assert!(lasted >= 3 * SECOND, "its lock was taken away after {lasted:?}");
        assert!(is_offline(&stage, "a").await);
    })
    .await;
}

#[tokio::test]
async fn a_newer_stream_of_the_session_takes_the_older_ones_place() {
    on_every_composition(|stage| async move {
        let mut older = Line::register(&stage, registration(&stage, "a")).await.unwrap();
        let mut newer = Line::resume(&stage, &older.session_id()).await.unwrap();
        let status = older.end().await.unwrap_err();
        assert_eq!(reason_of(&status), "STREAM_SUPERSEDED");
        drop(older);
        tokio::time::sleep(SECOND + SECOND / 2).await;
        newer.beat(2);
        assert!(
            newer.hear().await.unwrap().is_some(),
            "the older one's end does not touch it"
        );
        assert!(!is_offline(&stage, "a").await);
    })
    .await;
}

#[tokio::test]
async fn another_registration_ends_the_older_session_for_good() {
    on_every_composition(|stage| async move {
        let mut older = Line::register(&stage, registration(&stage, "a")).await.unwrap();
        lock(&stage, &older.session_id()).await;
        let newer = Line::register(&stage, registration(&stage, "a")).await.unwrap();
        assert_eq!(newer.welcome.agent.as_ref().unwrap().session_incarnation, 2);
        assert_ne!(newer.session_id(), older.session_id());
        assert_eq!(reason_of(&older.end().await.unwrap_err()), "SESSION_SUPERSEDED");
        assert!(!is_locked(&stage).await, "what it held ended with it");
        assert_eq!(reason(put(&stage, &older.session_id()).await), "SESSION_SUPERSEDED");
        let resumed = Line::resume(&stage, &older.session_id()).await;
        assert_eq!(reason(resumed.map(|_| ())), "SESSION_SUPERSEDED");
        put(&stage, &newer.session_id()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_hello_that_is_said_again_finds_its_session() {
    on_every_composition(|stage| async move {
        let request = v1::RegisterAgentRequest {
            request_id: "once".into(),
            agent_id: String::new(),
            ..registration(&stage, "")
        };
        let mut first = Line::register(&stage, request.clone()).await.unwrap();
        let mut again = Line::register(&stage, request).await.unwrap();
        assert_eq!(again.session_id(), first.session_id());
        assert!(again.welcome.resumed);
        assert_eq!(reason_of(&first.end().await.unwrap_err()), "STREAM_SUPERSEDED");
        again.beat(2);
        assert!(again.hear().await.unwrap().is_some());
    })
    .await;
}

#[tokio::test]
async fn goodbye_is_answered_and_ends_the_stream_well() {
    on_every_composition(|stage| async move {
        let mut line = Line::register(&stage, registration(&stage, "a")).await.unwrap();
        line.say(2, Up::DeregisterAgent(v1::DeregisterAgentRequest::default()));
        let answer = line.answer().await.unwrap().unwrap();
        assert_eq!(answer.request_number, 2);
        assert!(matches!(answer.frame, Some(Down::DeregisterAgent(_))));
        assert!(line.hear().await.unwrap().is_none(), "the stream ends without an error");
        assert_eq!(reason(agent(&stage, "a").await), "AGENT_NOT_FOUND");
        let line = Line::register(&stage, registration(&stage, "a")).await.unwrap();
        assert_eq!(line.welcome.agent.as_ref().unwrap().session_incarnation, 2);
    })
    .await;
}

#[tokio::test]
async fn a_stream_begins_with_its_hello() {
    on_every_composition(|stage| async move {
        let beat = Up::Heartbeat(v1::ConnectHeartbeat { nonce: 0 });
        let (_up, mut down) = dial(&stage, beat).await.unwrap();
        let status = soon("the end", down.message()).await.unwrap_err();
        assert_eq!(reason_of(&status), "INVALID_REQUEST");
        let hello = Up::Hello(v1::ConnectHello { session: None });
        let (_up, mut down) = dial(&stage, hello).await.unwrap();
        let status = soon("the end", down.message()).await.unwrap_err();
        assert_eq!(
            (status.code(), reason_of(&status).as_str()),
            (Code::InvalidArgument, "INVALID_REQUEST")
        );
        let resumed = Line::resume(&stage, "nobody").await;
        assert_eq!(reason(resumed.map(|_| ())), "SESSION_ENDED");
    })
    .await;
}

#[tokio::test]
async fn a_frame_that_is_refused_does_not_end_the_stream() {
    on_every_composition(|stage| async move {
        let mut line = Line::register(&stage, registration(&stage, "a")).await.unwrap();
        let foreign = v1::UpdateAgentRequest {
            session_id: "another".into(),
            ..Default::default()
        };
        line.say(2, Up::UpdateAgent(foreign));
        let unknown = v1::UpdateAgentRequest {
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["agent_id".into()],
            }),
            ..Default::default()
        };
        line.say(3, Up::UpdateAgent(unknown));
        line.say(4, Up::Hello(v1::ConnectHello::default()));
        for number in 2..5 {
            let answer = line.answer().await.unwrap().unwrap();
            assert_eq!(answer.request_number, number);
            let Some(Down::Error(error)) = answer.frame else {
                panic!("not an error: {answer:?}");
            };
            assert_eq!(error.reason(), v1::Reason::InvalidRequest);
        }
        let busy = v1::UpdateAgentRequest {
            agent: Some(v1::Agent {
                status: v1::agent::Status::Busy as i32,
                ..Default::default()
            }),
            ..Default::default()
        };
        line.say(5, Up::UpdateAgent(busy));
        let answer = line.answer().await.unwrap().unwrap();
        let Some(Down::UpdateAgent(updated)) = answer.frame else {
            panic!("not an answer: {answer:?}");
        };
        assert_eq!(updated.agent.unwrap().status(), v1::agent::Status::Busy);
    })
    .await;
}

#[tokio::test]
async fn a_session_without_a_stream_lives_by_its_heartbeats() {
    on_every_composition(|stage| async move {
        let request = v1::RegisterAgentRequest {
            session_ttl: duration(SECOND),
            ..registration(&stage, "a")
        };
        let session_id = stage
            .registry()
            .register_agent(request)
            .await
            .unwrap()
            .into_inner()
            .session_id;
        let began = Instant::now();
        while began.elapsed() < 3 * SECOND {
            heartbeat(&stage, &session_id).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        put(&stage, &session_id).await.unwrap();
        let silent = Instant::now();
        until("its end", || is_offline(&stage, "a")).await;
        assert!(silent.elapsed() > Duration::from_millis(700) && silent.elapsed() < 4 * SECOND);
        assert_eq!(reason(heartbeat(&stage, &session_id).await), "SESSION_ENDED");
        assert_eq!(reason(put(&stage, &session_id).await), "SESSION_ENDED");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_stopped_kills_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), "127.0.0.1:0");
    let stage = Stage::new(&server.address).await;
    let mut line = Line::register(&stage, registration(&stage, "a")).await.unwrap();
    let request = v1::RegisterAgentRequest {
        session_ttl: duration(2 * SECOND),
        ..registration(&stage, "b")
    };
    let unary = stage
        .registry()
        .register_agent(request)
        .await
        .unwrap()
        .into_inner()
        .session_id;
    line.beat(2);
    line.hear().await.unwrap().unwrap();
    server.signal("STOP");
    tokio::time::sleep(4 * SECOND).await;
    server.signal("CONT");
    // Not at once, but well within a TTL of the server's return.
    tokio::time::sleep(SECOND).await;
    heartbeat(&stage, &unary).await.unwrap();
    line.beat(3);
    assert!(line.hear().await.unwrap().is_some());
    assert!(!is_offline(&stage, "a").await && !is_offline(&stage, "b").await);
    // Whoever is silent after that does die.
    until("the end of the silent", || is_offline(&stage, "b")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_finds_its_sessions_again() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), "127.0.0.1:0");
    let stage = Stage::new(&server.address).await;
    let returning = Line::register(&stage, registration(&stage, "returning")).await.unwrap();
    let lost = Line::register(&stage, registration(&stage, "lost")).await.unwrap();
    let session_id = returning.session_id();
    lock(&stage, &session_id).await;
    let address = server.listen_address().to_owned();
    server.kill();
    drop((returning, lost));
    let server = Server::start(directory.path(), &address);
    let stage = Stage {
        namespace: stage.ns(),
        ..Stage::new(&server.address).await
    };
    let mut line = Line::resume(&stage, &session_id).await.unwrap();
    let began = Instant::now();
    while !is_offline(&stage, "lost").await {
        line.beat(2);
        line.hear().await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(began.elapsed() < 10 * SECOND, "who does not come back is found dead");
    }
    assert!(began.elapsed() > 2 * SECOND, "not before a full TTL");
    assert!(is_locked(&stage).await && !is_offline(&stage, "returning").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_drains_says_so_and_ends_no_session() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), "127.0.0.1:0");
    let stage = Stage::new(&server.address).await;
    let mut line = Line::register(&stage, registration(&stage, "a")).await.unwrap();
    let session_id = line.session_id();
    let address = server.listen_address().to_owned();
    server.signal("TERM");
    let notice = line.answer().await.unwrap().unwrap();
    let Some(Down::Notice(v1::ConnectNotice {
        notice: Some(v1::connect_notice::Notice::Drain(_)),
    })) = notice.frame
    else {
        panic!("not a drain notice: {notice:?}");
    };
    let status = line.end().await.unwrap_err();
    assert_eq!(
        (status.code(), reason_of(&status).as_str()),
        (Code::Unavailable, "DRAINING")
    );
    drop(line);
    server.wait();
    let server = Server::start(directory.path(), &address);
    let stage = Stage {
        namespace: stage.ns(),
        ..Stage::new(&server.address).await
    };
    assert!(Line::resume(&stage, &session_id).await.unwrap().welcome.resumed);
}
