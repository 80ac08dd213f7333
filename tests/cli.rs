//! The commands of the binary, as scripts use them: what they print, and the code that they exit with.

use std::process::{Output, Stdio};

use drumline_proto::v1;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::server::{self, Composition};
use crate::support::wait::{soon, until};
use crate::support::{Stage, reason};

async fn stage() -> Stage {
    Stage::over(&server::shared(Composition::Sqlite)).await
}

/// The binary, told where the stage is. Nothing of the test's own surroundings changes what it does.
fn drumline(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = Command::new(server::binary());
    command
        .args(arguments)
        .env("DRUMLINE_SERVER", &stage.address)
        .env("DRUMLINE_NAMESPACE", &stage.namespace)
        .env_remove("DRUMLINE_SESSION_ID")
        .env_remove("DRUMLINE_FENCING_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(stage: &Stage, arguments: &[&str]) -> Output {
    soon("the command's end", drumline(stage, arguments).output())
        .await
        .expect("it runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The next line of a child.
async fn line(child: &mut Child) -> String {
    let mut text = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    // Unbuffered, so that what follows stays in the pipe.
    soon("a line", async {
        loop {
            match stdout.read_u8().await.expect("more output") {
                b'\n' => return,
                byte => text.push(char::from(byte)),
            }
        }
    })
    .await;
    text
}

#[tokio::test]
async fn a_document_keeps_its_digits_on_the_way_through_the_command_line() {
    let stage = stage().await;
    let digits = r#"{"n": 12345678901234567890.10}"#;
    let put = run(
        &stage,
        &["state", "put", "a", digits, "--expected-version", "0", "-o", "json"],
    )
    .await;
    assert_eq!(put.status.code(), Some(0), "{}", err(&put));
    assert!(out(&put).starts_with(r#"{"version":"1","#), "{}", out(&put));
    assert_eq!(out(&run(&stage, &["state", "get", "a", "--raw"]).await).trim(), digits);
    let table = out(&run(&stage, &["state", "list"]).await);
    assert!(table.starts_with("STATE  VERSION") && table.contains(digits), "{table}");
}

#[tokio::test]
async fn a_refusal_is_one_line_and_codes_tell_what_went_wrong() {
    let stage = stage().await;
    run(&stage, &["state", "put", "a", "1"]).await;
    let conflict = run(&stage, &["state", "put", "a", "2", "--expected-version", "9"]).await;
    assert_eq!(conflict.status.code(), Some(1));
    let said = err(&conflict);
    assert!(
        said.starts_with("error: VERSION_CONFLICT: ") && said.contains("current_version=1"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");

    for wrong in [
        &["state", "put", "a", "no JSON"][..],
        &["state", "put"],
        &["lock", "run", "a"],
    ] {
        assert_eq!(run(&stage, wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    let nowhere = run(&stage, &["state", "get", "a", "--server", "http://127.0.0.1:1"]).await;
    assert_eq!(nowhere.status.code(), Some(3), "{}", err(&nowhere));
}

#[tokio::test]
async fn a_tail_shows_what_is_published_and_ends_when_it_is_told() {
    let stage = stage().await;
    let mut tail = drumline(
        &stage,
        &[
            "events",
            "tail",
            "made.*",
            "--from-beginning",
            "--limit",
            "2",
            "-o",
            "json",
        ],
    )
    .spawn()
    .expect("a tail");
    for (kind, payload) in [("made.one", "{\"n\": 1}"), ("other.two", "2"), ("made.three", "3")] {
        let published = run(&stage, &["events", "publish", kind, payload]).await;
        assert_eq!(published.status.code(), Some(0), "{}", err(&published));
    }
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    for kind in ["made.one", "made.three"] {
        let event = soon("an event", lines.next_line())
            .await
            .expect("readable")
            .expect("a line");
        assert!(event.contains(&format!(r#""eventType":"{kind}""#)), "{event}");
    }
    assert!(soon("the end", tail.wait()).await.expect("ended").success());

    let interrupted = drumline(&stage, &["events", "tail"]).spawn().expect("a tail");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    server::signal(interrupted.id().expect("running"), "INT");
    let ended = soon("the end", interrupted.wait_with_output()).await.expect("ended");
    assert_eq!(ended.status.code(), Some(130), "{}", err(&ended));
}

#[tokio::test]
async fn a_reader_that_leaves_early_is_no_failure() {
    let stage = stage().await;
    for n in 0..3 {
        run(&stage, &["events", "publish", "made.up", &n.to_string()]).await;
    }
    let mut tail = drumline(&stage, &["events", "tail", "--from-beginning", "-o", "json"])
        .spawn()
        .expect("a tail");
    line(&mut tail).await;
    drop(tail.stdout.take());
    run(&stage, &["events", "publish", "made.up", "4"]).await;
    let ended = soon("the end", tail.wait_with_output()).await.expect("ended");
    assert_eq!((ended.status.code(), err(&ended).as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_program_under_a_lock_has_its_token_and_its_code_is_passed_on() {
    let stage = stage().await;
    let script = "echo \"$DRUMLINE_RESOURCE $DRUMLINE_FENCING_TOKEN\"; exit 7";
    let first = run(&stage, &["lock", "run", "build", "--", "sh", "-c", script]).await;
    assert_eq!(first.status.code(), Some(7), "{}", err(&first));
    let second = run(&stage, &["lock", "run", "build", "--", "sh", "-c", script]).await;
    let token = |output: &Output| -> i64 {
        let text = out(output);
        text.trim()
            .strip_prefix("build ")
            .and_then(|token| token.parse().ok())
            .expect("a token")
    };
    assert!(
        token(&second) > token(&first),
        "the first was given back, the second has a higher token"
    );
    let killed = run(&stage, &["lock", "run", "build", "--", "sh", "-c", "kill -9 $$"]).await;
    assert_eq!(killed.status.code(), Some(137));
    assert_eq!(
        run(&stage, &["lock", "run", "build", "--", "/no/such/program"])
            .await
            .status
            .code(),
        Some(127)
    );
    let get = v1::GetLockRequest {
        namespace: stage.ns(),
        resource_id: "build".into(),
    };
    assert_eq!(
        reason(stage.locks().get_lock(get).await),
        "LOCK_NOT_FOUND",
        "it is given back each time"
    );
}

#[tokio::test]
async fn a_program_whose_lock_is_lost_is_stopped_with_all_that_it_started() {
    let stage = stage().await;
    // The grandchild does not listen, and holds the pipe.
    let script = "(trap '' TERM; while :; do sleep 0.1; done) & echo $DRUMLINE_FENCING_TOKEN; wait; exit 0";
    let mut holder = drumline(
        &stage,
        &["lock", "run", "build", "--ttl", "2s", "--", "sh", "-c", script],
    )
    .spawn()
    .expect("a holder");
    let token = line(&mut holder).await;
    let refused = run(&stage, &["lock", "run", "build", "--", "true"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).starts_with("error: LOCK_HELD: "), "{}", err(&refused));

    let released = run(&stage, &["locks", "release", "build", "--token", &token]).await;
    assert_eq!(released.status.code(), Some(0), "{}", err(&released));
    let ended = soon("the end of the whole group", holder.wait_with_output())
        .await
        .expect("ended");
    assert_eq!(ended.status.code(), Some(1));
    assert!(err(&ended).contains("is lost"), "{}", err(&ended));
}

#[tokio::test]
async fn a_signal_reaches_the_program_and_who_waits_leaves() {
    let stage = stage().await;
    let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done";
    let mut holder = drumline(&stage, &["lock", "run", "build", "--", "sh", "-c", script])
        .spawn()
        .expect("a holder");
    assert_eq!(line(&mut holder).await, "up");

    let waiter = drumline(&stage, &["lock", "run", "build", "--wait", "60s", "--", "true"])
        .spawn()
        .expect("a waiter");
    until("the waiter is in the queue", || async {
        let get = v1::GetLockRequest {
            namespace: stage.ns(),
            resource_id: "build".into(),
        };
        let lock = stage.locks().get_lock(get).await.expect("held").into_inner().lock;
        lock.is_some_and(|lock| lock.queue_length == 1)
    })
    .await;
    server::signal(waiter.id().expect("running"), "TERM");
    assert_eq!(
        soon("it leaves", waiter.wait_with_output())
            .await
            .expect("ended")
            .status
            .code(),
        Some(143)
    );

    server::signal(holder.id().expect("running"), "TERM");
    assert_eq!(soon("the end", holder.wait()).await.expect("ended").code(), Some(9));
    let get = v1::GetLockRequest {
        namespace: stage.ns(),
        resource_id: "build".into(),
    };
    until("the lock is nobody's", || async {
        reason_or_held(stage.locks().get_lock(get.clone()).await) == "LOCK_NOT_FOUND"
    })
    .await;
}

/// The reason, or that somebody has the lock: the waiter that has left may have been granted it for a moment.
fn reason_or_held(result: Result<tonic::Response<v1::GetLockResponse>, tonic::Status>) -> String {
    result.map_or_else(|status| crate::support::reason_of(&status), |_| "held".into())
}

#[tokio::test]
async fn a_program_serves_tasks_and_workflows_that_are_typed_in() {
    let stage = stage().await;
    let script = "read input; case $input in 13) echo unlucky >&2; exit 3;; *) echo $input;; esac";
    let exec = [
        "agent",
        "exec",
        "--capability",
        "echo",
        "--agent-id",
        "echo-1",
        "--",
        "sh",
        "-c",
        script,
    ];
    let mut agent = drumline(&stage, &exec).spawn().expect("an agent");
    let mut said = BufReader::new(agent.stderr.take().expect("piped")).lines();
    let serves = soon("the agent", said.next_line()).await.expect("readable");
    assert_eq!(serves.as_deref(), Some("agent echo-1 serves echo"));
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });

    let well = run(&stage, &["tasks", "delegate", "echo", "--input", "[1, 2.50]", "--raw"]).await;
    assert_eq!(
        (well.status.code(), out(&well).as_str()),
        (Some(0), "[1, 2.50]\n"),
        "{}",
        err(&well)
    );
    let badly = run(
        &stage,
        &[
            "tasks",
            "delegate",
            "echo",
            "--input",
            "13",
            "--max-attempts",
            "1",
            "--wait",
        ],
    )
    .await;
    assert_eq!(badly.status.code(), Some(1));
    assert!(
        err(&badly).contains("exit_code: exit code 3; it said: unlucky"),
        "{}",
        err(&badly)
    );

    let file = tempfile::NamedTempFile::new().expect("a file");
    let workflow = r#"{
        "workflowType": "MAP_REDUCE",
        "steps": [
            {"stepId": "map", "capability": "echo", "forEach": "input"},
            {"stepId": "reduce", "capability": "echo", "input": "${steps.map.result}"}
        ]
    }"#;
    std::fs::write(file.path(), workflow).expect("written");
    let path = file.path().to_str().expect("a path in UTF-8");
    let result = run(
        &stage,
        &["workflows", "start", "-f", path, "--input", "[1,2,3]", "--raw"],
    )
    .await;
    assert_eq!(
        (result.status.code(), out(&result).as_str()),
        (Some(0), "[1,2,3]\n"),
        "{}",
        err(&result)
    );

    server::signal(agent.id().expect("running"), "TERM");
    assert_eq!(soon("it drains", agent.wait()).await.expect("ended").code(), Some(0));
}
