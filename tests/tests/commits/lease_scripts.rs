//! The scripts that release or extend the write lease after a commit. The client sends their text once, and again
//! when the server has forgotten it. No error leaves a lease held that nobody uses.

use std::time::Duration;

use redis::cmd;
use rusqlite::Connection;
use sqlite_redis::Options;
use sqlite_redis_tests::{Server, number, text};

const LOCK: &str = "sqlite:{shop}:lock";
const MINUTE: Duration = Duration::from_secs(60);

/// A database with a table. The lease lasts longer than any test, so it is free only if it was released.
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

/// Calls of `EVAL` and of `EVALSHA`, and round trips, during `work`.
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
fn a_commit_calls_its_script_by_digest() {
    let server = Server::start();
    let connection = table(&server, server.options("shop"));
    for _ in 0..5 {
        assert_eq!(sent(&server, &connection, || insert(&connection)), (0, 1, 2));
        assert!(is_free(&server));
    }
}

#[test]
fn a_forgotten_script_is_sent_again_in_one_more_round_trip() {
    let mut server = Server::with(["--appendonly", "yes", "--appendfsync", "always"]).start();
    let connection = table(&server, server.options("shop"));
    for n in 1..4 {
        server.redis_cli(&["SCRIPT", "FLUSH"]);
        // `EVALSHA` fails with `NOSCRIPT`. One more round trip sends the text.
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
fn falls_back_to_eval_when_evalsha_is_forbidden() {
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
fn a_lingering_lease_is_released_when_its_script_was_flushed() {
    let server = Server::start();
    let connection = table(&server, server.options("shop").linger(Duration::from_millis(300)));
    insert(&connection);
    assert!(!is_free(&server), "the lease lingers");
    let mut failed = 0;
    // The client extends the lease every sixth of a second, so some inserts send no script.
    while failed < 3 {
        server.redis_cli(&["SCRIPT", "FLUSH"]);
        let (_, digests, _) = sent(&server, &connection, || insert(&connection));
        if digests > 0 {
            assert!(is_free(&server));
            failed += 1;
        }
    }
    server.check_stored("shop");
}
