//! Savepoints, failed statements, and transactions larger than SQLite's cache.

use sqlite_redis_tests::rows::rows;
use sqlite_redis_tests::twins::Twins;
use sqlite_redis_tests::{Server, check_integrity, code, eventually, number, text};

const BUSY_SNAPSHOT: i32 = 517;

/// Inserts rows of 1000 bytes.
fn insert(rows: u32) -> String {
    format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
         INSERT INTO t (b) SELECT i || hex(zeroblob(500)) FROM n"
    )
}

#[test]
fn savepoints_nest_roll_back_and_release_as_in_a_file() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must("CREATE TABLE t (a INTEGER PRIMARY KEY, b UNIQUE)");
    twins.must(
        "SAVEPOINT one; INSERT INTO t VALUES (1, 'a');
         SAVEPOINT two; INSERT INTO t VALUES (2, 'b');
         SAVEPOINT three; UPDATE t SET b = b || 'x'; SELECT * FROM t; ROLLBACK TO three; SELECT * FROM t;
         RELEASE three; INSERT INTO t VALUES (3, 'c'); ROLLBACK TO two; SELECT * FROM t; RELEASE one",
    );
    twins.check();
    twins.must(
        "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (4, 'd'); ROLLBACK TO s; INSERT INTO t VALUES (5, 'e'); COMMIT",
    );
    twins.must("SAVEPOINT s; DROP TABLE t; CREATE TABLE u (x); ROLLBACK TO s; SELECT * FROM t; RELEASE s");
    twins.must("SAVEPOINT s; DELETE FROM t; ROLLBACK; SELECT count(*) FROM t");
    twins.run("ROLLBACK TO s");
    twins.run("RELEASE s");
    twins.run("COMMIT");
    twins.check();
}

#[test]
fn savepoints_roll_back_spilled_pages() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must("PRAGMA cache_size=5; CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b)");
    twins.must(&insert(100));
    let before = server.stored("shop");
    twins.must(&format!("BEGIN; SAVEPOINT one; {}; SAVEPOINT two; DELETE FROM t WHERE a % 2", insert(300)));
    twins.must("ROLLBACK TO two; SELECT count(*), sum(a) FROM t");
    twins.must(&format!(
        "{}; SAVEPOINT three; UPDATE t SET b = a; RELEASE two; SELECT count(*), max(b) FROM t",
        insert(50)
    ));
    assert_eq!(server.stored("shop"), before, "pages reached Redis before the commit");
    twins.must("ROLLBACK TO one; DELETE FROM t WHERE a < 50; COMMIT; SELECT count(*) FROM t");
    twins.check();
}

#[test]
fn nothing_of_a_spilled_transaction_reaches_redis_before_its_commit() {
    let server = Server::start();
    for cache in [5, 10] {
        let name = format!("spill-{cache}");
        let twins = Twins::new(&server, &name);
        twins.must(&format!(
            "PRAGMA cache_size={cache}; PRAGMA cache_spill=1; CREATE TABLE t (a INTEGER PRIMARY KEY, b)"
        ));
        let before = server.stored(&name);
        let writes = server.calls("hset");
        twins
            .must(&format!("BEGIN; {}; UPDATE t SET b = b || a WHERE a % 3 = 0; SELECT count(*) FROM t", insert(1000)));
        assert_eq!(server.stored(&name), before);
        assert_eq!(server.calls("hset"), writes);
        assert_eq!(number(&server.open_apart(&name, 1), "SELECT count(*) FROM t"), 0);
        twins.must("COMMIT");
        assert_eq!(server.stored(&name).number("version"), before.number("version") + 1);
        twins.check();
    }
}

#[test]
fn a_rollback_after_a_spill_leaves_the_hash_as_it_was() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must(
        "PRAGMA cache_size=5; PRAGMA auto_vacuum=0; CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b)",
    );
    twins.must(&insert(500));
    twins.must("DELETE FROM t WHERE a % 7 = 0");
    let before = server.stored("shop");
    for change in [&insert(500), "DELETE FROM t", "DROP TABLE t", "UPDATE t SET b = randomblob(900)"] {
        twins.must(&format!(
            "BEGIN; {change}; CREATE TABLE u (x); {}; ROLLBACK",
            "INSERT INTO u VALUES (zeroblob(90000))"
        ));
        assert_eq!(server.stored("shop"), before, "{change}");
        twins.must("SELECT count(*), sum(length(b)) FROM t");
    }
    twins.check();
    twins.must(&insert(10));
    twins.check();
}

#[test]
fn a_rollback_of_the_first_transaction_leaves_no_database() {
    let server = Server::start();
    let db = server.open("shop");
    db.execute_batch(&format!("PRAGMA cache_size=5; BEGIN; CREATE TABLE t (a, b); {}; ROLLBACK", insert(500))).unwrap();
    assert_eq!(server.redis_cli(&["KEYS", "*"]), "");
    assert_eq!(number(&db, "SELECT count(*) FROM sqlite_schema"), 0);
    db.execute_batch("CREATE TABLE t (a)").unwrap();
    server.check_stored("shop");
}

