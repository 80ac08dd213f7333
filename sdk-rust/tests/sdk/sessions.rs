//! What becomes of an agent's session: broken streams, silence, and the words that end it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use drumline::agent::{CancelCause, Status};
use drumline::v1::connect_hello::Session;
use drumline::v1::connect_response::Frame as Down;
use drumline::v1::{self as pb};
use drumline::{Client, Reason, TaskContext, TaskFailure};
use tonic::{Code, Status as Refusal};

use crate::fake::{refusal, sessions, sessions_at, soon};
use crate::handlers::{LONG, TTL, agent, complete, double, waiting};

#[tokio::test]
async fn after_a_break_the_session_goes_on_and_an_unanswered_result_is_said_again() {
    let begun = Arc::new(AtomicUsize::new(0));
    let counter = begun.clone();
    let work = move |_task: TaskContext, number: i64| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, TaskFailure>(number) }
    };
    let (client, mut streams) = sessions().await;
    let _agent = agent(&client)
        .capability("work", work)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    stream.assign("t", 1, "7", LONG);
    let (_, first) = stream.result().await;
    stream.end(Refusal::unavailable("broken"));

    let mut stream = streams.welcomed("s1", TTL).await;
    let Session::Resume(resume) = &stream.hello else {
        panic!("{:?}", stream.hello)
    };
    assert_eq!(resume.session_id, "s1");
    stream.assign("t", 1, "7", LONG);
    let (number, second) = stream.result().await;
    assert_eq!(first, second, "the same words, with the same request id");
    complete(&stream, number);
    stream.assign("t", 1, "7", LONG);
    stream.assign("u", 1, "8", LONG);
    assert_eq!(stream.result().await.1.task_id, "u");
    assert_eq!(begun.load(Ordering::SeqCst), 2, "no attempt was begun twice");
}

#[tokio::test]
async fn an_ended_session_stops_its_handlers_and_registers_anew() {
    let (work, mut why) = waiting();
    let (client, mut streams) = sessions().await;
    let agent = agent(&client)
        .capability("work", work)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    let Session::Register(first) = stream.hello.clone() else {
        panic!()
    };
    stream.assign("t", 1, "1", LONG);
    stream.frame().await;
    let under_first = agent.client().expect("a client");
    stream.end(refusal(Code::FailedPrecondition, Reason::SessionEnded, &[]));
    assert_eq!(soon(why.recv()).await, Some(Some(CancelCause::SessionLost)));

    let mut stream = streams.welcomed("s2", TTL).await;
    let Session::Register(second) = stream.hello.clone() else {
        panic!()
    };
    assert_ne!(
        first.request_id, second.request_id,
        "another registration, not a repeated one"
    );
    assert_eq!(under_first.session_id(), "s1");
    tokio::time::timeout(TTL, stream.next_frame())
        .await
        .expect_err("nothing is said of the old attempt");
    assert_eq!(agent.client().expect("a client").session_id(), "s2");
}

#[tokio::test]
async fn a_superseded_agent_stops_for_good() {
    for reason in [Reason::SessionSuperseded, Reason::StreamSuperseded] {
        let (work, mut why) = waiting();
        let (client, mut streams) = sessions().await;
        let agent = agent(&client)
            .capability("work", work)
            .build()
            .start()
            .expect("an agent");
        let mut stream = streams.welcomed("s1", TTL).await;
        stream.assign("t", 1, "1", LONG);
        stream.frame().await;
        stream.end(refusal(Code::FailedPrecondition, reason, &[]));
        let error = soon(agent.wait()).await.expect_err("it cannot go on");
        assert_eq!(error.reason(), reason);
        assert_eq!(soon(why.recv()).await, Some(Some(CancelCause::SessionLost)));
        assert!(streams.quiet(TTL).await, "it does not come back");
        assert_eq!(agent.status(), Status::Stopped);
    }
}

#[tokio::test]
async fn a_silent_server_makes_the_agent_doubt_its_session_within_a_ttl() {
    let (work, mut why) = waiting();
    let (client, mut streams) = sessions().await;
    let agent = agent(&client)
        .capability("work", work)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    let silent = Instant::now();
    stream.answers_beats = false;
    stream.assign("t", 1, "1", LONG);
    stream.frame().await;
    // It tries another connection first, while the session can still be saved.
    let second = streams.next().await;
    assert!(matches!(second.hello, Session::Resume(_)));
    assert!(silent.elapsed() < TTL, "after {:?}", silent.elapsed());
    assert_eq!(soon(why.recv()).await, Some(Some(CancelCause::SessionLost)));
    assert!(silent.elapsed() < TTL + TTL / 3, "after {:?}", silent.elapsed());
    assert_eq!(agent.status(), Status::Doubtful);
    assert!(agent.client().is_err(), "nobody may act under a doubtful session");
    // The session lived after all: the attempt is given up in words.
    let mut stream = second;
    stream.welcome("s1", TTL);
    assert_eq!(stream.failure().await.1.kind, "agent_lost");
    assert_eq!(agent.client().expect("a client").session_id(), "s1");
}

#[tokio::test]
async fn heartbeats_go_on_while_handlers_block_their_runtime() {
    async fn blocks(_task: TaskContext, _number: i64) -> Result<(), TaskFailure> {
        std::thread::sleep(TTL * 2);
        Ok(())
    }
    // The server has a runtime of its own: the agent's only worker is blocked.
    let (ready, started) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let (url, mut streams) = sessions_at().await;
            ready.send(url).expect("heard");
            let mut stream = streams.welcomed("s1", TTL).await;
            stream.assign("t", 1, "1", LONG);
            let mut broken = false;
            tokio::select! {
                _ = stream.result() => {}
                _ = streams.next() => broken = true,
            }
            broken
        })
    });
    let url = started.recv().expect("an address");
    let client = Client::connect(url).await.expect("a client");
    let _agent = agent(&client)
        .capability("work", blocks)
        .build()
        .start()
        .expect("an agent");
    let broken = tokio::task::spawn_blocking(|| server.join()).await.expect("joined");
    assert!(!broken.expect("no panic"), "the agent lost its stream");
}

#[tokio::test]
async fn a_draining_server_is_left_and_the_session_resumed_elsewhere() {
    let (client, mut streams) = sessions().await;
    let agent = agent(&client)
        .capability("work", double)
        .build()
        .start()
        .expect("an agent");
    let stream = streams.welcomed("s1", TTL).await;
    let drain = pb::connect_notice::Drain { reconnect_delay: None };
    let notice = Some(pb::connect_notice::Notice::Drain(drain));
    stream.answer(0, Down::Notice(pb::ConnectNotice { notice }));
    let mut stream = streams.welcomed("s1", TTL).await;
    assert!(matches!(stream.hello, Session::Resume(_)));
    drop(agent);
    soon(stream.idle()).await;
}
