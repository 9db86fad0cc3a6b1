//! A server at its memory limit still accepts commits that make a database smaller.

use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis_tests::failures::{assert_failure, failure};
use sqlite_redis_tests::{Server, check_integrity, code, number};

const BUSY: i32 = 5;
const BUSY_SNAPSHOT: i32 = 517;
const FULL: i32 = 13;

fn limit(server: &Server, bytes: &str) {
    assert_eq!(server.redis_cli(&["CONFIG", "SET", "maxmemory", bytes]), "OK");
}

/// A database with two tables of some hundred pages each, on a full server.
fn scene(prepare: &str) -> (Server, Connection) {
    let server = Server::start();
    let db = server.options("shop").stage_bytes(4_000_000).open().unwrap();
    db.execute_batch(prepare).unwrap();
    for table in ["t", "u"] {
        db.execute_batch(&format!(
            "CREATE TABLE {table} (id INTEGER PRIMARY KEY, content BLOB);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             INSERT INTO {table} SELECT i, randomblob(3000) FROM n"
        ))
        .unwrap();
    }
    limit(&server, "1");
    (server, db)
}

#[test]
fn a_full_server_accepts_only_commits_that_free_pages() {
    for prepare in ["", "PRAGMA auto_vacuum=FULL"] {
        let (server, db) = scene(prepare);
        let (reader, other) = (server.open_apart("shop", 1), server.open_apart("shop", 2));
        reader.execute_batch("BEGIN; SELECT * FROM t WHERE id = 1").unwrap();
        for sql in ["INSERT INTO t VALUES (1000, zeroblob(3000))", "UPDATE t SET content = x'00' WHERE id = 5"] {
            assert_failure(failure(&db, sql), FULL, "make room");
        }
        db.execute_batch("BEGIN; DELETE FROM t WHERE id > 100; DELETE FROM u WHERE id = 7; COMMIT").unwrap();
        assert_eq!(number(&other, "SELECT count(*) FROM t"), 100, "{prepare}");
        // The commit dropped the log, so an old snapshot is readable only from the cache.
        let old = reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        assert!(old == Ok(300) || code(old) == BUSY_SNAPSHOT);
        db.execute_batch("DROP TABLE u").unwrap();
        if prepare.is_empty() {
            // With auto-vacuum, `VACUUM` frees no page and would be refused.
            db.execute_batch("VACUUM").unwrap();
        }
        assert!(number(&db, "PRAGMA page_count") < 150, "{prepare}");
        assert_eq!(number(&other, "SELECT count(*) FROM t WHERE length(content) = 3000"), 100);
        assert!(!server.is_leased("shop"));
        check_integrity(&other);
        server.check_stored("shop");
        limit(&server, "0");
        db.execute_batch("INSERT INTO t VALUES (1000, zeroblob(3000))").unwrap();
        assert_eq!(number(&other, "SELECT count(*) FROM t"), 101);
        server.check_stored("shop");
    }
}

#[test]
fn a_waiting_writer_on_a_full_server_gets_busy_then_the_lease() {
    let (server, db) = scene("");
    let other = server.open_apart("shop", 1);
    db.execute_batch("BEGIN IMMEDIATE; DELETE FROM t").unwrap();
    other.busy_timeout(Duration::from_millis(300)).unwrap();
    for _ in 0..2 {
        assert_eq!(code(other.execute_batch("DELETE FROM u")), BUSY);
    }
    other.busy_timeout(Duration::from_secs(60)).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || other.execute_batch("DELETE FROM u"));
        std::thread::sleep(Duration::from_millis(300));
        db.execute_batch("COMMIT").unwrap();
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(number(&db, "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM u)"), 0);
    server.check_stored("shop");
}

#[test]
fn a_commit_that_another_has_overtaken_is_refused() {
    let (server, db) = scene("");
    let other = server.open_apart("shop", 1);
    db.execute_batch("BEGIN IMMEDIATE; DELETE FROM t").unwrap();
    server.redis_cli(&["DEL", "sqlite:{shop}:lock"]);
    other.execute_batch("DELETE FROM u").unwrap();
    assert_eq!(code(db.execute_batch("COMMIT")), BUSY_SNAPSHOT);
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 300);
    assert_eq!(number(&db, "SELECT count(*) FROM u"), 0);
    server.check_stored("shop");
}

#[test]
fn a_staged_vacuum_on_a_full_server_fails_and_changes_nothing() {
    let server = Server::start();
    let db = server.options("shop").stage_bytes(20_000).open().unwrap();
    db.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, content BLOB);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO t SELECT i, randomblob(3000) FROM n;
         DELETE FROM t WHERE id > 200",
    )
    .unwrap();
    limit(&server, "1");
    assert_failure(failure(&db, "VACUUM"), FULL, "stage_bytes");
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 200);
    check_integrity(&db);
    server.check_stored("shop");
    limit(&server, "0");
    db.execute_batch("VACUUM").unwrap();
    server.check_stored("shop");
}

#[test]
fn a_database_can_be_removed() {
    let (server, db) = scene("");
    drop(db);
    let admin = sqlite_redis::admin::Admin::connect(&server.options("shop")).unwrap();
    assert!(admin.remove("shop").unwrap());
    assert_eq!(server.redis_cli(&["KEYS", "*"]), "");
}
