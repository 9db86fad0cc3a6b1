//! The virtual table against a module that sends one command for each row and key, as existing ones
//! do: scans of 10,000 rows, and bulk inserts of as many, over loopback TCP.
//!
//!     cargo bench -p sqlite-redis-tests --bench vtab

use std::time::{Duration, Instant};

use redis::{Connection, Value, cmd};
use sqlite_redis_tests::vtab::{connect, create};
use sqlite_redis_tests::{Server, number};

const ROWS: i64 = 10_000;
const TIMES: usize = 5;

/// The shortest of some runs: what else the machine does makes others longer.
fn shortest(mut work: impl FnMut() -> Duration) -> Duration {
    (0..TIMES).map(|_| work()).min().unwrap_or_default()
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// What an insert of `(i INT, s TEXT, f REAL)`, all indexed, takes key by key.
fn insert_one_by_one(redis: &mut Connection, table: &str) {
    for n in 1..=ROWS {
        let rowid: i64 = cmd("INCR").arg(format!("{table}.rowid")).query(redis).expect("INCR");
        let (i, s, f) = (n / 2, format!("text {n}"), n as f64 / 4.0);
        let row = format!("{table}:{rowid}");
        cmd("HSET")
            .arg(row)
            .arg(&[("i", i.to_string()), ("s", s.clone()), ("f", f.to_string())])
            .exec(redis)
            .expect("HSET");
        cmd("ZADD").arg(format!("{table}.index.rowid")).arg(rowid).arg(rowid).exec(redis).expect("ZADD");
        for (column, score, value) in [("i", i as f64, i.to_string()), ("s", 0.0, s), ("f", f, f.to_string())] {
            cmd("ZADD").arg(format!("{table}.index:{column}")).arg(score).arg(&value).exec(redis).expect("ZADD");
            cmd("SADD").arg(format!("{table}.index:{column}:{value}")).arg(rowid).exec(redis).expect("SADD");
        }
    }
}

fn scan_one_by_one(redis: &mut Connection, table: &str) {
    let rowids: Vec<i64> =
        cmd("ZRANGE").arg(format!("{table}.index.rowid")).arg(0).arg(-1).query(redis).expect("ZRANGE");
    for rowid in &rowids {
        let row: Value = cmd("HGETALL").arg(format!("{table}:{rowid}")).query(redis).expect("HGETALL");
        assert!(matches!(row, Value::Array(_) | Value::Map(_)));
    }
    assert_eq!(rowids.len() as i64, ROWS);
}

fn main() {
    let server = Server::with([""; 0]).tcp().start();
    let url = server.tcp_url();
    let mut redis = redis::Client::open(url.as_str()).and_then(|client| client.get_connection()).expect("a connection");
    let one_by_one = shortest(|| {
        cmd("FLUSHALL").exec(&mut redis).expect("FLUSHALL");
        timed(|| insert_one_by_one(&mut redis, "p.main.t"))
    });
    let scan_one_by_one = shortest(|| timed(|| scan_one_by_one(&mut redis, "p.main.t")));
    let inserted = shortest(|| {
        cmd("FLUSHALL").exec(&mut redis).expect("FLUSHALL");
        let table = connect();
        create(&table, &url, "t", "i INT INDEXED, s TEXT INDEXED, f REAL INDEXED").expect("a table");
        let sql = format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS})
             INSERT INTO t SELECT n / 2, 'text ' || n, n / 4.0 FROM n"
        );
        timed(|| table.execute_batch(&sql).expect("rows"))
    });
    let table = connect();
    create(&table, &url, "t", "i INT INDEXED, s TEXT INDEXED, f REAL INDEXED").expect("a table");
    let scanned =
        shortest(|| timed(|| assert_eq!(number(&table, "SELECT count(*) FROM (SELECT * FROM t LIMIT -1)"), ROWS)));
    for (what, theirs, ours) in [("scan", scan_one_by_one, scanned), ("insert", one_by_one, inserted)] {
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        println!("{what} of {ROWS} rows: one command a row {theirs:.1?}, virtual table {ours:.1?}: {ratio:.1} times");
    }
}
