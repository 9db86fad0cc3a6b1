//! What all workers have in common.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;
use sqlite_redis::Options;

use super::history::{Outcome, Writer};
use super::{Workload, append, bank, churn, set};

/// `SQLITE_IOERR_FSYNC`: the outcome of a commit is unknown.
const OUTCOME_UNKNOWN: i32 = 1034;

static STOP: AtomicBool = AtomicBool::new(false);

/// Whether the worker is to end.
pub fn stopped() -> bool {
    STOP.load(Relaxed)
}

/// A worker at work.
pub struct Worker {
    /// Its connection, opened anew when it was lost.
    pub connection: Connection,
    /// What it writes down.
    pub history: Writer,
    /// Its choices.
    pub random: StdRng,
    /// Workers of one workload are numbered; the odd ones read.
    pub number: u64,
}

/// Works until standard input ends: the parent closes it, or is gone.
///
/// # Errors
/// The history can't be written. Failures of the database are part of the work.
pub fn work(workload: Workload, options: &Options, id: &str, number: u64, seed: u64) -> Result<()> {
    std::thread::spawn(|| {
        // Nothing is ever sent; the end is the message, and so is a failure.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        STOP.store(true, Relaxed);
    });
    let history = Writer::new(id);
    let Some(connection) = connect(options) else { return Ok(()) };
    let mut worker = Worker { connection, history, random: StdRng::seed_from_u64(seed), number };
    while !stopped() {
        match workload {
            Workload::Bank => bank::step(&mut worker)?,
            Workload::Append => append::step(&mut worker)?,
            Workload::Set => set::step(&mut worker)?,
            Workload::Churn => churn::step(&mut worker)?,
        }
        if worker.random.random_ratio(1, 50)
            && let Some(fresh) = connect(options)
        {
            worker.connection = fresh;
        }
    }
    Ok(())
}

/// A connection, however long it takes; `None` when it is time to end.
fn connect(options: &Options) -> Option<Connection> {
    while !stopped() {
        if let Ok(connection) = options.open()
            && connection.busy_timeout(Duration::from_secs(10)).is_ok()
            && connection.execute_batch("PRAGMA cache_size = 20").is_ok()
        {
            return Some(connection);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Runs a write transaction and says what became of it.
pub fn transact<T>(
    connection: &Connection,
    body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> (Outcome, Option<T>) {
    let outcome = match connection.execute_batch("BEGIN IMMEDIATE").and_then(|()| body(connection)) {
        Ok(value) => match connection.execute_batch("COMMIT") {
            Ok(()) => return (Outcome::Acknowledged, Some(value)),
            Err(error) => outcome_of(&error),
        },
        Err(_) => Outcome::Failed,
    };
    if !connection.is_autocommit() {
        // A failure here is a failure of the connection, which the next step will meet.
        let _ = connection.execute_batch("ROLLBACK");
    }
    (outcome, None)
}

/// What a failed commit says of its transaction.
pub fn outcome_of(error: &rusqlite::Error) -> Outcome {
    match error {
        rusqlite::Error::SqliteFailure(error, _) if error.extended_code == OUTCOME_UNKNOWN => Outcome::Unknown,
        _ => Outcome::Failed,
    }
}

/// Runs statements in one read transaction; `None` when they fail, which faults may make them.
pub fn read<T>(connection: &Connection, body: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
    let outcome = connection.execute_batch("BEGIN").and_then(|()| body(connection));
    if !connection.is_autocommit() {
        // As in `transact`.
        let _ = connection.execute_batch("ROLLBACK");
    }
    outcome.ok()
}
