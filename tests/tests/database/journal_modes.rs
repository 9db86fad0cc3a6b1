//! Journal modes, synchronous levels, locking modes and WAL mode.

use std::time::Duration;

use sqlite_redis_tests::rows::{assert_same_content, rows, run};
use sqlite_redis_tests::twins::Twins;
use sqlite_redis_tests::{Server, check_integrity, code, number, text};

const BUSY: i32 = 5;
const BUSY_SNAPSHOT: i32 = 517;
const MODES: [&str; 5] = ["delete", "truncate", "persist", "memory", "off"];

#[test]
fn every_journal_mode_commits_at_every_synchronous_level() {
    let server = Server::start();
    for mode in MODES {
        for level in ["off", "normal", "full", "extra"] {
            let name = format!("{mode}-{level}");
            let twins = Twins::new(&server, &name);
            twins.must(&format!("PRAGMA journal_mode={mode}; PRAGMA synchronous={level}; PRAGMA synchronous"));
            twins.must("CREATE TABLE t (a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, 'one'), (2, 'two')");
            twins.must("BEGIN; UPDATE t SET b = 'zwei' WHERE a = 2; INSERT INTO t VALUES (3, zeroblob(20000)); COMMIT");
            twins.must("DELETE FROM t WHERE a = 3; PRAGMA journal_mode");
            assert_eq!(number(&server.open(&name), "SELECT count(*) FROM t WHERE b IN ('one', 'zwei')"), 2);
            twins.check();
        }
    }
}

#[test]
fn a_rollback_leaves_the_hash_alone_in_every_journal_mode() {
    let server = Server::start();
    for mode in MODES {
        let db = server.open(mode);
        db.execute_batch(&format!("PRAGMA journal_mode={mode}; PRAGMA cache_size=5")).unwrap();
        db.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, 'one')").unwrap();
        let before = server.stored(mode);
        for rows in [1, 500] {
            db.execute_batch("BEGIN; UPDATE t SET b = 'changed'").unwrap();
            db.execute_batch(&many_rows(rows)).unwrap();
            db.execute_batch("ROLLBACK").unwrap();
            assert_eq!(server.stored(mode), before, "{mode}, {rows} rows");
            assert_eq!(text(&db, "SELECT group_concat(b) FROM t"), "one");
        }
        db.execute("INSERT INTO t VALUES (2, 'two')", []).unwrap();
        check_integrity(&db);
        server.check_stored(mode);
    }
}

/// Inserts rows of 1,000 bytes into `t`, four to a page.
fn many_rows(rows: u32) -> String {
    format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
         INSERT INTO t (b) SELECT randomblob(1000) FROM n"
    )
}

#[test]
fn a_wal_mode_request_returns_the_current_mode_and_changes_nothing() {
    let server = Server::start();
    for mode in MODES {
        let db = server.open(mode);
        assert_eq!(text(&db, &format!("PRAGMA journal_mode={mode}")), mode);
        db.execute_batch("CREATE TABLE t (a)").unwrap();
        for pragma in ["PRAGMA journal_mode=WAL", "PRAGMA main.journal_mode=wal", "PRAGMA journal_mode('WaL')"] {
            assert_eq!(text(&db, pragma), mode, "{pragma}");
        }
        assert_eq!(text(&db, "PRAGMA journal_mode"), mode);
        db.execute("INSERT INTO t VALUES (1)", []).unwrap();
        assert_eq!(number(&server.open(mode), "SELECT count(*) FROM t"), 1);
        server.check_stored(mode);
    }
}

#[test]
fn asking_for_wal_in_exclusive_mode_leaves_the_database_usable() {
    let server = Server::start();
    let db = server.open("shop");
    db.execute_batch("CREATE TABLE t (a)").unwrap();
    assert_eq!(text(&db, "PRAGMA locking_mode=EXCLUSIVE"), "exclusive");
    assert_eq!(text(&db, "PRAGMA journal_mode=WAL"), "delete");
    db.execute("INSERT INTO t VALUES (1)", []).unwrap();
    assert_eq!(text(&db, "PRAGMA journal_mode=WAL"), "delete");
    db.execute("INSERT INTO t VALUES (2)", []).unwrap();
    assert_eq!(number(&server.open_apart("shop", 1), "SELECT count(*) FROM t"), 2);
    drop(db);
    check_integrity(&server.open("shop"));
    server.check_stored("shop");
}

/// A file as main database with a Redis database attached as `red`. SQLite applies unqualified pragmas to both,
/// without asking the VFS.
fn file_with_attached(server: &Server, name: &str) -> (rusqlite::Connection, tempfile::TempDir) {
    sqlite_redis::register().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let db = rusqlite::Connection::open(directory.path().join("main.db")).unwrap();
    db.execute("ATTACH ?1 AS red", [server.options(name).uri()]).unwrap();
    db.execute_batch("CREATE TABLE main.f (a); CREATE TABLE red.t (a); INSERT INTO t VALUES (0)").unwrap();
    (db, directory)
}

