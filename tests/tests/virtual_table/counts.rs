//! Upper bounds for the round trips of the virtual table, counted by a proxy before the server.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use sqlite_redis_tests::{Server, number, text};

/// Counts the times that the client sends while no reply is outstanding.
struct Counter {
    url: String,
    trips: Arc<AtomicU64>,
}

/// The commands sent and the replies received on one connection.
#[derive(Default)]
struct Talk {
    sent: u64,
    received: u64,
    speaking: bool,
    /// Whether a command was received in part.
    inside: bool,
}

impl Counter {
    fn before(server: &Server) -> Counter {
        let path = server.directory().join("counter.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (trips, target) = (Arc::new(AtomicU64::new(0)), server.socket());
        let counted = trips.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(upstream)) = (client, UnixStream::connect(&target)) else { return };
                let talk = Arc::new(Mutex::new(Talk::default()));
                let (heard, trips) = (talk.clone(), counted.clone());
                copy(client.try_clone().unwrap(), upstream.try_clone().unwrap(), move |commands, inside| {
                    let mut talk = talk.lock().unwrap();
                    if !talk.speaking {
                        talk.speaking = true;
                        trips.fetch_add(1, SeqCst);
                    }
                    talk.sent += commands;
                    talk.inside = inside;
                });
                copy(upstream, client, move |replies, _| {
                    let mut talk = heard.lock().unwrap();
                    talk.received += replies;
                    talk.speaking = talk.inside || talk.received < talk.sent;
                });
            }
        });
        Counter { url: format!("unix://{}", path.display()), trips }
    }

    fn of(&self, what: &str, work: impl FnOnce()) -> u64 {
        let before = self.trips.load(SeqCst);
        work();
        let trips = self.trips.load(SeqCst) - before;
        println!("{what}: {trips} round trips");
        trips
    }
}

