//! The commit of all tables of a connection that live on one server: one `MULTI`/`EXEC`, if it is not
//! [large](crate::vtab::commit::large).
//!
//! 1. One round trip watches every key that the decision rests on, reads what is there now, and
//!    opens the transaction: `WATCH`, reads, `MULTI`.
//! 2. What was read is compared with what the transaction saw. Different: `SQLITE_BUSY`.
//! 3. One round trip writes: rows, indexes, a mark, `EXEC`. Refused: `SQLITE_BUSY`. Redis does not
//!    undo the rest of a transaction when a key is of a wrong type. So what is written is in a script,
//!    which looks at the types of all keys first. It is called by its digest where the server is known to
//!    have it; one that does not writes nothing, and the commit is tried again with its text.
//!
//! The mark is a key of this connection with the number of its commit and a time to live. It is
//! written in the same transaction, so after a lost reply it tells whether that happened. If it
//! did not, the mark is changed, so that an `EXEC` that is still on its way from the lost connection
//! is refused, because it watches the mark; and the commit is tried again or has failed. The mark is there
//! before each commit. If it is gone after a lost reply, the server has dropped it, and the outcome is unknown.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{Cmd, Value as Reply, cmd};

use crate::model::error::{Cause, Error, Result};
use crate::sqlite::interrupt;
use crate::store::redis::writer::opened;
use crate::vtab::commit::apply::{Part, give_back};
use crate::vtab::commit::check::{Guard, answers, questions};
use crate::vtab::commit::held::Hold;
use crate::vtab::commit::mark::{MARK_SECONDS, PATIENCE, is_decided, unknown};
use crate::vtab::commit::scripted::{COMMIT, Scripted, Sink, eval, words};
use crate::vtab::layout::keys::shown;
use crate::vtab::location::checked_reply;
use crate::vtab::table::{Mark, Session, Table};
use crate::vtab::write::{Armed, Base, Published};
use crate::wire::link::Kept;
use crate::wire::reply::bad_reply;
use crate::wire::reply::checked;
use crate::wire::request::Request;
use crate::wire::script::By;
use crate::wire::server::Server;

pub(crate) mod slices;
pub(crate) mod large;
pub(crate) mod hold;
pub(crate) mod decided;
pub(crate) mod mark;
pub(crate) mod held;
pub(crate) mod found;
pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod optimistic;
pub(crate) mod published;
pub(crate) mod scripted;

/// Sends some commands, and with them all that a commit of the table has to know; see [`Armed`].
/// Returns the replies to those commands, and nothing more if the commit needs another look.
pub(crate) fn arm(table: &Table, before: &[Cmd], assumed: &[String]) -> Result<(Vec<Reply>, Option<Armed>)> {
    let keys = table.keys();
    let mut request = Request::default();
    for command in before {
        request.push(command);
    }
    let mark = keys.commit(table.session.client()?);
    let marks = table.session.write_mark(&mark, &mut request);
    let expected = questions(table, &keys, Guard::Watch, true, Some(mark.clone()));
    expected.iter().for_each(|asked| request.push(&asked.command));
    request.push(&cmd("MULTI"));
    let server = table.place.fit_server()?;
    let (mut replies, connection) = converse(&server, &request)?;
    let mut rest = replies.split_off(before.len());
    if marks {
        table.session.note_mark(&mark, &rest.remove(0));
    }
    let each = replies.into_iter().zip(before);
    let replies = each.map(|(reply, command)| checked_reply(reply, || words(command).map(<[u8]>::to_vec).collect()));
    let replies: Vec<Reply> = replies.collect::<Result<_>>()?;
    let [rest @ .., multi] = rest.as_slice() else { return Ok((replies, None)) };
    // A connection that is dropped takes its transaction along.
    opened(multi.clone())?;
    let found = answers(table, &keys, expected, rest.to_vec())?;
    let fits = found.conflict.is_none()
        && found.taken.is_none()
        && found.hold == Hold::Free
        && found.strangers.is_empty()
        && !table.lacks_indexes(&found.indices, &found.uniques)
        && found.indices.iter().all(|name| assumed.contains(name));
    if !fits {
        table.learn(|known| known.indices.clone_from(&found.indices));
        return Ok((replies, None));
    }
    Ok((replies, connection.map(|connection| Armed { connection, checked: found, changes: 0 })))
}

