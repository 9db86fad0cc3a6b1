//! Processes that work on shared databases while faults are injected, and the proof afterwards
//! that nothing was lost, torn or done twice.
//!
//! Each workload has a worker, which runs in a process of its own and writes down what it does
//! ([`history`]), and a checker, which reads all histories and the database at the end. What a
//! worker can tell at once (a sum that does not add up) it writes down as a violation. Where a
//! server loses data as it may, the history is cut into [`eras`].

pub mod append;
pub mod bank;
pub mod churn;
pub mod clock;
pub mod cuts;
pub mod eras;
pub mod faults;
pub mod history;
pub mod pair;
pub mod rows;
pub mod run;
pub mod set;
pub mod stage;
pub mod worker;

use anyhow::Result;
use rusqlite::Connection;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Money moves between accounts; the sum stays.
    Bank,
    /// Unique values are appended to lists; the order is one that respects real time.
    Append,
    /// Unique values are inserted; those acknowledged are there, those refused are not.
    Set,
    /// Tables come and go, pages change their size, blobs are large, readers are slow.
    Churn,
    /// Money moves between two databases in one transaction; both have it or neither.
    Pair,
    /// A virtual table, a database in Redis and a local file in one transaction.
    Rows,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 6] =
        [Workload::Bank, Workload::Append, Workload::Set, Workload::Churn, Workload::Pair, Workload::Rows];

    /// Its databases: the main one, which has its name, and those that are attached to it, each under its name.
    pub fn databases(self) -> &'static [&'static str] {
        match self {
            Workload::Bank => &["bank"],
            Workload::Append => &["append"],
            Workload::Set => &["set"],
            Workload::Churn => &["churn"],
            Workload::Pair => &[pair::MAIN, pair::OTHER],
            Workload::Rows => &["rows"],
        }
    }

    /// What is checked by itself: its databases, and the rows of a virtual table.
    pub fn places(self) -> impl Iterator<Item = &'static str> {
        let rows = (self == Workload::Rows).then_some(rows::TABLE);
        self.databases().iter().copied().chain(rows)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Bank => "bank",
            Workload::Append => "append",
            Workload::Set => "set",
            Workload::Churn => "churn",
            Workload::Pair => pair::MAIN,
            Workload::Rows => "rows",
        }
    }

    /// The workload of this name.
    pub fn named(name: &str) -> Option<Workload> {
        Workload::ALL.into_iter().find(|workload| workload.name() == name)
    }

    /// Makes the tables of one of its databases, all or none.
    ///
    /// # Errors
    /// The database fails.
    pub fn prepare(self, db: &Connection) -> rusqlite::Result<()> {
        if self == Workload::Pair {
            // Only possible before there are tables.
            db.execute_batch("PRAGMA auto_vacuum = FULL")?;
        }
        db.execute_batch("BEGIN IMMEDIATE")?;
        match self {
            Workload::Bank => bank::prepare(db),
            Workload::Append => append::prepare(db),
            Workload::Set => set::prepare(db),
            Workload::Churn => churn::prepare(db),
            Workload::Pair => pair::prepare(db),
            Workload::Rows => rows::prepare(db),
        }?;
        db.execute_batch("COMMIT")
    }

    /// One step of a worker.
    ///
    /// # Errors
    /// The history can't be written.
    pub fn step(self, worker: &mut worker::Worker) -> Result<()> {
        match self {
            Workload::Bank => bank::step(worker),
            Workload::Append => append::step(worker),
            Workload::Set => set::step(worker),
            Workload::Churn => churn::step(worker),
            Workload::Pair => pair::step(worker),
            Workload::Rows => rows::step(worker),
        }
    }

    /// What does not fit together in one version of one of its databases.
    ///
    /// # Errors
    /// The database fails.
    pub fn wrong(self, db: &Connection) -> rusqlite::Result<Option<String>> {
        match self {
            Workload::Bank => bank::wrong(db),
            Workload::Churn => churn::wrong(db),
            Workload::Pair => pair::wrong(db, "main"),
            Workload::Append | Workload::Set | Workload::Rows => Ok(None),
        }
    }

    /// The operations whose work one of its databases holds.
    ///
    /// # Errors
    /// The database fails.
    pub fn lists(self, db: &Connection) -> rusqlite::Result<eras::Lists> {
        let mut statement = db.prepare(match self {
            Workload::Bank | Workload::Pair => "SELECT 0, operation FROM transfer",
            Workload::Rows => "SELECT 0, operation FROM mirror",
            Workload::Append => "SELECT list, operation FROM item ORDER BY list, place",
            Workload::Set => "SELECT 0, operation FROM element",
            Workload::Churn => "SELECT 0, operation FROM done",
        })?;
        let mut lists = eras::Lists::new();
        for row in statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (list, operation) = row?;
            lists.entry(list).or_default().push(operation);
        }
        Ok(lists)
    }
}
