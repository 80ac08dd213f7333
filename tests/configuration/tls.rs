//! Encryption on the way to Postgres, against servers with a certificate of the tests' own making.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{out, run, words};
use crate::common::assert_well;
use crate::support::Stage;
use crate::support::keeper::Place;
use crate::support::postgres::{Postgres, own, programs};
use crate::support::server::{Server, compositions, new_database};

/// Somebody who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate and its key.
    fn signs(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// The certificate of a server on this machine, which a client knows by its name alone.
fn of_localhost() -> CertificateParams {
    CertificateParams::new(vec!["localhost".to_owned()]).expect("a name")
}

/// A server that encrypts, and files for its clients.
struct Secured {
    postgres: Postgres,
    files: tempfile::TempDir,
}

impl Secured {
    /// Starts a server with a certificate that is signed by `authority`; it trusts what that one has signed too.
    async fn start(authority: &Authority, certificate: &CertificateParams) -> Secured {
        let files = tempfile::tempdir().expect("a directory");
        let place = Place::new();
        let (certificate, key) = authority.signs(certificate);
        let of_the_server = |name: &str, text: &str| {
            let path = write(place.path(), name, text);
            own(&path);
            path.display().to_string()
        };
        // Who comes as `certified` shows a certificate, who comes as `secret` knows a password, bound to the channel.
        let rules =
            "hostssl all certified all cert\nhostssl all secret all scram-sha-256\nhost all postgres all trust\n";
        let settings = [
            format!("ssl_cert_file={}", of_the_server("server.crt", &certificate)),
            format!("ssl_key_file={}", of_the_server("server.key", &key)),
            format!("ssl_ca_file={}", of_the_server("root.crt", &authority.pem)),
            format!("hba_file={}", of_the_server("hba.conf", rules)),
            "ssl=on".to_owned(),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let postgres = Postgres::start_in(place, &settings).await;
        write(files.path(), "root.crt", &authority.pem);
        write(files.path(), "server.crt", &certificate);
        Secured { postgres, files }
    }

    /// A URL by a host, with parameters in which `@name` stands for the path of a file.
    fn url(&self, user: &str, host: &str, parameters: &str) -> String {
        let (_, port) = self.postgres.address().rsplit_once(':').expect("a port");
        let directory = format!("{}/", self.files.path().display());
        format!(
            "postgres://{user}:hunter2@{host}:{port}/postgres?{}",
            parameters.replace('@', &directory)
        )
    }
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    path
}

/// Fails unless a connection comes about, or does not and the complaint has this in it.
async fn assert_connects(url: &str, complaint: Option<&str>) {
    let output = run(&["migrate", "--check"], &[("DRUMLINE_DATABASE_URL", url)]).await;
    let said = format!("{url}: {}{}", out(&output), words(&output));
    match complaint {
        None => assert!(out(&output).contains("needs 0001_tables"), "{said}"),
        Some(complaint) => {
            assert_eq!(output.status.code(), Some(3), "{said}");
            assert!(words(&output).contains(complaint), "{said}");
        }
    }
    assert!(
        !out(&output).contains("hunter2") && !words(&output).contains("hunter2"),
        "{said}"
    );
}

const UNTRUSTED: Option<&str> = Some("signed by none that is trusted");
const OTHER_HOST: Option<&str> = Some("not for the host");

#[tokio::test]
async fn every_mode_holds_the_certificate_against_what_it_asks_for() {
    if programs().is_none() {
        return;
    }
    let secured = Secured::start(&Authority::new(), &of_localhost()).await;
    write(secured.files.path(), "other.crt", &Authority::new().pem);
    for (host, parameters, complaint) in [
        ("localhost", "", None),
        ("localhost", "sslmode=disable", None),
        ("localhost", "sslmode=prefer", None),
        ("127.0.0.1", "sslmode=require", None),
        ("127.0.0.1", "sslmode=require&sslrootcert=@root.crt", None),
        ("127.0.0.1", "sslmode=require&sslrootcert=@other.crt", UNTRUSTED),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert=@root.crt", None),
        ("localhost", "sslmode=verify-ca&sslrootcert=@other.crt", UNTRUSTED),
        ("localhost", "sslmode=verify-full&sslrootcert=@root.crt", None),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=@root.crt", OTHER_HOST),
        ("localhost", "sslmode=verify-full&sslrootcert=@other.crt", UNTRUSTED),
        // The server's own certificate, instead of that of whoever signed it.
        ("localhost", "sslmode=verify-full&sslrootcert=@server.crt", None),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=@server.crt", OTHER_HOST),
    ] {
        assert_connects(&secured.url("postgres", host, parameters), complaint).await;
    }
    // The certificates of the system, if it has any: nobody there has signed this one.
    let url = secured.url("postgres", "localhost", "sslmode=verify-full");
    let output = run(&["migrate", "--check"], &[("DRUMLINE_DATABASE_URL", &url)]).await;
    let said = words(&output);
    assert!(
        said.contains("signed by none") || said.contains("this system has none"),
        "{said}"
    );
}

#[tokio::test]
async fn a_certificate_whose_time_is_over_is_no_good() {
    if programs().is_none() {
        return;
    }
    let mut over = of_localhost();
    over.not_after = rcgen::date_time_ymd(2020, 1, 1);
    over.not_before = rcgen::date_time_ymd(2019, 1, 1);
    let secured = Secured::start(&Authority::new(), &over).await;
    let expired = Some("expired");
    for (parameters, complaint) in [
        ("sslmode=require", None),
        ("sslmode=verify-ca&sslrootcert=@root.crt", expired),
        ("sslmode=verify-full&sslrootcert=@server.crt", expired),
    ] {
        assert_connects(&secured.url("postgres", "localhost", parameters), complaint).await;
    }
}

#[tokio::test]
async fn a_server_without_encryption_is_refused_where_it_is_asked_for() {
    if compositions().len() < 2 {
        return;
    }
    let database = new_database().replace("postgres@", "postgres:hunter2@");
    let refused = Some("does not support TLS");
    let authority = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(authority.path(), Authority::new().pem).expect("written");
    let root = authority.path().display();
    for (parameters, complaint) in [
        (String::new(), None),
        ("?sslmode=disable".to_owned(), None),
        ("?sslmode=prefer".to_owned(), None),
        ("?sslmode=require".to_owned(), refused),
        (format!("?sslmode=verify-ca&sslrootcert={root}"), refused),
        (format!("?sslmode=verify-full&sslrootcert={root}"), refused),
    ] {
        assert_connects(&format!("{database}{parameters}"), complaint).await;
    }
}

#[tokio::test]
async fn a_server_works_on_encrypted_connections_alone() {
    if programs().is_none() {
        return;
    }
    let authority = Authority::new();
    let secured = Secured::start(&authority, &of_localhost()).await;
    secured
        .postgres
        .execute("CREATE ROLE certified SUPERUSER LOGIN; CREATE ROLE secret SUPERUSER LOGIN PASSWORD 'hunter2'")
        .await;
    let mut certified = CertificateParams::default();
    certified.distinguished_name.push(DnType::CommonName, "certified");
    let (certificate, key) = authority.signs(&certified);
    write(secured.files.path(), "client.crt", &certificate);
    write(secured.files.path(), "client.key", &key);

    let full = "sslmode=verify-full&sslrootcert=@root.crt";
    let by_certificate = secured.url(
        "certified",
        "localhost",
        &format!("{full}&sslcert=@client.crt&sslkey=@client.key"),
    );
    let by_password = secured.url("secret", "localhost", &format!("{full}&channel_binding=require"));
    for (user, url) in [("certified", &by_certificate), ("secret", &by_password)] {
        assert_connects(url, None).await;
        let server = Server::with(&["--database-url", url, "--listen", "127.0.0.1:0"]);
        assert_well(&Stage::new(&server.address).await).await;
        let connections = |ssl: &str| {
            format!(
                "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                 WHERE usename = '{user}' AND application_name = 'drumline' AND {ssl}"
            )
        };
        assert_ne!(secured.postgres.ask(&connections("ssl")).await, "0");
        assert_eq!(secured.postgres.ask(&connections("NOT ssl")).await, "0");
        drop(server);
        secured
            .postgres
            .execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .await;
    }
    // Nobody without a certificate, or without encryption.
    assert_connects(&secured.url("certified", "localhost", full), Some("certificate")).await;
    assert_connects(
        &secured.url("secret", "localhost", "sslmode=disable"),
        Some("no pg_hba.conf entry"),
    )
    .await;
    let other = Authority::new();
    let (certificate, key) = other.signs(&certified);
    write(secured.files.path(), "client.crt", &certificate);
    write(secured.files.path(), "client.key", &key);
    let output = run(&["migrate", "--check"], &[("DRUMLINE_DATABASE_URL", &by_certificate)]).await;
    assert_eq!(output.status.code(), Some(3), "{}{}", out(&output), words(&output));
}
