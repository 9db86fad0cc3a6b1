//! What a commit rests on: the questions about a table before it is written, the keys that are
//! watched meanwhile, and whether the replies are what the transaction saw.

use redis::{Cmd, Value as Reply, cmd};

use crate::model::error::{Cause, Result};
use crate::sqlite::value::Value;
use crate::vtab::commit::found::{Checked, Stranger};
use crate::vtab::commit::held::Hold;
use crate::vtab::commit::scripted::words;
use crate::vtab::declare::unique_values;
use crate::vtab::layout::keys::{Keys, shown};
use crate::vtab::layout::replies::{count, digest, digest as digest_of, hash, names, rowids};
use crate::vtab::location::{checked_reply, wrong_type};
use crate::vtab::table::Table;
use crate::vtab::write::Base;
use crate::vtab::write::conflicts::unique_keys;
use crate::wire::reply::{array, text};
use crate::wire::request::Request;

/// Arguments in one command.
pub(crate) const CHUNK: usize = 1000;

/// How a commit makes sure that what it has asked is still so when it writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Keys are watched; of more than [`WATCHED`] rows, the script asks again.
    Watch,
    /// The table is [locked](crate::vtab::commit::hold::Lock).
    Lock,
}

/// Rows that are watched. Redis compares each key of a `WATCH` with all that the client watches
/// already; so of more rows, the script of the commit asks again what was asked about them.
const WATCHED: usize = 100;
/// What a reply is about.
pub(crate) enum Expect {
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
    /// Whether a row that was read is still there: without any field of ours, only that can tell.
    There(i64),
    /// The rowids under a key of a constraint, where one row is to have its value alone.
    Unique(usize, i64),
    /// The rowids with any of the values that new rows shall have alone.
    Free,
}

/// A question.
pub(crate) struct Asked {
    pub command: Cmd,
    about: Expect,
    /// It is about a key that is not watched, although the commit rests on it.
    unwatched: bool,
}

impl Asked {
    fn new(command: &Cmd, about: Expect) -> Asked {
        Asked { command: command.clone(), about, unwatched: false }
    }
}

/// Whether the rows that a table's transaction rests on are too many to be watched.
fn is_large(table: &Table) -> bool {
    let writes = table.writes.borrow();
    writes.pending.len() + writes.watched().take(WATCHED + 1).count() > WATCHED
}

/// Whether all that a table's transaction has done is to add rows.
fn is_only_new(table: &Table) -> bool {
    table.writes.borrow().pending.values().all(|pending| pending.base == Base::Absent)
}

/// Questions about one table, while they are put together.
struct Questions<'a> {
    table: &'a Table,
    keys: &'a Keys,
    guard: Guard,
    /// See [`is_large`].
    large: bool,
    /// Unique values are asked about many at once: those of new rows alone are most likely free.
    together: bool,
    watched: Vec<Vec<u8>>,
    asked: Vec<Asked>,
    /// Sets that shall be empty.
    free: Vec<Vec<u8>>,
}

/// The questions about one table, and what the replies are about; after [`Checked::unclear`], about
/// each unique value `singly`. A key more may be watched.
pub(crate) fn questions(table: &Table, keys: &Keys, guard: Guard, singly: bool, also: Option<Vec<u8>>) -> Vec<Asked> {
    let mut questions = Questions {
        table,
        keys,
        guard,
        large: is_large(table),
        together: !singly && is_large(table) && is_only_new(table),
        watched: vec![keys.hold(), keys.indices(), keys.building(), keys.uniques()],
        asked: vec![
            Asked::new(cmd("GET").arg(keys.hold()), Expect::Hold),
            Asked::new(cmd("GET").arg(keys.counter()), Expect::Counter),
            Asked::new(cmd("SMEMBERS").arg(keys.indices()), Expect::Indices),
            Asked::new(cmd("SMEMBERS").arg(keys.building()), Expect::Indices),
            Asked::new(cmd("SMEMBERS").arg(keys.uniques()), Expect::Uniques),
        ],
        free: Vec::new(),
    };
    questions.watched.extend(also);
    questions.ask_rows();
    if guard == Guard::Lock {
        return questions.asked;
    }
    let watches = questions.watched.chunks(CHUNK).map(|chunk| Asked::new(cmd("WATCH").arg(chunk), Expect::Nothing));
    watches.chain(questions.asked).collect()
}

