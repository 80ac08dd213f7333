//! `drumline agent exec` against a server whose side of the stream the test plays: what becomes of programs that
//! answer, fail, talk nonsense, or do not listen.

use std::process::Stdio;
use std::time::Duration;

use drumline::Reason;
use drumline::v1::connect_hello::Session;
use drumline::v1::connect_request::Frame as Up;
use drumline::v1::connect_response::Frame as Down;
use drumline::v1::{self as pb};
use tokio::process::{Child, Command};

use crate::support::server::{binary, signal};
use crate::support::text_of;

#[path = "../sdk-rust/tests/sdk/fake.rs"]
#[allow(dead_code)]
mod fake;

use fake::{Stream, sessions_at, soon};

const TTL: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(600);

/// An agent whose program is a shell script, and its stream.
async fn agent(script: &str, arguments: &[&str]) -> (Child, Stream, fake::Streams) {
    let (address, mut streams) = sessions_at().await;
    let child = Command::new(binary())
        .args([
            "agent",
            "exec",
            "--capability",
            "work",
            "--agent-id",
            "a",
            "--server",
            &address,
        ])
        .args(arguments)
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("an agent");
    let stream = streams.welcomed("s1", TTL).await;
    (child, stream, streams)
}

/// Answers a result, so that the agent is done with it.
fn take_result(stream: &Stream, number: u64) {
    stream.answer(number, Down::CompleteTask(Default::default()));
}

