//! What a server will not start on.

use std::process::{Command, Output, Stdio};

use super::start;
use crate::common::assert_well;
use crate::support::Stage;
use crate::support::server::{Server, binary};

/// Runs a server that is not to start; one that does anyway is stopped. It must leave nothing behind.
async fn refused(arguments: &[&str]) -> Output {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.arg("serve").args(arguments).stdin(Stdio::null());
    command.env("TMPDIR", temporary.path());
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary");
    let pid = child.id();
    let ending = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = tokio::time::timeout(crate::support::wait::PATIENCE, ending).await;
    if output.is_err() {
        crate::support::server::signal(pid, "KILL");
        panic!("a server started on {arguments:?}");
    }
    assert_eq!(temporary.path().read_dir().unwrap().count(), 0);
    output.unwrap().expect("no panic").expect("its output")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().expect("a path in UTF-8");
    let server = start(directory.path());
    let stage = Stage::new(&server.address).await;
    let output = refused(&["--data-dir", path, "--listen", "127.0.0.1:0"]).await;
    assert!(!output.status.success());
    let words = words(&output);
    assert!(words.contains("another server") && words.contains(path), "{words}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_well(&stage).await;
    // Once the first is gone, however it went, the directory is free.
    server.kill();
    let server = start(directory.path());
    assert_well(&Stage::new(&server.address).await).await;
}

#[tokio::test]
async fn a_server_that_others_could_reach_must_be_asked_for() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let output = refused(&["--ephemeral", "--listen", address]).await;
        assert!(!output.status.success());
        assert!(words(&output).contains("--insecure"), "{address}: {}", words(&output));
    }
    let server = Server::with(&["--ephemeral", "--listen", "0.0.0.0:0", "--insecure"]);
    let (_, port) = server.address.rsplit_once(':').expect("a port");
    assert_well(&Stage::new(&format!("http://127.0.0.1:{port}")).await).await;
}

#[tokio::test]
async fn an_address_that_is_taken_and_a_directory_that_is_none_are_named() {
    let server = Server::with(&["--ephemeral", "--listen", "127.0.0.1:0"]);
    let output = refused(&["--ephemeral", "--listen", server.listen_address()]).await;
    assert!(!output.status.success());
    assert!(words(&output).contains(server.listen_address()), "{}", words(&output));
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().expect("a path in UTF-8");
    let output = refused(&["--data-dir", path, "--listen", "127.0.0.1:0"]).await;
    assert!(!output.status.success());
    assert!(words(&output).contains(path), "{}", words(&output));
}
