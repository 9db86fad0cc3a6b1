//! Several connections and threads of one process on one database, with shared and with separate caches.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlite_redis_tests::rows::{rows, try_rows};
use sqlite_redis_tests::{Server, check_integrity, code, number, text};

const BUSY: i32 = 5;
const BUSY_SNAPSHOT: i32 = 517;

fn fill(server: &Server, rows: u32) {
    let db = server.open("shop");
    db.execute_batch(&format!(
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b, c); CREATE INDEX i ON t (b);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t SELECT i, 0, hex(zeroblob(300)) FROM n"
    ))
    .unwrap();
}

#[test]
fn threads_that_write_lose_no_row() {
    let server = Server::start();
    fill(&server, 10);
    let before = server.stored("shop").number("version");
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (server, start) = (&server, &start);
            scope.spawn(move || {
                // Half of the threads share a cache. The others have separate ones, as in other processes.
                let db = if thread % 2 == 0 { server.open("shop") } else { server.open_apart("shop", thread) };
                start.wait();
                for n in 0..25 {
                    db.execute("INSERT INTO t (b, c) VALUES (?1, ?2)", (1, format!("{thread}-{n}"))).unwrap();
                    db.execute("UPDATE t SET b = b - 1 WHERE a <= 10", []).unwrap();
                    assert_eq!(number(&db, "SELECT count(DISTINCT b) FROM t WHERE a <= 10"), 1, "one version");
                }
            });
        }
    });
    let db = server.open("shop");
    assert_eq!(number(&db, "SELECT count(DISTINCT c) FROM t WHERE b = 1"), 200);
    assert_eq!(number(&db, "SELECT max(b) FROM t WHERE a <= 10"), -200);
    check_integrity(&db);
    assert_eq!(server.check_stored("shop").number("version"), before + 400);
}

#[test]
fn readers_see_whole_versions_while_others_write() {
    let server = Server::start();
    fill(&server, 200);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (server, done) = (&server, &done);
            scope.spawn(move || {
                let db = if thread < 2 { server.open("shop") } else { server.open_apart("shop", thread) };
                db.execute_batch("PRAGMA cache_size=5").unwrap();
                let (mut last, mut reads) = (-1, 0);
                while !done.load(Ordering::Relaxed) || reads == 0 {
                    db.execute_batch("BEGIN").unwrap();
                    let first = number(&db, "SELECT b FROM t WHERE a = 1");
                    assert!(first >= last, "went back to an older version");
                    assert_eq!(number(&db, "SELECT count(*) FROM t WHERE b <> (SELECT b FROM t WHERE a = 200)"), 0);
                    assert_eq!(
                        number(&db, "SELECT count(*) FROM t INDEXED BY i WHERE b = (SELECT b FROM t WHERE a = 1)"),
                        200
                    );
                    assert_eq!(number(&db, "SELECT b FROM t WHERE a = 100"), first);
                    db.execute_batch("COMMIT").unwrap();
                    (last, reads) = (first, reads + 1);
                }
            });
        }
        let db = server.open_apart("shop", 99);
        for _ in 0..100 {
            db.execute("UPDATE t SET b = b + 1", []).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    check_integrity(&server.open("shop"));
    server.check_stored("shop");
}

