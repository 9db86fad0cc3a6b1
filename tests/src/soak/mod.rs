//! Processes that work on shared databases while faults are injected, and the proof afterwards
//! that nothing was lost, torn or done twice.
//!
//! Each workload has a worker, which runs in a process of its own and writes down what it does
//! ([`history`]), and a checker, which reads all histories and the database at the end. What a
//! worker can tell at once (a sum that does not add up) it writes down as a violation.

pub mod append;
pub mod bank;
pub mod churn;
pub mod faults;
pub mod history;
pub mod run;
pub mod set;
pub mod worker;

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
}