#[test]
fn a_failed_constraint_rolls_back_only_its_statement() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must("PRAGMA cache_size=5; PRAGMA foreign_keys=1");
    twins.must("CREATE TABLE t (a INTEGER PRIMARY KEY, b UNIQUE, c CHECK (c < 900), d NOT NULL)");
    twins.must("CREATE TABLE child (t REFERENCES t (a) DEFERRABLE INITIALLY DEFERRED)");
    let series = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)";
    twins.must(&format!("{series} INSERT INTO t SELECT i, hex(zeroblob(300)) || i, 1, i FROM n"));
    twins.must("BEGIN; INSERT INTO t VALUES (2000, 'x', 2, 3)");
    for failing in [
        "UPDATE t SET c = a",
        "UPDATE t SET b = a / 2",
        "UPDATE t SET d = nullif(d, 800)",
        "UPDATE t SET a = a + 1 WHERE a % 2",
        "INSERT INTO t SELECT a + 5000, b || 'y', c, d FROM t WHERE a < 500 UNION ALL SELECT 1, 'z', 1, 1",
        "UPDATE OR FAIL t SET c = a WHERE a > 890",
        "INSERT OR REPLACE INTO t SELECT a, b, a, d FROM t",
    ] {
        assert!(twins.run(failing).code.is_some(), "{failing}");
        twins.must("SELECT count(*), sum(a), sum(c), max(b) FROM t");
    }
    twins.must("INSERT INTO child VALUES (77777)");
    assert!(twins.run("COMMIT").code.is_some(), "the foreign key is violated");
    twins.must("DELETE FROM child; COMMIT");
    twins.check();
    assert!(twins.run("BEGIN; DELETE FROM t WHERE a > 10; UPDATE OR ROLLBACK t SET b = 1").code.is_some());
    twins.run("COMMIT");
    twins.check();
}

#[test]
fn a_journal_over_4_mb_continues_in_a_temporary_file() {
    let server = Server::start();
    let db = server.open("shop");
    db.execute_batch("PRAGMA cache_size=20; CREATE TABLE t (a INTEGER PRIMARY KEY, b)").unwrap();
    db.execute_batch(&insert(10_000)).unwrap();
    let before = server.stored("shop");
    assert!(before.bytes().len() > 8 << 20, "the journal is larger than its memory limit");
    db.execute_batch("BEGIN; UPDATE t SET b = 'x' || b").unwrap();
    db.execute_batch("ROLLBACK").unwrap();
    assert_eq!(server.stored("shop"), before);
    db.execute_batch("UPDATE t SET b = 'x' || b").unwrap();
    assert_eq!(number(&server.open_apart("shop", 1), "SELECT count(*) FROM t WHERE b LIKE 'x%'"), 10_000);
    check_integrity(&db);
    server.check_stored("shop");
}

#[test]
fn a_transaction_that_changes_nothing_makes_no_version() {
    let server = Server::start();
    let db = server.open("shop");
    db.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    let before = server.stored("shop");
    db.execute_batch("BEGIN IMMEDIATE; COMMIT; BEGIN EXCLUSIVE; SELECT * FROM t; COMMIT").unwrap();
    db.execute_batch("BEGIN IMMEDIATE; DELETE FROM t WHERE a = 2; COMMIT; UPDATE t SET a = 3 WHERE a = 2").unwrap();
    db.execute_batch("BEGIN; INSERT INTO t VALUES (1); ROLLBACK").unwrap();
    assert_eq!(server.stored("shop"), before);
    assert!(!server.is_leased("shop"));
}

#[test]
fn a_lease_is_renewed_during_a_long_transaction() {
    let server = Server::start();
    let db = server.options("shop").lease(std::time::Duration::from_millis(100)).open().unwrap();
    db.execute_batch("CREATE TABLE t (a); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    let renewals = server.calls("pexpire");
    eventually("the lease was renewed several times", || server.calls("pexpire") >= renewals + 5);
    assert!(server.is_leased("shop"));
    db.execute_batch("COMMIT").unwrap();
    assert_eq!(text(&db, "SELECT a FROM t"), "1");
    assert_eq!(rows(&server.open("shop"), "SELECT a FROM t").len(), 1);
    server.check_stored("shop");
}

#[test]
fn every_write_on_a_stale_snapshot_is_refused() {
    let server = Server::start();
    let (db, other) = (server.open("shop"), server.open_apart("shop", 1));
    db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    for begin in ["BEGIN", "SAVEPOINT s"] {
        db.execute_batch(begin).unwrap();
        let before = number(&db, "SELECT sum(x) FROM t");
        other.execute("INSERT INTO t VALUES (1)", []).unwrap();
        for _ in 0..4 {
            assert_eq!(code(db.execute("UPDATE t SET x = x + 1", [])), BUSY_SNAPSHOT, "{begin}");
            assert_eq!(number(&db, "SELECT sum(x) FROM t"), before, "the snapshot has not changed");
        }
        db.execute_batch("ROLLBACK; UPDATE t SET x = x + 1").unwrap();
        assert_eq!(number(&other, "SELECT sum(x) FROM t"), number(&db, "SELECT sum(x) FROM t"));
    }
}
