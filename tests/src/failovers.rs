//! Clients work while primaries fail one after the other and replicas take over. Afterwards the run checks that no
//! acknowledged commit is lost and that no reader saw a torn version.
//!
//! There are two databases: `bank` moves money between accounts, `append` appends unique values to a list that each
//! transaction reads. Commits wait for a replica (`wait=1`).

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;

use crate::group::Group;
use crate::relay::Passage;
use crate::soak::history::Outcome;
use crate::soak::worker::{read, transact};
use crate::{check_integrity, within};

const ACCOUNTS: i64 = 20;
const BALANCE: i64 = 100;
/// Number of items that a reader compares, from the end of the list.
const TAIL: i64 = 20;

/// A failure of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// `kill -9`.
    Kill,
    /// It hangs (`kill -STOP`), and later continues as a primary.
    Stop,
    /// It is cut off from clients and servers.
    Partition,
    /// It is cut off from the Sentinels and its replicas, but not from clients.
    Isolation,
    /// A planned hand-over to a replica (`FAILOVER`).
    Planned,
}

impl Failure {
    const ALL: [Failure; 5] = [Failure::Kill, Failure::Stop, Failure::Partition, Failure::Isolation, Failure::Planned];

    /// Causes the failure, and waits until all Sentinels name the next primary. Returns when the first one did.
    fn inject(self, group: &mut Group) -> Instant {
        let old = group.primary();
        match self {
            Failure::Kill => group.servers[old].kill(),
            Failure::Stop => group.servers[old].signal("STOP"),
            Failure::Partition => group.set(old, Passage::Closed),
            Failure::Isolation => group.set(old, Passage::Clients),
            Failure::Planned => return group.hand_over(),
        }
        let switched = group.first_named_instead_of(old);
        group.switched_from(old);
        switched
    }

    /// Brings the old primary back.
    fn heal(self, group: &mut Group, old: usize) {
        match self {
            Failure::Kill => group.servers[old].restart(),
            Failure::Stop => group.servers[old].signal("CONT"),
            Failure::Partition | Failure::Isolation => group.set(old, Passage::Open),
            Failure::Planned => {}
        }
        group.in_step();
    }
}

/// A failover as clients saw it.
#[derive(Debug)]
pub struct Failover {
    /// The cause.
    pub failure: Failure,
    /// Its beginning, as time since the start of the run.
    pub at: Duration,
    /// Time from the first Sentinel that named the next primary to the first commits to both databases.
    pub writing_again: Duration,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Each failover.
    pub failovers: Vec<Failover>,
    /// Transactions reported as committed.
    pub acknowledged: usize,
    /// Transactions reported as failed.
    pub failed: usize,
    /// Transactions reported as unknown, or as committed on the primary only.
    pub unknown: usize,
    /// Read transactions.
    pub reads: usize,
    /// Violated guarantees.
    pub violations: Vec<String>,
}

#[derive(Debug)]
struct Write {
    database: &'static str,
    id: String,
    outcome: Outcome,
    ended: Instant,
}

/// The end of the list as a reader saw it.
struct Sight {
    began: Instant,
    length: i64,
    tail: Vec<String>,
}

#[derive(Default)]
struct Record {
    stop: AtomicBool,
    writes: Mutex<Vec<Write>>,
    sights: Mutex<Vec<Sight>>,
    reads: Mutex<usize>,
    violations: Mutex<Vec<String>>,
}

impl Record {
    fn violation(&self, what: String) {
        self.violations.lock().expect("the record").push(what);
    }

    /// When each database was first written after an instant.
    fn written_after(&self, since: Instant) -> Option<Instant> {
        let writes = self.writes.lock().expect("the record");
        let first = |database| {
            let later = writes.iter().filter(|one| one.database == database && one.ended > since);
            later.filter(|one| one.outcome == Outcome::Acknowledged).map(|one| one.ended).min()
        };
        first("bank").zip(first("append")).map(|(one, other)| one.max(other))
    }
}

