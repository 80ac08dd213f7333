//! A database that is restored from a backup: it has the same identity as the one that was lost, and does not know what that one gave out
//! after the backup. `drumline epoch raise` makes the difference.

use drumline_proto::v1;

use super::{out, run, words};
use crate::events::{Reader, Start, positions, publish_many};
use crate::support::server::{Server, compositions, new_database};
use crate::support::{Stage, connect, metadata_of, reason_of};

/// Runs a statement on the server of a database, on another database of it.
async fn at_the_server_of(url: &str, statement: &str) {
    let (server, _) = url.rsplit_once('/').expect("a database");
    let (client, connection) = tokio_postgres::connect(&format!("{server}/postgres"), tokio_postgres::NoTls)
        .await
        .expect("it answers");
    tokio::spawn(connection);
    client
        .batch_execute(statement)
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}

fn name_of(url: &str) -> &str {
    url.rsplit_once('/').expect("a database").1
}

async fn start(url: &str, stage: Option<&Stage>) -> (Server, Stage) {
    let server = Server::with(&["--database-url", url, "--listen", "127.0.0.1:0"]);
    let fresh = Stage::new(&server.address).await;
    let Some(stage) = stage else { return (server, fresh) };
    let stage = Stage {
        channel: connect(&server.address).await,
        ..stage.clone()
    };
    (server, stage)
}

/// Stops a server, so that nobody is connected any more.
async fn stop(server: Server) {
    server.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || server.wait())
        .await
        .expect("no panic");
    assert!(ended.success());
}

async fn token(stage: &Stage, resource: &str) -> i64 {
    let request = v1::AcquireLockRequest {
        namespace: stage.ns(),
        resource_id: resource.into(),
        holder_id: "holder".into(),
        ..Default::default()
    };
    let lock = stage
        .locks()
        .acquire_lock(request)
        .await
        .expect("free")
        .into_inner()
        .lock;
    lock.expect("a lock").fencing_token
}

#[tokio::test]
async fn after_a_restore_tokens_go_on_above_and_cursors_of_what_was_lost_are_refused() {
    if compositions().len() < 2 {
        return;
    }
    let url = new_database();
    let (database, backup) = (name_of(&url).to_owned(), format!("{}_backup", name_of(&url)));
    let (server, stage) = start(&url, None).await;
    let kept = publish_many(&stage, "note.made", 5).await.cursor;
    token(&stage, "a").await;
    stop(server).await;
    at_the_server_of(&url, &format!("CREATE DATABASE {backup} TEMPLATE {database}")).await;

    let (server, stage) = start(&url, Some(&stage)).await;
    let lost = publish_many(&stage, "note.made", 5).await.cursor;
    let lost_token = token(&stage, "b").await;
    stop(server).await;
    at_the_server_of(&url, &format!("DROP DATABASE {database}")).await;
    at_the_server_of(&url, &format!("CREATE DATABASE {database} TEMPLATE {backup}")).await;

    let raised = run(&["epoch", "raise"], &[("DRUMLINE_DATABASE_URL", &url)]).await;
    assert!(raised.status.success(), "{}", words(&raised));
    assert!(out(&raised).starts_with("epoch "), "{}", out(&raised));

    let (server, stage) = start(&url, Some(&stage)).await;
    let refusal = |cursor: &str| Reader::try_open(&stage, Some(Start::Cursor(cursor.to_owned())), None);
    let status = refusal(&lost).await.err().expect("it is ahead of the log");
    assert_eq!(
        (reason_of(&status).as_str(), metadata_of(&status, "problem").as_str()),
        ("CURSOR_OUT_OF_RANGE", "AHEAD")
    );
    let after = token(&stage, "b").await;
    assert!(after > lost_token, "{after} after {lost_token}");
    publish_many(&stage, "note.made", 20).await;
    // The log has grown past it, and the events there are others.
    let status = refusal(&lost).await.err().expect("what it saw is lost");
    assert_eq!(
        (reason_of(&status).as_str(), metadata_of(&status, "problem").as_str()),
        ("CURSOR_OUT_OF_RANGE", "LOST")
    );
    let mut reader = Reader::open(&stage, Start::Cursor(kept), crate::events::types(&["note.*"])).await;
    assert_eq!(
        positions(&reader.catch_up().await.0).len(),
        20,
        "what was before the backup goes on"
    );
    stop(server).await;
    at_the_server_of(&url, &format!("DROP DATABASE {backup}")).await;
}

#[tokio::test]
async fn a_data_directory_has_epochs_too_and_nobody_raises_them_under_a_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_str().expect("a path in UTF-8");
    let nothing = run(&["epoch", "raise", "--data-dir", data], &[]).await;
    assert_eq!(nothing.status.code(), Some(1), "{}", out(&nothing));
    assert!(words(&nothing).contains("drumline migrate"), "{}", words(&nothing));

    let server = Server::with(&["--data-dir", data, "--listen", "127.0.0.1:0"]);
    let stage = Stage::new(&server.address).await;
    let before = token(&stage, "a").await;
    let busy = run(&["epoch", "raise", "--data-dir", data], &[]).await;
    assert_eq!(busy.status.code(), Some(1), "{}", out(&busy));
    assert!(words(&busy).contains("another server"), "{}", words(&busy));
    stop(server).await;

    let raised = run(&["epoch", "raise", "--data-dir", data], &[]).await;
    assert!(raised.status.success(), "{}", words(&raised));
    let server = Server::with(&["--data-dir", data, "--listen", "127.0.0.1:0"]);
    let stage = Stage {
        channel: connect(&server.address).await,
        ..stage
    };
    assert!(token(&stage, "b").await > before);
}
