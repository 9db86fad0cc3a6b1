//! What a transaction has written to a table, in memory until it commits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use crate::process::generation::{Generation, generation};
use crate::sqlite::value::Value;
use crate::vtab::commit::found::Checked;
use crate::vtab::declare::{Definition, unique_values};
use crate::vtab::layout::replies::Hash;
use crate::vtab::layout::replies::{Row, digest};
use crate::wire::link::Kept;

pub(crate) mod change;
pub(crate) mod conflicts;

/// Rows that a transaction remembers having read: about 24 bytes each.
const REMEMBERED: usize = 1_000_000;

/// What is known of a row before the transaction changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// There was none.
    Absent,
    /// The transaction read it: its digest.
    Read(u64),
    /// There was one, or so it seems.
    Present,
}

/// What a transaction makes of one row.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    /// The row; `None` when it is deleted.
    pub row: Option<Rc<Row>>,
    pub base: Base,
    /// The rowid that it had before, when that was changed.
    pub moved_from: Option<i64>,
    /// The fields of the row to restore, when a commit is taken back.
    pub exact: Option<Rc<Hash>>,
}

/// Rowids taken from the counter.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    /// The first one of the transaction, if none of another client's came between.
    pub first: i64,
    /// The next one to use. It wraps around after the largest rowid.
    pub next: i64,
    /// The last one; less than `next` when all are used.
    pub end: i64,
    /// How many to take next time.
    pub size: i64,
}

/// A commit of one row that was prepared when the row came: its keys are watched, and the
/// transaction is open on this connection.
pub(crate) struct Armed {
    pub connection: Kept,
    pub checked: Checked,
    /// [`Writes::changes`] after that row.
    pub changes: u64,
}

/// The data that takes a commit back, together with [`Writes::pending`], which still has the committed rows.
pub(crate) struct Published {
    /// Number of the commit.
    pub number: u64,
    /// All fields of the changed rows before the commit.
    pub before: HashMap<i64, Hash>,
}

/// Rows that conflict with new ones, as of the statement that looked for them. Later ones are found by the commit.
#[derive(Debug, Default)]
pub(crate) struct Existing {
    pub(super) rowids: HashSet<i64>,
    /// Rowids by constraint and values.
    pub(super) uniques: HashMap<(usize, Vec<u8>), i64>,
    /// Hashes of the keys of these values. Other values can share a key, so rows under such a key are looked up.
    pub(super) keys: HashSet<u64>,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Writes {
    pub pending: BTreeMap<i64, Pending>,
    pub(super) undo: Vec<(i64, Option<Pending>)>,
    /// Open savepoints: SQLite's number, and the length of `undo` when it was set.
    marks: Vec<(i32, usize)>,
    /// Rowids of pending rows by uniqueness constraint and their values in it.
    pub(super) uniques: HashMap<(usize, Vec<u8>), BTreeSet<i64>>,
    /// Digests of rows that the transaction has read, as they were first.
    pub(super) read: HashMap<i64, u64>,
    /// The transaction may have several statements: what one of them has read, others rest on.
    explicit: bool,
    /// By constraint and values: digests of rows that share a key with these values, but have others.
    pub tolerated: HashMap<(usize, Vec<u8>), BTreeMap<i64, u64>>,
    /// The declared indexes were there when the transaction looked for rivals.
    pub(super) indexes_seen: bool,
    /// How often it was asked what is in the way of a row.
    pub(super) asked: u64,
    /// All that can be in the way of rows, once asking for each would cost more.
    pub(super) existing: Option<Existing>,
    pub(super) reserved: Reserved,
    /// The greatest rowid when the transaction first asked.
    pub(super) greatest: Option<i64>,
    /// Whether the table had no rows when the transaction first asked. Should some come meanwhile,
    /// the commit sees them.
    pub(super) was_empty: bool,
    /// Between xBegin and the end of the transaction.
    pub begun: bool,
    /// The process that has begun it.
    generation: Option<Generation>,
    /// The transaction is in Redis, and SQLite has not said yet what became of it.
    pub published: Option<Published>,
    /// Why the transaction can't commit any more.
    pub overtaken: Option<String>,
    pub armed: Option<Armed>,
    /// Grows with every change.
    pub changes: u64,
}

impl Writes {
    /// Those of a transaction that begins to write. What it has read before still counts, unless a
    /// single statement is all of it.
    pub(crate) fn begin(&mut self, explicit: bool) {
        let read = if explicit { std::mem::take(&mut self.read) } else { HashMap::new() };
        *self = Writes { begun: true, generation: Some(generation()), explicit, read, ..Writes::default() };
    }

