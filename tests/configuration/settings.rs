//! `drumline config`, what `serve` refuses, and that what was set is what holds.

use drumline_proto::v1;

use super::{out, run, shown, words};
use crate::support::server::{Server, compositions, new_database};
use crate::support::{Stage, json, metadata_of};

#[tokio::test]
async fn every_setting_is_shown_with_its_value_and_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("drumline.toml");
    std::fs::write(&path, "event-retention = \"2h\"\n").unwrap();
    let path = path.to_str().unwrap();
    let secret = directory.path().join("database");
    std::fs::write(&secret, "postgres://somebody:hunter2@db.example/drumline\n").unwrap();
    let variables = [
        ("DRUMLINE_DATABASE_URL_FILE", secret.to_str().unwrap()),
        ("REDIS_URL", "redis://:hunter2@redis:6379"),
        ("LOCK_TIMEOUT", "200"),
    ];
    let arguments = ["--config", path, "--listen", "127.0.0.1:1"];
    let settings = shown(&arguments, &variables).await;
    for (name, value, source) in [
        ("listen", "127.0.0.1:1", "flag --listen".to_owned()),
        ("lock-ttl", "3m20s", "environment LOCK_TIMEOUT".to_owned()),
        ("event-retention", "2h", format!("file {path}:1:event-retention")),
        ("task-timeout", "10m", "default".to_owned()),
        (
            "database-url",
            "postgres://somebody:***@db.example/drumline",
            "environment DRUMLINE_DATABASE_URL_FILE".to_owned(),
        ),
        (
            "redis-url",
            "redis://:***@redis:6379",
            "environment REDIS_URL".to_owned(),
        ),
    ] {
        let setting = &settings[name];
        assert_eq!(
            (setting["value"].as_str(), setting["source"].as_str()),
            (Some(value), Some(source.as_str()))
        );
    }
    let table = run(&["config", "--config", path, "--listen", "127.0.0.1:1"], &variables).await;
    let text = out(&table);
    assert_eq!(text.lines().count(), settings.len() + 1, "{text}");
    assert!(
        text.starts_with("SETTING ") && text.contains("3m20s") && !text.contains("hunter2"),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_wrong_is_all_said_before_anything_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let variables = [
        ("DRUMLINE_DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("DRUMLINE_LOCK_TTL", "soon"),
        ("DRUMLINE_DATA_DIR", data.to_str().unwrap()),
    ];
    for command in ["serve", "config"] {
        let output = run(&[command, "--task-timeout", "never"], &variables).await;
        assert_eq!(output.status.code(), Some(2), "{}", words(&output));
        let said = words(&output);
        assert_eq!(said.lines().count(), 3, "{said}");
        for (name, allowed) in [
            ("DRUMLINE_DATABASE_URL", "postgres://"),
            ("DRUMLINE_LOCK_TTL", "from 1s to 1d"),
            ("--task-timeout", "from 1ms to 30d"),
        ] {
            let line = said.lines().find(|line| line.starts_with(&format!("error: {name}: ")));
            assert!(line.is_some_and(|line| line.contains(allowed)), "{name}: {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
        assert!(!data.exists());
    }
}

/// A password that is nobody's.
const PASSWORD: &str = "hunter2";

#[tokio::test]
async fn a_password_on_the_command_line_does_not_stay_there() {
    if !std::path::Path::new("/proc/self/cmdline").exists() || compositions().len() < 2 {
        return;
    }
    // The server asks for no password, so any will do.
    let url = new_database().replace("postgres@", &format!("postgres:{PASSWORD}@"));
    let server = Server::with(&["--database-url", &url, "--listen", "127.0.0.1:0"]);
    let line = std::fs::read(format!("/proc/{}/cmdline", server.pid())).expect("a process");
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    assert!(line.contains("postgres:***@"), "{line}");
    assert!(!line.contains(PASSWORD), "{line}");
    crate::common::assert_well(&Stage::new(&server.address).await).await;
}

#[tokio::test]
async fn what_was_set_holds_where_a_request_does_not_say() {
    let server = Server::with(&[
        "--ephemeral",
        "--listen",
        "127.0.0.1:0",
        "--lock-ttl=77s",
        "--task-timeout=78s",
        "--accept-timeout=8s",
        "--max-concurrent-delegates=3",
        "--state-version-retention=2",
        "--heartbeat-interval=9s",
        "--stream-session-ttl=4s",
        "--max-payload-size=2KiB",
    ]);
    let stage = Stage::new(&server.address).await;
    let lock = v1::AcquireLockRequest {
        namespace: stage.ns(),
        resource_id: "r".into(),
        holder_id: "h".into(),
        ..Default::default()
    };
    let lock = stage
        .locks()
        .acquire_lock(lock)
        .await
        .unwrap()
        .into_inner()
        .lock
        .unwrap();
    assert_eq!(seconds(lock.ttl), 77);

    let task = v1::DelegateTaskRequest {
        namespace: stage.ns(),
        capability: "work".into(),
        ..Default::default()
    };
    let task = stage
        .tasks()
        .delegate_task(task)
        .await
        .unwrap()
        .into_inner()
        .task
        .unwrap();
    assert_eq!((seconds(task.timeout), seconds(task.accept_timeout)), (78, 8));

    let workflow = v1::StartWorkflowRequest {
        namespace: stage.ns(),
        steps: vec![v1::Step {
            step_id: "one".into(),
            capability: "work".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let started = stage.workflows().start_workflow(workflow).await.unwrap().into_inner();
    let get = v1::GetWorkflowRequest {
        namespace: stage.ns(),
        workflow_id: started.workflow_id,
        ..Default::default()
    };
    let workflow = stage
        .workflows()
        .get_workflow(get)
        .await
        .unwrap()
        .into_inner()
        .workflow
        .unwrap();
    assert_eq!(workflow.max_concurrent_delegates, 3);

    let registration = v1::RegisterAgentRequest {
        namespace: stage.ns(),
        agent_id: "a".into(),
        ..Default::default()
    };
    let registered = stage
        .registry()
        .register_agent(registration)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(seconds(registered.session_ttl), 27, "three heartbeats");
    let line = crate::support::agent::Line::register(&stage, crate::support::agent::registration(&stage, "b"))
        .await
        .unwrap();
    assert_eq!(seconds(line.welcome.session_ttl), 4);

    for version in 1..=3 {
        let put = crate::common::put(&stage, "doc", json(&version.to_string()));
        assert_eq!(
            stage.state().put_state(put).await.unwrap().into_inner().version,
            version
        );
    }
    let versions = v1::ListStateVersionsRequest {
        namespace: stage.ns(),
        state_id: "doc".into(),
        ..Default::default()
    };
    let versions = stage
        .state()
        .list_state_versions(versions)
        .await
        .unwrap()
        .into_inner()
        .versions;
    assert_eq!(versions.len(), 2);
    let large = crate::common::put(&stage, "doc", json(&format!("\"{}\"", "x".repeat(3 << 10))));
    let status = stage.state().put_state(large).await.unwrap_err();
    assert_eq!(metadata_of(&status, "limit_bytes"), "2048", "{status:?}");
}

fn seconds(duration: Option<prost_types::Duration>) -> i64 {
    duration.expect("a duration").seconds
}
