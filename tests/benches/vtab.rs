//! The virtual table against a module that sends one command for each row and key, as existing ones
//! do: scans of 10,000 rows, and inserts of as many in one transaction, over loopback TCP.
//!
//!     cargo bench -p sqlite-redis-tests --bench vtab
//!
//! Client and server run on a core each, then both on one. The two sides take turns, and what
//! counts is the ratio within a turn: so whatever else the machine does slows both. Criterion
//! measures one side to the end before the other, and can't state such a ratio; that is why this is
//! a plain program.
//!
//! The module is spared the work of SQLite and of decoding values: only its round trips are made.

use std::time::{Duration, Instant};

use redis::{Connection, ConnectionLike, Value, cmd};
use rusqlite::types::ValueRef;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use sqlite_redis_tests::Server;
use sqlite_redis_tests::vtab::{connect, create};

const ROWS: i64 = 10_000;
const TURNS: usize = 7;

/// The columns of a row, and which of them are indexed.
const PLAIN: &[&str] = &[];
const INDEXED: &[&str] = &["i", "s", "f"];

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn send(redis: &mut Connection, command: &mut redis::Cmd) -> Value {
    redis.req_command(command).expect("a reply")
}

/// What the module sends for `INSERT INTO t(i, s, f)`, row by row.
fn insert_one_by_one(redis: &mut Connection, table: &str, indexed: &[&str]) {
    for n in 1..=ROWS {
        let reply = send(redis, cmd("INCR").arg(format!("{table}.rowid")));
        let Value::Int(rowid) = reply else { panic!("{reply:?}") };
        let f = n as f64 / 4.0;
        let row = [("i", (n / 2).to_string()), ("s", format!("text {n}")), ("f", format!("{f:?}"))];
        send(redis, &mut cmd("MULTI"));
        send(redis, cmd("HSET").arg(format!("{table}:{rowid}")).arg(&row));
        send(redis, cmd("ZADD").arg(format!("{table}.index.rowid")).arg(rowid).arg(rowid));
        for (column, value) in row.iter().filter(|(column, _)| indexed.contains(column)) {
            let (score, member) = match *column {
                "i" => (value.clone(), value.clone()),
                "s" => ("0".to_owned(), value.clone()),
                _ => (value.clone(), format!("{f:.6}")),
            };
            send(redis, cmd("ZADD").arg(format!("{table}.index:{column}")).arg(score).arg(member));
            send(redis, cmd("SADD").arg(format!("{table}.index:{column}:{value}")).arg(rowid));
        }
        let done = send(redis, &mut cmd("EXEC"));
        assert!(matches!(done, Value::Array(_)), "{done:?}");
    }
}

/// What the module sends for `SELECT * FROM t`.
fn scan_one_by_one(redis: &mut Connection, table: &str) {
    let rowids: Vec<i64> =
        cmd("ZRANGE").arg(format!("{table}.index.rowid")).arg(0).arg(-1).query(redis).expect("ZRANGE");
    for rowid in &rowids {
        let row = send(redis, cmd("HGETALL").arg(format!("{table}:{rowid}")));
        assert!(matches!(row, Value::Array(_) | Value::Map(_)));
    }
    assert_eq!(rowids.len() as i64, ROWS);
}

/// A new connection with the table, which lives under another name for each kind of columns.
fn table(url: &str, indexed: &[&str]) -> rusqlite::Connection {
    let table = connect();
    let index = |column: &str| if indexed.contains(&column) { " INDEXED" } else { "" };
    let columns = format!("i INT{}, s TEXT{}, f REAL{}", index("i"), index("s"), index("f"));
    create(&table, url, "t", &columns).expect("a table");
    table
}

fn insert(table: &mut rusqlite::Connection) {
    let transaction = table.transaction().expect("BEGIN");
    let mut insert = transaction.prepare("INSERT INTO t VALUES (?1, ?2, ?3)").expect("INSERT");
    for n in 1..=ROWS {
        insert.execute((n / 2, format!("text {n}"), n as f64 / 4.0)).expect("a row");
    }
    drop(insert);
    transaction.commit().expect("COMMIT");
}

fn scan(table: &rusqlite::Connection) {
    let mut select = table.prepare("SELECT * FROM t").expect("SELECT");
    let mut rows = select.query([]).expect("rows");
    let mut count = 0;
    while let Some(row) = rows.next().expect("a row") {
        let of = |n| row.get_ref(n).expect("a value");
        assert!(matches!((of(0), of(1), of(2)), (ValueRef::Integer(_), ValueRef::Text(_), ValueRef::Real(_))));
        count += 1;
    }
    assert_eq!(count, ROWS);
}

