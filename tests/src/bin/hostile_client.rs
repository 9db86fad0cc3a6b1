//! A client of a hostile server, in a process of its own: whatever it does wrong, a watchdog sees.
//!
//! `hostile_client alone URL SEED` works with a server that makes everything up, and only must not
//! panic, hang or fill the memory. `hostile_client through URL SEED` works with a real server some
//! of whose replies are spoilt, and checks all that it reads. It prints the stamps that the table
//! may have in the end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;
use sqlite_redis::Options;
use sqlite_redis_tests::failures::run;
use sqlite_redis_tests::soak::history::Outcome;
use sqlite_redis_tests::soak::worker::{read, transact};

/// Memory that a client may take at most, in kB.
const MOST_MEMORY: u64 = 400_000;

static PANICKED: AtomicBool = AtomicBool::new(false);

fn main() -> Result<()> {
    // Also those count that are kept from C.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, SeqCst);
        print(panic);
    }));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["alone", url, seed] => alone(url, seed.parse()?),
        ["through", url, seed] => through(url, seed.parse()?)?,
        _ => bail!("usage: hostile_client alone|through URL SEED"),
    }
    ensure!(!PANICKED.load(SeqCst), "it panicked");
    let peak = peak_memory()?;
    ensure!(peak < MOST_MEMORY, "it took {peak} kB of memory");
    Ok(())
}

/// The most memory that this process has had so far, in kB.
fn peak_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn options(url: &str, timeout: u64) -> Options {
    let short = Duration::from_millis(timeout);
    Options::new("shop").server(url).timeout(short).connect_timeout(short).lease(Duration::from_millis(300))
}

const WORK: &[&str] = &[
    "SELECT count(*), sum(length(filler)) FROM t",
    "SELECT stamp FROM t WHERE id = 17",
    "INSERT INTO t (stamp, filler) VALUES (1, 'x')",
    "UPDATE t SET stamp = stamp + 1",
    "DELETE FROM t WHERE id % 2",
    "BEGIN; SELECT * FROM t; UPDATE t SET stamp = 2; COMMIT",
    "BEGIN IMMEDIATE; INSERT INTO t (stamp, filler) VALUES (1, hex(zeroblob(20000))); ROLLBACK",
    "BEGIN IMMEDIATE; UPDATE t SET filler = filler || 'y'; COMMIT",
    "SAVEPOINT s; UPDATE t SET stamp = 3; ROLLBACK TO s; RELEASE s",
    "VACUUM",
    "PRAGMA page_size = 1024; VACUUM",
    "PRAGMA integrity_check",
    "PRAGMA redis_version",
    "PRAGMA locking_mode = EXCLUSIVE; UPDATE t SET stamp = 4; PRAGMA locking_mode = NORMAL; SELECT 1 FROM t",
    "CREATE TABLE u (x); INSERT INTO u VALUES (1); DROP TABLE u",
    "PRAGMA cache_size = 3; UPDATE t SET filler = upper(filler)",
    "PRAGMA journal_mode = WAL",
];

fn alone(url: &str, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let options = options(url, 100);
    for _ in 0..5 {
        let Ok(db) = options.open() else { continue };
        for _ in 0..random.random_range(1..10) {
            // Any outcome will do.
            let _ = run(&db, WORK[random.random_range(0..WORK.len())]);
        }
        if random.random() {
            let attach = format!("ATTACH '{}' AS other", Options::new("other").server(url).uri());
            let _ = run(&db, &attach);
            let _ = run(&db, "BEGIN; UPDATE t SET stamp = 5; CREATE TABLE other.v (x); COMMIT");
        }
        if !db.is_autocommit() {
            let _ = run(&db, "ROLLBACK");
        }
    }
}

/// What the table may hold, as far as its only writer knows.
struct Stamps(BTreeSet<i64>);

impl Stamps {
    fn last(&self) -> i64 {
        self.0.last().copied().unwrap_or(0)
    }

    /// The stamp of the whole table as one transaction sees it; `None` when it can't be read.
    fn look(&self, db: &Connection) -> Result<Option<i64>> {
        let seen = read(db, |db| {
            let first = stamp(db)?;
            Ok((first, stamp(db)?))
        });
        let Some((first, again)) = seen else { return Ok(None) };
        ensure!(first == again, "the table changed within a transaction: {first:?}, {again:?}");
        let (low, high, rows, sound) = first;
        ensure!(low == high && rows == 40 && sound == 40, "the table is torn: {first:?}");
        ensure!(self.0.contains(&low), "stamp {low} was never there; possible: {:?}", self.0);
        Ok(Some(low))
    }

    fn write(&mut self, db: &Connection, spill: bool) {
        let next = self.last() + 1;
        let cache = if spill { 3 } else { 500 };
        let (outcome, _) = transact(db, |db| {
            run(db, &format!("PRAGMA cache_size = {cache}"))?;
            db.execute("UPDATE t SET stamp = ?1, filler = printf('%0*d', 400, ?1)", [next])
        });
        match outcome {
            Outcome::Acknowledged => self.0 = BTreeSet::from([next]),
            Outcome::Failed | Outcome::Read => {}
            Outcome::Unknown => {
                self.0.insert(next);
            }
        }
    }
}

/// Smallest and largest stamp, rows, and rows whose filler is that of their stamp.
fn stamp(db: &Connection) -> rusqlite::Result<(i64, i64, i64, i64)> {
    let sql = "SELECT min(stamp), max(stamp), count(*), total(filler = printf('%0*d', 400, stamp)) FROM t";
    db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, f64>(3)? as i64)))
}

/// The table is there already, with stamp 0.
fn through(url: &str, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut stamps = Stamps(BTreeSet::from([0]));
    // Of other timeouts: a second process as far as caches and connections go.
    let all = [options(url, 200), options(url, 200), options(url, 201)];
    let mut open: Vec<Option<Connection>> = vec![None, None, None];
    for _ in 0..60 {
        let at = random.random_range(0..3);
        if random.random_ratio(1, 12) || open[at].is_none() {
            open[at] = all[at].open().ok();
        }
        let Some(db) = &open[at] else { continue };
        match random.random_range(0..10) {
            0..4 => {
                stamps.look(db)?;
            }
            4..8 => stamps.write(db, random.random()),
            8 => {
                // A commit that this reports as failed is one of the same rows with the same stamp.
                let _ = run(db, "VACUUM");
            }
            _ => {
                // One reads on while another commits.
                let Some(other) = &open[(at + 1) % 3] else { continue };
                let before = db.execute_batch("BEGIN").and_then(|()| stamp(db)).ok();
                stamps.write(other, false);
                let after = stamp(db).ok();
                let _ = run(db, "ROLLBACK");
                if let (Some(before), Some(after)) = (before, after) {
                    ensure!(before == after, "a reader's table changed: {before:?}, {after:?}");
                }
            }
        }
    }
    let possible: Vec<String> = stamps.0.iter().map(i64::to_string).collect();
    println!("{}", possible.join(" "));
    Ok(())
}