#[test]
fn a_long_reader_keeps_its_snapshot_while_another_commits_a_thousand_times() {
    let server = Server::start();
    fill(&server, 3000);
    let shared = server.open("shop");
    let reader = server.open_apart("shop", 1);
    // Both SQLite's cache and ours are smaller than the database, so pages are fetched again.
    let poor = server.options("shop").cache_size(20 * 4096).timeout(Duration::from_millis(19_999)).open().unwrap();
    let readers = [&shared, &reader, &poor];
    let mut sums = Vec::new();
    for db in readers {
        db.execute_batch("PRAGMA cache_size=5; BEGIN").unwrap();
        sums.push(text(db, "SELECT count(*) FROM sqlite_schema"));
    }
    let writer = server.open_apart("shop", 2);
    writer.busy_timeout(Duration::ZERO).unwrap();
    let before = server.stored("shop").number("version");
    for n in 1..=1000 {
        let sql = match n % 5 {
            0 => "DELETE FROM t WHERE a = ?1 * 3",
            1 => "UPDATE t SET b = b + 1 WHERE a % 100 = ?1 % 100",
            2 => "INSERT INTO t VALUES (?1 + 10000, 1, 'new')",
            3 => "UPDATE t SET c = 'short' WHERE a = ?1",
            _ => "UPDATE t SET c = hex(zeroblob(1000)) WHERE a = ?1 + 1000",
        };
        writer.execute(sql, [n]).expect("readers do not block a writer");
        if n % 250 == 100 {
            for db in readers {
                assert_eq!(number(db, &format!("SELECT count(*) FROM t WHERE a BETWEEN {n} AND {n} + 50")), 51);
            }
        }
    }
    writer.execute_batch("CREATE TABLE late (x); DROP INDEX i").unwrap();
    assert_eq!(server.stored("shop").number("version"), before + 1002);
    for db in readers {
        assert_eq!(text(db, "SELECT count(*) || ' ' || sum(b) || ' ' || sum(length(c)) FROM t"), "3000 0 1800000");
        assert_eq!(number(db, "SELECT count(*) FROM t INDEXED BY i WHERE b = 0"), 3000);
        check_integrity(db);
        assert_eq!(number(db, "SELECT count(*) FROM sqlite_schema"), 2);
        db.execute_batch("COMMIT").unwrap();
        assert_eq!(rows(db, "SELECT count(*), sum(b) FROM t"), rows(&writer, "SELECT count(*), sum(b) FROM t"));
        check_integrity(db);
    }
    server.check_stored("shop");
}

#[test]
fn a_write_on_an_old_snapshot_fails_with_busy_snapshot() {
    let server = Server::start();
    fill(&server, 10);
    for other in [server.open("shop"), server.open_apart("shop", 1)] {
        let db = server.open("shop");
        db.execute_batch("BEGIN").unwrap();
        let seen = number(&db, "SELECT sum(b) FROM t");
        other.execute("UPDATE t SET b = b + 1", []).unwrap();
        assert_eq!(code(db.execute("UPDATE t SET b = b + 1", [])), BUSY_SNAPSHOT);
        assert_eq!(number(&db, "SELECT sum(b) FROM t"), seen, "the read transaction continues");
        assert_eq!(code(db.execute("DELETE FROM t", [])), BUSY_SNAPSHOT, "and cannot write later either");
        db.execute_batch("ROLLBACK").unwrap();
        db.execute("UPDATE t SET b = b + 1", []).unwrap();
        assert_eq!(number(&other, "SELECT sum(b) FROM t"), seen + 20);
        assert!(!server.is_leased("shop"));
    }
    server.check_stored("shop");
}

#[test]
fn a_writer_waits_as_long_as_its_busy_timeout_says() {
    let server = Server::start();
    fill(&server, 10);
    let holder = server.open("shop");
    for other in [server.open("shop"), server.open_apart("shop", 1)] {
        holder.execute_batch("BEGIN IMMEDIATE; UPDATE t SET b = b + 1").unwrap();
        other.busy_timeout(Duration::ZERO).unwrap();
        assert_eq!(code(other.execute("UPDATE t SET b = b + 1", [])), BUSY);
        assert_eq!(code(other.execute_batch("BEGIN IMMEDIATE")), BUSY);
        assert!(other.is_autocommit());
        other.busy_timeout(Duration::from_secs(60)).unwrap();
        let (waiting, go) = (Barrier::new(2), &holder);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                waiting.wait();
                other.execute("UPDATE t SET b = b + 1", []).map(|_| other)
            });
            waiting.wait();
            go.execute_batch("COMMIT").unwrap();
            let other = waiter.join().unwrap().expect("the waiter gets the lease");
            assert_eq!(rows(&other, "SELECT b FROM t"), rows(go, "SELECT b FROM t"));
        });
    }
    assert_eq!(number(&holder, "SELECT max(b) FROM t"), 4, "each update sees the earlier ones");
    server.check_stored("shop");
}