#[test]
fn asking_for_wal_through_an_attached_database_leaves_it_usable() {
    let server = Server::start();
    let (db, _directory) = file_with_attached(&server, "shop");
    assert_eq!(text(&db, "PRAGMA journal_mode=WAL"), "wal");
    assert_eq!(text(&db, "PRAGMA red.journal_mode"), "delete");
    assert_eq!(text(&db, "PRAGMA red.journal_mode=wal"), "delete");
    db.execute_batch("BEGIN; INSERT INTO f VALUES (1); INSERT INTO t VALUES (1); COMMIT").unwrap();
    assert_eq!(number(&server.open_apart("shop", 1), "SELECT count(*) FROM t"), 2);
    server.check_stored("shop");
}

#[test]
fn asking_for_wal_and_exclusive_through_an_attached_database_leaves_it_usable() {
    let server = Server::start();
    let (db, _directory) = file_with_attached(&server, "shop");
    assert_eq!(text(&db, "PRAGMA locking_mode=EXCLUSIVE"), "exclusive");
    // SQLite switches both databases to WAL mode; in exclusive mode the VFS can refuse that only with an error.
    let _ = run(&db, "PRAGMA journal_mode=WAL");
    let _ = run(&db, "INSERT INTO t VALUES (1)");
    drop(db);
    let again = server.open("shop");
    again.execute("INSERT INTO t VALUES (2)", []).unwrap();
    check_integrity(&again);
    server.check_stored("shop");
}

#[test]
fn exclusive_mode_commits_to_redis_and_keeps_other_writers_out() {
    let server = Server::start();
    let db = server.open("shop");
    db.execute_batch("CREATE TABLE t (a)").unwrap();
    let other = server.open_apart("shop", 1);
    other.busy_timeout(Duration::ZERO).unwrap();
    assert_eq!(text(&db, "PRAGMA locking_mode=EXCLUSIVE"), "exclusive");
    for n in 1..=5 {
        db.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
        assert_eq!(number(&other, "SELECT count(*) FROM t"), n, "readers are not blocked");
        assert_eq!(code(other.execute("INSERT INTO t VALUES (99)", [])), BUSY);
        assert!(server.is_leased("shop"));
    }
    db.execute_batch("BEGIN; DELETE FROM t; ROLLBACK").unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 5);
    assert_eq!(text(&db, "PRAGMA locking_mode=NORMAL"), "normal");
    assert_eq!(number(&db, "SELECT count(*) FROM t"), 5);
    other.execute("INSERT INTO t VALUES (6)", []).unwrap();
    db.execute("INSERT INTO t VALUES (7)", []).unwrap();
    assert_eq!(rows(&db, "SELECT a FROM t"), rows(&other, "SELECT a FROM t"));
    check_integrity(&db);
    server.check_stored("shop");
}

