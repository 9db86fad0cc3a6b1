//! SQLite's backup API (<https://sqlite.org/c3ref/backup_finish.html>) from, to and between
//! databases in Redis.

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use sqlite_redis_tests::rows::assert_same_content;
use sqlite_redis_tests::{Server, check_integrity, code, number, text};
use tempfile::TempDir;

const PAGE_SIZES: [u32; 4] = [512, 1024, 4096, 65536];

fn file(directory: &TempDir, name: &str) -> Connection {
    Connection::open(directory.path().join(name)).unwrap()
}

fn fill(db: &Connection, page_size: u32) {
    db.execute_batch(&format!("PRAGMA page_size={page_size}; PRAGMA user_version=5")).unwrap();
    db.execute_batch(
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO t SELECT i, 'row ' || i || hex(zeroblob(i % 200)) FROM n;
         INSERT INTO t VALUES (9999, zeroblob(100000))",
    )
    .unwrap();
}

fn copy(from: &Connection, to: &mut Connection) {
    let backup = Backup::new(from, to).unwrap();
    assert_eq!(backup.step(-1).unwrap(), StepResult::Done);
}

/// Asserts that both databases hold the same content, and that the one in Redis stays readable and writable, also
/// for another process.
fn check(server: &Server, name: &str, redis: &Connection, original: &Connection) {
    assert_same_content((redis, "main"), (original, "main"));
    check_integrity(redis);
    server.check_stored(name);
    let apart = server.open_apart(name, 1);
    assert_same_content((&apart, "main"), (original, "main"));
    apart.execute_batch("CREATE TABLE further (a); INSERT INTO further VALUES (1)").unwrap();
    assert_eq!(number(redis, "SELECT count(*) FROM further"), 1);
    server.check_stored(name);
}

#[test]
fn a_file_of_every_page_size_becomes_a_database_and_a_file_again() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    for size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let name = format!("size-{size}");
        let source = file(&directory, &name);
        fill(&source, size);
        let mut redis = server.open(&name);
        copy(&source, &mut redis);
        assert_eq!(server.stored(&name).number("page_size"), u64::from(size));
        let mut back = file(&directory, &format!("{name}-back"));
        copy(&redis, &mut back);
        assert_same_content((&back, "main"), (&source, "main"));
        check_integrity(&back);
        check(&server, &name, &redis, &source);
    }
}

#[test]
fn a_backup_replaces_a_database_of_another_page_size() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    for from in PAGE_SIZES {
        for to in PAGE_SIZES {
            let name = format!("{from}-to-{to}");
            let source = file(&directory, &name);
            fill(&source, from);
            let mut redis = server.open(&name);
            redis.execute_batch(&format!("PRAGMA page_size={to}; CREATE TABLE old (x)")).unwrap();
            redis.execute("INSERT INTO old VALUES (zeroblob(700000))", []).unwrap();
            assert_eq!(server.stored(&name).number("page_size"), u64::from(to));
            let other = server.open(&name);
            assert_eq!(number(&other, "SELECT count(*) FROM old"), 1);
            copy(&source, &mut redis);
            assert_eq!(number(&other, "SELECT count(*) FROM t"), 1001, "{name}");
            check(&server, &name, &redis, &source);
        }
    }
}

#[test]
fn a_backup_goes_from_redis_to_redis() {
    let server = Server::start();
    let (one, mut two) = (server.open("one"), server.open("two"));
    fill(&one, 1024);
    copy(&one, &mut two);
    server.check_stored("one");
    check(&server, "two", &two, &one);
    let elsewhere = Server::start();
    let mut far = elsewhere.open("one");
    copy(&one, &mut far);
    check(&elsewhere, "one", &far, &one);
}