/// Answers whatever a leaving agent says, until it is gone.
async fn let_leave(stream: &mut Stream) {
    while let Some((number, frame)) = soon(stream.next_frame()).await {
        match frame {
            Up::UpdateAgent(_) => stream.answer(number, Down::UpdateAgent(Default::default())),
            Up::DeregisterAgent(_) => stream.answer(number, Down::DeregisterAgent(Default::default())),
            Up::AcceptTask(_) => stream.answer(number, Down::AcceptTask(Default::default())),
            Up::CompleteTask(_) => stream.answer(number, Down::CompleteTask(Default::default())),
            Up::FailTask(_) => stream.answer(number, Down::FailTask(Default::default())),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_program_gets_its_input_and_its_output_is_the_result() {
    let script =
        r#"read input; echo "{\"got\": $input, \"task\": \"$DRUMLINE_TASK_ID\", \"attempt\": $DRUMLINE_ATTEMPT}""#;
    let (_agent, mut stream, _streams) = agent(script, &["--concurrency", "3", "--label", "kind=test"]).await;
    let Session::Register(registration) = &stream.hello else {
        panic!("{:?}", stream.hello)
    };
    assert_eq!(
        (registration.agent_id.as_str(), registration.max_concurrent_tasks),
        ("a", 3)
    );
    assert_eq!(registration.labels.get("kind").map(String::as_str), Some("test"));
    assert_eq!(registration.capabilities[0].name, "work");

    stream.assign("t", 2, "12345678901234567890.10", LONG);
    let (number, result) = stream.result().await;
    let expected = r#"{"got": 12345678901234567890.10, "task": "t", "attempt": 2}"#;
    assert_eq!(text_of(&result.result), expected, "every digit of it");
    take_result(&stream, number);
}

#[tokio::test]
async fn a_program_that_fails_says_why() {
    let script = "i=0; while [ $i -lt 1000 ]; do echo line $i >&2; i=$((i+1)); done; echo the end >&2; exit 3";
    let (_agent, mut stream, _streams) = agent(script, &[]).await;
    stream.assign("t", 1, "1", LONG);
    let (_, error) = stream.failure().await;
    assert_eq!((error.kind.as_str(), error.permanent), ("exit_code", false));
    assert!(
        error.message.starts_with("exit code 3") && error.message.ends_with("line 999\nthe end"),
        "{error:?}"
    );
    assert!(
        error.message.len() < 5_000,
        "only the end of it: {}",
        error.message.len()
    );
}

#[tokio::test]
async fn an_output_that_is_not_json_is_a_failure() {
    let (_agent, mut stream, _streams) = agent("echo oops; echo beside >&2", &[]).await;
    stream.assign("t", 1, "1", LONG);
    let (_, error) = stream.failure().await;
    assert_eq!(error.kind, "invalid_output");
    assert!(
        error.message.contains("oops") && error.message.contains("beside"),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_a_program_leaves_behind_holds_nothing_up() {
    let (_agent, mut stream, _streams) = agent("sleep 600 & echo '\"done\"'", &[]).await;
    stream.assign("t", 1, "1", LONG);
    let (number, result) = stream.result().await;
    assert_eq!(text_of(&result.result), "\"done\"");
    take_result(&stream, number);
}

#[tokio::test]
async fn a_cancelled_program_is_asked_to_stop_and_then_killed_with_its_children() {
    let directory = tempfile::tempdir().expect("a directory");
    let up = directory.path().join("up");
    let asked = directory.path().join("asked");
    let pid = directory.path().join("pid");
    let script = format!(
        "trap 'touch {}' TERM; (trap '' TERM; while :; do sleep 0.1; done) & echo $! > {}; touch {}; while :; do sleep 0.1; done",
        asked.display(),
        pid.display(),
        up.display(),
    );
    let (_agent, mut stream, _streams) = agent(&script, &["--grace", "300ms"]).await;
    stream.assign("t", 1, "1", LONG);
    let (number, frame) = stream.frame().await;
    assert!(matches!(frame, Up::AcceptTask(_)), "{frame:?}");
    stream.answer(number, Down::AcceptTask(Default::default()));
    crate::support::wait::until("the program is up", || async { up.exists() }).await;
    let cancel = pb::TaskCancellation {
        task_id: "t".into(),
        attempt: 1,
        cause: "no longer needed".into(),
    };
    stream.answer(0, Down::Cancellation(cancel));
    crate::support::wait::until("the program is asked to stop", || async { asked.exists() }).await;
    let grandchild = std::fs::read_to_string(&pid).expect("its process id");
    let process = std::path::PathBuf::from(format!("/proc/{}", grandchild.trim()));
    crate::support::wait::until("the grandchild is gone", || async { gone(&process) }).await;
}

/// Whether a process is no more, or only waits for its parent to look.
fn gone(process: &std::path::Path) -> bool {
    match std::fs::read_to_string(process.join("stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

#[tokio::test]
async fn the_first_signal_drains_and_nothing_is_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let go = directory.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; echo 1", go.display());
    let (mut agent, mut stream, _streams) = agent(&script, &[]).await;
    stream.assign("t", 1, "1", LONG);
    let (number, frame) = stream.frame().await;
    assert!(matches!(frame, Up::AcceptTask(_)), "{frame:?}");
    stream.answer(number, Down::AcceptTask(Default::default()));
    signal(agent.id().expect("running"), "TERM");
    let (number, frame) = stream.frame().await;
    let Up::UpdateAgent(update) = frame else {
        panic!("{frame:?}")
    };
    assert_eq!(update.agent.expect("an agent").status(), pb::agent::Status::Draining);
    stream.answer(number, Down::UpdateAgent(Default::default()));
    std::fs::write(&go, "").expect("written");
    let (number, result) = stream.result().await;
    assert_eq!(text_of(&result.result), "1");
    take_result(&stream, number);
    let_leave(&mut stream).await;
    drop(stream);
    assert_eq!(soon(agent.wait()).await.expect("ended").code(), Some(0));
}

#[tokio::test]
async fn the_second_signal_stops_at_once() {
    let (mut agent, mut stream, _streams) = agent("while :; do sleep 0.05; done", &["--grace", "200ms"]).await;
    stream.assign("t", 1, "1", LONG);
    let (number, frame) = stream.frame().await;
    assert!(matches!(frame, Up::AcceptTask(_)), "{frame:?}");
    stream.answer(number, Down::AcceptTask(Default::default()));
    signal(agent.id().expect("running"), "INT");
    let (number, frame) = stream.frame().await;
    assert!(matches!(frame, Up::UpdateAgent(_)), "{frame:?}");
    stream.answer(number, Down::UpdateAgent(Default::default()));
    signal(agent.id().expect("running"), "INT");
    let_leave(&mut stream).await;
    drop(stream);
    assert_eq!(soon(agent.wait()).await.expect("ended").code(), Some(130));
}

#[tokio::test]
async fn an_agent_whose_place_is_taken_ends_with_an_error() {
    let (mut agent, mut stream, mut streams) = agent("echo 1", &[]).await;
    let superseded = fake::refusal(
        tonic::Code::FailedPrecondition,
        Reason::SessionSuperseded,
        &[("agent_id", "a")],
    );
    stream.assign("t", 1, "1", LONG);
    stream.result().await;
    stream.end(superseded);
    if let Ok(again) = tokio::time::timeout(Duration::from_secs(2), streams.next()).await {
        again.end(fake::refusal(
            tonic::Code::FailedPrecondition,
            Reason::SessionSuperseded,
            &[],
        ));
    }
    assert_eq!(soon(agent.wait()).await.expect("ended").code(), Some(1));
}

#[tokio::test]
async fn an_endless_output_is_cut_off() {
    let (_agent, mut stream, _streams) = agent("yes", &[]).await;
    stream.assign("t", 1, "1", LONG);
    let (_, error) = stream.failure().await;
    assert_eq!((error.kind.as_str(), error.permanent), ("result_too_large", true));
}
