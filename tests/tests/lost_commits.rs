//! Servers that go back to an earlier version, as after a failover that lost commits: caches
//! notice, and go on with what the server has.

use rusqlite::Connection;
use sqlite_redis_tests::failures::{assert_failure, code, failure};
use sqlite_redis_tests::{Server, check_integrity, number, text};

const HASH: &str = "sqlite:{shop}";
const LOG: &str = "sqlite:{shop}:log";

/// What a replica has that did not get the later commits.
struct Replica<'a>(&'a Server);

impl<'a> Replica<'a> {
    fn take(server: &'a Server) -> Self {
        for key in [HASH, LOG] {
            let copy: i32 = redis::cmd("COPY").arg(key).arg(format!("copy:{key}")).query(&mut server.redis()).unwrap();
            assert_eq!(copy, 1);
        }
        Replica(server)
    }

    /// It takes the primary's place.
    fn promote(&self) {
        for key in [HASH, LOG] {
            let copy = redis::cmd("COPY").arg(format!("copy:{key}")).arg(key).arg("REPLACE").to_owned();
            copy.exec(&mut self.0.redis()).unwrap();
        }
    }
}

/// A database of some 100 pages with a table that has one value for each of its rows.
fn database(server: &Server) -> Connection {
    let connection = server.open("shop");
    connection
        .execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, value, filling);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
             INSERT INTO t SELECT i, 'first', zeroblob(3900) FROM n",
        )
        .unwrap();
    connection
}

fn another_process(server: &Server) -> Connection {
    server.options("shop").log_commits(77).open().unwrap()
}

fn set(connection: &Connection, value: &str) {
    connection.execute("UPDATE t SET value = ?1", [value]).unwrap();
}

/// The value that all rows have.
fn value(connection: &Connection) -> String {
    assert_eq!(number(connection, "SELECT count(DISTINCT value) FROM t"), 1, "one version at a time");
    check_integrity(connection);
    text(connection, "SELECT max(value) FROM t")
}

#[test]
fn a_server_that_went_back_is_followed() {
    let server = Server::start();
    let connection = database(&server);
    let replica = Replica::take(&server);
    set(&connection, "lost");
    assert_eq!(value(&connection), "lost");
    replica.promote();
    assert_eq!(value(&connection), "first");
    set(&connection, "second");
    assert_eq!(value(&connection), "second");
    assert_eq!(value(&another_process(&server)), "second");
}

#[test]
fn a_version_that_became_another_of_the_same_number_is_noticed() {
    let server = Server::start();
    let connection = database(&server);
    let replica = Replica::take(&server);
    set(&connection, "lost");
    assert_eq!(value(&connection), "lost");
    replica.promote();
    let other = another_process(&server);
    set(&other, "kept");
    assert_eq!(
        text(&connection, "PRAGMA redis_version"),
        text(&other, "PRAGMA redis_version"),
        "one number, two versions"
    );
    assert_eq!(value(&connection), "kept");
    set(&connection, "after");
    assert_eq!(value(&other), "after");
}

#[test]
fn a_reader_of_a_lost_version_gets_no_page_of_another() {
    let server = Server::start();
    let connection = database(&server);
    let replica = Replica::take(&server);
    set(&connection, "lost");
    for later in [false, true] {
        set(&connection, "lost");
        let reader = server.options("shop").log_commits(1000 + u64::from(later)).open().unwrap();
        reader.execute_batch("BEGIN").unwrap();
        assert_eq!(text(&reader, "SELECT value FROM t WHERE id = 1"), "lost");
        replica.promote();
        if later {
            let other = another_process(&server);
            for _ in 0..5 {
                set(&other, "kept");
                set(&other, "first");
            }
        }
        assert_failure(failure(&reader, "SELECT count(value) FROM t"), code::BUSY_SNAPSHOT, "can't be read any more");
        let _ = reader.execute_batch("ROLLBACK");
        assert_eq!(value(&reader), "first");
    }
}

#[test]
fn a_transaction_on_a_lost_version_is_refused() {
    let server = Server::start();
    let connection = database(&server);
    let replica = Replica::take(&server);
    set(&connection, "lost");
    connection.execute_batch("BEGIN; UPDATE t SET value = 'never' WHERE id = 1").unwrap();
    replica.promote();
    assert_failure(failure(&connection, "COMMIT"), code::BUSY_SNAPSHOT, "roll back and run it again");
    assert_eq!(value(&connection), "first");
    set(&connection, "second");
    assert_eq!(value(&another_process(&server)), "second");
}

#[test]
fn a_reader_of_a_lost_version_does_not_turn_writer_on_another_of_the_same_number() {
    let server = Server::start();
    let connection = database(&server);
    let replica = Replica::take(&server);
    set(&connection, "lost");
    connection.execute_batch("BEGIN").unwrap();
    assert_eq!(text(&connection, "SELECT value FROM t WHERE id = 1"), "lost");
    replica.promote();
    let other = another_process(&server);
    set(&other, "kept");
    let change = "UPDATE t SET value = 'mixed' WHERE id = 1";
    assert_failure(failure(&connection, change), code::BUSY_SNAPSHOT, "roll back and run it again");
    connection.execute_batch("ROLLBACK").unwrap();
    assert_eq!(value(&connection), "kept");
    set(&connection, "after");
    assert_eq!(value(&other), "after");
}

#[test]
fn a_failover_to_a_real_replica_is_followed() {
    let mut primary = Server::with(["--repl-diskless-sync-delay", "0"]).tcp().start();
    database(&primary);
    let replica = Server::replica_of(&primary);
    let there = replica.open("shop");
    assert_eq!(value(&there), "first");
    // A commit that the replica does not get.
    let socket = primary.open("shop");
    replica.redis_cli(&["REPLICAOF", "NO", "ONE"]);
    set(&socket, "lost");
    primary.kill();
    set(&there, "kept");
    assert_eq!(value(&there), "kept");
}
