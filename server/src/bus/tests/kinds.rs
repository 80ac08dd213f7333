//! Redis with users, with TLS, under sentinels, as a cluster.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::server::{LONG, Server, Talk, is_installed, until};
use super::talk::{connected, flows, flows_whole, interruption, replica};
use crate::bus::{Bus, check_url};

#[tokio::test]
async fn a_password_is_enough_for_the_default_user() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&["--requirepass", "p@ss/word"]).await;
    let url = format!("redis://:p%40ss%2Fword@127.0.0.1:{}", redis.port);
    let (one, _) = replica(&url).await;
    let (_two, mut two_hears) = replica(&url).await;
    flows_whole(&one, &mut two_hears).await;
    let wrong = Bus::redis(&format!("redis://:wrong@127.0.0.1:{}", redis.port), "store").expect("a URL");
    let none = Bus::redis(&redis.url(), "store").expect("a URL");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!wrong.is_connected() && !none.is_connected());
}

#[tokio::test]
async fn a_user_with_just_the_rights_that_are_needed_is_enough() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let user = "ACL SETUSER drumline on >secret resetchannels &drumline:* -@all +publish +subscribe";
    assert_eq!(redis.ask(user).await, "+OK\r\n");
    let url = format!("redis://drumline:secret@127.0.0.1:{}", redis.port);
    let (one, _) = replica(&url).await;
    let (_two, mut two_hears) = replica(&url).await;
    flows_whole(&one, &mut two_hears).await;
}

#[tokio::test]
async fn a_right_that_is_missing_is_noticed_and_can_be_given_later() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    for rights in [
        "resetchannels +@all",
        "allchannels +@all -subscribe",
        "allchannels +@all -publish",
    ] {
        assert_eq!(
            redis
                .ask(&format!("ACL SETUSER drumline reset on >secret {rights}"))
                .await,
            "+OK\r\n"
        );
        let bus = Bus::redis(&format!("redis://drumline:secret@127.0.0.1:{}", redis.port), "store").expect("a URL");
        let mut hears = bus.listen();
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert!(!bus.is_connected(), "{rights}");
        assert!(hears.try_recv().is_err(), "{rights}");
        assert_eq!(redis.ask("ACL SETUSER drumline allchannels +@all").await, "+OK\r\n");
        connected(&bus).await;
        interruption(&mut hears).await;
    }
}

/// A certificate authority with a certificate for a server and one for a client, by the openssl of this machine.
fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let status = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "openssl {arguments}");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"
    ));
    openssl(&format!(
        "req -x509 {key} -keyout other.key -out other.pem -days 2 -subj /CN=another"
    ));
    for (name, extension) in [
        ("server", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ("client", "extendedKeyUsage=clientAuth"),
    ] {
        openssl(&format!(
            "req -new {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        std::fs::write(folder.join("extensions"), extension).expect("a file");
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem"
        ));
    }
}

#[tokio::test]
async fn redis_can_speak_tls() {
    if !is_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let arguments = |clients: &'static str| {
        ["--port", "0", "--tls-port", "@PORT@", "--tls-auth-clients", clients]
            .map(str::to_owned)
            .into_iter()
            .chain([
                "--tls-cert-file".into(),
                file("server.pem"),
                "--tls-key-file".into(),
                file("server.key"),
            ])
            .chain([
                "--tls-ca-cert-file".into(),
                file("ca.pem"),
                "--requirepass".into(),
                "secret".into(),
            ])
            .collect::<Vec<String>>()
    };
    for clients in ["no", "yes"] {
        let arguments = arguments(clients);
        let redis = Server::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let url = |host: &str, more: String| format!("rediss://:secret@{host}:{}?{more}", redis.port);
        let trust = format!("sslrootcert={}", file("ca.pem"));
        let own = format!("sslcert={}&sslkey={}", file("client.pem"), file("client.key"));
        let good = if clients == "yes" {
            format!("{trust}&{own}")
        } else {
            trust.clone()
        };
        let (one, _) = replica(&url("127.0.0.1", good.clone())).await;
        let (_two, mut two_hears) = replica(&url("localhost", good)).await;
        flows_whole(&one, &mut two_hears).await;
        let mut bad = vec![format!("sslrootcert={}", file("other.pem"))];
        bad.extend((clients == "yes").then_some(trust));
        for bad in bad {
            let stranger = Bus::redis(&url("127.0.0.1", bad), "store").expect("a URL");
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert!(!stranger.is_connected());
        }
    }
    let url = format!(
        "rediss://cache?sslrootcert={}&sslcert={}&sslkey={}",
        file("ca.pem"),
        file("client.pem"),
        file("server.key")
    );
    let error = check_url(&url).expect_err("a key of another certificate").to_string();
    assert!(error.contains("sslcert and sslkey"), "{error}");
}

