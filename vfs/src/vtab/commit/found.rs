//! The state of a table's keys in Redis, read before a commit.

use std::collections::HashMap;

use redis::Cmd;

use crate::vtab::commit::held::Hold;
use crate::vtab::commit::scripted::Claim;
use crate::vtab::layout::replies::Hash;

/// The contents of a table's keys when they were watched.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Columns with an index, including indexes that are being built.
    pub indices: Vec<String>,
    /// Names of the uniqueness constraints that have keys.
    pub uniques: Vec<String>,
    /// The rows, by rowid.
    pub rows: HashMap<i64, Hash>,
    /// The rowid counter.
    pub counter: i64,
    /// A UNIQUE value is taken. The row that has it must be looked up.
    pub unclear: bool,
    /// Why the transaction conflicts with another client's change, if it does.
    pub conflict: Option<String>,
    /// The command that found a row where the transaction inserts one.
    pub taken: Option<Cmd>,
    /// The table's hold: whether another client is changing the table.
    pub hold: Hold,
    /// Commands and replies for keys that are too many to watch. The commit script compares them again.
    pub claims: Vec<Claim>,
    /// Rows that share a key with a UNIQUE value, and must be compared with it.
    pub strangers: Vec<Stranger>,
}

/// A row that shares a key with a value of one of the transaction's rows, under one constraint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stranger {
    pub unique: usize,
    pub ours: i64,
    pub rowid: i64,
}
