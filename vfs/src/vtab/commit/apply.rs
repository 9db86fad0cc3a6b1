//! What a commit writes: the commands that bring a table's keys from what they were found to hold
//! to what the transaction made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use redis::{Cmd, cmd};

use crate::vtab::commit::check::CHUNK;
use crate::vtab::commit::found::Checked;
use crate::vtab::commit::scripted::Sink;
use crate::vtab::layout::index::{Trace, trace, unknown_trace};
use crate::vtab::layout::keys::{Keys, TYPES};
use crate::vtab::layout::replies::Hash;
use crate::vtab::layout::row;
use crate::vtab::table::Table;
use crate::vtab::write::conflicts::unique_key;
use crate::vtab::write::{Base, Pending};

/// Raises the rowid counter to a rowid that was given.
pub(crate) fn raise(keys: &Keys, rowid: i64) -> Cmd {
    cmd("raise").arg(keys.counter()).arg(rowid).to_owned()
}

/// Gives unused rowids back: those from `next` to `end`, where the counter was left.
pub(crate) fn give_back(keys: &Keys, (next, end): (i64, i64)) -> Cmd {
    cmd("give_back").arg(keys.counter()).arg(end).arg(next - 1).to_owned()
}

/// A table on its way into a commit.
pub(crate) struct Part<'a> {
    pub table: &'a Rc<Table>,
    pub keys: Keys,
    pub checked: Checked,
}

/// Changes of keys, gathered so that each key takes few commands.
#[derive(Default)]
struct Changes {
    sadd: BTreeMap<Vec<u8>, Vec<i64>>,
    srem: BTreeMap<Vec<u8>, Vec<i64>>,
    zadd: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, String>>,
    /// Values that may have lost their last row.
    settle: BTreeSet<(Vec<u8>, Vec<u8>, Vec<u8>)>,
}

impl Changes {
    fn remove(&mut self, rowid: i64, trace: Trace) {
        self.srem.entry(trace.set.clone()).or_default().push(rowid);
        if let Some((key, _, member)) = trace.member {
            self.settle.insert((trace.set, key, member));
        }
    }

    fn add(&mut self, rowid: i64, trace: Trace) {
        self.sadd.entry(trace.set).or_default().push(rowid);
        if let Some((key, score, member)) = trace.member {
            self.zadd.entry(key).or_default().insert(member, score);
        }
    }

    fn write(self, script: &mut impl Sink) {
        for (name, sets) in [("SREM", self.srem), ("SADD", self.sadd)] {
            for (key, rowids) in sets {
                for chunk in rowids.chunks(CHUNK) {
                    script.push(cmd(name).arg(&key).arg(chunk));
                }
            }
        }
        for (key, members) in self.zadd {
            for chunk in Vec::from_iter(members).chunks(CHUNK) {
                let mut zadd = cmd("ZADD");
                zadd.arg(&key);
                for (member, score) in chunk {
                    zadd.arg(score).arg(member);
                }
                script.push(&zadd);
            }
        }
        for (set, key, member) in self.settle {
            script.push(cmd("settle").arg(key).arg(set).arg(member));
        }
    }
}