/// Runs this many failovers, each kind equally often, in random order.
///
/// # Panics
/// When the servers or Sentinels do not work. That is no fault of the clients.
pub fn run(failovers: usize, seed: u64, progress: impl Fn(&Failover)) -> Verdict {
    let mut group = Group::new();
    let mut verdict = Verdict::default();
    let record = Record::default();
    let begun = Instant::now();
    prepare(&open(&group, "bank", 0), &open(&group, "append", 0));
    let (mut random, mut quiet) = (StdRng::seed_from_u64(seed), Vec::new());
    let mut plan: Vec<Failure> = Failure::ALL.into_iter().cycle().take(failovers).collect();
    plan.shuffle(&mut random);
    let clients: Vec<_> = (1..=3).map(|n| (open(&group, "bank", n), open(&group, "append", n))).collect();
    std::thread::scope(|scope| {
        for (n, (bank, append)) in clients.into_iter().enumerate() {
            let record = &record;
            scope.spawn(move || work(record, n, &bank, bank_step));
            scope.spawn(move || work(record, n, &append, append_step));
        }
        for failure in plan {
            let began = Instant::now();
            std::thread::sleep(Duration::from_millis(random.random_range(200..1500)));
            quiet.push((began, Instant::now()));
            let (old, at) = (group.primary(), begun.elapsed());
            let switched = failure.inject(&mut group);
            let mut written = None;
            within(Duration::from_secs(120), "both databases are written", || {
                written = record.written_after(switched);
                written.is_some()
            });
            let writing_again = written.map_or(Duration::ZERO, |at| at - switched);
            let failover = Failover { failure, at, writing_again };
            progress(&failover);
            verdict.failovers.push(failover);
            failure.heal(&mut group, old);
        }
        record.stop.store(true, Relaxed);
    });
    judge(&group, record, begun, &quiet, &mut verdict);
    verdict
}

/// A connection with a separate cache for each `n`, as in another process.
fn open(group: &Group, name: &str, n: u64) -> Connection {
    let options = group.options(name).wait(1, Duration::from_secs(1)).timeout(Duration::from_millis(2000 + n));
    let db = options.open().unwrap_or_else(|error| panic!("{error}"));
    db.busy_timeout(Duration::from_secs(5)).expect("a busy timeout");
    db
}

fn prepare(bank: &Connection, append: &Connection) {
    let accounts = format!(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE transfer (id TEXT PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER);
         CREATE INDEX by_source ON transfer (source);
         CREATE INDEX by_target ON transfer (target);
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ACCOUNTS})
         INSERT INTO account SELECT n, {BALANCE} FROM n"
    );
    bank.execute_batch(&accounts).expect("the accounts");
    append.execute_batch("CREATE TABLE item (place INTEGER PRIMARY KEY, id TEXT NOT NULL)").expect("the list");
}

/// One step of a client. The last argument is its id.
type Step = fn(&Record, &Connection, &mut StdRng, String);

/// Repeats the step until the run stops.
fn work(record: &Record, n: usize, db: &Connection, step: Step) {
    let mut random = StdRng::seed_from_u64(n as u64);
    for next in 0.. {
        if record.stop.load(Relaxed) {
            return;
        }
        step(record, db, &mut random, format!("{n}.{next}"));
        // Limits the number of transactions, since the checks compare them with each other.
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn written(record: &Record, database: &'static str, id: String, outcome: Outcome) {
    let write = Write { database, id, outcome, ended: Instant::now() };
    record.writes.lock().expect("the record").push(write);
}

fn bank_step(record: &Record, db: &Connection, random: &mut StdRng, id: String) {
    if random.random_ratio(1, 3) {
        if let Some(wrong) = read(db, wrong_sums) {
            *record.reads.lock().expect("the record") += 1;
            wrong.into_iter().for_each(|wrong| record.violation(wrong));
        }
        return;
    }
    let (source, target) = (random.random_range(1..=ACCOUNTS), random.random_range(1..=ACCOUNTS));
    let amount = random.random_range(1..50);
    let (outcome, _) = transact(db, |db| {
        db.execute("UPDATE account SET balance = balance - ?1 WHERE id = ?2", (amount, source))?;
        db.execute("UPDATE account SET balance = balance + ?1 WHERE id = ?2", (amount, target))?;
        db.execute("INSERT INTO transfer VALUES (?1, ?2, ?3, ?4)", (&id, source, target, amount))
    });
    written(record, "bank", id, outcome);
}

/// Describes accounts whose balance their transfers do not explain.
fn wrong_sums(db: &Connection) -> rusqlite::Result<Option<String>> {
    let sql = format!(
        "SELECT count(*), (SELECT sum(balance) FROM account) FROM account WHERE balance <> {BALANCE}
             - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE source = account.id)
             + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE target = account.id)"
    );
    let (unexplained, sum): (i64, i64) = db.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let fine = unexplained == 0 && sum == ACCOUNTS * BALANCE;
    Ok((!fine).then(|| format!("bank: {unexplained} accounts are wrong, the sum is {sum}")))
}

