//! What a commit has found in Redis, beside what it is about to write.

use std::collections::HashMap;

use redis::Cmd;

use crate::vtab::commit::held::Hold;
use crate::vtab::commit::scripted::Claim;
use crate::vtab::layout::replies::Hash;

/// What a table's keys held when they were watched.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Columns whose index is to be kept, also those being built.
    pub indices: Vec<String>,
    /// Names of uniqueness constraints that have keys of their own.
    pub uniques: Vec<String>,
    /// Rows as they were.
    pub rows: HashMap<i64, Hash>,
    /// The rowid counter.
    pub counter: i64,
    /// A row has a value that shall be unique already; whose it is, is to be asked for each.
    pub unclear: bool,
    /// The transaction is overtaken: why.
    pub conflict: Option<String>,
    /// What asked for new rows and found one that is there.
    pub taken: Option<Cmd>,
    /// Whether another client changes the table, and others wait.
    pub hold: Hold,
    /// What was asked about keys that are too many to be watched.
    pub claims: Vec<Claim>,
    /// Rows that share a key with a unique value, and must be compared with it.
    pub strangers: Vec<Stranger>,
}

/// A row that shares a key with a value of one of the transaction's rows under a constraint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stranger {
    pub unique: usize,
    pub ours: i64,
    pub rowid: i64,
}
