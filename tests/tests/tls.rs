//! Servers that speak TLS, with a certificate authority of the test's own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sqlite_redis::Options;
use sqlite_redis_tests::failures::{assert_failure, code, open_failure};
use sqlite_redis_tests::{Server, free_port, hosts, program};

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let output = output.expect("openssl; is it installed? (scripts/setup installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a key and certificate of a server on this machine.
fn make_certificates(directory: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(directory, &format!("req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"));
    openssl(directory, &format!("req {key} -keyout redis.key -out redis.csr -subj /CN=localhost"));
    std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    openssl(
        directory,
        "x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out redis.crt -days 2 -extfile names",
    );
}

/// A server with a TLS port, and the directory of its certificates.
fn tls_server() -> (Server, u16, tempfile::TempDir) {
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
            ("--tls-auth-clients", "no".to_owned()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        // Another test may have taken the port meanwhile.
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
fn a_tls_server_is_trusted_by_its_authority_only() {
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

    // Whoever asks for it may go without.
    let url = format!("rediss://localhost:{port}/#insecure");
    let said = hosts::run_python(QUERY, &[("SQLITE_REDIS_URL", &url)]).unwrap();
    assert_eq!(said.out, "3", "{said:?}");
}

#[test]
fn tls_to_a_plain_port_and_plain_to_a_tls_port_fail_with_a_reason() {
    if !program::has_tls() {
        return;
    }
    let plain = Server::with::<String>([]).tcp().start();
    let (_server, port, _certificates) = tls_server();
    for url in [format!("rediss://127.0.0.1:{}", plain.port()), format!("redis://127.0.0.1:{port}")] {
        let half = Duration::from_millis(500);
        let options = Options::new("shop").server(&url).connect_timeout(half).timeout(half);
        let failed = open_failure(&options);
        assert!(failed.1.contains(&format!("database `shop` on {url}")), "{}", failed.1);
        assert_failure(failed, code::CANTOPEN, "can't connect");
    }
}
