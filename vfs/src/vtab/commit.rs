//! The commit of all tables of a connection that live on one server: one `MULTI`/`EXEC`.
//!
//! 1. One round trip watches every key that the decision rests on, reads what is there now, and
//!    opens the transaction: `WATCH`, reads, `MULTI`.
//! 2. What was read is compared with what the transaction saw. Different: `SQLITE_BUSY`.
//! 3. One round trip writes: rows, indexes, a mark, `EXEC`. Refused: `SQLITE_BUSY`.
//!
//! The mark is a key of this connection with the number of its commit and a time to live. It is
//! written in the same transaction, so after a lost reply it tells whether that happened. If it
//! did not, the commit is tried again; an `EXEC` that is still on its way from the lost connection
//! is refused then, because rows that it watches have changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{Cmd, Value as Reply, cmd};

use super::apply::Part;
use super::index::trace;
use super::keys::{Keys, shown};
use super::rivals::unique_keys;
use super::table::{Mark, Session, Table, bulk, count, digest, names, rowids};
use super::write::{Armed, Base};
use crate::error::{Cause, Error, Result};
use crate::store::protocol::{array, bad_reply, text};
use crate::store::request::Request;
use crate::store::server::{Kept, Server, checked};

/// Arguments in one command.
pub(crate) const CHUNK: usize = 1000;
/// New rows that are watched one by one. Redis compares each key of a `WATCH` with all that the
/// client watches already, so more of them are first watched by the sorted sets that would grow.
const SINGLY: usize = 100;
/// How long a mark can be asked for, in seconds. Longer than [`PATIENCE`].
pub(crate) const MARK_SECONDS: u64 = 60;
/// How long it is tried to find out what became of a commit.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

static RAISE: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/raise.lua")));
static GIVE_BACK: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/give_back.lua")));

/// Lua without the comment lines, which nobody reads on the wire.
pub(crate) fn script(source: &str) -> String {
    source.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n")
}

/// Raises the rowid counter to a rowid that was given.
pub(crate) fn raise(keys: &Keys, rowid: i64) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(RAISE.as_str()).arg(1).arg(keys.counter()).arg(rowid);
    command
}

/// Gives unused rowids back: those from `next` to `end`, where the counter was left.
pub(crate) fn give_back(keys: &Keys, (next, end): (i64, i64)) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(GIVE_BACK.as_str()).arg(1).arg(keys.counter()).arg(end).arg(next - 1);
    command
}

/// All fields of a row.
pub(crate) type Hash = HashMap<Vec<u8>, Vec<u8>>;

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
    /// New rows are watched by the sorted sets that would grow, and others may have made them grow
    /// by rows that are no conflict.
    pub together: bool,
    /// A value that shall be unique is in its sorted set already: that one would not grow.
    pub settled: bool,
    /// The transaction is overtaken: why.
    pub conflict: Option<String>,
    /// Another client changes the whole table, and asks others to wait.
    pub held: bool,
}

/// What a reply is about.
enum Expect {
    Nothing,
    Hold,
    Counter,
    Indices,
    Uniques,
    /// How many of some rows exist: none should.
    Absent,
    Row(i64, Base),
    /// A row that was read, and what its digest was.
    Seen(i64, u64),
    /// The rowids with a value that one row shall have alone.
    Unique(Vec<u8>, i64),
    /// Scores of values in a sorted set that shall grow by them.
    New,
}

/// Whether a table's new rows are to be watched together.
fn is_together(table: &Table, singly: bool) -> bool {
    let writes = table.writes.borrow();
    !singly && writes.pending.values().filter(|pending| pending.base == Base::Absent).nth(SINGLY).is_some()
}

