//! What a transaction has written to a table, in memory until it commits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use redis::{Connection, Value as Reply, cmd};

use super::commit::{self, Checked};
use super::declare::{Column, Conflict, Unique};
use super::index::{trace, unique_text};
use super::keys::{Keys, shown};
use super::table::{Row, Table, count, digest, rowids};
use super::value::{Affinity, Value};
use crate::error::{Cause, Result, code};
use crate::store::protocol::text;
use crate::store::server::Request;

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
}

/// Rowids taken from the counter.
#[derive(Debug, Default)]
struct Reserved {
    /// The first one of the transaction, if none of another client's came between.
    first: i64,
    next: i64,
    /// The last one; less than `next` when all are used.
    end: i64,
    /// How many to take next time.
    size: i64,
}

/// A commit of one row that was prepared when the row came: its keys are watched, and the
/// transaction is open on this connection.
pub(crate) struct Armed {
    pub connection: Connection,
    pub checked: Checked,
    /// [`Writes::changes`] after that row.
    pub changes: u64,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Writes {
    pub pending: BTreeMap<i64, Pending>,
    undo: Vec<(i64, Option<Pending>)>,
    /// Open savepoints: SQLite's number, and the length of `undo` when it was set.
    marks: Vec<(i32, usize)>,
    /// Rowids of pending rows by uniqueness constraint and their values in it.
    uniques: HashMap<(usize, Vec<u8>), BTreeSet<i64>>,
    /// Digests of rows that the transaction has read.
    read: HashMap<i64, u64>,
    /// Rows that share a key with a unique value, and were seen to have another value.
    pub tolerated: HashSet<(Vec<u8>, i64)>,
    reserved: Reserved,
    /// The greatest rowid when the transaction first asked.
    greatest: Option<i64>,
    /// Whether the table had no rows when the transaction first asked. Should some come meanwhile,
    /// the commit sees them.
    was_empty: bool,
    /// Between xBegin and the end of the transaction.
    pub begun: bool,
    /// The transaction is in Redis.
    pub committed: bool,
    pub armed: Option<Armed>,
    /// Grows with every change.
    pub changes: u64,
}

impl Writes {
    /// Those of a transaction that begins.
    pub(crate) fn begun() -> Writes {
        Writes { begun: true, ..Writes::default() }
    }

    fn put(&mut self, table: &Table, rowid: i64, row: Option<Row>, base: Base, moved_from: Option<i64>) {
        let old = self.pending.get(&rowid).cloned();
        let base = old.as_ref().map_or(base, |old| old.base);
        let moved_from = moved_from.or(old.as_ref().and_then(|old| old.moved_from));
        self.index(table, rowid, old.as_ref(), false);
        let new = Pending { row: row.map(Rc::new), base, moved_from };
        self.index(table, rowid, Some(&new), true);
        self.pending.insert(rowid, new);
        self.undo.push((rowid, old));
        self.changes += 1;
    }

