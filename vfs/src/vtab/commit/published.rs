//! A commit that is in Redis before SQLite knows what becomes of the whole transaction.
//!
//! xSync writes to Redis, because an error of xCommit is ignored. After xSync, the files of the transaction
//! can still be refused: locked, full, or vetoed by a commit hook. Then SQLite calls xRollback, or leaves the
//! transaction open. In both cases the commit is taken back: by another commit, of the rows as they were,
//! which like any other rests on what it finds. A row that another client has changed since stays as it is,
//! and is named.

use std::rc::Rc;

use redis::{Value as Reply, cmd};

use crate::model::error::{Cause, Error, Result};
use crate::sqlite::interrupt;
use crate::vtab::commit::check::CHUNK;
use crate::vtab::commit::commit;
use crate::vtab::layout::keys::{Keys, shown};
use crate::vtab::layout::replies::hash;
use crate::vtab::layout::replies::{digest, rowids};
use crate::vtab::table::{Session, Table};
use crate::vtab::write::conflicts::unique_keys;
use crate::vtab::write::{Base, Pending, Writes};
use crate::wire::request::Request;

/// Times that a commit is taken back while others change its rows.
const ATTEMPTS: u32 = 10;
/// Rows named in a message.
const NAMED: usize = 5;

impl Session {
    /// Goes on with a transaction whose commit was refused: takes back what is in Redis.
    ///
    /// # Errors
    /// Another client has changed a row of the commit, so the transaction can only be rolled back; or the
    /// server can't be asked.
    pub(crate) fn reopen(&self) -> Result<()> {
        if !self.has_published.get() {
            return Ok(());
        }
        for table in self.tables() {
            let number = table.writes.borrow().published.as_ref().map(|published| published.number);
            let Some(number) = number else { continue };
            let group = self.published(number);
            let stay = take_back(self, &group).map_err(|error| table.at(error))?;
            if let Some(row) = stay.first() {
                let what = format!("the row `{row}`");
                group.iter().for_each(|table| table.writes.borrow_mut().overtaken = Some(what.clone()));
                return Err(table.at(Cause::Conflict(what).into()));
            }
        }
        self.has_published.set(false);
        Ok(())
    }

    /// The tables of one commit.
    fn published(&self, number: u64) -> Vec<Rc<Table>> {
        let is_one = |table: &Rc<Table>| {
            table.writes.borrow().published.as_ref().is_some_and(|published| published.number == number)
        };
        self.tables().into_iter().filter(is_one).collect()
    }
}

/// xRollback of a table whose commit is in Redis: takes back the commit of all its tables.
///
/// # Errors
/// [`Cause::NotTakenBack`], which says what is left.
pub(crate) fn roll_back(table: &Rc<Table>) -> Result<()> {
    let number = table.writes.borrow().published.as_ref().map(|published| published.number);
    let Some(number) = number else { return Ok(()) };
    let group = table.session.published(number);
    let outcome = take_back(&table.session, &group);
    group.iter().for_each(|table| table.writes.borrow_mut().published = None);
    match outcome {
        Ok(stay) if stay.is_empty() => Ok(()),
        Ok(stay) => {
            let named = stay.iter().take(NAMED).map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            let more = if stay.len() > NAMED { format!(" and {} more", stay.len() - NAMED) } else { String::new() };
            let why = format!("another client has changed {named}{more}, which stay as they are now");
            Err(Cause::NotTakenBack(why).into())
        }
        Err(error) => {
            let why =
                format!("its rows are still in Redis, because they could not be removed: {}", error.cause.reason());
            Err(Cause::NotTakenBack(why).into())
        }
    }
}

/// Takes back the tables of a transaction that are already committed, after the commit of `table` was refused. SQLite would
/// do so by xRollback, but it ignores errors of xRollback.
///
/// # Errors
/// [`Cause::NotTakenBack`] if a table can't be taken back; otherwise `refusal`.
pub(crate) fn refused(table: &Table, refusal: Error) -> Error {
    for other in table.session.tables() {
        if let Err(mut kept) = roll_back(&other) {
            if let Cause::NotTakenBack(why) = &mut kept.cause {
                let refusal = table.at(refusal);
                let place = refusal.place.as_deref().unwrap_or_default();
                *why = format!("{why}; the commit was refused in {place}: {}", refusal.cause.reason());
            }
            return other.at(kept);
        }
    }
    refusal
}

