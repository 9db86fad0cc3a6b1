//! Servers that return to an earlier version, as after a failover that lost commits. Caches detect this and continue
//! from the server's version.

use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis_tests::failures::{assert_failure, code, failure};
use sqlite_redis_tests::{Server, check_integrity, number, text};

const HASH: &str = "sqlite:{shop}";
const LOG: &str = "sqlite:{shop}:log";

/// A copy of the database, as a replica without the later commits would have it.
struct Replica<'a>(&'a Server);

impl<'a> Replica<'a> {
    fn take(server: &'a Server) -> Self {
        for key in [HASH, LOG] {
            let copy: i32 = redis::cmd("COPY").arg(key).arg(format!("copy:{key}")).query(&mut server.redis()).unwrap();
            assert_eq!(copy, 1);
        }
        Replica(server)
    }

    /// Restores the copy, as if the replica became the primary.
    fn promote(&self) {
        for key in [HASH, LOG] {
            let copy = redis::cmd("COPY").arg(format!("copy:{key}")).arg(key).arg("REPLACE").to_owned();
            copy.exec(&mut self.0.redis()).unwrap();
        }
    }
}

/// A database of about 100 pages. All rows of its table have the same value.
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

/// The value of all rows. Asserts that there is only one.
fn value(connection: &Connection) -> String {
    assert_eq!(number(connection, "SELECT count(DISTINCT value) FROM t"), 1, "one version at a time");
    check_integrity(connection);
    text(connection, "SELECT max(value) FROM t")
}

#[test]
fn a_connection_follows_a_server_back_to_an_older_version() {
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
fn a_replaced_version_with_the_same_number_is_detected() {
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
fn a_reader_of_a_lost_version_cannot_write_on_its_replacement() {
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
    let there = replica.options("shop").read_only(true).open().unwrap();
    assert_eq!(value(&there), "first");
    // The replica does not get this commit.
    let socket = primary.open("shop");
    replica.redis_cli(&["REPLICAOF", "NO", "ONE"]);
    set(&socket, "lost");
    primary.kill();
    set(&replica.open("shop"), "kept");
    assert_eq!(value(&there), "kept");
}

#[test]
fn a_connection_that_starts_over_stores_the_databases_own_schema_cookie() {
    let server = Server::start();
    let connection = server.open("shop");
    let cookie = || number(&server.open_apart("shop", 1), "PRAGMA schema_version");
    for _ in 0..3 {
        server.redis_cli(&["FLUSHALL"]);
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        for x in 0..3 {
            connection.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
            assert_eq!(cookie(), 1);
        }
        connection.execute_batch("CREATE TABLE u (x)").unwrap();
        assert_eq!(cookie(), 2);
    }
}

#[test]
fn a_connection_opened_after_a_removal_sees_the_schema_version_that_is_stored() {
    let server = Server::start();
    let version = |connection: &Connection| number(connection, "PRAGMA schema_version");
    let early = server.open("shop");
    for rounds in 0..3 {
        early.execute_batch("CREATE TABLE a (x); INSERT INTO a VALUES (1)").unwrap();
        server.redis_cli(&["UNLINK", HASH, &format!("{HASH}:log"), &format!("{HASH}:undo")]);
        let late = server.open("shop");
        assert_eq!(version(&late), 0);
        if rounds == 2 {
            // Another process creates the database.
            server.open_apart("shop", 1).execute_batch("CREATE TABLE b (x)").unwrap();
        } else {
            late.execute_batch("CREATE TABLE b (x)").unwrap();
        }
        assert_eq!(version(&late), 1);
        late.execute_batch("PRAGMA schema_version = 20").unwrap();
        assert_eq!(version(&late), 20);
        assert_eq!(version(&server.open("shop")), 20);
        // `early` knows another schema with the same version number, and must reload it.
        assert_eq!(number(&early, "SELECT count(*) FROM b"), 0);
        early.execute_batch("DROP TABLE b").unwrap();
    }
}

#[test]
fn a_rollback_after_a_refused_commit_commits_nothing() {
    let server = Server::start();
    let (minute, ten) = (Duration::from_secs(60), Duration::from_secs(600));
    let connection = server.options("shop").linger(minute).lease(ten).open().unwrap();
    connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    for _ in 0..3 {
        server.redis_cli(&["FLUSHALL"]);
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (3)").unwrap();
        server.redis_cli(&["FLUSHALL"]);
        let rival = server.open_apart("shop", 1);
        rival.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (4)").unwrap();
        let version = server.redis_cli(&["HGET", HASH, "version"]);
        assert_failure(failure(&connection, "COMMIT"), code::BUSY_SNAPSHOT, "roll back and run it again");
        assert_eq!(server.redis_cli(&["HGET", HASH, "version"]), version);
        assert_eq!(number(&server.open_apart("shop", 2), "SELECT x FROM theirs"), 4);
    }
}

#[test]
fn a_lost_schema_is_forgotten_in_exclusive_mode_too() {
    let server = Server::start();
    let connection = server.open("shop");
    connection
        .execute_batch("PRAGMA locking_mode=EXCLUSIVE; CREATE TABLE lost (x); INSERT INTO lost VALUES (1)")
        .unwrap();
    server.redis_cli(&["FLUSHALL"]);
    let other = server.open_apart("shop", 1);
    other.execute_batch("CREATE TABLE kept (x); INSERT INTO kept VALUES (2)").unwrap();
    failure(&connection, "INSERT INTO lost VALUES (3)");
    // The first statement after the refused commit still rolls back. The next one starts over.
    failure(&connection, "INSERT INTO lost VALUES (3)");
    let gone = connection.execute_batch("SELECT * FROM lost").unwrap_err();
    assert_eq!(gone.to_string(), "no such table: lost");
    assert_eq!(number(&connection, "SELECT x FROM kept"), 2);
    connection.execute_batch("INSERT INTO kept VALUES (4)").unwrap();
    assert_eq!(number(&other, "SELECT sum(x) FROM kept"), 6);
    assert_eq!(number(&other, "PRAGMA schema_version"), 1);
}