    fn index(&mut self, table: &Table, rowid: i64, pending: Option<&Pending>, add: bool) {
        let Some(row) = pending.and_then(|pending| pending.row.as_deref()) else { return };
        for (n, unique) in table.definition.uniques.iter().enumerate() {
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
    fn undo_to(&mut self, table: &Table, length: usize) {
        while self.undo.len() > length {
            let Some((rowid, old)) = self.undo.pop() else { break };
            let new = self.pending.remove(&rowid);
            self.index(table, rowid, new.as_ref(), false);
            self.index(table, rowid, old.as_ref(), true);
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

    pub(crate) fn rollback_to(&mut self, table: &Table, number: i32) {
        // A savepoint that the table was not told of is older than its part in the transaction. That
        // which opens a transaction has the number -1.
        let length = self.marks.iter().find(|(mark, _)| *mark >= number).map_or(0, |(_, length)| *length);
        self.undo_to(table, length);
        self.marks.retain(|(mark, _)| *mark <= number);
    }

    /// Whether there is anything to commit.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.values().all(|pending| pending.row.is_none() && pending.base == Base::Absent)
    }

    /// Remembers a row that the transaction has read.
    pub(crate) fn saw(&mut self, rowid: i64, row: &[Value]) {
        if self.begun {
            self.read.entry(rowid).or_insert_with(|| digest(row));
        }
    }

    /// The rowids that were taken and not used: the first and the last.
    pub(crate) fn unused(&self) -> Option<(i64, i64)> {
        let Reserved { next, end, .. } = self.reserved;
        (next <= end && end > 0).then_some((next, end))
    }

    /// All rowids that were taken: the first and the last.
    pub(crate) fn taken(&self) -> Option<(i64, i64)> {
        let Reserved { first, end, .. } = self.reserved;
        (end > 0).then_some((first, end))
    }

    /// What the counter is at when the transaction has committed, as far as it is known.
    pub(crate) fn counter(&self) -> Option<i64> {
        (self.reserved.end > 0).then_some(self.reserved.next - 1)
    }
}

/// The key that a row's values have under a uniqueness constraint; `None` when one is NULL.
pub(crate) fn unique_key(table: &Table, keys: &Keys, unique: &Unique, row: &[Value]) -> Option<Vec<u8>> {
    unique_keys(table, keys, unique, row).into_iter().next()
}

/// All keys under which an equal row can be, its own first: 10 and 10.0 are equal, and an index
/// has them apart.
pub(crate) fn unique_keys(table: &Table, keys: &Keys, unique: &Unique, row: &[Value]) -> Vec<Vec<u8>> {
    let columns = &table.definition.columns;
    if let Some(n) = unique.indexed_column() {
        let Column { name, affinity, .. } = &columns[n];
        if row[n] == Value::Null {
            return Vec::new();
        }
        let mut all = vec![trace(keys, name, *affinity, &row[n]).set];
        // Small whole numbers have one form in columns for numbers.
        let one_form =
            affinity.is_numeric() && matches!(row[n], Value::Integer(integer) if integer.abs_diff(0) < 1 << 51);
        if !one_form && *affinity != Affinity::Real {
            all.extend(row[n].key_texts().iter().skip(1).map(|text| keys.rows_with(name, text)));
        }
        return all;
    }
    let text = unique_values(unique, row);
    text.map(|text| keys.unique(&unique.name(columns), &text)).into_iter().collect()
}

/// What rows have in common that are equal under a uniqueness constraint; `None` with NULL.
fn unique_values(unique: &Unique, row: &[Value]) -> Option<Vec<u8>> {
    let values: Vec<(&Value, &str)> =
        unique.columns.iter().map(|(column, collation)| (&row[*column], collation.as_str())).collect();
    unique_text(&values)
}

/// A row as SQLite hands it over.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub values: &'a [Value],
    /// Columns to fill with their default.
    pub omitted: &'a [bool],
    /// The rowid as given; NULL when it was not.
    pub rowid: &'a Value,
    pub conflict: Conflict,
    /// The statement commits by itself.
    pub autocommit: bool,
}

/// What is in the way of a row.
struct Rival {
    rowid: i64,
    /// `None`: the rowid is taken.
    unique: Option<usize>,
}

impl Table {
    /// `INSERT`: the new rowid, or `None` when a constraint's conflict clause skips the row.
    pub(crate) fn insert(&self, given: &Given<'_>) -> Result<Option<i64>> {
        let keys = self.keys();
        let named = self.given_rowid(given)?;
        let first = given.autocommit && self.session.tables().iter().all(|table| table.writes.borrow().changes == 0);
        if first && let Some(outcome) = self.insert_armed(&keys, given, named)? {
            return Ok(outcome);
        }
        let taken = match named {
            Some(_) => None,
            None => Some(self.take_rowid(&keys)?),
        };
        let rowid = named.or(taken).unwrap_or_default();
        let inserted = self.insert_at(&keys, given, rowid, named.is_some());
        if !matches!(inserted, Ok(true)) {
            self.untake(taken);
        }
        inserted.map(|inserted| inserted.then_some(rowid))
    }

    /// `false` when the row is skipped.
    fn insert_at(&self, keys: &Keys, given: &Given<'_>, rowid: i64, named: bool) -> Result<bool> {
        let Some(row) = self.judged(given, rowid)? else { return Ok(false) };
        let rivals = self.rivals(keys, rowid, named, None, &row)?;
        if !self.resolve(given.conflict, rivals)? {
            return Ok(false);
        }
        self.writes.borrow_mut().put(self, rowid, Some(row), Base::Absent, None);
        Ok(true)
    }

    fn given_rowid(&self, given: &Given<'_>) -> Result<Option<i64>> {
        let alias = self.definition.alias.and_then(|alias| given.values.get(alias));
        match alias.filter(|value| **value != Value::Null).unwrap_or(given.rowid) {
            Value::Null => Ok(None),
            value => as_rowid(value).map(Some),
        }
    }

    /// What an ordinary table would store; `None` when it would skip the row.
    fn judged(&self, given: &Given<'_>, rowid: i64) -> Result<Option<Row>> {
        let Some(alias) = self.definition.alias else {
            return self.judge.stored(given.values, given.omitted, given.conflict);
        };
        let mut values = given.values.to_vec();
        values[alias] = Value::Integer(rowid);
        self.judge.stored(&values, given.omitted, given.conflict)
    }

    /// Gives the number back that was taken last.
    fn untake(&self, taken: Option<i64>) {
        let mut writes = self.writes.borrow_mut();
        if taken.is_some_and(|taken| taken + 1 == writes.reserved.next) {
            writes.reserved.next -= 1;
        }
    }

    /// The first row of a statement that commits by itself: what the commit has to know is asked
    /// together with the rowid, so that there is only one more round trip. `None` when that does
    /// not work out; nothing has happened then but that a rowid may have been taken.
    fn insert_armed(&self, keys: &Keys, given: &Given<'_>, named: Option<i64>) -> Result<Option<Option<i64>>> {
        let known = self.known();
        let guess = known.counter.and_then(|counter| counter.checked_add(1));
        let Some(rowid) = named.or(guess.filter(|guess| *guess > 0)) else { return Ok(None) };
        let Some(row) = self.judged(given, rowid)? else { return Ok(Some(None)) };
        let mut before = Vec::new();
        if named.is_none() {
            before.push(cmd("INCR").arg(keys.counter()).to_owned());
            before.push(cmd("ZREVRANGE").arg(keys.rowids()).arg(0).arg(0).to_owned());
        }
        let length = self.writes.borrow().undo.len();
        self.writes.borrow_mut().put(self, rowid, Some(row), Base::Absent, None);
        let armed = commit::arm(self, &before, &known.indices);
        let outcome = armed.and_then(|(replies, armed)| {
            if named.is_some() {
                return Ok(armed);
            }
            let [taken, greatest] = replies.as_slice() else { return Ok(None) };
            self.learn_taken(keys, taken, 1)?;
            let greatest = self.greatest_of(greatest);
            self.writes.borrow_mut().greatest = Some(greatest);
            let fits = self.writes.borrow().reserved.next == rowid && greatest < rowid;
            Ok(armed.filter(|_| fits))
        });
        match outcome {
            Ok(Some(mut armed)) => {
                let mut writes = self.writes.borrow_mut();
                if named.is_none() {
                    writes.reserved.next = rowid + 1;
                }
                armed.changes = writes.changes;
                writes.armed = Some(armed);
                Ok(Some(Some(rowid)))
            }
            outcome => {
                let mut writes = self.writes.borrow_mut();
                writes.undo_to(self, length);
                writes.changes = 0;
                match outcome {
                    // The ordinary way looks for the server again.
                    Err(error) if self.place.has_moved(&error) => Ok(None),
                    outcome => outcome.map(|_| None),
                }
            }
        }
    }

    fn learn_taken(&self, keys: &Keys, reply: &Reply, size: i64) -> Result<()> {
        let Reply::Int(end) = *reply else {
            return Err(crate::store::protocol::bad_reply("INCRBY", reply).into());
        };
        self.learn(|known| known.counter = Some(end));
        if end < size {
            return Err(Cause::Damaged(format!("the counter `{}` is at {end}", shown(&keys.counter()))).into());
        }
        let reserved = &mut self.writes.borrow_mut().reserved;
        if reserved.end == 0 || reserved.end != end - size {
            reserved.first = end - size + 1;
        }
        (reserved.next, reserved.end) = (end - size + 1, end);
        Ok(())
    }

    fn greatest_of(&self, reply: &Reply) -> i64 {
        let Reply::Array(members) = reply else { return 0 };
        members.first().and_then(text).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The next rowid from the counter. Numbers are taken in blocks that grow, so that many rows
    /// take few round trips; what is not used is given back at the end.
    fn take_rowid(&self, keys: &Keys) -> Result<i64> {
        loop {
            {
                let mut writes = self.writes.borrow_mut();
                let next = writes.reserved.next;
                let in_block = next <= writes.reserved.end && next > 0;
                if in_block && next > writes.greatest.unwrap_or(0) {
                    writes.reserved.next += 1;
                    if writes.pending.get(&next).is_none_or(|pending| pending.row.is_none()) {
                        return Ok(next);
                    }
                    continue;
                }
            }
            let size = (self.writes.borrow().reserved.size * 8).clamp(1, 8192);
            let mut request = Request::default();
            request.push(cmd("ZREVRANGE").arg(keys.rowids()).arg(0).arg(0));
            let raise = self.writes.borrow().greatest.filter(|greatest| *greatest > 0);
            if let Some(greatest) = raise {
                request.push(&commit::raise(keys, greatest));
            }
            request.push(cmd("INCRBY").arg(keys.counter()).arg(size));
            let replies = self.place.ask(&request).map_err(|error| match &error.cause {
                Cause::Server(message) if message.contains("overflow") => Cause::NoRowid(shown(&keys.counter())).into(),
                _ => error,
            })?;
            let greatest = replies.first().map_or(0, |reply| self.greatest_of(reply));
            self.learn_taken(keys, replies.last().unwrap_or(&Reply::Nil), size)?;
            let mut writes = self.writes.borrow_mut();
            writes.reserved.size = size;
            writes.greatest = Some(greatest.max(writes.greatest.unwrap_or(0)));
        }
    }

    /// Rows that a constraint says can't be beside a new one. `but` is the row that it replaces.
    fn rivals(&self, keys: &Keys, rowid: i64, named: bool, but: Option<i64>, row: &[Value]) -> Result<Vec<Rival>> {
        let mut rivals = Vec::new();
        let mut questions = Vec::new();
        let mut request = Request::default();
        {
            let writes = self.writes.borrow();
            let pending = writes.pending.get(&rowid);
            match pending {
                Some(pending) if named && pending.row.is_some() && but != Some(rowid) => {
                    rivals.push(Rival { rowid, unique: None });
                }
                None if named && but != Some(rowid) && writes.greatest.is_none_or(|greatest| rowid <= greatest) => {
                    request.push(cmd("EXISTS").arg(keys.row(rowid)));
                    questions.push((None, Vec::new()));
                }
                _ => {}
            }
            for (n, unique) in self.definition.uniques.iter().enumerate() {
                let Some(values) = unique_values(unique, row) else { continue };
                let local = writes.uniques.get(&(n, values)).into_iter().flatten();
                let local = local.filter(|rival| **rival != rowid && Some(**rival) != but);
                rivals.extend(local.map(|rival| Rival { rowid: *rival, unique: Some(n) }));
                if !writes.was_empty {
                    for key in unique_keys(self, keys, unique, row) {
                        request.push(cmd("SMEMBERS").arg(&key));
                        questions.push((Some(n), key));
                    }
                }
            }
        }
        if questions.is_empty() {
            return Ok(rivals);
        }
        request.push(cmd("ZREVRANGE").arg(keys.rowids()).arg(0).arg(0));
        request.push(cmd("ZCARD").arg(keys.rowids()));
        let mut replies = self.place.ask(&request)?;
        let rows = replies.pop().map_or(0, |reply| count(&reply));
        let greatest = replies.pop().map_or(0, |reply| self.greatest_of(&reply));
        {
            let mut writes = self.writes.borrow_mut();
            writes.was_empty = rows == 0;
            writes.greatest.get_or_insert(greatest);
        }
        for ((unique, key), reply) in questions.into_iter().zip(replies) {
            let Some(unique) = unique else {
                if count(&reply) > 0 {
                    rivals.push(Rival { rowid, unique: None });
                }
                continue;
            };
            for rival in rowids(reply)? {
                let ours = self.writes.borrow().pending.contains_key(&rival);
                if !ours && rival != rowid && Some(rival) != but && self.is_rival(keys, unique, &key, rival, row)? {
                    rivals.push(Rival { rowid: rival, unique: Some(unique) });
                }
            }
        }
        rivals.sort_by_key(|rival| rival.unique);
        Ok(rivals)
    }

    /// Whether a row in Redis has the same values, not only the same key.
    fn is_rival(&self, keys: &Keys, unique: usize, key: &[u8], rival: i64, row: &[Value]) -> Result<bool> {
        let reply = self.place.ask(&Request::one(&self.fetch_command(keys, rival)))?.pop().unwrap_or_default();
        let other = self.row_of(rival, reply)?;
        let same = other.is_some_and(|other| same_values(&self.definition.uniques[unique], &other, row));
        if !same {
            self.writes.borrow_mut().tolerated.insert((key.to_vec(), rival));
        }
        Ok(same)
    }

    /// Does about rivals what the conflict clauses say; `false` to skip the row.
    fn resolve(&self, conflict: Conflict, rivals: Vec<Rival>) -> Result<bool> {
        let mut replaced = Vec::new();
        for rival in rivals {
            let clause = match rival.unique {
                None => self.definition.alias_conflict,
                Some(n) => self.definition.uniques[n].on_conflict,
            };
            // SQLite does not tell ABORT from no clause at all.
            let mode = if conflict == Conflict::Abort { clause.unwrap_or(conflict) } else { conflict };
            match mode {
                Conflict::Replace => replaced.push(rival.rowid),
                Conflict::Ignore if conflict == Conflict::Abort => return Ok(false),
                Conflict::Ignore | Conflict::Rollback | Conflict::Fail | Conflict::Abort => {
                    return Err(self.violation(rival.unique, conflict));
                }
            }
        }
        let mut writes = self.writes.borrow_mut();
        for rowid in replaced {
            let base = writes.read.get(&rowid).map_or(Base::Present, |digest| Base::Read(*digest));
            writes.put(self, rowid, None, base, None);
        }
        Ok(true)
    }

    fn violation(&self, unique: Option<usize>, conflict: Conflict) -> crate::Error {
        let name = |column: usize| format!("{}.{}", self.definition.table, self.definition.columns[column].name);
        let (extended, columns) = match (unique, self.definition.alias) {
            (Some(n), _) => {
                let columns: Vec<String> =
                    self.definition.uniques[n].columns.iter().map(|(column, _)| name(*column)).collect();
                (code::CONSTRAINT_UNIQUE, columns.join(", "))
            }
            (None, Some(alias)) => (code::CONSTRAINT_PRIMARYKEY, name(alias)),
            (None, None) => (code::CONSTRAINT_ROWID, format!("{}.rowid", self.definition.table)),
        };
        // Only the plain code makes SQLite look at the statement's conflict clause.
        let code = if conflict == Conflict::Abort { extended } else { code::CONSTRAINT };
        Cause::Constraint { code, message: format!("UNIQUE constraint failed: {columns}") }.into()
    }

    /// `UPDATE` of the row `old`.
    pub(crate) fn update(&self, old: i64, given: &Given<'_>) -> Result<Option<i64>> {
        let keys = self.keys();
        if self.is_deleted(old) {
            return Ok(Some(old));
        }
        let alias = self.definition.alias.map(|alias| given.values[alias].clone());
        let rowid = match (as_rowid(given.rowid)?, alias) {
            (rowid, _) if rowid != old => rowid,
            (_, Some(value)) => as_rowid(&value)?,
            (_, None) => old,
        };
        let Some(row) = self.judged(given, rowid)? else { return Ok(None) };
        let rivals = self.rivals(&keys, rowid, rowid != old, Some(old), &row)?;
        if !self.resolve(given.conflict, rivals)? {
            return Ok(None);
        }
        let mut writes = self.writes.borrow_mut();
        let base = writes.read.get(&old).map_or(Base::Present, |digest| Base::Read(*digest));
        if rowid == old {
            writes.put(self, old, Some(row), base, None);
        } else {
            writes.put(self, old, None, base, None);
            writes.put(self, rowid, Some(row), Base::Absent, Some(old));
        }
        Ok(Some(rowid))
    }

    /// Whether the transaction has deleted a row. A statement may come to one that it has
    /// replaced itself.
    fn is_deleted(&self, rowid: i64) -> bool {
        self.writes.borrow().pending.get(&rowid).is_some_and(|pending| pending.row.is_none())
    }

    /// `DELETE` of a row.
    pub(crate) fn delete(&self, rowid: i64) {
        let mut writes = self.writes.borrow_mut();
        let base = writes.read.get(&rowid).map_or(Base::Present, |digest| Base::Read(*digest));
        writes.put(self, rowid, None, base, None);
    }

    pub(crate) fn rollback_to(&self, number: i32) {
        let mut writes = self.writes.borrow_mut();
        writes.rollback_to(self, number);
    }
}

/// A value as rowid, as `OP_MustBeInt` does it.
fn as_rowid(value: &Value) -> Result<i64> {
    match Affinity::Integer.of_operand(value.clone()) {
        Value::Integer(rowid) => Ok(rowid),
        Value::Real(real) if real.trunc() == real && real.abs() < 9e18 => Ok(real as i64),
        _ => Err(Cause::Constraint { code: code::MISMATCH, message: "datatype mismatch".into() }.into()),
    }
}

/// Whether two rows are equal in the columns of a uniqueness constraint.
fn same_values(unique: &Unique, a: &[Value], b: &[Value]) -> bool {
    unique_values(unique, a).is_some_and(|a| unique_values(unique, b) == Some(a))
}