impl Part<'_> {
    /// Adds what changes the keys of one table.
    pub(crate) fn write(&self, script: &mut impl Sink) {
        let writes = self.table.writes.borrow();
        let mut changes = Changes::default();
        let (mut added, mut removed, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut greatest = 0;
        let nothing = Hash::new();
        for (rowid, pending) in &writes.pending {
            let before = self.checked.rows.get(rowid).unwrap_or(&nothing);
            let from = pending.moved_from.and_then(|from| self.checked.rows.get(&from)).unwrap_or(before);
            self.write_indexes(&mut changes, *rowid, before, from, pending);
            if pending.row.is_some() {
                self.write_row(script, *rowid, before, from, pending);
                added.push((*rowid, *rowid));
                if pending.base == Base::Absent {
                    greatest = greatest.max(*rowid);
                }
            } else if pending.base != Base::Absent {
                gone.push(self.keys.row(*rowid));
                removed.push(*rowid);
            }
        }
        for chunk in gone.chunks(CHUNK) {
            script.push(cmd("DEL").arg(chunk));
        }
        for chunk in removed.chunks(CHUNK) {
            script.push(cmd("ZREM").arg(self.keys.rowids()).arg(chunk));
        }
        for chunk in added.chunks(CHUNK) {
            let mut zadd = cmd("ZADD");
            zadd.arg(self.keys.rowids());
            for (score, member) in chunk {
                zadd.arg(score).arg(member);
            }
            script.push(&zadd);
        }
        changes.write(script);
        if let Some(unused) = writes.unused() {
            script.push(&give_back(&self.keys, unused));
        }
        if greatest > self.checked.counter {
            script.push(&raise(&self.keys, greatest));
        }
    }

    fn write_row(&self, script: &mut impl Sink, rowid: i64, before: &Hash, from: &Hash, pending: &Pending) {
        let definition = &self.table.definition;
        let Some(row) = &pending.row else { return };
        let columns = definition.columns.iter().zip(row.iter());
        let own = columns.map(|(column, value)| (column.name.as_str(), column.affinity, value));
        let foreign = |name: &[u8]| name != TYPES && !definition.columns.iter().any(|c| c.name.as_bytes() == name);
        let copied = |(name, text): (&Vec<u8>, &Vec<u8>)| (name.clone(), text.clone());
        let mut fields = match &pending.exact {
            // Others may have changed the fields that are theirs, if the row is there.
            Some(exact) => exact.iter().filter(|(name, _)| before.is_empty() || !foreign(name)).map(copied).collect(),
            None => row::fields(own, from.get(TYPES).map(Vec::as_slice)),
        };
        if pending.moved_from.is_some() {
            fields.extend(from.iter().filter(|(name, _)| foreign(name)).map(copied));
        }
        // Scripts call no command with 8000 arguments.
        for chunk in fields.chunks(CHUNK) {
            let mut hset = cmd("HSET");
            hset.arg(self.keys.row(rowid));
            for (name, text) in chunk {
                hset.arg(name).arg(text);
            }
            script.push(&hset);
        }
        let ours = definition.columns.iter().map(|column| column.name.as_bytes()).chain([TYPES]);
        let stale: Vec<&[u8]> =
            ours.filter(|name| before.contains_key(*name) && !fields.iter().any(|(field, _)| field == name)).collect();
        if !stale.is_empty() {
            script.push(cmd("HDEL").arg(self.keys.row(rowid)).arg(stale));
        }
    }

    fn write_indexes(&self, changes: &mut Changes, rowid: i64, before: &Hash, from: &Hash, pending: &Pending) {
        let (table, keys) = (self.table, &self.keys);
        let columns = &table.definition.columns;
        let old = (!before.is_empty()).then(|| table.row_of_fields(rowid, before));
        for name in &self.checked.indices {
            let Some(n) = columns.iter().position(|column| column.name == *name) else {
                self.write_unknown_index(changes, rowid, name, before, from, pending);
                continue;
            };
            let trace_of = |row: &Vec<_>| trace(keys, name, columns[n].affinity, &row[n]);
            let (was, is) = (old.as_ref().map(trace_of), pending.row.as_deref().map(trace_of));
            // Traces that stay are written again: they may be missing.
            if let Some(was) = was.filter(|was| Some(was) != is.as_ref()) {
                changes.remove(rowid, was);
            }
            if let Some(is) = is {
                changes.add(rowid, is);
            }
        }
        for unique in table.definition.uniques.iter().filter(|unique| unique.indexed_column().is_none()) {
            let key_of = |row: &Vec<_>| unique_key(table, keys, unique, row);
            let (was, is) = (old.as_ref().and_then(key_of), pending.row.as_deref().and_then(key_of));
            if let Some(was) = was.filter(|was| Some(was) != is.as_ref()) {
                changes.srem.entry(was).or_default().push(rowid);
            }
            if let Some(is) = is {
                changes.sadd.entry(is).or_default().push(rowid);
            }
        }
    }

    /// An index on a column that only other clients declare: a row that stays keeps its value.
    fn write_unknown_index(
        &self,
        changes: &mut Changes,
        rowid: i64,
        name: &str,
        before: &Hash,
        from: &Hash,
        pending: &Pending,
    ) {
        let text = |hash: &Hash| hash.get(name.as_bytes()).cloned();
        let stays = pending.row.is_some() && pending.moved_from.is_none() && !before.is_empty();
        if !stays && !before.is_empty() {
            for trace in unknown_trace(&self.keys, name, text(before).as_deref()) {
                changes.remove(rowid, trace);
            }
        }
        if pending.row.is_some() && !stays {
            let moved = pending.moved_from.is_some();
            let text = pending.exact.as_ref().map_or_else(|| text(from).filter(|_| moved), |exact| text(exact));
            for trace in unknown_trace(&self.keys, name, text.as_deref()).into_iter().take(1) {
                changes.add(rowid, trace);
            }
        }
    }
}
