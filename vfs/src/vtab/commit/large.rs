//! Commits that are too large for one script: they are checked under a [`Lock`], and written in
//! [slices](crate::vtab::commit::slices).

use std::rc::Rc;

use redis::Value as Reply;

use crate::model::error::{Cause, Error, Result};
use crate::sqlite::value::Value;
use crate::vtab::commit::apply::Part;
use crate::vtab::commit::check::{Asked, Guard, answers, questions};
use crate::vtab::commit::hold::Lock;
use crate::vtab::commit::mark::PATIENCE;
use crate::vtab::commit::slices::are_many;
use crate::vtab::commit::{publish, restore_indexes};
use crate::vtab::layout::keys::Keys;
use crate::vtab::location::Place;
use crate::vtab::table::{Mark, Table};
use crate::wire::request::Request;

/// Bytes of questions in one request.
const BYTES: usize = 1 << 20;

/// Whether the commit of some tables is too much for one script, which asks again what the commit rests on
/// ([`scripted`](crate::vtab::commit::scripted)), and writes.
pub(crate) fn is_large(group: &[Rc<Table>]) -> bool {
    let (mut words, mut bytes) = (0, 0);
    for table in group {
        let writes = table.writes.borrow();
        let columns = table.definition.columns.len();
        let indexes = table.known().indices.len() + table.definition.uniques.len();
        words += writes.pending.len() * (8 + 2 * columns + 8 * indexes) + writes.watched().count() * (6 + columns);
        let rows = writes.pending.values().filter_map(|pending| pending.row.as_deref());
        bytes += rows.flatten().map(size).sum::<usize>();
    }
    are_many(words, bytes)
}

fn size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 8,
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
    }
}

/// One try. With a failure comes whether the commit may have been decided.
pub(crate) fn attempt(mark: Mark, group: &[Rc<Table>]) -> Result<(), (Error, bool)> {
    let not_sent = |error: Error| (error, false);
    let Some(first) = group.first() else { return Ok(()) };
    let (lock, parts) = prepared(mark, group).map_err(not_sent)?;
    let mut staging = lock.staging();
    for part in &parts {
        part.checked.refused(part.table).map_err(not_sent)?;
        part.write(&mut staging);
    }
    let Some(change) = staging.finish().map_err(not_sent)? else { return Ok(()) };
    parts.into_iter().for_each(|part| publish(mark, part));
    match lock.decide(&change) {
        Ok(true) => {}
        Ok(false) => return Err((Cause::Conflict("what this transaction read or wrote".into()).into(), true)),
        Err(error) => return Err((error, true)),
    }
    // It is done, whoever finishes it.
    if let Err(error) = first.finish_change(&change) {
        crate::process::log::log(&format!(
            "a commit is done, and will be finished by the next client: {}",
            first.at(error)
        ));
    }
    Ok(())
}

/// Locks the tables and asks what the commit rests on.
fn prepared(mark: Mark, group: &[Rc<Table>]) -> Result<(Lock<'_>, Vec<Part<'_>>)> {
    let Some(first) = group.first() else { return Err(Cause::Internal("a commit of no table".into()).into()) };
    first.place.fit_server()?;
    let keys: Vec<Keys> = group.iter().map(|table| table.keys()).collect();
    let begun = std::time::Instant::now();
    while begun.elapsed() < PATIENCE {
        let lock = Lock::acquire(first, &keys, mark)?;
        let mut parts = checked(group, &lock, false)?;
        if parts.iter().any(|part| part.table.lacks_indexes(&part.checked.indices, &part.checked.uniques)) {
            // It needs the lock of each table itself.
            drop(lock);
            restore_indexes(&parts)?;
            continue;
        }
        if parts.iter().any(|part| part.checked.unclear) {
            parts = checked(group, &lock, true)?;
        }
        // Those that share a key and are not equal are tolerated from now on.
        parts.iter().try_for_each(|part| part.table.compare_strangers(&part.keys, &part.checked.strangers))?;
        return Ok((lock, parts));
    }
    Err(Cause::Conflict("the whole table".into()).into())
}

fn checked<'a>(group: &'a [Rc<Table>], lock: &Lock<'_>, singly: bool) -> Result<Vec<Part<'a>>> {
    let part = |table: &'a Rc<Table>| {
        let keys = table.keys();
        let asked = questions(table, &keys, Guard::Lock, singly, None);
        let replies = replies(&table.place, &asked, lock)?;
        let checked = answers(table, &keys, asked, replies)?;
        lock.renew()?;
        Ok(Part { table, keys, checked })
    };
    group.iter().map(part).collect()
}

/// Asks in requests of about [`BYTES`].
fn replies(place: &Place, asked: &[Asked], lock: &Lock<'_>) -> Result<Vec<Reply>> {
    let mut all = Vec::new();
    let mut request = Request::default();
    for (n, asked_now) in asked.iter().enumerate() {
        request.push(&asked_now.command);
        if request.size() > BYTES || n + 1 == asked.len() {
            all.extend(place.ask(&std::mem::take(&mut request))?);
            lock.renew()?;
        }
    }
    Ok(all)
}