fn append_step(record: &Record, db: &Connection, random: &mut StdRng, id: String) {
    if random.random_ratio(1, 3) {
        let began = Instant::now();
        if let Some((first, again)) = read(db, |db| Ok((tail(db)?, tail(db)?))) {
            *record.reads.lock().expect("the record") += 1;
            if first != again {
                record.violation(format!("append: one transaction saw {first:?} and {again:?}"));
            }
            let (length, tail) = first;
            record.sights.lock().expect("the record").push(Sight { began, length, tail });
        }
        return;
    }
    let (outcome, _) = transact(db, |db| {
        let length: i64 = db.query_row("SELECT count(*) FROM item", [], |row| row.get(0))?;
        db.execute("INSERT INTO item VALUES (?1, ?2)", (length, &id))
    });
    written(record, "append", id, outcome);
}

/// Length and end of the list.
fn tail(db: &Connection) -> rusqlite::Result<(i64, Vec<String>)> {
    let length = db.query_row("SELECT count(*) FROM item", [], |row| row.get(0))?;
    let mut statement = db.prepare_cached("SELECT id FROM item WHERE place >= ?1 ORDER BY place")?;
    let tail = statement.query_map([length - TAIL], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok((length, tail))
}

fn ids(db: &Connection, sql: &str) -> Vec<String> {
    let mut statement = db.prepare(sql).expect("a query");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<rusqlite::Result<_>>().expect("rows")
}

fn judge(group: &Group, record: Record, begun: Instant, quiet: &[(Instant, Instant)], verdict: &mut Verdict) {
    let (bank, append) = (open(group, "bank", 9), open(group, "append", 9));
    check_integrity(&bank);
    check_integrity(&append);
    let mut violations = record.violations.into_inner().expect("the record");
    violations.extend(wrong_sums(&bank).expect("the accounts"));
    let list = ids(&append, "SELECT id FROM item ORDER BY place");
    let writes = record.writes.into_inner().expect("the record");
    for (database, found) in [("bank", &ids(&bank, "SELECT id FROM transfer")), ("append", &list)] {
        let writes = writes.iter().filter(|one| one.database == database);
        violations.extend(check_presence(writes, found, begun));
    }
    let sights = record.sights.into_inner().expect("the record");
    violations.extend(check_sights(&sights, &writes, &list, quiet));
    let count = |outcome| writes.iter().filter(|one| one.outcome == outcome).count();
    verdict.acknowledged = count(Outcome::Acknowledged);
    verdict.failed = count(Outcome::Failed);
    verdict.unknown = count(Outcome::Unknown);
    verdict.reads = record.reads.into_inner().expect("the record");
    verdict.violations = violations;
}

fn check_presence<'a>(writes: impl Iterator<Item = &'a Write>, found: &[String], begun: Instant) -> Vec<String> {
    let mut times: HashMap<&str, usize> = HashMap::new();
    for id in found {
        *times.entry(id).or_default() += 1;
    }
    let mut violations = Vec::new();
    for write in writes {
        let there = times.remove(write.id.as_str()).unwrap_or(0);
        let fine = match write.outcome {
            Outcome::Acknowledged => there == 1,
            Outcome::Unknown => there <= 1,
            _ => there == 0,
        };
        if !fine {
            let (Write { database, id, outcome, .. }, at) = (write, write.ended - begun);
            violations.push(format!("{database}: {id}, {outcome:?} at {at:?}, is there {there} times"));
        }
    }
    violations.extend(times.keys().map(|id| format!("nobody wrote {id}")));
    violations
}

/// Each reader saw a prefix of the final list, except for commits that no replica had. Outside of failovers it saw
/// every commit acknowledged before it began. During a failover, a replaced primary may still answer for up to a
/// second.
fn check_sights(sights: &[Sight], writes: &[Write], list: &[String], quiet: &[(Instant, Instant)]) -> Vec<String> {
    let outcomes: HashMap<&str, &Write> =
        writes.iter().filter(|one| one.database == "append").map(|one| (one.id.as_str(), one)).collect();
    let mut violations = Vec::new();
    for sight in sights {
        let start = sight.length - sight.tail.len() as i64;
        for (place, id) in (start..).zip(&sight.tail) {
            let lost = outcomes.get(id.as_str()).is_some_and(|one| one.outcome == Outcome::Unknown);
            let stands = usize::try_from(place).is_ok_and(|place| list.get(place) == Some(id));
            if !stands && !lost {
                violations.push(format!("append: {id} was seen at {place}, where it is not"));
            }
        }
        if quiet.iter().any(|(from, to)| (*from..*to).contains(&sight.began)) {
            let unseen = list.iter().skip(usize::try_from(sight.length).unwrap_or(0));
            let ended = |id: &&String| outcomes.get(id.as_str()).is_some_and(|one| is_before(one, sight.began));
            violations.extend(unseen.filter(ended).map(|id| format!("append: {id} was acknowledged, and not seen")));
        }
    }
    violations
}

fn is_before(write: &Write, instant: Instant) -> bool {
    write.outcome == Outcome::Acknowledged && write.ended < instant
}
