//! What becomes of tasks and their handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use drumline::agent::{CancelCause, Status};
use drumline::v1::connect_hello::Session;
use drumline::v1::connect_request::Frame as Up;
use drumline::v1::connect_response::Frame as Down;
use drumline::v1::{self as pb};
use drumline::{Reason, TaskContext, TaskFailure};
use tonic::Code;

use crate::fake::{sessions, soon};
use crate::handlers::{LONG, TTL, agent, complete, double, json, waiting};

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
    assert_eq!(update.agent.expect("an agent").status(), pb::agent::Status::Draining);
    stream.answer(number, Down::UpdateAgent(Default::default()));
    // The acceptance was never answered: that, too, is waited for.
    stream.answer(number - 2, Down::AcceptTask(Default::default()));
    let goodbye = loop {
        match stream.frame().await {
            (number, Up::DeregisterAgent(_)) => break number,
            (number, Up::AcceptTask(_)) => stream.answer(number, Down::AcceptTask(Default::default())),
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
    assert_eq!(stream.failure().await.1, failed("panic", "one is too much", false));
    stream.assign("t", 2, "2", LONG);
    assert_eq!(stream.failure().await.1, failed("two", "no", true));
    stream.assign("t", 3, "\"text\"", LONG);
    let (_, error) = stream.failure().await;
    assert_eq!((error.kind.as_str(), error.permanent), ("invalid_input", true));
    stream.assign("t", 4, "3", LONG);
    assert_eq!(json(stream.result().await.1.result), "3");
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
                assert_eq!((report.progress, report.progress_message.as_str()), (0.5, "half"));
                checkpoint = report.checkpoint.map(|payload| (number, json(Some(payload))));
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
    let builder = agent(&client).capability("work", work).max_concurrent_tasks(2);
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
async fn a_result_too_large_for_a_message_fails_its_task_and_not_the_stream() {
    async fn grows(_task: TaskContext, megabytes: usize) -> Result<String, TaskFailure> {
        Ok("x".repeat(megabytes << 20))
    }
    let (client, mut streams) = sessions().await;
    let _agent = agent(&client)
        .capability("work", grows)
        .build()
        .start()
        .expect("an agent");
    // Writing so much JSON may keep this runtime, which the server shares, from answering heartbeats for a while.
    let mut stream = streams.welcomed("s1", LONG).await;
    stream.assign("t", 1, "5", LONG);
    let (_, error) = stream.failure().await;
    assert_eq!((error.kind.as_str(), error.permanent), ("result_too_large", true));
    stream.assign("u", 1, "1", LONG);
    assert_eq!(stream.result().await.1.task_id, "u");
}

#[tokio::test]
async fn a_stopped_agent_says_goodbye_though_a_handler_does_not_stop() {
    let (work, mut why) = waiting();
    let (client, mut streams) = sessions().await;
    let agent = agent(&client)
        .capability("work", work)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    stream.assign("t", 1, "1", LONG);
    let (number, _) = stream.frame().await;
    stream.answer(number, Down::AcceptTask(Default::default()));
    let under_session = agent.client().expect("a client");
    let stopping = tokio::spawn(async move {
        let ended = agent.stop().await;
        (ended, agent)
    });
    assert_eq!(soon(why.recv()).await, Some(Some(CancelCause::Stopping)));
    let (number, frame) = stream.frame().await;
    assert!(
        matches!(frame, Up::DeregisterAgent(_)),
        "nothing else is said: {frame:?}"
    );
    stream.answer(number, Down::DeregisterAgent(Default::default()));
    let (ended, agent) = soon(stopping).await.expect("no panic");
    ended.expect("it has left");
    assert_eq!(agent.status(), Status::Stopped);
    assert!(agent.client().is_err(), "its session is over");
    assert_eq!(under_session.session_id(), "s1");
}

#[tokio::test]
async fn a_task_without_a_handler_goes_to_others() {
    let (client, mut streams) = sessions().await;
    let _agent = agent(&client)
        .capability("other", double)
        .build()
        .start()
        .expect("an agent");
    let mut stream = streams.welcomed("s1", TTL).await;
    stream.assign("t", 1, "1", LONG);
    let (_, frame) = stream.frame().await;
    assert!(matches!(frame, Up::RejectTask(_)), "{frame:?}");
}