#[test]
fn a_backup_of_a_wal_mode_file_is_readable_by_all_connections() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    for (name, small) in [("fresh", true), ("used", false)] {
        let source = file(&directory, name);
        assert_eq!(text(&source, "PRAGMA journal_mode=WAL"), "wal");
        fill(&source, 4096);
        let mut redis = server.open(name);
        if !small {
            fill(&redis, 4096);
        }
        let early = server.open(name);
        assert!(number(&early, "SELECT count(*) FROM sqlite_schema") >= 0);
        copy(&source, &mut redis);
        assert_eq!(number(&redis, "SELECT count(*) FROM t"), 1001);
        assert_eq!(number(&early, "SELECT count(*) FROM t"), 1001);
        assert_eq!(text(&redis, "PRAGMA journal_mode"), "delete");
        redis.execute("INSERT INTO t (b) VALUES ('after')", []).unwrap();
        source.execute("INSERT INTO t (b) VALUES ('after')", []).unwrap();
        copy(&source, &mut redis);
        check(&server, name, &redis, &source);
        let mut back = file(&directory, &format!("{name}-back"));
        copy(&redis, &mut back);
        check_integrity(&back);
    }
}

#[test]
fn a_backup_in_steps_restarts_when_its_source_changes() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let source = server.open("shop");
    fill(&source, 1024);
    let (here, apart) = (server.open("shop"), server.open_apart("shop", 1));
    for writer in [&source, &here, &apart] {
        let mut target = file(&directory, "copy.db");
        {
            let backup = Backup::new(&source, &mut target).unwrap();
            let (mut steps, mut writes) = (0, 0);
            while backup.step(20).unwrap() != StepResult::Done {
                steps += 1;
                if steps % 7 == 0 && writes < 3 {
                    writer.execute("UPDATE t SET b = b || 'x' WHERE a % 10 = ?1", [writes]).unwrap();
                    writes += 1;
                }
            }
            assert_eq!(writes, 3);
        }
        check_integrity(&target);
        assert_same_content((&target, "main"), (&source, "main"));
    }
    server.check_stored("shop");
}

#[test]
fn a_backup_into_redis_appears_whole_or_not_at_all() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let source = file(&directory, "source.db");
    fill(&source, 512);
    let mut redis = server.open("shop");
    redis.execute_batch("PRAGMA cache_size=5; CREATE TABLE before (a)").unwrap();
    let stored = server.stored("shop");
    let reader = server.open_apart("shop", 1);
    {
        let backup = Backup::new(&source, &mut redis).unwrap();
        for _ in 0..10 {
            assert_eq!(backup.step(30).unwrap(), StepResult::More);
            assert_eq!(number(&reader, "SELECT count(*) FROM before"), 0);
        }
    }
    assert_eq!(server.stored("shop"), stored, "the backup was abandoned");
    assert_eq!(number(&redis, "SELECT count(*) FROM before"), 0);
    {
        let backup = Backup::new(&source, &mut redis).unwrap();
        while backup.step(30).unwrap() != StepResult::Done {
            assert_eq!(number(&reader, "SELECT count(*) FROM before"), 0);
        }
    }
    assert_eq!(number(&reader, "SELECT count(*) FROM t"), 1001);
    check(&server, "shop", &redis, &source);
}

#[test]
fn a_backup_into_a_leased_database_is_busy() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let source = file(&directory, "source.db");
    fill(&source, 4096);
    let mut redis = server.open("shop");
    redis.busy_timeout(std::time::Duration::ZERO).unwrap();
    redis.execute_batch("CREATE TABLE before (a)").unwrap();
    let writer = server.open_apart("shop", 1);
    writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO before VALUES (1)").unwrap();
    {
        let backup = Backup::new(&source, &mut redis).unwrap();
        assert_eq!(backup.step(-1).unwrap(), StepResult::Busy);
        writer.execute_batch("COMMIT").unwrap();
        assert_eq!(backup.step(-1).unwrap(), StepResult::Done);
    }
    check(&server, "shop", &redis, &source);
}

#[test]
fn a_backup_onto_itself_is_refused() {
    let server = Server::start();
    let db = server.open("shop");
    fill(&db, 4096);
    // The API refuses only the same connection; these are two connections to one database.
    let mut same = server.open("shop");
    same.busy_timeout(std::time::Duration::ZERO).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused =
        Backup::new(&db, &mut same).and_then(|backup| backup.step(-1).map(|step| assert_ne!(step, StepResult::Done)));
    if refused.is_err() {
        assert_eq!(code(refused) & 0xff, 5);
    }
    db.execute_batch("COMMIT").unwrap();
    check_integrity(&db);
    server.check_stored("shop");
}