impl Questions<'_> {
    /// Asks about a key of a row, which is watched unless they are too many.
    fn ask(&mut self, command: &Cmd, about: Expect) {
        let unwatched = self.large && self.guard == Guard::Watch;
        self.asked.push(Asked { unwatched, ..Asked::new(command, about) });
    }

    fn ask_rows(&mut self) {
        let (table, keys) = (self.table, self.keys);
        let writes = table.writes.borrow();
        let mut absent = Vec::new();
        for (rowid, pending) in &writes.pending {
            if !self.large {
                self.watched.push(keys.row(*rowid));
            }
            match pending.base {
                Base::Absent => absent.push(keys.row(*rowid)),
                base => self.ask(cmd("HGETALL").arg(keys.row(*rowid)), Expect::Row(*rowid, base)),
            }
            if let Some(row) = pending.row.as_deref() {
                self.ask_unique(*rowid, row);
            }
        }
        for (rowid, digest) in writes.watched() {
            if !self.large {
                self.watched.push(keys.row(rowid));
            }
            self.ask(&table.fetch_command(keys, rowid), Expect::Seen(rowid, digest));
            if digest == digest_of(&table.empty_row(rowid)) {
                self.ask(cmd("EXISTS").arg(keys.row(rowid)), Expect::There(rowid));
            }
        }
        for chunk in absent.chunks(CHUNK) {
            self.ask(cmd("EXISTS").arg(chunk), Expect::Absent);
        }
        for chunk in std::mem::take(&mut self.free).chunks(CHUNK) {
            self.ask(cmd("SUNION").arg(chunk), Expect::Free);
        }
    }

    /// Asks who else has the values of a row that shall be unique.
    fn ask_unique(&mut self, rowid: i64, row: &[Value]) {
        let (table, keys) = (self.table, self.keys);
        let writes = table.writes.borrow();
        for (n, unique) in table.definition.uniques.iter().enumerate() {
            let sets = unique_keys(table, keys, unique, row);
            if self.together {
                self.free.extend(sets);
                continue;
            }
            if !self.large {
                self.watched.extend(sets.iter().cloned());
            }
            for key in sets {
                self.ask(cmd("SMEMBERS").arg(&key), Expect::Unique(n, rowid));
            }
            let Some(values) = unique_values(unique, row).filter(|_| !writes.tolerated.is_empty()) else { continue };
            for (other, digest) in writes.tolerated.get(&(n, values)).into_iter().flatten() {
                if !self.large {
                    self.watched.push(keys.row(*other));
                }
                self.ask(&table.fetch_command(keys, *other), Expect::Seen(*other, *digest));
            }
        }
    }
}

impl Checked {
    /// Why the transaction can't be written, if so.
    pub(crate) fn refused(&self, table: &Table) -> Result<()> {
        if let Some(command) = &self.taken {
            let (key, found) = odd_one(table, command, "none")?;
            let is_row = found == "none" || found == "hash";
            let conflict = || Cause::Conflict(format!("the row `{}`", shown(&key))).into();
            return Err(if is_row { conflict() } else { wrong_type(&key, &format!("{found}, not hash")) });
        }
        self.conflict.as_ref().map_or(Ok(()), |what| Err(Cause::Conflict(what.clone()).into()))
    }
}

/// The first key of a command that is of another type than it should, and its type.
fn odd_one(table: &Table, command: &Cmd, right: &str) -> Result<(Vec<u8>, String)> {
    let mut keys: Vec<Vec<u8>> = words(command).skip(1).map(<[u8]>::to_vec).collect();
    let mut request = Request::default();
    keys.iter().for_each(|key| request.push(cmd("TYPE").arg(key)));
    let types: Vec<String> = table.place.ask(&request)?.iter().map(|reply| text(reply).unwrap_or_default()).collect();
    let at = types.iter().position(|found| found != right && found != "none").unwrap_or(0);
    Ok((keys.swap_remove(at), types.into_iter().nth(at).unwrap_or_default()))
}

pub(crate) fn answers(table: &Table, keys: &Keys, asked: Vec<Asked>, replies: Vec<Reply>) -> Result<Checked> {
    let writes = table.writes.borrow();
    let mut found = Checked::default();
    for (Asked { command, about, unwatched }, reply) in asked.into_iter().zip(replies) {
        if let (Expect::Free, Reply::ServerError(error)) = (&about, &reply)
            && error.code() == "WRONGTYPE"
        {
            let (key, found) = odd_one(table, &command, "set")?;
            return Err(wrong_type(&key, &format!("{found}, not set")));
        }
        let reply = checked_reply(reply, || words(&command).map(<[u8]>::to_vec).collect())?;
        if unwatched {
            found.claims.push((command.clone(), reply.clone()));
        }
        match about {
            Expect::Nothing => {}
            Expect::Counter => found.counter = table.counter_of(&reply)?,
            Expect::Hold => found.hold = Hold::of(&reply),
            Expect::Indices => found.indices.extend(names(reply)?),
            Expect::Uniques => found.uniques = names(reply)?,
            Expect::Absent if count(&reply) == 0 => {}
            Expect::Absent => found.taken = Some(command),
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
            Expect::There(rowid) if count(&reply) == 0 => {
                found.conflict = Some(format!("the row `{}`", shown(&keys.row(rowid))));
            }
            Expect::There(_) => {}
            Expect::Free => found.unclear |= !array("SUNION", reply)?.is_empty(),
            Expect::Unique(unique, ours) => {
                let row = writes.pending.get(&ours).and_then(|pending| pending.row.as_deref());
                let values = row.and_then(|row| unique_values(&table.definition.uniques[unique], row));
                let tolerated = values.and_then(|values| writes.tolerated.get(&(unique, values)));
                let strange = |rowid: &i64| {
                    !writes.pending.contains_key(rowid) && tolerated.is_none_or(|known| !known.contains_key(rowid))
                };
                let strangers = rowids(reply)?.into_iter().filter(strange);
                found.strangers.extend(strangers.map(|rowid| Stranger { unique, ours, rowid }));
            }
        }
    }
    found.indices.sort();
    found.indices.dedup();
    Ok(found)
}
