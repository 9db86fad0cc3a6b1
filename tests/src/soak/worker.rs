//! What all workers have in common.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;
use rustix::process::{WaitOptions, wait};
use sqlite_redis::{Consistency, Options};

use super::history::{Outcome, Writer};
use super::{Workload, clock, rows};

/// How old what a [`Role::Relaxed`] reads may be.
pub const BOUND: Duration = Duration::from_millis(50);

/// `SQLITE_IOERR_FSYNC`: the outcome of a commit is unknown, or too few replicas have it.
const OUTCOME_UNKNOWN: i32 = 1034;

static STOP: AtomicBool = AtomicBool::new(false);
static FORK: AtomicBool = AtomicBool::new(false);
static CLOCK_STUCK: AtomicBool = AtomicBool::new(false);

/// Which server a worker talks to, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To the primary.
    Primary,
    /// To the primary, with commits that wait for the replica.
    Waiting,
    /// To the primary, with reads that may be [`BOUND`] old, and a lease that lingers.
    Relaxed,
    /// To the primary, with reads from the replica where that has what it has seen itself.
    Session,
    /// To the replica, which it only reads.
    Replica,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 5] = [Role::Primary, Role::Waiting, Role::Relaxed, Role::Session, Role::Replica];

    /// The role of this name.
    pub fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Waiting => "waiting",
            Role::Relaxed => "relaxed",
            Role::Session => "session",
            Role::Replica => "replica",
        }
    }
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
    /// Which server it talks to.
    pub role: Role,
    /// Lengths of the lists that its connection has seen since anything has failed there. Lists only
    /// grow, so a [`Role::Session`] must never see less.
    pub seen: HashMap<i64, i64>,
    /// It is a forked child, with a connection that its parent has opened.
    pub forked: bool,
}

/// Who works at what, and where.
pub struct Orders<F: Fn(&str) -> Options> {
    /// The kind of work.
    pub workload: Workload,
    /// The server's address.
    pub server: String,
    /// Options for a database of this name.
    pub options: F,
    /// Which server it talks to, and how.
    pub role: Role,
    /// No other worker of the run has it.
    pub id: String,
    /// See [`Worker`].
    pub number: u64,
    /// Where all choices come from.
    pub seed: u64,
}

impl Worker {
    /// Whether its next step is to look: `often` is how often the odd ones do, of ten.
    pub fn looks(&mut self, often: u32) -> bool {
        self.role == Role::Replica || self.random.random_ratio(if self.number % 2 == 1 { often } else { 1 }, 10)
    }
}

/// Works until standard input ends: the parent closes it, or is gone. Until then it says what is
/// to go wrong in the worker: `fork`, or `jump SECONDS SECONDS` for its clocks.
///
/// # Errors
/// The history can't be written. Failures of the database are part of the work.
pub fn work(orders: &Orders<impl Fn(&str) -> Options>) -> Result<()> {
    std::thread::spawn(|| {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            obey(&line);
        }
        STOP.store(true, Relaxed);
        end_if_it_hangs();
    });
    let Orders { role, ref id, number, seed, .. } = *orders;
    let Some(connection) = connect(orders) else { return Ok(()) };
    let mut worker = Worker {
        connection,
        history: Writer::new(id, role),
        random: StdRng::seed_from_u64(seed),
        number,
        role,
        seen: HashMap::new(),
        forked: false,
    };
    let mut children = 0;
    // A child works on for a few steps: there is nobody to tell it when to end.
    let mut steps_left = u32::MAX;
    while !stopped() && steps_left > 0 {
        orders.workload.step(&mut worker)?;
        steps_left -= 1;
        if role == Role::Replica {
            // Nobody waits for it, so it would take all the time of the machine.
            std::thread::sleep(Duration::from_millis(10));
        }
        if CLOCK_STUCK.swap(false, Relaxed) {
            worker.history.violation("its clock did not jump")?;
        }
        if FORK.swap(false, Relaxed) && steps_left > 100 {
            children += 1;
            look_after_children(&mut worker, WaitOptions::NOHANG)?;
            if fork()? {
                end_if_it_hangs();
                worker.history = Writer::new(&format!("{id}/{children}"), role);
                worker.forked = true;
                worker.random = StdRng::seed_from_u64(seed + children);
                steps_left = worker.random.random_range(5..30);
            }
        }
        if worker.random.random_ratio(1, 50)
            && steps_left > 100
            && let Some(fresh) = connect(orders)
        {
            worker.connection = fresh;
            worker.seen.clear();
        }
    }
    look_after_children(&mut worker, WaitOptions::empty())
}