/// The questions about one table, and what the replies are about.
fn questions(table: &Table, keys: &Keys, assumed: &[String], singly: bool, request: &mut Request) -> Vec<Expect> {
    let together = is_together(table, singly);
    let writes = table.writes.borrow();
    // Values of rows that are changed or replaced may stay in the sorted set.
    let only_new = together && writes.pending.values().all(|pending| pending.base == Base::Absent);
    let mut growing: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    let mut watched = vec![keys.hold(), keys.indices(), keys.building(), keys.uniques()];
    let mut absent = Vec::new();
    let mut sets = BTreeSet::new();
    let mut asked: Vec<(Cmd, Expect)> = vec![
        (cmd("EXISTS").arg(keys.hold()).to_owned(), Expect::Hold),
        (cmd("GET").arg(keys.counter()).to_owned(), Expect::Counter),
        (cmd("SMEMBERS").arg(keys.indices()).to_owned(), Expect::Indices),
        (cmd("SMEMBERS").arg(keys.building()).to_owned(), Expect::Indices),
        (cmd("SMEMBERS").arg(keys.uniques()).to_owned(), Expect::Uniques),
        (cmd("ZCARD").arg(keys.rowids()).to_owned(), Expect::Nothing),
    ];
    for name in assumed {
        asked.push((cmd("ZCARD").arg(keys.values(name)).to_owned(), Expect::Nothing));
        asked.push((cmd("ZCARD").arg(keys.others(name)).to_owned(), Expect::Nothing));
        sets.insert(keys.nulls(name));
    }
    for (rowid, pending) in &writes.pending {
        let is_new = together && pending.base == Base::Absent;
        if !is_new {
            watched.push(keys.row(*rowid));
        }
        match pending.base {
            Base::Absent => absent.push(keys.row(*rowid)),
            base => {
                let command = cmd("HGETALL").arg(keys.row(*rowid)).to_owned();
                asked.push((command, Expect::Row(*rowid, base)));
            }
        }
        let Some(row) = pending.row.as_deref() else { continue };
        for unique in &table.definition.uniques {
            let sets = unique_keys(table, keys, unique, row);
            // Who adds a row to the set of a new value adds the value to the sorted set.
            let member = unique.indexed_column().filter(|_| only_new && sets.len() == 1).and_then(|n| {
                let column = &table.definition.columns[n];
                trace(keys, &column.name, column.affinity, &row[n]).member
            });
            match member {
                Some((sorted_set, _, member)) => growing.entry(sorted_set).or_default().push(member),
                None => watched.extend(sets.iter().cloned()),
            }
            for key in sets {
                asked.push((cmd("SMEMBERS").arg(&key).to_owned(), Expect::Unique(key, *rowid)));
            }
        }
        for (column, value) in table.definition.columns.iter().zip(row) {
            if assumed.contains(&column.name) {
                sets.insert(trace(keys, &column.name, column.affinity, value).set);
            }
        }
    }
    for (rowid, digest) in writes.watched() {
        watched.push(keys.row(rowid));
        asked.push((table.fetch_command(keys, rowid), Expect::Seen(rowid, digest)));
    }
    if together {
        watched.push(keys.rowids());
    }
    for (sorted_set, members) in growing {
        for chunk in members.chunks(CHUNK) {
            asked.push((cmd("ZMSCORE").arg(&sorted_set).arg(chunk).to_owned(), Expect::New));
        }
        watched.push(sorted_set);
    }
    for chunk in absent.chunks(CHUNK) {
        asked.push((cmd("EXISTS").arg(chunk).to_owned(), Expect::Absent));
    }
    // A difference with nothing is nothing, but all of the keys must be sets: a wrong one in the
    // middle of the transaction would leave the rest of it done.
    for chunk in Vec::from_iter(sets).chunks(CHUNK) {
        asked.push((cmd("SDIFF").arg(keys.nothing()).arg(chunk).to_owned(), Expect::Nothing));
    }
    let mut expected = Vec::new();
    for chunk in watched.chunks(CHUNK) {
        request.push(cmd("WATCH").arg(chunk));
        expected.push(Expect::Nothing);
    }
    for (command, about) in asked {
        request.push(&command);
        expected.push(about);
    }
    expected
}

fn answers(table: &Table, keys: &Keys, expected: Vec<Expect>, replies: Vec<Reply>) -> Result<Checked> {
    let writes = table.writes.borrow();
    let mut found = Checked::default();
    for (about, reply) in expected.into_iter().zip(replies) {
        let reply = checked(reply)?;
        match about {
            Expect::Nothing => {}
            Expect::Counter => found.counter = table.counter_of(&reply)?,
            Expect::Hold => found.held = count(&reply) > 0,
            Expect::Indices => found.indices.extend(names(reply)?),
            Expect::Uniques => found.uniques = names(reply)?,
            Expect::Absent if count(&reply) == 0 => {}
            Expect::Absent => found.conflict = Some("a rowid that was free".into()),
            Expect::Row(rowid, base) => {
                let hash = hash(reply)?;
                let now = if hash.is_empty() { None } else { Some(digest(&table.row_of_fields(rowid, &hash))) };
                match (base, now) {
                    (Base::Read(then), Some(now)) if then == now => {}
                    (Base::Present, _) => {}
                    _ => found.conflict = Some(format!("the row `{}`", shown(&keys.row(rowid)))),
                }
                found.rows.insert(rowid, hash);
            }
            Expect::Seen(rowid, then) => {
                let row = table.row_of(rowid, reply)?.unwrap_or_else(|| table.empty_row(rowid));
                if digest(&row) != then {
                    found.conflict = Some(format!("the row `{}`", shown(&keys.row(rowid))));
                }
            }
            Expect::New => {
                found.settled |= !array("ZMSCORE", reply)?.iter().all(|score| matches!(score, Reply::Nil));
            }
            Expect::Unique(key, rowid) => {
                let rival = rowids(reply)?.into_iter().find(|other| {
                    let known = writes.pending.contains_key(other) || writes.tolerated.contains(&(key.clone(), *other));
                    *other != rowid && !known
                });
                if rival.is_some() {
                    found.conflict = Some(format!("a unique value, `{}`,", shown(&key)));
                }
            }
        }
    }
    found.indices.sort();
    found.indices.dedup();
    Ok(found)
}