    /// Whether the process has forked inside this transaction: then only the parent can end it.
    pub(crate) fn is_parents(&self) -> bool {
        self.generation.is_some_and(|begun_in| begun_in != generation())
    }

    pub(super) fn put(
        &mut self,
        definition: &Definition,
        rowid: i64,
        row: Option<Row>,
        base: Base,
        moved_from: Option<i64>,
    ) {
        let old = self.pending.get(&rowid).cloned();
        let base = old.as_ref().map_or(base, |old| old.base);
        let moved_from = moved_from.or(old.as_ref().and_then(|old| old.moved_from));
        self.index(definition, rowid, old.as_ref(), false);
        let new = Pending { row: row.map(Rc::new), base, moved_from, exact: None };
        self.index(definition, rowid, Some(&new), true);
        self.pending.insert(rowid, new);
        self.undo.push((rowid, old));
        self.changes += 1;
    }

    fn index(&mut self, definition: &Definition, rowid: i64, pending: Option<&Pending>, add: bool) {
        let Some(row) = pending.and_then(|pending| pending.row.as_deref()) else { return };
        for (n, unique) in definition.uniques.iter().enumerate() {
            let Some(values) = unique_values(unique, row) else { continue };
            let rows = self.uniques.entry((n, values)).or_default();
            if add {
                rows.insert(rowid);
            } else {
                rows.remove(&rowid);
            }
        }
    }

    /// Takes back everything since the undo list had this length.
    pub(super) fn undo_to(&mut self, definition: &Definition, length: usize) {
        while self.undo.len() > length {
            let Some((rowid, old)) = self.undo.pop() else { break };
            let new = self.pending.remove(&rowid);
            self.index(definition, rowid, new.as_ref(), false);
            self.index(definition, rowid, old.as_ref(), true);
            if let Some(old) = old {
                self.pending.insert(rowid, old);
            }
            self.changes += 1;
        }
    }

    pub(crate) fn savepoint(&mut self, number: i32) {
        self.marks.push((number, self.undo.len()));
    }

    pub(crate) fn release(&mut self, number: i32) {
        self.marks.retain(|(mark, _)| *mark < number);
    }

    pub(crate) fn rollback_to(&mut self, definition: &Definition, number: i32) {
        // A savepoint without a mark is older than the table's first write in the transaction, so all of its
        // writes go. The one that opens a transaction has the number -1 and never has a mark.
        let length = self.marks.iter().find(|(mark, _)| *mark == number).map_or(0, |(_, length)| *length);
        self.undo_to(definition, length);
        self.marks.retain(|(mark, _)| *mark <= number);
    }

    /// Whether there is anything to commit.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.values().all(|pending| pending.row.is_none() && pending.base == Base::Absent)
    }

    /// Remembers a row that the transaction has read.
    pub(crate) fn saw(&mut self, rowid: i64, row: &[Value], explicit: bool) {
        self.explicit |= explicit;
        if (self.begun || explicit) && self.read.len() < REMEMBERED {
            self.read.entry(rowid).or_insert_with(|| digest(row));
        }
    }

    /// Rows that were read and not changed, and must still be as they were at commit.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (i64, u64)> {
        let read = self.read.iter().filter(|(rowid, _)| self.explicit && !self.pending.contains_key(rowid));
        read.map(|(rowid, digest)| (*rowid, *digest))
    }

    /// What is known of a rowid that is about to get a new row. If the transaction has read a row there,
    /// that has been deleted since, and the commit is refused.
    pub(super) fn base_of_new(&self, rowid: i64) -> Base {
        let read = self.read.get(&rowid).filter(|_| self.explicit);
        read.map_or(Base::Absent, |digest| Base::Read(*digest))
    }

    /// What is known of a row that is about to be changed.
    pub(super) fn base(&self, rowid: i64) -> Base {
        self.read.get(&rowid).map_or(Base::Present, |digest| Base::Read(*digest))
    }

    /// The rowids that were taken and not used: the first and the last.
    pub(crate) fn unused(&self) -> Option<(i64, i64)> {
        let Reserved { next, end, .. } = self.reserved;
        // After the largest rowid, `next` is negative.
        (next > 0 && next <= end).then_some((next, end))
    }

    /// All rowids that were taken: the first and the last.
    pub(crate) fn taken(&self) -> Option<(i64, i64)> {
        let Reserved { first, end, .. } = self.reserved;
        (end > 0).then_some((first, end))
    }

    /// What the counter is at when the transaction has committed, as far as it is known.
    pub(crate) fn counter(&self) -> Option<i64> {
        (self.reserved.end > 0).then_some(self.reserved.next.wrapping_sub(1))
    }
}
