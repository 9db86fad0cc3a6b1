//! Servers that speak TLS, with a certificate authority that the test makes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sqlite_redis::Options;
use sqlite_redis_tests::failures::{assert_failure, code, open_failure};
use sqlite_redis_tests::{Server, check_integrity, free_port, hosts, number, program};

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let output = output.expect("openssl; is it installed? (scripts/setup installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an authority, and keys and certificates of a server on this machine and of a client.
fn make_certificates(directory: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(directory, &format!("req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"));
    openssl(directory, &format!("req {key} -keyout redis.key -out redis.csr -subj /CN=localhost"));
    std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    openssl(
        directory,
        "x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out redis.crt -days 2 -extfile names",
    );
    openssl(directory, &format!("req {key} -keyout client.key -out client.csr -subj /CN=client"));
    std::fs::write(directory.join("use"), "extendedKeyUsage=clientAuth\n").unwrap();
    openssl(
        directory,
        "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out client.crt -days 2 -extfile use",
    );
}

/// A server with a TLS port, and the directory of its certificates.
fn tls_server() -> (Server, u16, tempfile::TempDir) {
    tls_server_that("no")
}

/// As [`tls_server`]; `asks` is the server's `tls-auth-clients`.
fn tls_server_that(asks: &str) -> (Server, u16, tempfile::TempDir) {
    let certificates = tempfile::Builder::new().prefix("sqlite-redis-tls.").tempdir().unwrap();
    make_certificates(certificates.path());
    let file = |name: &str| certificates.path().join(name).to_string_lossy().into_owned();
    for _ in 0..10 {
        let port = free_port().unwrap();
        let options = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", file("redis.crt")),
            ("--tls-key-file", file("redis.key")),
            ("--tls-ca-cert-file", file("ca.crt")),
            ("--tls-auth-clients", asks.to_owned()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        // Another test may have taken the port.
        if let Ok(server) = std::panic::catch_unwind(|| Server::with(options).start()) {
            return (server, port, certificates);
        }
    }
    panic!("no free port");
}

const QUERY: &str = "
try:
    db = connect('file:shop?vfs=redis&connect_ms=3000&timeout_ms=3000')
    db.execute('CREATE TABLE IF NOT EXISTS t (x)')
    db.execute('INSERT INTO t VALUES (1)')
    say(db.execute('SELECT count(*) FROM t').fetchone()[0])
except sqlite3.Error as error:
    say(error)
    say(loader.execute('SELECT redis_last_error()').fetchone()[0])
";

#[test]
fn a_tls_server_needs_a_trusted_authority_or_insecure() {
    if !program::has_tls() {
        return;
    }
    let (server, port, certificates) = tls_server();
    let authority = certificates.path().join("ca.crt").to_string_lossy().into_owned();
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("rediss://{host}:{port}");
        let environment = [("SQLITE_REDIS_URL", url.as_str()), ("SSL_CERT_FILE", &authority)];
        let Some(said) = hosts::run_python(QUERY, &environment) else { return };
        assert!(said.out == "1" || said.out == "2", "{said:?}");
    }
    assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}"]), "1");

    let url = format!("rediss://localhost:{port}");
    let said = hosts::run_python(QUERY, &[("SQLITE_REDIS_URL", &url)]).unwrap();
    assert!(said.out.starts_with("unable to open database file"), "{said:?}");
    assert!(said.out.contains(&format!("database `shop` on {url}")), "{said:?}");
    assert!(said.out.contains("certificate"), "{said:?}");

    // `#insecure` turns off the check of the certificate.
    let url = format!("rediss://localhost:{port}/#insecure");
    let said = hosts::run_python(QUERY, &[("SQLITE_REDIS_URL", &url)]).unwrap();
    assert_eq!(said.out, "3", "{said:?}");
}

#[test]
fn an_address_with_the_wrong_scheme_for_tls_names_the_right_one() {
    if !program::has_tls() {
        return;
    }
    let plain = Server::with::<String>([]).tcp().start();
    let (_server, port, _certificates) = tls_server();
    for (url, words) in [
        (format!("rediss://127.0.0.1:{}", plain.port()), "without TLS, the address begins with redis://"),
        (format!("redis://127.0.0.1:{port}"), "the address begins with rediss://"),
    ] {
        let half = Duration::from_millis(500);
        let options = Options::new("shop").server(&url).connect_timeout(half).timeout(half);
        let failed = open_failure(&options);
        assert!(failed.1.contains(&format!("database `shop` on {url}")), "{}", failed.1);
        assert!(failed.1.contains("can't connect"), "{}", failed.1);
        assert_failure(failed, code::CANTOPEN, words);
    }
}

#[test]
fn a_client_certificate_an_authority_and_a_name_can_be_set() {
    if !program::has_tls() {
        return;
    }
    let (server, port, certificates) = tls_server_that("yes");
    let file = |name: &str| certificates.path().join(name).to_string_lossy().into_owned();
    let options = |host: &str| {
        let soon = Duration::from_secs(3);
        let options = Options::new("shop").server(format!("rediss://{host}:{port}"));
        options.connect_timeout(soon).timeout(soon).tls_authorities(file("ca.crt"))
    };
    let anonymous = open_failure(&options("localhost"));
    assert_failure(anonymous, code::CANTOPEN, "the server may want a certificate of the client");

    let known = |host: &str| options(host).tls_identity(file("client.crt"), file("client.key"));
    let db = known("localhost").open().unwrap();
    // Requests and replies that span several TLS records.
    db.execute_batch(
        "CREATE TABLE t (x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO t SELECT randomblob(1000) FROM n",
    )
    .unwrap();
    let anew = known("127.0.0.1").open().unwrap();
    assert_eq!(number(&anew, "SELECT count(*) FROM t WHERE length(x) = 1000"), 500);
    check_integrity(&anew);
    assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}"]), "1");

    assert!(known("127.0.0.1").tls_name("localhost").open().is_ok());
    assert_failure(open_failure(&known("127.0.0.1").tls_name("elsewhere.example")), code::CANTOPEN, "certificate");
    let wrong = options("localhost").tls_identity(file("client.crt"), file("redis.key"));
    assert_failure(open_failure(&wrong), code::CANTOPEN, "tls_cert=");
    let none = options("localhost").tls_authorities(file("names"));
    assert_failure(open_failure(&none), code::CANTOPEN, "tls_ca=");
}

#[test]
fn tls_settings_are_refused_for_an_address_without_tls() {
    let server = Server::start();
    let (failed, why) = open_failure(&server.options("shop").tls_name("localhost"));
    assert_eq!(failed, code::CANTOPEN);
    assert!(why.contains("tls_name=localhost: unix://") && why.contains("is without TLS"), "{why}");
}
