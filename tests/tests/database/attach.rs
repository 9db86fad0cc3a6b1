//! Transactions over several databases in Redis and in files.

use std::path::Path;

use rusqlite::Connection;
use sqlite_redis_tests::rows::rows;
use sqlite_redis_tests::{Server, check_integrity, code, number, text};
use tempfile::TempDir;

const BUSY_SNAPSHOT: i32 = 517;
const CONSTRAINT: i32 = 19;

/// Where the databases `main` and `other` are stored. Each has one table.
#[derive(Debug, Clone, Copy)]
enum Pair {
    TwoInRedis,
    RedisAndFile,
    FileAndRedis,
}

/// A connection to a pair of databases.
struct Attached {
    db: Connection,
    directory: TempDir,
    /// Name of the database in Redis that commits last.
    last_in_redis: String,
    /// Common prefix of the names in Redis.
    name: String,
}

fn attached(server: &Server, pair: Pair, journal_mode: &str) -> Attached {
    sqlite_redis::register().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pair.db");
    let name = format!("attach-{}", rand::random::<u64>());
    let (one, two) = (format!("{name}-1"), format!("{name}-2"));
    let (db, other) = match pair {
        Pair::TwoInRedis => (server.open(&one), server.options(&two).uri()),
        Pair::RedisAndFile => (server.open(&one), format!("file:{}?vfs=unix", path.display())),
        Pair::FileAndRedis => (Connection::open(&path).unwrap(), server.options(&two).uri()),
    };
    db.execute("ATTACH ?1 AS other", [other]).unwrap();
    db.execute_batch(&format!("PRAGMA main.journal_mode={journal_mode}; PRAGMA other.journal_mode={journal_mode}"))
        .unwrap();
    db.execute_batch("CREATE TABLE main.m (a UNIQUE); CREATE TABLE other.o (a UNIQUE)").unwrap();
    let last_in_redis = if matches!(pair, Pair::RedisAndFile) { one } else { two };
    Attached { db, directory, last_in_redis, name }
}

impl Attached {
    fn counts(&self) -> (i64, i64) {
        (number(&self.db, "SELECT count(*) FROM m"), number(&self.db, "SELECT count(*) FROM o"))
    }

    fn check(&self, server: &Server) {
        check_integrity(&self.db);
        let keys = server.redis_cli(&["KEYS", &format!("sqlite:{{{}-*}}", self.name)]);
        for key in keys.lines() {
            server.check_stored(key.trim_start_matches("sqlite:{").trim_end_matches('}'));
        }
        nothing_left_in(Path::new("."), &self.name);
        nothing_left_in(self.directory.path(), "pair.db-mj");
    }
}

fn nothing_left_in(directory: &Path, start: &str) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().starts_with(start), "{} was left behind", name.display());
    }
}

/// Runs a test on each kind of pair and in the journal modes in which SQLite can roll back.
fn with_each_pair(test: impl Fn(&Server, Pair, &Attached)) {
    let server = Server::start();
    for pair in [Pair::TwoInRedis, Pair::RedisAndFile, Pair::FileAndRedis] {
        for mode in ["delete", "truncate", "persist", "memory"] {
            let attached = attached(&server, pair, mode);
            test(&server, pair, &attached);
        }
    }
}

#[test]
fn a_transaction_over_two_databases_commits_or_rolls_back_both() {
    with_each_pair(|server, pair, attached| {
        let db = &attached.db;
        db.execute_batch("BEGIN; INSERT INTO m VALUES (1); INSERT INTO o VALUES (1); COMMIT").unwrap();
        assert_eq!(attached.counts(), (1, 1), "{pair:?}");
        db.execute_batch("BEGIN; INSERT INTO m VALUES (2); INSERT INTO o SELECT a FROM m WHERE a = 2; ROLLBACK")
            .unwrap();
        assert_eq!(attached.counts(), (1, 1), "{pair:?}");
        db.execute_batch("PRAGMA cache_size=5; PRAGMA other.cache_size=5; BEGIN").unwrap();
        let fill = "WITH RECURSIVE n (i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO";
        db.execute_batch(&format!("{fill} m SELECT hex(zeroblob(200)) || i FROM n")).unwrap();
        db.execute_batch(&format!("{fill} o SELECT hex(zeroblob(200)) || i FROM n; ROLLBACK")).unwrap();
        assert_eq!(attached.counts(), (1, 1), "{pair:?}");
        attached.check(server);
    });
}