/// Sentinels of a primary, and a replica of it.
async fn sentinels(primary: &Server, folder: &Path) -> Vec<Server> {
    let mut sentinels = Vec::new();
    for number in 0..3 {
        let mut sentinel = Server::new(&[]);
        let file = folder.join(format!("sentinel-{number}.conf"));
        let port = sentinel.port;
        let text = format!(
            "bind 127.0.0.1\nport {port}\nlogfile /dev/null\ndir {}\nsentinel monitor main 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n",
            folder.display(),
            primary.port
        );
        std::fs::write(&file, text).expect("a file");
        sentinel.restart_with_file(&file, "--sentinel").await;
        sentinels.push(sentinel);
    }
    for sentinel in &sentinels {
        until("the sentinels know each other and the replica", || async {
            let master = Talk::with(sentinel.port).await.ask("SENTINEL MASTER main").await;
            let number = |name: &str| {
                let mut lines = master.lines().skip_while(|line| *line != name);
                lines.nth(2).and_then(|number| number.parse().ok()).unwrap_or(0)
            };
            number("num-other-sentinels") == 2 && number("num-slaves") == 1
        })
        .await;
    }
    sentinels
}

#[tokio::test]
async fn sentinels_can_name_another_primary() {
    if !is_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut primary = Server::start(&[]).await;
    let replicaof = format!("127.0.0.1 {}", primary.port);
    let second = Server::start(&["--replicaof", &replicaof, "--replica-priority", "1"]).await;
    let sentinels = sentinels(&primary, folder.path()).await;
    let [a, b, c] = [0, 1, 2].map(|number| sentinels[number].port);
    let url = format!("redis-sentinel://127.0.0.1:{a}?sentinelServiceName=main&node=127.0.0.1:{b}&node=127.0.0.1:{c}");
    let (one, mut one_hears) = replica(&url).await;
    let (two, mut two_hears) = replica(&url).await;
    flows_whole(&one, &mut two_hears).await;
    assert_eq!(
        second.ask("PUBSUB CHANNELS drumline:*").await,
        "*0\r\n",
        "both are on the primary"
    );
    primary.kill();
    interruption(&mut one_hears).await;
    interruption(&mut two_hears).await;
    connected(&one).await;
    connected(&two).await;
    flows_whole(&one, &mut two_hears).await;
    flows_whole(&two, &mut one_hears).await;
    assert!(second.ask("ROLE").await.contains("master"));
}

#[tokio::test]
async fn any_node_of_a_cluster_will_do() {
    if !is_installed() {
        return;
    }
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let file = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        nodes.push(Server::start(&file).await);
    }
    let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let mut create = tokio::process::Command::new("redis-cli");
    create
        .args(["--cluster", "create"])
        .args(&addresses)
        .arg("--cluster-yes")
        .stdout(Stdio::null());
    let created = tokio::time::timeout(LONG, create.status()).await.expect("an end");
    assert!(created.is_ok_and(|status| status.success()));
    // One that knows all three, and one on each of them.
    let url = format!(
        "redis-cluster://{}?node={}&node={}",
        addresses[0], addresses[1], addresses[2]
    );
    let (all, mut all_hears) = replica(&url).await;
    for address in &addresses {
        let (one, mut one_hears) = replica(&format!("redis-cluster://{address}")).await;
        flows(&all, &mut one_hears).await;
        flows_whole(&one, &mut all_hears).await;
        flows_whole(&all, &mut one_hears).await;
    }
    // The cluster as a whole is down without one of them. Hints still get through the others.
    for kill in [0, 1] {
        while all_hears.try_recv().is_ok() {}
        nodes[kill].kill();
        let (one, mut one_hears) = replica(&format!("redis-cluster://{}", addresses[2])).await;
        connected(&all).await;
        flows(&one, &mut all_hears).await;
        flows(&all, &mut one_hears).await;
    }
}
