//! Random SQL on a database in Redis and on a file: every result, every result code and the final content are equal.
//!
//! `PROPTEST_CASES` sets the number of cases of each test.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use rusqlite::Connection;
use sqlite_redis_tests::rows::{content, run};
use sqlite_redis_tests::{Server, check_integrity};

fn config(cases: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() }
}

fn statement() -> impl Strategy<Value = String> {
    let table = 0..3u8;
    let key = 0..60u32;
    let size = prop_oneof![6 => 0..300u32, 2 => 300..6000u32, 1 => 6000..60_000u32];
    prop_oneof![
        2 => table.clone().prop_map(|t| format!("CREATE TABLE t{t} (a INTEGER PRIMARY KEY, b, c UNIQUE)")),
        1 => table.clone().prop_map(|t| format!("CREATE TABLE t{t} (a INT PRIMARY KEY, b, c UNIQUE) WITHOUT ROWID")),
        1 => table.clone().prop_map(|t| format!("DROP TABLE t{t}")),
        1 => (table.clone(), 0..3u8).prop_map(|(t, u)| format!("ALTER TABLE t{t} RENAME TO t{u}")),
        1 => table.clone().prop_map(|t| format!("ALTER TABLE t{t} ADD COLUMN d DEFAULT 7")),
        1 => table.clone().prop_map(|t| format!("CREATE INDEX i{t} ON t{t} (b, a)")),
        1 => table.clone().prop_map(|t| format!("DROP INDEX i{t}")),
        1 => table.clone().prop_map(|t| format!("CREATE TRIGGER r{t} AFTER DELETE ON t{t} BEGIN INSERT INTO t0 (b) VALUES (old.a); END")),
        12 => (table.clone(), key.clone(), size.clone())
            .prop_map(|(t, k, s)| format!("INSERT INTO t{t} (a, b, c) VALUES ({k}, hex(zeroblob({s})), {k} || '{t}')")),
        4 => (table.clone(), key.clone(), 1..80u32, size.clone()).prop_map(|(t, k, n, s)| format!(
            "WITH RECURSIVE n (i) AS (SELECT {k} UNION ALL SELECT i + 1 FROM n WHERE i < {k} + {n}) \
             INSERT OR IGNORE INTO t{t} (a, b, c) SELECT i, zeroblob({s} / 10), 'c' || i FROM n"
        )),
        6 => (table.clone(), key.clone(), key.clone(), size.clone())
            .prop_map(|(t, k, l, s)| format!("UPDATE t{t} SET b = zeroblob({s}), c = c || 'x' WHERE a BETWEEN {k} AND {l}")),
        2 => (table.clone(), key.clone()).prop_map(|(t, k)| format!("UPDATE t{t} SET a = a + {k}")),
        5 => (table.clone(), key.clone(), key.clone()).prop_map(|(t, k, l)| format!("DELETE FROM t{t} WHERE a BETWEEN {k} AND {l}")),
        1 => table.clone().prop_map(|t| format!("DELETE FROM t{t}")),
        4 => (table.clone(), key.clone()).prop_map(|(t, k)| format!("SELECT a, length(b), c FROM t{t} WHERE a >= {k} ORDER BY a")),
        3 => table.clone().prop_map(|t| format!("SELECT count(*), sum(length(b)), max(c) FROM t{t}")),
        1 => Just("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2".to_owned()),
        1 => (0..9u8).prop_map(|v| format!("PRAGMA user_version={v}; PRAGMA user_version")),
    ]
}

/// Tables with rows, so that connections read and conflict from the first step.
const TABLES: &str = "
    CREATE TABLE t0 (a INTEGER PRIMARY KEY, b, c UNIQUE); CREATE TABLE t1 (a INTEGER PRIMARY KEY, b, c UNIQUE);
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
        INSERT INTO t0 SELECT i, zeroblob(i * 20), 'c' || i FROM n;
    INSERT INTO t1 SELECT * FROM t0";

/// Reads and small writes on existing tables.
fn traffic() -> impl Strategy<Value = String> {
    let (table, key) = (0..2u8, 1..40u32);
    prop_oneof![
        4 => (table.clone(), key.clone()).prop_map(|(t, k)| format!("SELECT a, length(b), c FROM t{t} WHERE a >= {k}")),
        2 => table.clone().prop_map(|t| format!("SELECT count(*), sum(length(b)), max(c) FROM t{t}")),
        3 => (table.clone(), key.clone(), 0..2000u32)
            .prop_map(|(t, k, s)| format!("UPDATE t{t} SET b = zeroblob({s}), c = c || 'x' WHERE a = {k}")),
        1 => (table, key).prop_map(|(t, k)| format!("DELETE FROM t{t} WHERE a = {k}")),
    ]
}

/// Statements that begin, end or divide transactions.
fn boundary() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop_oneof![4 => Just("BEGIN"), 1 => Just("BEGIN IMMEDIATE"), 1 => Just("BEGIN EXCLUSIVE")],
        6 => Just("COMMIT"),
        3 => Just("ROLLBACK"),
        2 => Just("SAVEPOINT s"),
        1 => Just("SAVEPOINT u"),
        2 => prop_oneof![Just("ROLLBACK TO s"), Just("ROLLBACK TO u")],
        2 => prop_oneof![Just("RELEASE s"), Just("RELEASE u")],
    ]
    .prop_map(str::to_owned)
}