#[test]
fn schema_changes_are_seen_by_all() {
    let server = Server::start();
    fill(&server, 10);
    let here = server.open("shop");
    let others = [server.open("shop"), server.open_apart("shop", 1)];
    let mut prepared: Vec<_> = others.iter().map(|db| db.prepare("SELECT * FROM t WHERE a = 1").unwrap()).collect();
    for statement in &mut prepared {
        assert!(statement.exists([]).unwrap());
    }
    here.execute_batch(
        "ALTER TABLE t ADD COLUMN d DEFAULT 'new'; CREATE TABLE u (x); CREATE VIEW v AS SELECT d FROM t",
    )
    .unwrap();
    for (db, statement) in others.iter().zip(&mut prepared) {
        let last: String = statement.query_row([], |row| row.get(3)).unwrap();
        assert_eq!(last, "new", "a prepared statement is prepared again");
        assert_eq!(number(db, "SELECT count(*) FROM v"), 10);
        db.execute("INSERT INTO u VALUES (1)", []).unwrap();
    }
    here.execute_batch("DROP VIEW v; DROP TABLE u").unwrap();
    for db in &others {
        assert!(try_rows(db, "SELECT * FROM u").is_err());
    }
    drop(prepared);
    server.check_stored("shop");
}

#[test]
fn a_cursor_goes_on_while_its_own_connection_and_others_write() {
    let server = Server::start();
    fill(&server, 500);
    let db = server.open("shop");
    db.execute_batch("PRAGMA cache_size=5").unwrap();
    let other = server.open_apart("shop", 1);
    let mut scan = db.prepare("SELECT a, b FROM t ORDER BY a").unwrap();
    let mut cursor = scan.query([]).unwrap();
    let mut seen = 0;
    while let Some(row) = cursor.next().unwrap() {
        let (a, b): (i64, i64) = (row.get(0).unwrap(), row.get(1).unwrap());
        seen += 1;
        assert_eq!((a, b), (seen, 0));
        if seen == 250 {
            other.execute("UPDATE t SET b = 1", []).unwrap();
            assert_eq!(code(db.execute("UPDATE t SET b = 2", [])), BUSY_SNAPSHOT, "a read is in progress");
        }
    }
    drop(cursor);
    drop(scan);
    assert_eq!(seen, 500);
    assert_eq!(number(&db, "SELECT sum(b) FROM t"), 500);
    db.execute("UPDATE t SET b = 2", []).unwrap();
    assert_eq!(number(&other, "SELECT sum(b) FROM t"), 1000);
    server.check_stored("shop");
}

#[test]
fn two_databases_of_one_process_share_nothing() {
    let server = Server::start();
    let (one, two) = (server.open("one"), server.open("two"));
    let prefixed = server.options("one").prefix("other").open().unwrap();
    for (db, value) in [(&one, 1), (&two, 2), (&prefixed, 3)] {
        db.execute_batch(&format!("CREATE TABLE t (a); BEGIN IMMEDIATE; INSERT INTO t VALUES ({value})")).unwrap();
    }
    for (db, value) in [(&one, 1), (&two, 2), (&prefixed, 3)] {
        db.execute_batch("COMMIT").unwrap();
        assert_eq!(number(db, "SELECT a FROM t"), value);
    }
    server.check_stored("one");
    server.check_stored("two");
}

#[test]
fn connections_of_one_process_share_the_page_cache() {
    let server = Server::start();
    fill(&server, 2000);
    let first = server.open("shop");
    assert_eq!(number(&first, "SELECT sum(length(c)) FROM t"), 1_200_000);
    let second = server.open("shop");
    let before = server.calls("hmget");
    assert_eq!(number(&second, "SELECT sum(length(c)) FROM t"), 1_200_000);
    assert!(server.calls("hmget") - before <= 2, "{}", server.calls("hmget") - before);
}