#[test]
fn a_failed_statement_is_rolled_back_in_both_databases() {
    with_each_pair(|server, pair, attached| {
        let db = &attached.db;
        db.execute_batch("INSERT INTO o VALUES (3)").unwrap();
        // Only a temporary trigger can span two databases.
        db.execute_batch("CREATE TEMP TRIGGER both AFTER INSERT ON m BEGIN INSERT INTO o VALUES (new.a); END").unwrap();
        db.execute_batch("BEGIN; INSERT INTO m VALUES (1)").unwrap();
        assert_eq!(code(db.execute("INSERT INTO m VALUES (2), (3)", [])) & 0xff, CONSTRAINT);
        db.execute_batch("COMMIT").unwrap();
        assert_eq!(attached.counts(), (1, 2), "{pair:?}");
        attached.check(server);
    });
}

#[test]
fn a_commit_refused_by_one_database_is_rolled_back_in_the_other() {
    with_each_pair(|server, pair, attached| {
        let db = &attached.db;
        db.execute_batch("BEGIN; INSERT INTO m VALUES (1); INSERT INTO o VALUES (1); COMMIT").unwrap();
        db.execute_batch("BEGIN; INSERT INTO m VALUES (2); INSERT INTO o VALUES (2)").unwrap();
        // Simulate another commit in place of the last one.
        let key = format!("sqlite:{{{}}}", attached.last_in_redis);
        let commit = server.redis_cli(&["HGET", &key, "commit"]);
        server.redis_cli(&["HSET", &key, "commit", "0123456789abcdef"]);
        assert_eq!(code(db.execute_batch("COMMIT")), BUSY_SNAPSHOT, "{pair:?}");
        server.redis_cli(&["HSET", &key, "commit", commit.trim()]);
        if !db.is_autocommit() {
            db.execute_batch("ROLLBACK").unwrap();
        }
        assert_eq!(attached.counts(), (1, 1), "{pair:?}");
        attached.check(server);
        db.execute_batch("BEGIN; INSERT INTO m VALUES (3); INSERT INTO o VALUES (3); COMMIT").unwrap();
        assert_eq!(attached.counts(), (2, 2), "{pair:?}");
        attached.check(server);
    });
}

#[test]
fn a_stale_commit_of_one_database_is_rolled_back_in_the_other() {
    with_each_pair(|server, pair, attached| {
        let db = &attached.db;
        db.execute_batch("BEGIN; INSERT INTO m VALUES (2); INSERT INTO o VALUES (2)").unwrap();
        // Simulate a lease that expired while this process slept.
        let name = &attached.last_in_redis;
        server.redis_cli(&["DEL", &format!("sqlite:{{{name}}}:lock")]);
        let rival = server.open_apart(name, 1);
        rival.execute_batch("CREATE TABLE rival (a)").unwrap();
        assert_eq!(code(db.execute_batch("COMMIT")), BUSY_SNAPSHOT, "{pair:?}");
        if !db.is_autocommit() {
            db.execute_batch("ROLLBACK").unwrap();
        }
        assert_eq!(attached.counts(), (0, 0), "{pair:?}");
        assert_eq!(number(&rival, "SELECT count(*) FROM rival"), 0);
        db.execute_batch(
            "BEGIN; INSERT INTO m VALUES (3); INSERT INTO o VALUES (3); INSERT INTO rival VALUES (1); COMMIT",
        )
        .unwrap();
        assert_eq!(attached.counts(), (1, 1), "{pair:?}");
        attached.check(server);
    });
}

