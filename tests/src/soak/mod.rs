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
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 4] = [Workload::Bank, Workload::Append, Workload::Set, Workload::Churn];

    /// Its name, which is also that of its database.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Bank => "bank",
            Workload::Append => "append",
            Workload::Set => "set",
            Workload::Churn => "churn",
        }
    }

    /// The workload of this name.
    pub fn named(name: &str) -> Option<Workload> {
        Workload::ALL.into_iter().find(|workload| workload.name() == name)
    }

    /// Makes its tables, all or none.
    ///
    /// # Errors
    /// The database fails.
    pub fn prepare(self, db: &Connection) -> rusqlite::Result<()> {
        db.execute_batch("BEGIN IMMEDIATE")?;
        match self {
            Workload::Bank => bank::prepare(db),
            Workload::Append => append::prepare(db),
            Workload::Set => set::prepare(db),
            Workload::Churn => churn::prepare(db),
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
        }
    }

    /// What does not fit together in one version of its database.
    ///
    /// # Errors
    /// The database fails.
    pub fn wrong(self, db: &Connection) -> rusqlite::Result<Option<String>> {
        match self {
            Workload::Bank => bank::wrong(db),
            Workload::Churn => churn::wrong(db),
            Workload::Append | Workload::Set => Ok(None),
        }
    }

    /// The operations whose work its database holds.
    ///
    /// # Errors
    /// The database fails.
    pub fn lists(self, db: &Connection) -> rusqlite::Result<eras::Lists> {
        let mut statement = db.prepare(match self {
            Workload::Bank => "SELECT 0, operation FROM transfer",
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