/// Time that this process and the server have worked so far, in microseconds. Unlike other times it
/// is about the same on a machine that has other work.
fn worked(server: &mut Connection) -> [f64; 2] {
    let here = clock_gettime(ClockId::ProcessCPUTime);
    let info: String = cmd("INFO").arg("cpu").query(server).expect("INFO");
    let fields = ["used_cpu_user:", "used_cpu_sys:"];
    let there = info.lines().filter_map(|line| fields.iter().find_map(|field| line.strip_prefix(field)));
    let there: f64 = there.map(|seconds| seconds.trim().parse::<f64>().expect("seconds")).sum();
    [here.tv_sec as f64 * 1e6 + here.tv_nsec as f64 / 1e3, there * 1e6]
}

/// Prints how many times faster ours is, in the middle turn and by the shortest time of each, and
/// the least time that client and server have worked for a row.
fn compare(what: &str, url: &str, mut theirs: impl FnMut() -> Duration, mut ours: impl FnMut() -> Duration) {
    let mut server = redis::Client::open(url).and_then(|client| client.get_connection()).expect("a connection");
    let mut work: Vec<[f64; 2]> = Vec::new();
    let mut turn = || {
        let theirs = theirs();
        let before = worked(&mut server);
        let ours = ours();
        let after = worked(&mut server);
        work.push([0, 1].map(|side| (after[side] - before[side]) / ROWS as f64));
        (theirs, ours)
    };
    let turns: Vec<(Duration, Duration)> = (0..TURNS).map(|_| turn()).collect();
    let least = |side: usize| work.iter().map(|turn| turn[side]).fold(f64::INFINITY, f64::min);
    let (client, of_server) = (least(0), least(1));
    let mut ratios: Vec<f64> = turns.iter().map(|(theirs, ours)| theirs.as_secs_f64() / ours.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let theirs = turns.iter().map(|turn| turn.0).min().unwrap_or_default();
    let ours = turns.iter().map(|turn| turn.1).min().unwrap_or_default();
    println!(
        "{what}: {:.1} times faster ({:.1} to {:.1} in {TURNS} turns); shortest: \
         one command a row {theirs:.1?}, virtual table {ours:.1?}: {:.1}; \
         work for a row: client {client:.2} us, server {of_server:.2} us",
        ratios[TURNS / 2],
        ratios[0],
        ratios[TURNS - 1],
        theirs.as_secs_f64() / ours.as_secs_f64()
    );
}

fn measure(url: &str, placement: &str) {
    let mut redis = redis::Client::open(url).and_then(|client| client.get_connection()).expect("a connection");
    for (what, indexed) in [("no column indexed", PLAIN), ("three columns indexed", INDEXED)] {
        let mut other = redis::Client::open(url).and_then(|client| client.get_connection()).expect("a connection");
        compare(
            &format!("{placement}, insert of {ROWS} rows, {what}"),
            url,
            || {
                cmd("FLUSHALL").exec(&mut redis).expect("FLUSHALL");
                timed(|| insert_one_by_one(&mut redis, "p.main.t", indexed))
            },
            || {
                cmd("FLUSHALL").exec(&mut other).expect("FLUSHALL");
                let mut table = table(url, indexed);
                timed(|| insert(&mut table))
            },
        );
    }
    let table = table(url, INDEXED);
    compare(
        &format!("{placement}, scan of {ROWS} rows"),
        url,
        || timed(|| scan_one_by_one(&mut redis, "p.main.t")),
        || timed(|| scan(&table)),
    );
}

fn one_core(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

fn main() {
    let server = Server::with([""; 0]).tcp().start();
    let url = server.tcp_url();
    let of_server = Pid::from_raw(server.pid() as i32);
    let all = sched_getaffinity(None).expect("our cores");
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
    let (first, second) = (cores.next().expect("a core"), cores.next());
    sched_setaffinity(None, &one_core(first)).expect("a core");
    for (core, placement) in [(second, "a core each"), (Some(first), "both on one core")] {
        let Some(core) = core else { continue };
        sched_setaffinity(of_server, &one_core(core)).expect("a core");
        measure(&url, placement);
    }
}