fn copy(mut from: UnixStream, mut to: UnixStream, note: impl Fn(u64, bool) + Send + 'static) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        let mut open = Vec::new();
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 {
                break;
            }
            open.extend_from_slice(&buffer[..count]);
            let count_of = complete(&mut open);
            note(count_of, !open.is_empty());
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

/// Removes the complete messages from `bytes` and returns their number.
fn complete(bytes: &mut Vec<u8>) -> u64 {
    let (mut at, mut count) = (0, 0);
    while let Some(end) = message_end(bytes, at) {
        (at, count) = (end, count + 1);
    }
    bytes.drain(..at);
    count
}

/// The end of the message that begins at `at`, if it is complete
/// (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
fn message_end(bytes: &[u8], at: usize) -> Option<usize> {
    let line = bytes.get(at..)?.windows(2).position(|window| window == b"\r\n")?;
    let mut end = at + line + 2;
    let number = || std::str::from_utf8(&bytes[at + 1..at + line]).unwrap().parse::<i64>().unwrap();
    match bytes[at] {
        b'$' if number() >= 0 => end += number() as usize + 2,
        b'*' => {
            for _ in 0..number() {
                end = message_end(bytes, end)?;
            }
        }
        _ => {}
    }
    (end <= bytes.len()).then_some(end)
}

const COLUMNS: &str = "blah VARCHAR(255) INDEXED, blah2 INTEGER INDEXED, blah3 VARCHAR(6)";

fn open(url: &str, columns: &str) -> Connection {
    sqlite_redis::register().unwrap();
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(&format!("CREATE VIRTUAL TABLE t USING redis('{url}', p, {columns})")).unwrap();
    connection
}

fn fill(connection: &Connection, rows: i64) {
    connection
        .execute_batch(&format!(
            "BEGIN;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO t (blah, blah2, blah3) SELECT 'text ' || i, i / 2, 'x' || (i % 100) FROM n;
             COMMIT"
        ))
        .unwrap();
}

#[test]
fn an_autocommit_insert_takes_two_round_trips() {
    let server = Server::start();
    let counter = Counter::before(&server);
    for columns in
        [COLUMNS, "id INTEGER PRIMARY KEY, blah TEXT UNIQUE, blah2 INT UNIQUE, blah3 REAL, UNIQUE (blah2, blah3)"]
    {
        let connection = open(&counter.url, columns);
        for n in 0..3 {
            let sql = format!("INSERT INTO t (blah, blah2, blah3) VALUES ('a{n}', {n}, 'x')");
            assert_eq!(counter.of(&sql, || connection.execute_batch(&sql).unwrap()), 2);
        }
        connection.execute_batch("SELECT redis_drop_data('t'); DROP TABLE t").unwrap();
    }
    let connection = open(&counter.url, "id INTEGER PRIMARY KEY, a TEXT UNIQUE");
    assert_eq!(counter.of("id given", || connection.execute_batch("INSERT INTO t VALUES (7, 'x')").unwrap()), 2);
    assert_eq!(counter.of("id taken", || connection.execute_batch("INSERT INTO t (a) VALUES ('y')").unwrap()), 2);
    assert_eq!(connection.last_insert_rowid(), 8);
}

#[test]
fn many_inserts_in_a_transaction_take_few_round_trips() {
    let server = Server::start();
    let counter = Counter::before(&server);
    let connection = open(&counter.url, COLUMNS);
    let trips = counter.of("10,000 inserts", || fill(&connection, 10_000));
    assert!(trips <= 20, "{trips}");
    assert_eq!(number(&connection, "SELECT count(*) FROM t"), 10_000);
    assert_eq!(text(&connection, "SELECT max(rowid) FROM t"), "10000");
    assert_eq!(server.redis_cli(&["GET", "p.main.t.rowid"]), "10000");
    // One statement for each row, with ids and a UNIQUE column.
    connection.execute_batch("SELECT redis_drop_data('t'); DROP TABLE t").unwrap();
    let connection = open(&counter.url, "id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT INDEXED");
    let trips = counter.of("10,000 statements with id and UNIQUE", || {
        connection.execute_batch("BEGIN").unwrap();
        let mut insert = connection.prepare("INSERT INTO t VALUES (?, ?, ?)").unwrap();
        for n in 1..=10_000 {
            insert.execute((n, format!("a{n}"), n % 10)).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
    });
    assert!(trips <= 20, "{trips}");
}

#[test]
fn many_inserts_into_a_filled_table_take_few_round_trips() {
    let server = Server::start();
    let counter = Counter::before(&server);
    for (rows, columns, insert) in [
        (
            10_000,
            "id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT INDEXED, c REAL",
            "INSERT INTO t (a, b, c) VALUES (?2, ?1, ?1)",
        ),
        (
            1000,
            "id INTEGER PRIMARY KEY, a TEXT, b INT UNIQUE, c REAL, UNIQUE (a, c)",
            "INSERT INTO t VALUES (?1, ?2, ?1, 1)",
        ),
    ] {
        let connection = open(&counter.url, columns);
        let write = |insert: &str, first: i64, rows: i64| {
            connection.execute_batch("BEGIN").unwrap();
            let mut statement = connection.prepare(insert).unwrap();
            let mut changed = 0;
            for n in first..first + rows {
                changed += statement.execute((n, format!("a{n}"))).unwrap();
            }
            connection.execute_batch("COMMIT").unwrap();
            changed
        };
        // Rowids below the largest are inserted as well.
        write(insert, 20_000, rows);
        let scans = server.calls("zrangebyscore");
        let trips = counter.of("10 more", || assert_eq!(write(insert, 15_000, 10), 10));
        assert!(trips <= 16, "{trips}");
        assert_eq!(server.calls("zrangebyscore"), scans, "a few rows must not scan the table");
        let trips = counter.of("as many more", || assert_eq!(write(insert, 1, rows), rows as usize));
        assert!(trips <= 35, "{trips}");
        let again = insert.replace("INSERT", "INSERT OR IGNORE");
        let trips = counter.of("1000 again", || assert_eq!(write(&again, 1, 1000), 0));
        assert!(trips <= 55, "{trips}");
        let replace = insert.replace("INSERT", "INSERT OR REPLACE");
        let trips = counter.of("1000 replaced", || assert_eq!(write(&replace, 1, 1000), 1000));
        assert!(trips <= 60, "{trips}");
        assert_eq!(number(&connection, "SELECT count(*) FROM t"), 2 * rows + 10);
        connection.execute_batch("BEGIN").unwrap();
        let mut statement = connection.prepare(insert).unwrap();
        for n in 40_000..40_010 {
            statement.execute((n, format!("a{n}"))).unwrap();
        }
        let taken = statement.execute((500, "a500")).unwrap_err().to_string();
        assert!(taken.contains("UNIQUE constraint failed: t."), "{taken}");
        drop(statement);
        connection.execute_batch("ROLLBACK; SELECT redis_drop_data('t'); DROP TABLE t").unwrap();
    }
}

#[test]
fn many_inserts_tell_values_apart_that_share_a_key() {
    let server = Server::start();
    let connection = open(&server.url(), "a UNIQUE");
    connection.execute_batch("INSERT INTO t VALUES (1), (2), (3), (4), (5), ('6'), ('7'), ('8'), ('9')").unwrap();
    let sql = "BEGIN; INSERT INTO t VALUES ('1'), ('2'), ('3'), ('4'), ('5'), (6), (7), (8), (9); COMMIT";
    connection.execute_batch(sql).unwrap();
    assert_eq!(number(&connection, "SELECT count(DISTINCT a) FROM t"), 18);
    let taken = connection.execute_batch("BEGIN; INSERT INTO t VALUES (11), (12), (13), (14), (15), (16), (8.0)");
    assert!(taken.unwrap_err().to_string().contains("UNIQUE"));
}

#[test]
fn an_offset_skips_by_the_index() {
    let server = Server::start();
    let counter = Counter::before(&server);
    let connection = open(&counter.url, COLUMNS);
    fill(&connection, 10_000);
    let rows = |sql: &str| -> Vec<i64> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    for (sql, expected) in [
        ("SELECT rowid FROM t LIMIT 2 OFFSET 9000", vec![9001, 9002]),
        ("SELECT rowid FROM t ORDER BY rowid DESC LIMIT 2 OFFSET 9000", vec![1000, 999]),
        ("SELECT rowid FROM t WHERE rowid > 500 LIMIT 2 OFFSET 9000", vec![9501, 9502]),
        ("SELECT blah2 FROM t ORDER BY blah2 LIMIT 3 OFFSET 8999", vec![4500, 4500, 4501]),
        ("SELECT blah2 FROM t WHERE blah2 >= 100.5 ORDER BY blah2 DESC LIMIT 1 OFFSET 8001", vec![999]),
        ("SELECT rowid FROM t LIMIT 2 OFFSET 9999", vec![10_000]),
        ("SELECT rowid FROM t LIMIT 2 OFFSET 10000", vec![]),
    ] {
        let before = server.calls("hmget");
        let trips = counter.of(sql, || assert_eq!(rows(sql), expected, "{sql}"));
        let fetched = server.calls("hmget") - before;
        // Values may share an index key, so the value of each skipped row is fetched.
        let expected = if sql.contains("blah2") { 10_100 } else { 1100 };
        assert!(trips <= 9 && fetched <= expected, "{sql}: {trips} round trips, {fetched} rows");
    }
    // The index alone can't count these rows, so they are fetched.
    for (sql, expected) in [
        ("SELECT rowid FROM t WHERE blah3 = 'x1' LIMIT 1 OFFSET 50", vec![5001]),
        ("SELECT rowid FROM t WHERE blah2 IN (600, 700, 800) LIMIT 2 OFFSET 4", vec![1600, 1601]),
        ("SELECT rowid FROM t WHERE blah LIKE 'text 999%' LIMIT 5 OFFSET 10", vec![9999]),
    ] {
        assert_eq!(rows(sql), expected, "{sql}");
    }
    // Neither a row that is gone nor a row deleted in the transaction counts.
    server.redis_cli(&["DEL", "p.main.t:7"]);
    assert_eq!(rows("SELECT rowid FROM t LIMIT 1 OFFSET 9000"), [9002]);
    connection.execute_batch("BEGIN; DELETE FROM t WHERE rowid < 5; INSERT INTO t (rowid) VALUES (3)").unwrap();
    assert_eq!(rows("SELECT rowid FROM t LIMIT 1 OFFSET 9000"), [9005]);
}

#[test]
fn the_planner_gets_the_actual_number_of_rows() {
    let server = Server::start();
    let connection = open(&server.url(), COLUMNS);
    connection.execute_batch("CREATE TABLE local (n INTEGER PRIMARY KEY, x)").unwrap();
    connection.execute_batch("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO local SELECT i, i FROM n; ANALYZE local").unwrap();
    connection.execute_batch("INSERT INTO t (blah2) VALUES (1), (2), (3)").unwrap();
    connection.execute_batch("SELECT * FROM t").unwrap();
    let plan: String = connection
        .query_row("EXPLAIN QUERY PLAN SELECT * FROM local, t WHERE local.n = t.blah2", [], |row| row.get(3))
        .unwrap();
    assert!(plan.starts_with("SCAN t VIRTUAL TABLE"), "the table of three rows is not the outer loop: {plan}");
}

#[test]
fn min_uses_an_index_of_a_not_null_column() {
    let server = Server::start();
    let connection = open(&server.url(), "id INTEGER PRIMARY KEY, a INT INDEXED NOT NULL, b INT INDEXED");
    connection
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO t (a, b) SELECT 6000 - i, nullif(6000 - i, 1000) FROM n",
        )
        .unwrap();
    let fetched = |sql: &str, expected: i64| {
        let before = server.calls("hmget");
        assert_eq!(number(&connection, sql), expected, "{sql}");
        server.calls("hmget") - before
    };
    assert!(fetched("SELECT min(a) FROM t", 1000) <= 1100);
    assert!(fetched("SELECT min(id) FROM t", 1) <= 1100);
    assert!(fetched("SELECT max(b) FROM t", 5999) <= 1100);
    // SQLite does not say that `min()` ignores NULL, so all rows are read. A lower bound in the query helps.
    assert!(fetched("SELECT min(b) FROM t", 1001) >= 5000);
    assert!(fetched("SELECT b FROM t WHERE b > -1e999 ORDER BY b LIMIT 1", 1001) <= 100);
    // Another program's row lacks a NOT NULL value.
    server.redis_cli(&["HSET", "p.main.t:9999", "b", "1"]);
    server.redis_cli(&["ZADD", "p.main.t.index.rowid", "9999", "9999"]);
    server.redis_cli(&["SADD", "p.main.t.index.null:a", "9999"]);
    assert_eq!(number(&connection, "SELECT min(a) FROM t"), 1000);
    assert_eq!(number(&connection, "SELECT count(*) FROM (SELECT * FROM t ORDER BY a LIMIT -1)"), 5001);
}

#[test]
fn reads_stay_within_the_documented_round_trips() {
    let server = Server::start();
    let counter = Counter::before(&server);
    let connection = open(&counter.url, COLUMNS);
    fill(&connection, 10_000);
    let trips = |sql: &str, rows: i64| {
        counter.of(sql, || assert_eq!(number(&connection, &format!("SELECT count(*) FROM ({sql})")), rows))
    };
    assert_eq!(trips("SELECT * FROM t WHERE rowid = 77", 1), 1);
    assert_eq!(trips("SELECT * FROM t WHERE rowid = 77777", 0), 1);
    assert!(trips("SELECT * FROM t WHERE blah = 'text 5'", 1) <= 2);
    assert!(trips("SELECT * FROM t WHERE blah2 = 5", 2) <= 2);
    assert!(trips("SELECT * FROM t WHERE blah2 IN (5, 6, 700, -1)", 6) <= 2);
    assert!(trips("SELECT * FROM t WHERE blah2 = 5 AND blah = 'text 10'", 1) <= 2);
    assert!(trips("SELECT * FROM t", 10_000) <= 2 + 20);
    assert!(trips("SELECT * FROM t WHERE rowid > 5000", 5000) <= 2 + 10);
    assert!(trips("SELECT * FROM t WHERE blah2 >= 2500 AND blah2 < 3500", 2000) <= 2 + 4);
    assert!(trips("SELECT * FROM t WHERE blah2 BETWEEN 10 AND 20", 22) <= 3);
    assert!(trips("SELECT * FROM t ORDER BY blah LIMIT -1", 10_000) <= 2 + 20);
    assert!(trips("SELECT * FROM t WHERE blah LIKE 'text 12%'", 111) <= 3);
    assert!(trips("SELECT * FROM t WHERE blah2 IS NULL", 0) <= 2);
    assert!(trips("SELECT max(blah2) FROM t", 1) <= 3);
    assert!(trips("SELECT * FROM t ORDER BY blah2 DESC LIMIT 10 OFFSET 5", 10) <= 3);
}

#[test]
fn a_limit_fetches_few_rows() {
    let server = Server::start();
    let connection = open(&server.url(), COLUMNS);
    fill(&connection, 10_000);
    let fetched = |sql: &str| {
        let before = server.calls("hmget");
        connection.prepare(sql).unwrap().query_map([], |_| Ok(())).unwrap().count();
        let fetched = server.calls("hmget") - before;
        println!("{sql}: {fetched} rows");
        fetched
    };
    assert!(fetched("SELECT * FROM t LIMIT 10") < 50);
    assert!(fetched("SELECT * FROM t ORDER BY blah2 LIMIT 10 OFFSET 10") < 100);
    assert!(fetched("SELECT max(blah2) FROM t") < 1100);
    // A scan fetches batch by batch, as rows are read.
    let before = server.calls("hmget");
    let mut statement = connection.prepare("SELECT * FROM t").unwrap();
    let mut rows = statement.query([]).unwrap();
    assert!(rows.next().unwrap().is_some());
    assert!(server.calls("hmget") - before <= 500);
    // After a second batch, the third is prefetched.
    for _ in 1..501 {
        assert!(rows.next().unwrap().is_some());
    }
    sqlite_redis_tests::eventually("the next batch is prefetched", || server.calls("hmget") - before == 1500);
    drop(rows);
    assert_eq!(number(&connection, "SELECT count(*) FROM t WHERE rowid = 7"), 1);
}

#[test]
fn query_plans_name_the_index() {
    let server = Server::start();
    let connection = open(&server.url(), COLUMNS);
    fill(&connection, 2000);
    let plan = |sql: &str| -> String {
        connection.query_row(&format!("EXPLAIN QUERY PLAN {sql}"), [], |row| row.get(3)).unwrap()
    };
    for (condition, expected) in [
        ("WHERE rowid = 1", "rowid (rowid=?)"),
        ("WHERE blah2 = 1", "index blah2 (blah2=?)"),
        ("WHERE blah2 > 1 AND blah2 <= 5", "index blah2 (blah2>? AND blah2<=?)"),
        ("WHERE blah = 'x' AND blah2 = 1", "blah=? AND blah2=?"),
        ("WHERE blah LIKE 'x%'", "index blah (blah LIKE ?)"),
        ("WHERE blah2 IS NULL", "index blah2 (blah2 IS NULL)"),
        ("ORDER BY blah2 DESC", "index blah2 in descending order"),
        ("ORDER BY rowid", "scan in order"),
        ("WHERE blah2 > 5 ORDER BY blah2", "index blah2 (blah2>?) in order"),
        ("WHERE blah3 = 'x'", "scan"),
    ] {
        let plan = plan(&format!("SELECT * FROM t {condition}"));
        assert!(plan.contains(expected), "{condition}: {plan}");
    }
    assert!(plan("SELECT max(blah) FROM t").contains("index blah in descending order"));
    // After another client creates an index, every client uses it from its next statement on.
    let other = open(&server.url(), COLUMNS);
    assert_eq!(number(&other, "SELECT redis_create_index('t', 'blah3')"), 1);
    assert!(plan("SELECT * FROM t WHERE blah3 = 'x'").contains("index blah3"));
}

#[test]
fn the_rows_of_a_frequent_value_are_read_in_pieces() {
    let server = Server::start();
    let connection = open(&server.url(), "id INTEGER PRIMARY KEY, a INT INDEXED, b INT INDEXED, c INT");
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
         INSERT INTO t SELECT i, i % 2, nullif(i % 2, 0), i FROM n";
    connection.execute_batch(rows).unwrap();
    let order = "SELECT group_concat(id) FROM (SELECT * FROM t WHERE a = 1 ORDER BY id LIMIT 3 OFFSET 5997)";
    assert_eq!(text(&connection, order), "11995,11997,11999");
    for (sql, rows) in [("a = 1", 6000), ("b IS NULL", 6000)] {
        let before = server.calls("sscan");
        assert_eq!(number(&connection, &format!("SELECT count(c) FROM t WHERE {sql}")), rows, "{sql}");
        assert!(server.calls("sscan") - before >= 2, "{sql}");
    }
}

#[test]
fn conditions_with_many_encodings_take_few_commands() {
    let server = Server::start();
    let names: Vec<String> = ('a'..='j').map(String::from).collect();
    let connection =
        open(&server.url(), &names.iter().map(|name| format!("{name} NUMERIC INDEXED")).collect::<Vec<_>>().join(", "));
    let values = |value: &str| vec![value; names.len()].join(", ");
    connection.execute_batch(&format!("INSERT INTO t VALUES ({}), ({})", values("5"), values("6.5"))).unwrap();
    let before = server.calls("sinter");
    let all = names.iter().map(|name| format!("{name} = 5")).collect::<Vec<_>>().join(" AND ");
    assert_eq!(number(&connection, &format!("SELECT rowid FROM t WHERE {all}")), 1);
    let calls = server.calls("sinter") - before;
    assert!(calls > 0 && calls <= 64, "{calls} intersections");
}