/// Takes back the commit of some tables, in one transaction of Redis. Returns the keys of rows that another client has
/// changed since. After a failure, nothing was taken back.
fn take_back(session: &Session, group: &[Rc<Table>]) -> Result<Vec<String>> {
    let replaced: Vec<Writes> = group.iter().map(|table| table.writes.replace(reverse(table))).collect();
    let outcome = interrupt::never(|| commit_reverse(session, group));
    for (table, mut writes) in group.iter().zip(replaced) {
        if outcome.is_ok() {
            writes.published = None;
        }
        table.writes.replace(writes);
        table.learn(|known| known.counted = None);
    }
    outcome
}

/// The changes that make a table's rows what they were before its commit.
fn reverse(table: &Table) -> Writes {
    let writes = table.writes.borrow();
    let mut reverse = Writes::default();
    let Some(published) = &writes.published else { return reverse };
    for (rowid, pending) in &writes.pending {
        let before = published.before.get(rowid).filter(|hash| !hash.is_empty());
        let base = pending.row.as_ref().map_or(Base::Absent, |row| Base::Read(digest(row)));
        if before.is_none() && base == Base::Absent {
            continue;
        }
        let row = before.map(|hash| Rc::new(table.row_of_fields(*rowid, hash)));
        let exact = before.map(|hash| Rc::new(hash.clone()));
        reverse.pending.insert(*rowid, Pending { row, base, moved_from: None, exact });
    }
    reverse
}

/// Commits what is still as the commit before has left it. Returns the keys of the other rows.
fn commit_reverse(session: &Session, group: &[Rc<Table>]) -> Result<Vec<String>> {
    let mut stay = Vec::new();
    for _ in 0..ATTEMPTS {
        if group.iter().all(|table| table.writes.borrow().is_empty()) {
            return Ok(stay);
        }
        match commit(session, group) {
            // A key of a wrong type may be that of a row, too.
            Err(Error { cause: Cause::Conflict(_) | Cause::Damaged(_), .. }) => {
                for table in group {
                    stay.extend(leave_changed(table)?);
                }
            }
            outcome => return outcome.map(|()| stay),
        }
    }
    Err(Cause::Conflict("a row of the commit, again and again,".into()).into())
}

/// Takes rows that another client has changed out of what is to be written, and returns their keys.
fn leave_changed(table: &Table) -> Result<Vec<String>> {
    let keys = table.keys();
    let rows: Vec<(i64, Pending)> =
        table.writes.borrow().pending.iter().map(|(rowid, pending)| (*rowid, pending.clone())).collect();
    let mut changed = Vec::new();
    for chunk in rows.chunks(CHUNK) {
        let mut request = Request::default();
        chunk.iter().for_each(|(rowid, _)| request.push(cmd("HGETALL").arg(keys.row(*rowid))));
        let replies = table.place.server()?.ask(&request)?;
        for ((rowid, pending), reply) in chunk.iter().zip(replies) {
            if !is_as_left(table, *rowid, pending, reply)? || has_rival(table, &keys, pending)? {
                changed.push(*rowid);
            }
        }
    }
    let mut writes = table.writes.borrow_mut();
    changed.iter().for_each(|rowid| drop(writes.pending.remove(rowid)));
    Ok(changed.into_iter().map(|rowid| shown(&keys.row(rowid))).collect())
}

/// Whether a row, as all its fields in a reply say, is as its commit has left it.
fn is_as_left(table: &Table, rowid: i64, pending: &Pending, reply: Reply) -> Result<bool> {
    // Something else than a row.
    if matches!(&reply, Reply::ServerError(error) if error.code() == "WRONGTYPE") {
        return Ok(false);
    }
    let now = hash(crate::wire::reply::checked(reply)?)?;
    Ok(match pending.base {
        Base::Absent => now.is_empty(),
        Base::Read(then) => !now.is_empty() && digest(&table.row_of_fields(rowid, &now)) == then,
        Base::Present => true,
    })
}

/// Whether another row has got a unique value that this one has to get back.
fn has_rival(table: &Table, keys: &Keys, pending: &Pending) -> Result<bool> {
    let Some(row) = &pending.row else { return Ok(false) };
    for (n, unique) in table.definition.uniques.iter().enumerate() {
        for key in unique_keys(table, keys, unique, row) {
            let reply = table.ask(&Request::one(cmd("SMEMBERS").arg(&key)))?.pop().unwrap_or_default();
            for rival in rowids(reply)? {
                let ours = table.writes.borrow().pending.contains_key(&rival);
                if !ours && table.is_rival(keys, n, rival, row)? {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