/// Statements that change the layout of the file, or how SQLite writes it.
fn maintenance() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("VACUUM".to_owned()),
        2 => (9..17u8).prop_map(|bits| format!("PRAGMA page_size={}; VACUUM; PRAGMA page_size", 1u32 << bits)),
        1 => (0..3u8).prop_map(|mode| format!("PRAGMA auto_vacuum={mode}; PRAGMA auto_vacuum")),
        1 => (0..9u8).prop_map(|pages| format!("PRAGMA incremental_vacuum({pages})")),
        1 => prop_oneof![Just("delete"), Just("truncate"), Just("persist"), Just("memory")]
            .prop_map(|mode| format!("PRAGMA journal_mode={mode}")),
        1 => (1..12u8).prop_map(|pages| format!("PRAGMA cache_size={pages}")),
        1 => (0..4u8).prop_map(|level| format!("PRAGMA synchronous={level}")),
        1 => prop_oneof![Just("EXCLUSIVE"), Just("NORMAL")].prop_map(|mode| format!("PRAGMA locking_mode={mode}")),
        1 => Just("PRAGMA page_count; PRAGMA freelist_count".to_owned()),
        1 => Just("REINDEX".to_owned()),
    ]
}

/// A database in Redis and a file, with the same number of connections to each.
struct Sides {
    redis: Vec<Connection>,
    file: Vec<Connection>,
    _directory: tempfile::TempDir,
}

impl Sides {
    fn open(server: &Server, name: &str, setup: &str) -> Sides {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.db");
        let (mut redis, mut file) = (Vec::new(), Vec::new());
        for n in 0..3 {
            // Two connections share a cache. The third has its own, as in another process.
            redis.push(if n < 2 { server.open(name) } else { server.open_apart(name, 1) });
            file.push(Connection::open(&path).unwrap());
        }
        for db in redis.iter().chain(&file) {
            db.busy_timeout(std::time::Duration::ZERO).unwrap();
            db.execute_batch("PRAGMA cache_size=5").unwrap();
        }
        file[0].execute_batch(setup).unwrap();
        Sides { redis, file, _directory: directory }
    }

    fn step(&self, connection: usize, sql: &str) -> Result<(), TestCaseError> {
        let redis = run(&self.redis[connection], sql);
        let file = run(&self.file[connection], sql);
        let why = sqlite_redis::last_error(&self.redis[connection]);
        prop_assert_eq!(&redis.code, &file.code, "connection {}: {}; {:?}", connection, sql, why);
        prop_assert!(redis.rows == file.rows, "connection {}: {}: {:?}, {:?}", connection, sql, redis.rows, file.rows);
        let (redis, file) = (self.redis[connection].is_autocommit(), self.file[connection].is_autocommit());
        prop_assert_eq!(redis, file, "connection {}: {}: transaction open or not", connection, sql);
        Ok(())
    }

    /// Ends open transactions, and compares the whole content.
    fn finish(self, server: &Server, name: &str) -> Result<(), TestCaseError> {
        for connection in 0..self.redis.len() {
            if !self.redis[connection].is_autocommit() {
                self.step(connection, "ROLLBACK")?;
            }
            self.step(connection, "PRAGMA locking_mode=NORMAL; SELECT count(*) FROM sqlite_schema")?;
        }
        for (redis, file) in self.redis.iter().zip(&self.file) {
            prop_assert!(content(redis, "main") == content(file, "main"), "the content differs");
            check_integrity(redis);
        }
        drop(self);
        if server.redis_cli(&["EXISTS", &format!("sqlite:{{{name}}}")]) == "1" {
            server.check_stored(name);
        }
        Ok(())
    }
}

/// A database name for one case.
fn unique() -> String {
    format!("model-{:016x}", rand::random::<u64>())
}

#[test]
fn one_connection_answers_like_a_file() {
    let server = Server::start();
    let step = prop_oneof![10 => statement(), 4 => boundary(), 2 => maintenance()];
    let steps = prop::collection::vec(step, 1..80);
    proptest!(config(60), |(steps in steps)| {
        let name = unique();
        let sides = Sides::open(&server, &name, "");
        for sql in &steps {
            sides.step(0, sql)?;
        }
        sides.finish(&server, &name)?;
    });
}

#[test]
fn alternating_connections_answer_like_those_of_a_file() {
    let server = Server::start();
    // A commit to a file waits for its readers, so each transaction ends before another connection's turn. Exclusive
    // locking mode would block the other connections.
    let body = prop::collection::vec(prop_oneof![5 => statement(), 1 => maintenance()], 1..8);
    let turn = (0..3usize, any::<bool>(), body, prop_oneof![3 => Just("COMMIT"), 1 => Just("ROLLBACK")]);
    let turns = prop::collection::vec(turn, 1..25);
    proptest!(config(40), |(turns in turns)| {
        let name = unique();
        let sides = Sides::open(&server, &name, "");
        for (connection, transaction, body, end) in &turns {
            if *transaction {
                sides.step(*connection, "BEGIN")?;
            }
            for sql in body.iter().filter(|sql| !sql.contains("locking_mode")) {
                sides.step(*connection, sql)?;
            }
            if *transaction {
                sides.step(*connection, end)?;
            }
        }
        sides.finish(&server, &name)?;
    });
}

#[test]
fn interleaved_connections_answer_like_those_of_a_file_in_wal_mode() {
    let server = Server::start();
    let steps =
        prop::collection::vec((0..3usize, prop_oneof![5 => traffic(), 2 => statement(), 4 => boundary()]), 1..150);
    proptest!(config(30), |(steps in steps)| {
        let name = unique();
        let sides = Sides::open(&server, &name, "PRAGMA journal_mode=WAL");
        sides.step(0, TABLES)?;
        for (connection, sql) in &steps {
            sides.step(*connection, sql)?;
        }
        for connection in 0..3 {
            if !sides.redis[connection].is_autocommit() {
                sides.step(connection, "ROLLBACK")?;
            }
        }
        sides.finish(&server, &name)?;
    });
}