/// Children that have ended by a signal hung, see [`end_if_it_hangs`].
fn look_after_children(worker: &mut Worker, options: WaitOptions) -> Result<()> {
    // That there are none left is no failure.
    while let Ok(Some((_, status))) = wait(options) {
        if !status.exited() {
            worker.history.violation("a forked child hung")?;
        }
    }
    Ok(())
}

/// Lets the system end this process some minutes from now: by then it should have ended by itself.
fn end_if_it_hangs() {
    // SAFETY: it concerns nothing but this process, which has no handler for the signal.
    unsafe { libc::alarm(240) };
}

fn obey(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["fork"] => FORK.store(true, Relaxed),
        ["jump", wall, forward] => {
            let seconds = (wall.parse().unwrap_or(0), forward.parse().unwrap_or(0));
            CLOCK_STUCK.store(!clock::jump(seconds.0, seconds.1), Relaxed);
        }
        _ => {}
    }
}

/// Forks, with the connection open; true in the child.
fn fork() -> Result<bool> {
    // SAFETY: the child has this thread alone. Of what other threads may hold at this moment, the
    // allocator is put right by the C library, the library under test by itself, which is what
    // this is to show, and standard input is not touched again.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error().into()),
        pid => Ok(pid == 0),
    }
}

/// Whether the worker is to end.
pub fn stopped() -> bool {
    STOP.load(Relaxed)
}

/// A connection to all databases of a workload, however long it takes; `None` when it is time to end.
fn connect(orders: &Orders<impl Fn(&str) -> Options>) -> Option<Connection> {
    while !stopped() {
        if let Ok(connection) = try_to_connect(orders) {
            return Some(connection);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

fn try_to_connect(orders: &Orders<impl Fn(&str) -> Options>) -> Result<Connection> {
    let (main, others) = orders.workload.databases().split_first().context("no database")?;
    let connection = options(orders, main).open()?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.execute_batch("PRAGMA main.cache_size = 20")?;
    for name in others {
        connection.execute(&format!("ATTACH ?1 AS {name}"), [options(orders, name).uri()])?;
        connection.execute_batch(&format!("PRAGMA {name}.cache_size = 20"))?;
    }
    if orders.workload == Workload::Rows {
        rows::begin(&connection, &orders.server, &orders.id)?;
    }
    Ok(connection)
}

fn options(orders: &Orders<impl Fn(&str) -> Options>, name: &str) -> Options {
    let Orders { role, number, .. } = *orders;
    // Some keep the lease from one transaction to the next, some stage all but the smallest commits.
    let lingers = number.is_multiple_of(2) || role == Role::Relaxed;
    let options = (orders.options)(name).linger(Duration::from_millis(if lingers { 5 } else { 0 }));
    let options = match role {
        Role::Relaxed => options.consistency(Consistency::Bounded(BOUND)),
        Role::Session => options.consistency(Consistency::Session),
        Role::Primary | Role::Waiting | Role::Replica => options,
    };
    if number % 3 == 1 { options.stage_bytes(32 << 10) } else { options }
}

/// Runs a write transaction and says what became of it.
pub fn transact<T>(
    connection: &Connection,
    body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> (Outcome, Option<T>) {
    transact_in(connection, "BEGIN IMMEDIATE", body)
}

/// The same for a transaction that begins so.
pub fn transact_in<T>(
    connection: &Connection,
    begin: &str,
    body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> (Outcome, Option<T>) {
    let outcome = match connection.execute_batch(begin).and_then(|()| body(connection)) {
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
