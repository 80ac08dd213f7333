//! `drumline migrate`, and servers that may not make their own tables.

use super::{out, run, words};
use crate::common::assert_well;
use crate::support::Stage;
use crate::support::server::{Composition, Server, compositions, new_database};

/// A database without tables on each store: the URL, and what has to live as long.
fn databases() -> Vec<(Composition, String, tempfile::TempDir)> {
    let of = |composition: &Composition| {
        let directory = tempfile::tempdir().expect("a directory");
        let url = match composition {
            Composition::Sqlite => format!("sqlite:{}", directory.path().join("data").display()),
            _ => new_database(),
        };
        (*composition, url, directory)
    };
    let on = [Composition::Sqlite, Composition::Postgres];
    on.iter()
        .filter(|composition| compositions().contains(composition))
        .map(of)
        .collect()
}

/// Changes a database behind the program's back.
async fn change(url: &str, statement: &'static str) {
    match url.strip_prefix("sqlite:") {
        Some(directory) => {
            let file = std::path::Path::new(directory).join("drumline.db");
            rusqlite::Connection::open(file)
                .expect("a file")
                .execute_batch(statement)
                .expect("no error");
        }
        None => {
            let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
                .await
                .expect("it answers");
            tokio::spawn(connection);
            client.batch_execute(statement).await.expect("no error");
        }
    }
}

#[tokio::test]
async fn tables_are_made_once_and_the_check_says_whether_they_are() {
    for (composition, url, _directory) in databases() {
        let given = [("DRUMLINE_DATABASE_URL", url.as_str())];
        let check = run(&["migrate", "--check"], &given).await;
        assert_eq!(check.status.code(), Some(1), "{composition:?}: {}", words(&check));
        assert!(
            out(&check).contains("needs 0001_tables"),
            "{composition:?}: {}",
            out(&check)
        );
        let check = run(&["migrate", "--check"], &given).await;
        assert_eq!(check.status.code(), Some(1), "the check makes nothing");

        let refused = run(&["serve", "--migrate=check", "--listen", "127.0.0.1:0"], &given).await;
        assert_eq!(refused.status.code(), Some(1), "{composition:?}");
        assert!(
            words(&refused).contains("drumline migrate"),
            "{composition:?}: {}",
            words(&refused)
        );

        let made = run(&["migrate"], &given).await;
        assert!(made.status.success(), "{composition:?}: {}", words(&made));
        assert!(out(&made).contains("applied 0001_tables"), "{}", out(&made));
        let again = run(&["migrate", "-o", "json"], &given).await;
        let again: serde_json::Value = serde_json::from_str(&out(&again)).expect("JSON");
        assert_eq!(again["applied_now"], serde_json::json!([]));
        assert_eq!(again["applied"][0], "0001_tables");
        let check = run(&["migrate", "--check"], &given).await;
        assert!(check.status.success(), "{composition:?}: {}", out(&check));

        let server = Server::with(&["--database-url", &url, "--migrate=check", "--listen", "127.0.0.1:0"]);
        assert_well(&Stage::new(&server.address).await).await;
        let check = run(&["migrate", "--check"], &given).await;
        assert!(check.status.success(), "beside a server: {}", words(&check));
    }
}

#[tokio::test]
async fn two_processes_that_migrate_at_once_make_the_tables_once() {
    for (composition, url, _directory) in databases() {
        let given = [("DRUMLINE_DATABASE_URL", url.as_str())];
        let all = futures::future::join_all((0..4).map(|_| run(&["migrate", "-o", "json"], &given))).await;
        let mut made = 0;
        for output in &all {
            if !output.status.success() {
                // A data directory is one process's at a time.
                assert_eq!(composition, Composition::Sqlite, "{}", words(output));
                assert!(words(output).contains("another"), "{}", words(output));
                continue;
            }
            let steps: serde_json::Value = serde_json::from_str(&out(output)).expect("JSON");
            made += steps["applied_now"]
                .as_array()
                .expect("a list")
                .iter()
                .filter(|step| *step == "0001_tables")
                .count();
        }
        assert_eq!(made, 1, "{composition:?}");
        assert!(
            run(&["migrate", "--check"], &given).await.status.success(),
            "{composition:?}"
        );
    }
}

#[tokio::test]
async fn a_newer_database_is_left_alone_by_every_command() {
    for (composition, url, _directory) in databases() {
        let given = [("DRUMLINE_DATABASE_URL", url.as_str())];
        assert!(run(&["migrate"], &given).await.status.success(), "{composition:?}");
        let newer = "INSERT INTO migrations (number, name, checksum) VALUES (9999, '9999_later', 'x')";
        change(&url, newer).await;
        let commands: [&[&str]; 4] = [
            &["migrate"],
            &["migrate", "--check"],
            &["serve", "--listen", "127.0.0.1:0"],
            &["serve", "--listen", "127.0.0.1:0", "--migrate=check"],
        ];
        for command in commands {
            let output = run(command, &given).await;
            assert_eq!(
                output.status.code(),
                Some(1),
                "{composition:?} {command:?}: {}",
                words(&output)
            );
            assert!(
                words(&output).contains("newer version"),
                "{composition:?} {command:?}: {}",
                words(&output)
            );
        }
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_told_from_one_that_is_refused() {
    let given = [("DRUMLINE_DATABASE_URL", "postgres://somebody:hunter2@127.0.0.1:1/d")];
    let commands: [&[&str]; 3] = [
        &["migrate"],
        &["migrate", "--check"],
        &["serve", "--listen", "127.0.0.1:0"],
    ];
    for command in commands {
        let output = run(command, &given).await;
        assert_eq!(output.status.code(), Some(3), "{command:?}: {}", words(&output));
        assert!(!words(&output).contains("hunter2"), "{}", words(&output));
    }
    let output = run(&["migrate"], &[("DRUMLINE_EPHEMERAL", "true")]).await;
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
}
