//! The agent runtime on good and bad days.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drumline::agent::{CancelCause, Status};
use drumline::v1::connect_hello::Session;
use drumline::v1::connect_request::Frame as Up;
use drumline::v1::connect_response::Frame as Down;
use drumline::v1::{self as pb};
use drumline::{Agent, AgentBuilder, Client, Reason, TaskContext, TaskFailure};
use tokio::sync::mpsc;
use tonic::{Code, Status as Refusal};

use crate::fake::{Stream, refusal, sessions, sessions_at, soon};

const TTL: Duration = Duration::from_millis(900);
const LONG: Duration = Duration::from_secs(60);

fn agent(client: &Client) -> AgentBuilder {
    Agent::builder(client, "a")
        .max_concurrent_tasks(4)
        .cancel_grace(Duration::from_millis(200))
}

async fn double(_task: TaskContext, number: i64) -> Result<i64, TaskFailure> {
    Ok(number * 2)
}

fn json(payload: Option<pb::Payload>) -> String {
    match payload.and_then(|payload| payload.content) {
        Some(pb::payload::Content::Json(text)) => text,
        other => panic!("not JSON: {other:?}"),
    }
}

fn complete(stream: &Stream, number: u64) {
    stream.answer(number, Down::CompleteTask(Default::default()));
}

#[tokio::test]
async fn a_task_is_accepted_worked_on_and_its_result_said() {
    let (client, mut streams) = sessions().await;
    let agent = agent(&client)
        .capability("work", double)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    let Session::Register(registration) = &stream.hello else {
        panic!("{:?}", stream.hello)
    };
    assert_eq!(registration.agent_id, "a");
    assert_eq!(registration.capabilities[0].name, "work");
    assert!(!registration.request_id.is_empty());
    assert_eq!(soon(agent.ready()).await.expect("online").session_id, "s1");

    stream.assign("t", 1, "21", LONG);
    let (_, first) = stream.frame().await;
    let Up::AcceptTask(accepted) = first else {
        panic!("{first:?}")
    };
    assert_eq!(accepted.attempt_token, "t-1");
    let (number, result) = stream.result().await;
    assert_eq!(
        (json(result.result).as_str(), result.attempt_token.as_str()),
        ("42", "t-1")
    );
    complete(&stream, number);

    let leaving = tokio::spawn(async move { agent.drain().await });
    let (number, frame) = stream.frame().await;
    let Up::UpdateAgent(update) = frame else {
        panic!("{frame:?}")
    };
    assert_eq!(
        update.agent.expect("an agent").status(),
        pb::agent::Status::Draining
    );
    stream.answer(number, Down::UpdateAgent(Default::default()));
    // The acceptance was never answered: that, too, is waited for.
    stream.answer(number - 2, Down::AcceptTask(Default::default()));
    let goodbye = loop {
        match stream.frame().await {
            (number, Up::DeregisterAgent(_)) => break number,
            (number, Up::AcceptTask(_)) => {
                stream.answer(number, Down::AcceptTask(Default::default()))
            }
            (_, other) => panic!("{other:?}"),
        }
    };
    stream.answer(goodbye, Down::DeregisterAgent(Default::default()));
    soon(leaving).await.expect("no panic").expect("it has left");
}

#[tokio::test]
async fn bad_input_and_a_panic_are_failed_attempts_and_the_agent_lives() {
    async fn touchy(_task: TaskContext, number: i64) -> Result<i64, TaskFailure> {
        match number {
            1 => panic!("one is too much"),
            2 => Err(TaskFailure::new("two", "no").permanent()),
            more => Ok(more),
        }
    }
    let (client, mut streams) = sessions().await;
    let _agent = agent(&client)
        .capability("work", touchy)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    let failed = |kind: &str, message: &str, permanent| pb::TaskError {
        kind: kind.into(),
        message: message.into(),
        permanent,
    };
    stream.assign("t", 1, "1", LONG);
    assert_eq!(
        stream.failure().await.1,
        failed("panic", "one is too much", false)
    );
    stream.assign("t", 2, "2", LONG);
    assert_eq!(stream.failure().await.1, failed("two", "no", true));
    stream.assign("t", 3, "\"text\"", LONG);
    let (_, error) = stream.failure().await;
    assert_eq!(
        (error.kind.as_str(), error.permanent),
        ("invalid_input", true)
    );
    stream.assign("t", 4, "3", LONG);
    assert_eq!(json(stream.result().await.1.result), "3");
}

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
    assert_eq!(
        begun.load(Ordering::SeqCst),
        2,
        "no attempt was begun twice"
    );
}

#[tokio::test]
async fn a_result_that_is_put_off_is_said_again_on_the_same_stream() {
    let (client, mut streams) = sessions().await;
    let _agent = agent(&client)
        .capability("work", double)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    stream.assign("t", 1, "1", LONG);
    let (number, first) = stream.result().await;
    stream.refuse(number, Code::Unavailable, Reason::StoreUnavailable);
    let (number, second) = stream.result().await;
    assert_eq!(first, second);
    stream.refuse(number, Code::FailedPrecondition, Reason::StaleFencingToken);
    assert_eq!(stream.failure().await.1.kind, "stale_fencing_token");
}