/// Sends on a connection that is kept for what follows. One that had died while idle is replaced.
fn converse(server: &Arc<Server>, request: &Request) -> Result<(Vec<Reply>, Option<Kept>)> {
    let mut link = server.link()?;
    let replies = match link.exchange(request) {
        Err(error) if matches!(error.cause, Cause::ConnectionLost(_)) => {
            link = server.link()?;
            link.exchange(request)?
        }
        replies => replies?,
    };
    Ok((replies, link.detach()))
}

/// Commits a table's transaction, and that of all other tables of the connection on the same
/// server. Afterwards they are marked as committed.
pub(crate) fn sync(table: &Rc<Table>) -> Result<()> {
    {
        let writes = table.writes.borrow();
        if writes.is_parents() {
            return Err(Cause::Forked.into());
        }
        if let Some(what) = &writes.overtaken {
            return Err(Cause::Conflict(what.clone()).into());
        }
        // What is published has not changed since: whatever goes on takes it back first.
        if writes.published.is_some() || writes.is_empty() {
            return Ok(());
        }
    }
    let server = table.place.server()?;
    let ready = |other: &Rc<Table>| {
        let writes = other.writes.borrow();
        let concerned = !writes.is_empty() || writes.watched().next().is_some();
        concerned && writes.published.is_none() && other.place.server().is_ok_and(|other| Arc::ptr_eq(&other, &server))
    };
    let group: Vec<Rc<Table>> = table.session.tables().into_iter().filter(ready).collect();
    let outcome = match commit(&table.session, &group) {
        // In a cluster, tables can live on different nodes.
        Err(error)
            if group.len() > 1
                && matches!(&error.cause, Cause::Server(message) if message.starts_with("CROSSSLOT")) =>
        {
            commit(&table.session, std::slice::from_ref(table)).map(|()| vec![table.clone()])
        }
        outcome => outcome.map(|()| group),
    };
    for table in outcome? {
        let mut writes = table.writes.borrow_mut();
        let new =
            writes.pending.iter().filter(|(_, p)| p.base == Base::Absent && p.row.is_some()).map(|(rowid, _)| *rowid);
        let (rows, greatest) = (new.clone().count() as u64, new.max());
        table.learn(|known| {
            known.rows += rows;
            known.counted = if rows > 0 { None } else { known.counted };
            known.counter = match writes.counter() {
                Some(counter) => Some(counter.max(greatest.unwrap_or(0))),
                None => known.counter.max(greatest),
            };
        });
        writes.reserved.end = writes.counter().unwrap_or(0);
    }
    Ok(())
}

/// Commits some tables together. Afterwards they are [`Published`](crate::vtab::commit::published::Published), or nothing was written.
pub(super) fn commit(session: &Session, group: &[Rc<Table>]) -> Result<()> {
    let outcome = try_commit(session, group);
    if outcome.is_err() {
        group.iter().for_each(|table| table.writes.borrow_mut().published = None);
    }
    outcome
}