#[test]
fn exclusive_mode_keeps_other_writers_out_from_its_first_read() {
    let server = Server::start();
    let other = server.open_apart("shop", 1);
    other.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    for (n, sql) in ["INSERT INTO t VALUES (3)", "BEGIN IMMEDIATE; ROLLBACK"].into_iter().enumerate() {
        let db = server.open("shop");
        db.busy_timeout(Duration::from_millis(100)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        db.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
        assert_eq!(code(db.execute_batch("SELECT count(*) FROM t")), BUSY, "the snapshot would soon be stale");
        other.execute_batch("INSERT INTO t VALUES (2); COMMIT").unwrap();
        let rows = 2 + 2 * n as i64;
        assert_eq!(number(&db, "SELECT count(*) FROM t"), rows);
        assert_eq!(code(other.execute("INSERT INTO t VALUES (9)", [])), BUSY);
        for _ in 0..2 {
            db.execute_batch(sql).unwrap();
        }
        db.execute_batch("PRAGMA locking_mode=NORMAL; SELECT * FROM t").unwrap();
        other.execute("INSERT INTO t VALUES (4)", []).unwrap();
        let now = number(&other, "SELECT count(*) FROM t");
        assert_eq!(number(&db, "SELECT count(*) FROM t"), now);
        other.execute("DELETE FROM t WHERE rowid > 3", []).unwrap();
    }
    server.check_stored("shop");
}

#[test]
fn exclusive_mode_of_an_attached_database_recovers_from_a_stale_snapshot() {
    let server = Server::start();
    let (db, _directory) = file_with_attached(&server, "shop");
    let other = server.open_apart("shop", 1);
    db.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
    for begin in ["SELECT 1", "BEGIN", "BEGIN IMMEDIATE"] {
        number(&db, "SELECT count(*) FROM t");
        other.execute("INSERT INTO t VALUES (1)", []).unwrap();
        let commit = if begin == "SELECT 1" { "" } else { "COMMIT" };
        let insert = format!("{begin}; INSERT INTO t VALUES (100); {commit}");
        let mut refused = 0;
        while let Err(error) = db.execute_batch(&insert) {
            if !db.is_autocommit() {
                db.execute_batch("ROLLBACK").unwrap();
            }
            refused += 1;
            assert_eq!(code::<()>(Err(error)) & 0xff, BUSY);
            assert!(refused <= 2, "the connection does not recover");
        }
        assert_eq!(rows(&db, "SELECT a FROM t"), rows(&other, "SELECT a FROM t"));
        db.execute_batch("PRAGMA locking_mode=NORMAL; SELECT * FROM t").unwrap();
        db.execute_batch("PRAGMA locking_mode=EXCLUSIVE").unwrap();
    }
    check_integrity(&other);
    server.check_stored("shop");
}

#[test]
fn exclusive_mode_ends_with_the_connection() {
    let server = Server::start();
    let db = server.open("shop");
    db.execute_batch("PRAGMA locking_mode=EXCLUSIVE; CREATE TABLE t (a); BEGIN; INSERT INTO t VALUES (1)").unwrap();
    drop(db);
    assert!(!server.is_leased("shop"));
    assert_eq!(number(&server.open("shop"), "SELECT count(*) FROM t"), 0);
}

#[test]
fn exclusive_mode_set_through_the_main_file_holds_for_an_attached_database() {
    let server = Server::start();
    let (db, _directory) = file_with_attached(&server, "shop");
    let other = server.open_apart("shop", 1);
    other.busy_timeout(Duration::ZERO).unwrap();
    assert_eq!(text(&db, "PRAGMA locking_mode=EXCLUSIVE"), "exclusive");
    assert_eq!(text(&db, "PRAGMA red.locking_mode"), "exclusive");
    // The VFS learns of exclusive mode only when SQLite keeps the lock after a commit. So another client can commit
    // between the first two commits, and the second one is refused.
    db.execute("INSERT INTO t VALUES (1)", []).unwrap();
    other.execute("INSERT INTO t VALUES (2)", []).unwrap();
    assert_eq!(code(db.execute("INSERT INTO t VALUES (99)", [])), BUSY_SNAPSHOT);
    for n in 3..=5 {
        db.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
        assert_eq!(number(&other, "SELECT max(a) FROM t"), n, "readers are not blocked");
        assert_eq!(code(other.execute("INSERT INTO t VALUES (98)", [])), BUSY);
    }
    assert_eq!(rows(&db, "SELECT a FROM t"), rows(&other, "SELECT a FROM t"));
    assert_eq!(text(&db, "PRAGMA locking_mode=NORMAL"), "normal");
    assert_eq!(rows(&db, "SELECT a FROM t"), rows(&other, "SELECT a FROM t"));
    other.execute("INSERT INTO t VALUES (6)", []).unwrap();
    db.execute("INSERT INTO t VALUES (7)", []).unwrap();
    assert_eq!(rows(&db, "SELECT a FROM t"), rows(&other, "SELECT a FROM t"));
    drop(db);
    check_integrity(&other);
    server.check_stored("shop");
}

#[test]
fn exclusive_mode_survives_the_loss_of_its_lease() {
    let server = Server::start();
    for mode in MODES {
        let db = server.open(mode);
        db.execute_batch(&format!("PRAGMA journal_mode={mode}; CREATE TABLE t (a)")).unwrap();
        db.execute_batch("PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES (1)").unwrap();
        // Simulate a process that slept past its lease.
        server.redis_cli(&["DEL", &format!("sqlite:{{{mode}}}:lock")]);
        let other = server.open_apart(mode, 1);
        other.execute("INSERT INTO t VALUES (2)", []).unwrap();
        assert_eq!(code(db.execute("INSERT INTO t VALUES (3)", [])), BUSY_SNAPSHOT, "{mode}");
        assert_eq!(text(&other, "SELECT group_concat(a) FROM t"), "1,2");
        if mode != "off" {
            assert_eq!(text(&db, "SELECT group_concat(a) FROM t"), "1,2", "{mode}: the connection has caught up");
            db.execute("INSERT INTO t VALUES (4)", []).unwrap();
            assert!(server.is_leased(mode), "the connection holds the lease again");
            assert_eq!(text(&other, "SELECT group_concat(a) FROM t"), "1,2,4");
        }
        db.execute_batch("PRAGMA locking_mode=NORMAL; SELECT * FROM t").unwrap();
        db.execute("INSERT INTO t VALUES (5)", []).unwrap();
        assert_eq!(rows(&db, "SELECT a FROM t"), rows(&other, "SELECT a FROM t"));
        check_integrity(&db);
        server.check_stored(mode);
    }
}

#[test]
fn exclusive_mode_rolls_back_after_a_spill() {
    let server = Server::start();
    let twins = Twins::new(&server, "shop");
    twins.must("PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=5; CREATE TABLE t (a INTEGER PRIMARY KEY, b)");
    twins.must("INSERT INTO t (b) VALUES ('one'); INSERT INTO t (b) VALUES ('two')");
    let before = server.stored("shop");
    twins.must(&format!("BEGIN; UPDATE t SET b = 'x'; {}; ROLLBACK; SELECT * FROM t", many_rows(300)));
    assert_eq!(server.stored("shop"), before);
    twins.must("INSERT INTO t (b) VALUES ('three')");
    twins.must("PRAGMA locking_mode=NORMAL; SELECT * FROM t");
    twins.check();
    assert_same_content((&server.open_apart("shop", 1), "main"), (&twins.file, "main"));
}