/// A handler that waits to be told to stop, and tells the test why it was.
fn waiting() -> (
    impl Fn(TaskContext, i64) -> futures::future::BoxFuture<'static, Result<i64, TaskFailure>> + Clone,
    mpsc::UnboundedReceiver<Option<CancelCause>>,
) {
    let (told, why) = mpsc::unbounded_channel();
    let work = move |task: TaskContext, _number: i64| {
        let told = told.clone();
        let waits: futures::future::BoxFuture<'static, _> = Box::pin(async move {
            task.cancelled().await;
            let _gone = told.send(task.cancel_cause());
            std::future::pending().await
        });
        waits
    };
    (work, why)
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
    assert!(
        silent.elapsed() < TTL + TTL / 3,
        "after {:?}",
        silent.elapsed()
    );
    assert_eq!(agent.status(), Status::Doubtful);
    assert!(
        agent.client().is_err(),
        "nobody may act under a doubtful session"
    );
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
    let broken = tokio::task::spawn_blocking(|| server.join())
        .await
        .expect("joined");
    assert!(!broken.expect("no panic"), "the agent lost its stream");
}

#[tokio::test]
async fn a_cancelled_task_is_told_and_nothing_more_is_said_of_it() {
    let (work, mut why) = waiting();
    let (client, mut streams) = sessions().await;
    let _agent = agent(&client)
        .capability("work", work)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    stream.assign("t", 1, "1", LONG);
    let (number, _) = stream.frame().await;
    stream.answer(number, Down::AcceptTask(Default::default()));
    let cause = "CANCELLED".to_owned();
    let cancellation = pb::TaskCancellation {
        task_id: "t".into(),
        attempt: 1,
        cause,
    };
    stream.answer(0, Down::Cancellation(cancellation));
    assert_eq!(soon(why.recv()).await, Some(Some(CancelCause::Cancelled)));
    tokio::time::timeout(TTL, stream.next_frame())
        .await
        .expect_err("nothing is said");
}

#[tokio::test]
async fn an_attempt_whose_time_is_up_is_told_and_fails() {
    let (work, mut why) = waiting();
    let (client, mut streams) = sessions().await;
    let _agent = agent(&client)
        .capability("work", work)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    stream.assign("t", 1, "1", Duration::from_millis(200));
    assert_eq!(stream.failure().await.1.kind, "timeout");
    assert_eq!(soon(why.recv()).await, Some(Some(CancelCause::TimedOut)));
}

#[tokio::test]
async fn a_stale_acceptance_stops_the_handler() {
    let (work, mut why) = waiting();
    let (client, mut streams) = sessions().await;
    let _agent = agent(&client)
        .capability("work", work)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    stream.assign("t", 1, "1", LONG);
    let (number, _) = stream.frame().await;
    stream.refuse(number, Code::FailedPrecondition, Reason::StaleAttempt);
    assert_eq!(soon(why.recv()).await, Some(Some(CancelCause::Reassigned)));
}

#[tokio::test]
async fn progress_and_checkpoints_are_said_and_a_checkpoint_waits_until_it_is_kept() {
    async fn work(task: TaskContext, _number: i64) -> Result<&'static str, TaskFailure> {
        task.progress(0.5, "half");
        task.checkpoint(&"here").await?;
        Ok("done")
    }
    let (client, mut streams) = sessions().await;
    let _agent = agent(&client)
        .capability("work", work)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    stream.assign("t", 1, "1", LONG);
    let mut checkpoint = None;
    while checkpoint.is_none() {
        match stream.frame().await {
            (number, Up::ReportProgress(report)) => {
                assert_eq!(
                    (report.progress, report.progress_message.as_str()),
                    (0.5, "half")
                );
                checkpoint = report
                    .checkpoint
                    .map(|payload| (number, json(Some(payload))));
            }
            (_, Up::AcceptTask(_)) => {}
            (_, other) => panic!("{other:?}"),
        }
    }
    let (number, text) = checkpoint.expect("a checkpoint");
    assert_eq!(text, "\"here\"");
    tokio::time::timeout(TTL / 3, stream.next_frame())
        .await
        .expect_err("it waits");
    stream.answer(number, Down::ReportProgress(Default::default()));
    stream.result().await;
}

#[tokio::test]
async fn no_more_handlers_run_at_once_than_the_agent_has_slots() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (running.clone(), most.clone());
    let work = move |_task: TaskContext, _number: i64| {
        let (now, peak) = (now.clone(), peak.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, TaskFailure>(())
        }
    };
    let (client, mut streams) = sessions().await;
    let builder = agent(&client)
        .capability("work", work)
        .max_concurrent_tasks(2);
    let _agent = builder.build().start().expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    (0..6).for_each(|task| stream.assign(&format!("t{task}"), 1, "1", LONG));
    for _ in 0..6 {
        let (number, _) = stream.result().await;
        complete(&stream, number);
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
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
    let drain = pb::connect_notice::Drain {
        reconnect_delay: None,
    };
    let notice = Some(pb::connect_notice::Notice::Drain(drain));
    stream.answer(0, Down::Notice(pb::ConnectNotice { notice }));
    let mut stream = streams.welcomed("s1", TTL).await;
    assert!(matches!(stream.hello, Session::Resume(_)));
    drop(agent);
    soon(stream.idle()).await;
}