fn try_commit(session: &Session, group: &[Rc<Table>]) -> Result<()> {
    let Some(first) = group.first() else { return Ok(()) };
    let mark = session.next_commit()?;
    let begun = Instant::now();
    let deadline = begun + PATIENCE;
    let mut pause = Duration::from_millis(5);
    let mut lost = None;
    let mut by_text = false;
    let large = large::is_large(group);
    loop {
        let tried = if large { large::attempt(mark, group).map(|()| true) } else { attempt(mark, group, by_text) };
        let error = match tried {
            Ok(true) => {
                session.note_mark(&first.keys().commit(mark.client), &Reply::Okay);
                return Ok(());
            }
            Ok(false) => {
                by_text = true;
                continue;
            }
            Err((error, sent)) => {
                if sent {
                    lost = Some(error.to_string());
                }
                error
            }
        };
        let server = first.place.server()?;
        // Nothing was sent that could be done yet.
        let waits = if lost.is_none() { first.place.waits(&error.cause, begun) } else { None };
        let again =
            matches!(error.cause, Cause::Unreachable(_) | Cause::Loading(_)) || server.is_elsewhere(&error.cause);
        if let Some(lost) = &lost {
            // Until the mark was looked at, nobody knows.
            match is_decided(mark, first) {
                Ok(Some(true)) => return Ok(()),
                Ok(Some(false)) if !again => return Err(error),
                Ok(Some(false)) => {}
                Ok(None) => return Err(unknown(mark, first, lost, "the server has dropped that key meanwhile")),
                Err(_) if Instant::now() < deadline => {}
                Err(second) => return Err(unknown(mark, first, lost, &second.cause.to_string())),
            }
        } else if !(waits.is_some() || again && server.route().follows()) {
            return Err(error);
        }
        if waits.is_none() && Instant::now() > deadline {
            return Err(error);
        }
        sleep(waits.map_or(pause, |left| pause.min(left)));
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// One try; `false` when it is to be made again with the text of the script. With a failure comes
/// whether the `EXEC` may have reached the server.
fn attempt(mark: Mark, group: &[Rc<Table>], by_text: bool) -> Result<bool, (Error, bool)> {
    let not_sent = |error: Error| (error, false);
    let (parts, connection, server) = prepared(mark, group).map_err(not_sent)?;
    for part in &parts {
        part.checked.refused(part.table).map_err(not_sent)?;
    }
    let scripts = server.scripts();
    let by = if by_text { By::Text } else { scripts.way_to(&COMMIT) };
    let request = writes(mark, &parts, by);
    parts.into_iter().for_each(|part| publish(mark, part));
    let mut link = server.attach(connection);
    let mut replies = link.exchange(&request).map_err(|error| (error, true))?;
    let exec = replies.pop().unwrap_or_default();
    if !matches!(exec, Reply::Array(_) | Reply::Nil) {
        // It may be in the transaction still.
        link.close();
    }
    // One that is forbidden is refused while it is queued; one that is not there, when it is called.
    if replies.last().is_some_and(|queued| by == By::Digest && !scripts.is_called(&COMMIT, by, queued)) {
        return Ok(false);
    }
    // A command that was refused while it was queued says why; EXEC only says that one was.
    for reply in replies {
        checked(reply).map_err(not_sent)?;
    }
    // What makes no sense does not tell whether it was done.
    let unclear = |error: Error| {
        let sent = matches!(error.cause, Cause::BadReply(_));
        (error, sent)
    };
    match checked(exec).map_err(not_sent)? {
        Reply::Nil => Err(not_sent(Cause::Conflict("what this transaction read or wrote".into()).into())),
        Reply::Array(results) => match results.last() {
            Some(reply) if !scripts.is_called(&COMMIT, by, reply) => Ok(false),
            _ => written(results).map(|()| true).map_err(unclear),
        },
        other => Err(unclear(bad_reply("EXEC", &other).into())),
    }
}

/// Notes that a table's part of a commit may be in Redis from now on.
pub(super) fn publish(mark: Mark, Part { table, checked, .. }: Part<'_>) {
    table.writes.borrow_mut().published = Some(Published { number: mark.number, before: checked.rows });
    table.session.has_published.set(true);
}

/// All that is written, up to `EXEC`.
fn writes(mark: Mark, parts: &[Part<'_>], by: By) -> Request {
    let mut request = Request::default();
    let Some(first) = parts.first() else { return request };
    let mut script = Scripted::default();
    for part in parts {
        script.rest_on(&part.checked.claims);
        part.write(&mut script);
    }
    script.push(cmd("SET").arg(first.keys.commit(mark.client)).arg(mark.number).arg("EX").arg(MARK_SECONDS));
    script.write(&first.keys, by, &mut request);
    request.push(&cmd("EXEC"));
    request
}

/// Whether all has been written, as the replies to it say.
fn written(results: Vec<Reply>) -> Result<()> {
    let changed = scripted::changed(results)?;
    changed.map_or(Ok(()), |key| Err(Cause::Conflict(format!("`{}`", shown(&key))).into()))
}

/// Watches and reads what the commit rests on, and opens the transaction.
#[allow(clippy::type_complexity)]
fn prepared(mark: Mark, group: &[Rc<Table>]) -> Result<(Vec<Part<'_>>, Kept, Arc<Server>)> {
    let Some(first) = group.first() else { return Err(Cause::Internal("a commit of no table".into()).into()) };
    let server = first.place.fit_server()?;
    let lost = || Error::from(Cause::ConnectionLost("it is closed".into()));
    if let [table] = group {
        let armed = table.writes.borrow_mut().armed.take();
        if let Some(armed) = armed.filter(|armed| armed.changes == table.writes.borrow().changes) {
            let part = Part { table, keys: table.keys(), checked: armed.checked };
            return Ok((vec![part], armed.connection, server));
        }
    }
    let mut assumed: Vec<Vec<String>> = group.iter().map(|table| table.known().indices).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut singly = false;
    // Twice, as a rule: the second time, the indexes are known.
    while Instant::now() < deadline {
        let mut request = Request::default();
        let mut expected = Vec::new();
        // Should this try get lost and arrive late: the mark has been changed.
        let key = first.keys().commit(mark.client);
        let marks = first.session.write_mark(&key, &mut request);
        let mut mark = Some(key.clone());
        for table in group {
            let asked = questions(table, &table.keys(), Guard::Watch, singly, mark.take());
            asked.iter().for_each(|asked| request.push(&asked.command));
            expected.push(asked);
        }
        request.push(&cmd("MULTI"));
        let (mut replies, connection) = converse(&server, &request)?;
        if marks {
            first.session.note_mark(&key, &replies.remove(0));
        }
        // Without MULTI, the connection goes, and with it what it watches.
        let multi = replies.pop().unwrap_or_default();
        let mut parts = Vec::new();
        let mut replies = replies.into_iter();
        for (table, expected) in group.iter().zip(expected) {
            let replies = replies.by_ref().take(expected.len()).collect();
            let keys = table.keys();
            let checked = answers(table, &keys, expected, replies)?;
            parts.push(Part { table, keys, checked });
        }
        opened(multi)?;
        let fresh: Vec<Vec<String>> = parts.iter().map(|part| part.checked.indices.clone()).collect();
        let fits = fresh.iter().zip(&assumed).all(|(fresh, assumed)| fresh.iter().all(|name| assumed.contains(name)));
        if let Some(part) = parts.iter().find(|part| part.checked.hold != Hold::Free) {
            drop(connection);
            if let Hold::Decided(decided) = &part.checked.hold {
                part.table.settle(decided)?;
            } else {
                part.table.wait_while_locked(deadline)?;
            }
        } else if restore_indexes(&parts)? {
            // They are read anew.
        } else if parts.iter().any(|part| part.checked.unclear) {
            singly = true;
        } else if parts.iter().any(|part| !part.checked.strangers.is_empty()) {
            parts.iter().try_for_each(|part| part.table.compare_strangers(&part.keys, &part.checked.strangers))?;
        } else if fits {
            return Ok((parts, connection.ok_or_else(lost)?, server));
        }
        assumed = fresh;
    }
    Err(Cause::Conflict("the whole table".into()).into())
}

/// Makes declared indexes that the server has lost. `false` if there are none.
pub(super) fn restore_indexes(parts: &[Part<'_>]) -> Result<bool> {
    let lacks = |part: &&Part<'_>| part.table.lacks_indexes(&part.checked.indices, &part.checked.uniques);
    let lacking: Vec<&Part<'_>> = parts.iter().filter(lacks).collect();
    lacking.iter().try_for_each(|part| part.table.restore_indexes())?;
    Ok(!lacking.is_empty())
}

/// Ends a table's transaction that was not committed: gives unused rowids back.
pub(crate) fn rolled_back(table: &Table) {
    if table.writes.borrow().is_parents() {
        return;
    }
    let unused = table.writes.borrow().taken();
    let Some(unused) = unused else { return };
    // Numbers that are left out do no harm, and whoever interrupts does not want to wait.
    if interrupt::is_pending() {
        return;
    }
    let request = Request::one(&eval(&give_back(&table.keys(), unused)));
    match table.place.ask(&request) {
        Ok(_) => table.learn(|known| known.counter = Some(unused.0 - 1)),
        // Numbers that are left out do no harm.
        Err(error) => crate::process::log::log(&format!("rowids are left out: {}", table.at(error))),
    }
}

/// Removes the mark of a connection that is done.
pub(crate) fn forget_mark(table: &Table) {
    // The commits may have been of other tables only.
    if !table.is_used() {
        return;
    }
    let Some(mark) = table.session.last_commit().filter(|mark| mark.number > 0) else { return };
    table.session.marked.replace(None);
    let request = Request::one(cmd("UNLINK").arg(table.keys().commit(mark.client)));
    if let Err(error) = table.place.ask(&request) {
        crate::process::log::log(&format!("a mark will end by itself: {}", table.at(error)));
    }
}