fn hash(reply: Reply) -> Result<Hash> {
    let items = array("HGETALL", reply)?;
    let pairs = items.as_chunks::<2>().0.iter();
    Ok(pairs.filter_map(|[field, text]| Some((bulk(Some(field))?.to_vec(), bulk(Some(text))?.to_vec()))).collect())
}

/// Sends some commands, and with them all that a commit of the table has to know; see [`Armed`].
/// Returns the replies to those commands, and nothing more if the commit needs another look.
pub(crate) fn arm(table: &Table, before: &[Cmd], assumed: &[String]) -> Result<(Vec<Reply>, Option<Armed>)> {
    let keys = table.keys();
    let mut request = Request::default();
    for command in before {
        request.push(command);
    }
    let expected = questions(table, &keys, assumed, true, &mut request);
    request.push(&cmd("MULTI"));
    let server = table.place.server()?;
    let (mut replies, connection) = converse(&server, &request)?;
    let rest = replies.split_off(before.len());
    let replies: Vec<Reply> = replies.into_iter().map(checked).collect::<Result<_>>()?;
    let Some((opened, rest)) = rest.split_last() else { return Ok((replies, None)) };
    // A connection that is dropped takes its transaction along.
    checked(opened.clone())?;
    let found = answers(table, &keys, expected, rest.to_vec())?;
    let fits = found.conflict.is_none() && !found.held && found.indices.iter().all(|name| assumed.contains(name));
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
    if table.writes.borrow().committed || table.writes.borrow().is_empty() {
        return Ok(());
    }
    let server = table.place.server()?;
    let ready = |other: &Rc<Table>| {
        let writes = other.writes.borrow();
        let concerned = !writes.is_empty() || writes.watched().next().is_some();
        concerned && !writes.committed && other.place.server().is_ok_and(|other| Arc::ptr_eq(&other, &server))
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
        writes.committed = true;
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
    }
    Ok(())
}