#[test]
fn a_leased_second_database_is_busy_before_anything_is_written() {
    let server = Server::start();
    let attached = attached(&server, Pair::TwoInRedis, "delete");
    let db = &attached.db;
    db.busy_timeout(std::time::Duration::ZERO).unwrap();
    let rival = server.open_apart(&attached.last_in_redis, 1);
    rival.execute_batch("BEGIN IMMEDIATE").unwrap();
    db.execute_batch("BEGIN; INSERT INTO m VALUES (1)").unwrap();
    assert_eq!(code(db.execute("INSERT INTO o VALUES (1)", [])), 5);
    rival.execute_batch("COMMIT").unwrap();
    db.execute_batch("INSERT INTO o VALUES (1); COMMIT").unwrap();
    assert_eq!(attached.counts(), (1, 1));
    attached.check(&server);
}

#[test]
fn a_full_file_rolls_back_both_databases() {
    let server = Server::start();
    let attached = attached(&server, Pair::RedisAndFile, "delete");
    let db = &attached.db;
    db.execute_batch("PRAGMA other.max_page_count=5; BEGIN; INSERT INTO m VALUES (1)").unwrap();
    assert_eq!(code(db.execute("INSERT INTO o VALUES (zeroblob(100000))", [])), 13);
    if !db.is_autocommit() {
        db.execute_batch("ROLLBACK").unwrap();
    }
    assert_eq!(attached.counts(), (0, 0));
    attached.check(&server);
}

#[test]
fn queries_join_databases_of_all_kinds() {
    let server = Server::start();
    let attached = attached(&server, Pair::RedisAndFile, "delete");
    let db = &attached.db;
    db.execute("ATTACH ?1 AS third", [server.options("attach-third").uri()]).unwrap();
    db.execute_batch("ATTACH ':memory:' AS mem; ATTACH '' AS temporary; CREATE TEMP TABLE tt (a)").unwrap();
    db.execute_batch("CREATE TABLE mem.x (a); CREATE TABLE temporary.y (a); CREATE TABLE third.z (a)").unwrap();
    db.execute_batch("BEGIN").unwrap();
    for table in ["m", "o", "x", "y", "z", "tt"] {
        db.execute_batch(&format!("INSERT INTO {table} VALUES (1), ('{table}')")).unwrap();
    }
    db.execute_batch("COMMIT").unwrap();
    let join =
        "SELECT m.a FROM m JOIN o USING (a) JOIN x USING (a) JOIN y USING (a) JOIN z USING (a) JOIN tt USING (a)";
    assert_eq!(text(db, join), "1");
    db.execute_batch("INSERT INTO m SELECT a FROM z WHERE a = 'z'; DETACH mem; DETACH temporary; DETACH third")
        .unwrap();
    assert_eq!(rows(db, "SELECT count(*) FROM m"), rows(db, "SELECT 3"));
    attached.check(&server);
}

#[test]
fn the_same_database_attached_twice_is_one_database() {
    let server = Server::start();
    let db = server.open("attach-twice");
    db.busy_timeout(std::time::Duration::ZERO).unwrap();
    db.execute_batch("CREATE TABLE t (a)").unwrap();
    db.execute("ATTACH ?1 AS again", [server.options("attach-twice").uri()]).unwrap();
    db.execute_batch("INSERT INTO main.t VALUES (1); INSERT INTO again.t VALUES (2)").unwrap();
    assert_eq!(rows(&db, "SELECT a FROM main.t"), rows(&db, "SELECT a FROM again.t"));
    db.execute_batch("BEGIN; INSERT INTO main.t VALUES (3)").unwrap();
    assert_eq!(code(db.execute("INSERT INTO again.t VALUES (4)", [])), 5, "as with a file");
    db.execute_batch("COMMIT").unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM again.t"), 3);
    server.check_stored("attach-twice");
}
