//! `INSERT`, `UPDATE` and `DELETE` of one row: xUpdate.

use redis::{Value as Reply, cmd};

use crate::model::error::{Cause, Result, code};
use crate::sqlite::value::{Affinity, Value};
use crate::vtab::commit::scripted::eval;
use crate::vtab::commit::{self, apply};
use crate::vtab::declare::Conflict;
use crate::vtab::layout::keys::{Keys, shown};
use crate::vtab::layout::replies::Row;
use crate::vtab::location::is_busy;
use crate::vtab::table::Table;
use crate::vtab::write::Base;
use crate::wire::reply::text;
use crate::wire::request::Request;

/// A row as SQLite hands it over.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub values: &'a [Value],
    /// Columns to fill with their default; of an `UPDATE`, generated columns that it does not set.
    pub omitted: &'a [bool],
    /// The rowid as given; NULL when it was not.
    pub rowid: &'a Value,
    pub conflict: Conflict,
    /// The statement commits by itself.
    pub autocommit: bool,
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
        self.refuse_generated(given, &row, None)?;
        let rivals = self.rivals(keys, rowid, named, None, &row)?;
        if !self.resolve(given.conflict, rivals)? {
            return Ok(false);
        }
        let mut writes = self.writes.borrow_mut();
        let base = writes.base_of_new(rowid);
        writes.put(&self.definition, rowid, Some(row), base, None);
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

    /// Refuses a value for a generated column that its row will not have. `row` is what will be stored, `old` the rowid
    /// of the row that is updated. `INSERT` may give NULL, since SQLite lets nobody leave out a virtual table's column.
    fn refuse_generated(&self, given: &Given<'_>, row: &[Value], old: Option<i64>) -> Result<()> {
        let generated = self.definition.columns.iter().enumerate().filter(|(_, column)| column.generated);
        for (n, column) in generated {
            let value = &given.values[n];
            let no_value = given.omitted[n] || old.is_none() && *value == Value::Null;
            if no_value || *value == row[n] {
                continue;
            }
            // `UPDATE ... FROM` hands over the old value of columns that it does not set.
            if let Some(old) = old
                && self.row_now(old)?.is_some_and(|row| row[n] == *value)
            {
                continue;
            }
            let verb = if old.is_some() { "UPDATE" } else { "INSERT into" };
            let message = format!("cannot {verb} generated column \"{}\"", column.name);
            return Err(Cause::Constraint { code: code::ERROR, message }.into());
        }
        Ok(())
    }

    /// A row as the transaction sees it.
    fn row_now(&self, rowid: i64) -> Result<Option<Row>> {
        if let Some(pending) = self.writes.borrow().pending.get(&rowid) {
            return Ok(pending.row.as_deref().cloned());
        }
        let fetch = Request::one(&self.fetch_command(&self.keys(), rowid));
        self.row_of(rowid, self.ask(&fetch)?.pop().unwrap_or_default())
    }

    /// Gives the number back that was taken last.
    fn untake(&self, taken: Option<i64>) {
        let mut writes = self.writes.borrow_mut();
        if taken.is_some_and(|taken| taken.wrapping_add(1) == writes.reserved.next) {
            writes.reserved.next = writes.reserved.next.wrapping_sub(1);
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
        self.refuse_generated(given, &row, None)?;
        let mut before = Vec::new();
        if named.is_none() {
            before.push(cmd("INCR").arg(keys.counter()).to_owned());
            before.push(cmd("ZREVRANGE").arg(keys.rowids()).arg(0).arg(0).to_owned());
        }
        let length = self.writes.borrow().undo.len();
        self.writes.borrow_mut().put(&self.definition, rowid, Some(row), Base::Absent, None);
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
                    writes.reserved.next = rowid.wrapping_add(1);
                }
                armed.changes = writes.changes;
                writes.armed = Some(armed);
                Ok(Some(Some(rowid)))
            }
            outcome => {
                let mut writes = self.writes.borrow_mut();
                writes.undo_to(&self.definition, length);
                writes.changes = 0;
                match outcome {
                    // The ordinary way looks for the server again.
                    Err(error) if self.place.server()?.is_elsewhere(&error.cause) => Ok(None),
                    Err(error) if is_overflow(&error.cause) || is_busy(&error.cause) => Ok(None),
                    outcome => outcome.map(|_| None),
                }
            }
        }
    }

    fn learn_taken(&self, keys: &Keys, reply: &Reply, size: i64) -> Result<()> {
        let Reply::Int(end) = *reply else {
            return Err(crate::wire::reply::bad_reply("INCRBY", reply).into());
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

    pub(crate) fn greatest_of(&self, reply: &Reply) -> i64 {
        let Reply::Array(members) = reply else { return 0 };
        members.first().and_then(text).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The next rowid from the counter. Numbers are taken in blocks that grow, so that many rows
    /// take few round trips; what is not used is given back at the end.
    fn take_rowid(&self, keys: &Keys) -> Result<i64> {
        let mut near_the_end = false;
        loop {
            {
                let mut writes = self.writes.borrow_mut();
                let next = writes.reserved.next;
                let in_block = next <= writes.reserved.end && next > 0;
                if in_block && next > writes.greatest.unwrap_or(0) {
                    writes.reserved.next = next.wrapping_add(1);
                    if writes.pending.get(&next).is_none_or(|pending| pending.row.is_none()) {
                        return Ok(next);
                    }
                    continue;
                }
            }
            let size = if near_the_end { 1 } else { (self.writes.borrow().reserved.size * 8).clamp(1, 8192) };
            let mut request = Request::default();
            request.push(cmd("ZREVRANGE").arg(keys.rowids()).arg(0).arg(0));
            let raise = self.writes.borrow().greatest.filter(|greatest| *greatest > 0);
            if let Some(greatest) = raise {
                request.push(&eval(&apply::raise(keys, greatest)));
            }
            request.push(cmd("INCRBY").arg(keys.counter()).arg(size));
            let replies = match self.place.ask(&request) {
                Err(error) if is_overflow(&error.cause) && size > 1 => {
                    near_the_end = true;
                    continue;
                }
                Err(error) if is_overflow(&error.cause) => {
                    return Err(Cause::NoRowid(shown(&keys.counter())).into());
                }
                replies => replies?,
            };
            let greatest = replies.first().map_or(0, |reply| self.greatest_of(reply));
            self.learn_taken(keys, replies.last().unwrap_or(&Reply::Nil), size)?;
            let mut writes = self.writes.borrow_mut();
            writes.reserved.size = size;
            writes.greatest = Some(greatest.max(writes.greatest.unwrap_or(0)));
        }
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
        self.refuse_generated(given, &row, Some(old))?;
        let rivals = self.rivals(&keys, rowid, rowid != old, Some(old), &row)?;
        if !self.resolve(given.conflict, rivals)? {
            return Ok(None);
        }
        let mut writes = self.writes.borrow_mut();
        let base = writes.base(old);
        if rowid == old {
            writes.put(&self.definition, old, Some(row), base, None);
        } else {
            writes.put(&self.definition, old, None, base, None);
            let base = writes.base_of_new(rowid);
            writes.put(&self.definition, rowid, Some(row), base, Some(old));
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
        let base = writes.base(rowid);
        writes.put(&self.definition, rowid, None, base, None);
    }

    /// xRollbackTo.
    ///
    /// # Errors
    /// Those of [`Session::reopen`](crate::vtab::table::Session::reopen).
    pub(crate) fn rollback_to(&self, number: i32) -> Result<()> {
        self.session.reopen()?;
        let mut writes = self.writes.borrow_mut();
        writes.rollback_to(&self.definition, number);
        Ok(())
    }
}

/// Whether the server has refused to count beyond the largest integer.
fn is_overflow(cause: &Cause) -> bool {
    matches!(cause, Cause::Server(message) if message.contains("overflow"))
}

/// A value as rowid, as `OP_MustBeInt` does it.
fn as_rowid(value: &Value) -> Result<i64> {
    match Affinity::Integer.of_operand(value.clone()) {
        Value::Integer(rowid) => Ok(rowid),
        Value::Real(real) if real.trunc() == real && real.abs() < 9e18 => Ok(real as i64),
        _ => Err(Cause::Constraint { code: code::MISMATCH, message: "datatype mismatch".into() }.into()),
    }
}
