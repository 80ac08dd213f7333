//! A server that nobody uses.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Play, is_offline};
use crate::common::put;
use crate::support::agent::{Line, registration};
use crate::support::wait::until;
use crate::support::{Stage, connect, json};

/// What can be seen of the files: how large they are, and when they were last written.
fn files(directory: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let look = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("metadata");
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, (metadata.len(), metadata.modified().expect("a time")))
    };
    entries.map(look).collect()
}

#[tokio::test]
async fn with_nobody_connected_a_server_writes_nothing() {
    let Play {
        server,
        stage,
        directory,
    } = Play::begin().await;
    let line = Line::register(&stage, registration(&stage, "a")).await.unwrap();
    for number in 0..200 {
        let document = put(&stage, &format!("document-{number}"), json("1"));
        stage.state().put_state(document).await.unwrap();
    }
    drop(line);
    until("the end of the agent", || is_offline(&stage, "a")).await;
    let (namespace, address) = (stage.ns(), stage.address.clone());
    drop(stage);

    let data = directory.path().join("data");
    let mut before = files(&data);
    assert!(before.contains_key("drumline.db"), "{before:?}");
    // It tidies up once it has rested for a while.
    until("rest", || {
        let seen = std::mem::replace(&mut before, files(&data));
        let data = data.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(4)).await;
            seen == files(&data)
        }
    })
    .await;
    let before = files(&data);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(before, files(&data));

    // What was looked at does show a write.
    let stage = Stage {
        namespace,
        channel: connect(&address).await,
        address: address.clone(),
        servers: address,
    };
    stage
        .state()
        .put_state(put(&stage, "document-0", json("2")))
        .await
        .unwrap();
    assert_ne!(before, files(&data));
    drop(server);
}