fn commit(session: &Session, group: &[Rc<Table>]) -> Result<()> {
    let Some(first) = group.first() else { return Ok(()) };
    let mark = session.next_commit()?;
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(5);
    let mut lost = None;
    let mut singly = false;
    loop {
        let error = match attempt(mark, group, singly) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                singly = true;
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
        let again =
            matches!(error.cause, Cause::Unreachable(_) | Cause::Loading(_)) || server.is_elsewhere(&error.cause);
        if let Some(lost) = &lost {
            // Until the mark was looked for, nobody knows.
            match marked(mark, first) {
                Ok(true) => return Ok(()),
                Ok(false) if !again => return Err(error),
                Ok(false) => {}
                Err(_) if Instant::now() < deadline => {}
                Err(second) => return Err(unknown(mark, first, lost, &second)),
            }
        } else if !(again && server.route().follows()) {
            return Err(error);
        }
        if Instant::now() > deadline {
            return Err(error);
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

fn unknown(mark: Mark, table: &Table, lost: &str, second: &Error) -> Error {
    Cause::Server(format!(
        "it is unknown whether the transaction was written: {lost}; and then: {}; \
         look for its effects, or for `{}` = {}, before running it again",
        second.cause,
        shown(&table.keys().commit(mark.client)),
        mark.number
    ))
    .into()
}

/// Whether the mark says that the commit happened.
fn marked(mark: Mark, table: &Table) -> Result<bool> {
    let get = cmd("GET").arg(table.keys().commit(mark.client)).to_owned();
    let reply = table.place.ask(&Request::one(&get))?.pop().unwrap_or_default();
    Ok(text(&reply).is_some_and(|number| number == mark.number.to_string()))
}

/// One try; `false` when it is to be made again, with each row watched by itself. With a failure
/// comes whether the `EXEC` may have reached the server.
fn attempt(mark: Mark, group: &[Rc<Table>], singly: bool) -> Result<bool, (Error, bool)> {
    let not_sent = |error: Error| (error, false);
    let (parts, connection, server) = prepared(group, singly).map_err(not_sent)?;
    for part in &parts {
        if let Some(what) = &part.checked.conflict {
            return Err(not_sent(Cause::Conflict(what.clone()).into()));
        }
    }
    let mut request = Request::default();
    for part in &parts {
        part.write(&mut request);
    }
    if let Some(first) = parts.first() {
        request.push(cmd("SET").arg(first.keys.commit(mark.client)).arg(mark.number).arg("EX").arg(MARK_SECONDS));
    }
    request.push(&cmd("EXEC"));
    let mut link = server.attach(connection);
    let mut replies = link.exchange(&request).map_err(|error| (error, true))?;
    let exec = replies.pop().unwrap_or_default();
    // A command that was refused while it was queued says why; EXEC only says that one was.
    for reply in replies {
        checked(reply).map_err(not_sent)?;
    }
    match checked(exec).map_err(not_sent)? {
        Reply::Nil if parts.iter().any(|part| part.checked.together) => Ok(false),
        Reply::Nil => Err(not_sent(Cause::Conflict("what this transaction read or wrote".into()).into())),
        Reply::Array(results) => {
            let refused = results.into_iter().find_map(|result| checked(result).err());
            refused.map_or(Ok(true), |error| {
                let reason = format!("a part of the transaction was refused, the rest was written: {}", error.cause);
                Err(not_sent(Cause::Damaged(reason).into()))
            })
        }
        other => Err(not_sent(bad_reply("EXEC", &other).into())),
    }
}

/// Watches and reads what the commit rests on, and opens the transaction.
#[allow(clippy::type_complexity)]
fn prepared(group: &[Rc<Table>], mut singly: bool) -> Result<(Vec<Part<'_>>, Kept, Arc<Server>)> {
    let Some(first) = group.first() else { return Err(Cause::Internal("a commit of no table".into()).into()) };
    let server = first.place.server()?;
    let lost = || Error::from(Cause::ConnectionLost("it is closed".into()));
    if let [table] = group {
        let armed = table.writes.borrow_mut().armed.take();
        if let Some(armed) = armed.filter(|armed| armed.changes == table.writes.borrow().changes) {
            let part = Part { table, keys: table.keys(), checked: armed.checked };
            return Ok((vec![part], armed.connection, server));
        }
    }
    let mut assumed: Vec<Vec<String>> = group.iter().map(|table| table.known().indices).collect();
    let (deadline, mut pause) = (Instant::now() + PATIENCE, Duration::from_millis(1));
    // Twice, as a rule: the second time, the indexes are known.
    while Instant::now() < deadline {
        let mut request = Request::default();
        let mut expected = Vec::new();
        for (table, assumed) in group.iter().zip(&assumed) {
            expected.push(questions(table, &table.keys(), assumed, singly, &mut request));
        }
        request.push(&cmd("MULTI"));
        let (mut replies, connection) = converse(&server, &request)?;
        // Without MULTI, the connection goes, and with it what it watches.
        let opened = replies.pop().unwrap_or_default();
        let mut parts = Vec::new();
        let mut replies = replies.into_iter();
        for (table, expected) in group.iter().zip(expected) {
            let replies = replies.by_ref().take(expected.len()).collect();
            let keys = table.keys();
            let mut checked = answers(table, &keys, expected, replies)?;
            checked.together = is_together(table, singly);
            parts.push(Part { table, keys, checked });
        }
        checked(opened)?;
        let fresh: Vec<Vec<String>> = parts.iter().map(|part| part.checked.indices.clone()).collect();
        let fits = fresh.iter().zip(&assumed).all(|(fresh, assumed)| fresh.iter().all(|name| assumed.contains(name)));
        if parts.iter().any(|part| part.checked.held) {
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        } else if parts.iter().any(|part| part.checked.settled) {
            singly = true;
        } else if fits {
            return Ok((parts, connection.ok_or_else(lost)?, server));
        }
        assumed = fresh;
    }
    Err(Cause::Conflict("the whole table".into()).into())
}

/// Ends a table's transaction that was not committed: gives unused rowids back.
pub(crate) fn rolled_back(table: &Table) {
    let unused = table.writes.borrow().taken();
    let Some(unused) = unused else { return };
    let request = Request::one(&give_back(&table.keys(), unused));
    match table.place.ask(&request) {
        Ok(_) => table.learn(|known| known.counter = Some(unused.0 - 1)),
        // Numbers that are left out do no harm.
        Err(error) => crate::ffi::log(&format!("rowids are left out: {}", table.at(error))),
    }
}

/// Removes the mark of a connection that is done.
pub(crate) fn forget_mark(table: &Table) {
    let Some(mark) = table.session.last_commit() else { return };
    let request = Request::one(cmd("UNLINK").arg(table.keys().commit(mark.client)));
    if let Err(error) = table.place.ask(&request) {
        crate::ffi::log(&format!("a mark will end by itself: {}", table.at(error)));
    }
}
