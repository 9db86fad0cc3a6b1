//! The scripts that give the write lease back, or keep it, behind a commit: a server is given their text
//! once, and again when it has forgotten it. Whatever happens, nobody waits for a lease that nobody uses.

use std::time::Duration;

use redis::cmd;
use rusqlite::Connection;
use sqlite_redis::Options;
use sqlite_redis_tests::{Server, number, text};

const LOCK: &str = "sqlite:{shop}:lock";
const MINUTE: Duration = Duration::from_secs(60);

/// A database with a table, used by nobody else. Its lease outlives any test, so it must be given back.
fn table(server: &Server, options: Options) -> Connection {
    let connection = options.lease(MINUTE).open().unwrap();
    connection.execute_batch("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY)").unwrap();
    assert!(is_free(server));
    connection
}

fn insert(connection: &Connection) {
    connection.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
}

fn is_free(server: &Server) -> bool {
    server.redis_cli(&["EXISTS", LOCK]) == "0"
}

/// Scripts called by text and by digest, and round trips, meanwhile.
fn sent(server: &Server, connection: &Connection, work: impl FnOnce()) -> (u64, u64, u64) {
    let count = || {
        let stats = text(connection, "PRAGMA redis_stats");
        let trips: u64 = stats.split(['=', ' ']).nth(1).unwrap().parse().unwrap();
        (server.calls("eval"), server.calls("evalsha"), trips)
    };
    let before = count();
    work();
    let after = count();
    (after.0 - before.0, after.1 - before.1, after.2 - before.2)
}

#[test]
fn a_commit_sends_no_text_of_a_script() {
    let server = Server::start();
    let connection = table(&server, server.options("shop"));
    for _ in 0..5 {
        assert_eq!(sent(&server, &connection, || insert(&connection)), (0, 1, 2));
        assert!(is_free(&server));
    }
}

#[test]
fn a_server_that_has_forgotten_the_script_is_given_it_in_a_trip_more() {
    let mut server = Server::with(["--appendonly", "yes", "--appendfsync", "always"]).start();
    let connection = table(&server, server.options("shop"));
    for n in 1..4 {
        server.redis_cli(&["SCRIPT", "FLUSH"]);
        // The call in vain does not count as one.
        assert_eq!(sent(&server, &connection, || insert(&connection)), (1, 1, 3));
        assert!(is_free(&server));
        assert_eq!(sent(&server, &connection, || insert(&connection)), (0, 1, 2));
        server.kill();
        server.restart();
        insert(&connection);
        assert!(is_free(&server));
        assert_eq!(number(&connection, "SELECT count(*) FROM t"), 3 * n);
    }
    server.check_stored("shop");
}

#[test]
fn who_may_not_call_a_script_by_its_digest_calls_it_by_its_text() {
    let server = Server::start();
    let rules = ["SETUSER", "some", "on", ">Secret-9", "~*", "+@all", "-evalsha"];
    cmd("ACL").arg(&rules).exec(&mut server.redis()).unwrap();
    let url = format!("{}?user=some&pass=Secret-9", server.url());
    let connection = table(&server, Options::new("shop").server(&url));
    for _ in 0..5 {
        insert(&connection);
        assert!(is_free(&server));
    }
    assert_eq!(server.calls("evalsha"), 0);
    let stats: String = cmd("INFO").arg("commandstats").query(&mut server.redis()).unwrap();
    let refused = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap();
    assert!(refused.contains("rejected_calls=1,"), "{refused}");
    server.check_stored("shop");
}

#[test]
fn a_lease_that_can_not_be_prolonged_for_want_of_the_script_does_not_linger() {
    let server = Server::start();
    let connection = table(&server, server.options("shop").linger(Duration::from_millis(300)));
    insert(&connection);
    assert!(!is_free(&server), "it lingers");
    let mut in_vain = 0;
    // It is prolonged every sixth of a second.
    while in_vain < 3 {
        server.redis_cli(&["SCRIPT", "FLUSH"]);
        let (_, digests, _) = sent(&server, &connection, || insert(&connection));
        if digests > 0 {
            assert!(is_free(&server));
            in_vain += 1;
        }
    }
    server.check_stored("shop");
}
