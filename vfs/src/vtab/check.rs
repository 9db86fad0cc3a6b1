//! What a commit rests on: the questions about a table before it is written, the keys that are
//! watched meanwhile, and whether the replies are what the transaction saw.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis::{Cmd, Value as Reply, cmd};

use super::commit::CHUNK;
use super::index::trace;
use super::keys::{Keys, shown};
use super::place::{checked_reply, wrong_type};
use super::rivals::unique_keys;
use super::scripted::{Claim, words};
use super::table::{Table, bulk, count, digest, names, rowids};
use super::value::Value;
use super::write::Base;
use crate::error::{Cause, Result};
use crate::store::protocol::{array, text};
use crate::store::request::Request;

/// New rows that are watched one by one. Redis compares each key of a `WATCH` with all that the
/// client watches already, so more of them are first watched by the sorted sets that would grow.
const SINGLY: usize = 100;
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
    /// All rows are new, and no key is of a wrong type.
    pub only_new: bool,
    /// A value that shall be unique is in its sorted set already: that one would not grow.
    pub settled: bool,
    /// The transaction is overtaken: why.
    pub conflict: Option<String>,
    /// What asked for new rows and found one that is there.
    pub taken: Option<Cmd>,
    /// Another client changes the whole table, and asks others to wait.
    pub held: bool,
    /// What was asked about keys that are too many to be watched.
    pub claims: Vec<Claim>,
}

/// What a reply is about.
pub(super) enum Expect {
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
    /// Nothing, but all its keys are sets.
    Sets,
}

/// A question.
pub(super) struct Asked {
    command: Cmd,
    about: Expect,
    /// It is about a key that is not watched, although the commit rests on it.
    unwatched: bool,
}

impl Asked {
    fn new(command: &Cmd, about: Expect) -> Asked {
        Asked { command: command.clone(), about, unwatched: false }
    }
}

/// Whether a table's new rows are to be watched together.
fn is_together(table: &Table, singly: bool) -> bool {
    let writes = table.writes.borrow();
    !singly && writes.pending.values().filter(|pending| pending.base == Base::Absent).nth(SINGLY).is_some()
}

/// Whether the keys that a table's rows are watched by, each by itself, are too many for that.
fn is_large(table: &Table, singly: bool) -> bool {
    let together = is_together(table, singly);
    let writes = table.writes.borrow();
    let each = writes.pending.values().filter(|pending| !(together && pending.base == Base::Absent)).map(|_| ());
    each.chain(writes.watched().map(|_| ())).nth(SINGLY).is_some()
}

/// Whether all that a table's transaction has done is to add rows: then all keys that it writes are
/// known before it looks at any.
fn is_only_new(table: &Table, singly: bool) -> bool {
    let writes = table.writes.borrow();
    !is_large(table, singly) && writes.pending.values().all(|pending| pending.base == Base::Absent)
}

/// Questions about one table, while they are put together.
struct Questions<'a> {
    table: &'a Table,
    keys: &'a Keys,
    /// See [`is_together`], [`is_only_new`], [`is_large`].
    together: bool,
    only_new: bool,
    large: bool,
    watched: Vec<Vec<u8>>,
    asked: Vec<Asked>,
    /// New values by the sorted set that shall grow by them.
    growing: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

/// The questions about one table, and what the replies are about. A key more may be watched.
pub(super) fn questions(
    table: &Table,
    keys: &Keys,
    assumed: &[String],
    singly: bool,
    also: Option<Vec<u8>>,
    request: &mut Request,
) -> Vec<Asked> {
    let mut questions = Questions {
        table,
        keys,
        together: is_together(table, singly),
        only_new: is_only_new(table, singly),
        large: is_large(table, singly),
        watched: vec![keys.hold(), keys.indices(), keys.building(), keys.uniques()],
        asked: vec![
            Asked::new(cmd("EXISTS").arg(keys.hold()), Expect::Hold),
            Asked::new(cmd("GET").arg(keys.counter()), Expect::Counter),
            Asked::new(cmd("SMEMBERS").arg(keys.indices()), Expect::Indices),
            Asked::new(cmd("SMEMBERS").arg(keys.building()), Expect::Indices),
            Asked::new(cmd("SMEMBERS").arg(keys.uniques()), Expect::Uniques),
        ],
        growing: BTreeMap::new(),
    };
    questions.watched.extend(also);
    questions.ask_rows();
    if questions.only_new {
        questions.ask_types(assumed);
    }
    let watches = questions.watched.chunks(CHUNK).map(|chunk| Asked::new(cmd("WATCH").arg(chunk), Expect::Nothing));
    let all: Vec<Asked> = watches.chain(questions.asked).collect();
    all.iter().for_each(|asked| request.push(&asked.command));
    all
}

impl Questions<'_> {
    /// Asks about a key of a row, which is watched unless they are too many.
    fn ask(&mut self, command: &Cmd, about: Expect) {
        self.asked.push(Asked { unwatched: self.large, ..Asked::new(command, about) });
    }

    fn ask_rows(&mut self) {
        let (table, keys) = (self.table, self.keys);
        let writes = table.writes.borrow();
        let mut absent = Vec::new();
        for (rowid, pending) in &writes.pending {
            let is_new = self.together && pending.base == Base::Absent;
            if !is_new && !self.large {
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
        }
        if self.together {
            self.watched.push(keys.rowids());
        }
        for (sorted_set, members) in std::mem::take(&mut self.growing) {
            for chunk in members.chunks(CHUNK) {
                self.asked.push(Asked::new(cmd("ZMSCORE").arg(&sorted_set).arg(chunk), Expect::New));
            }
            self.watched.push(sorted_set);
        }
        for chunk in absent.chunks(CHUNK) {
            let asked = Asked::new(cmd("EXISTS").arg(chunk), Expect::Absent);
            self.asked.push(Asked { unwatched: self.large || self.together, ..asked });
        }
    }

    /// Asks who else has the values of a row that shall be unique.
    fn ask_unique(&mut self, rowid: i64, row: &[Value]) {
        let (table, keys) = (self.table, self.keys);
        let grows = self.together && self.only_new;
        for unique in &table.definition.uniques {
            let sets = unique_keys(table, keys, unique, row);
            // Who adds a row to the set of a new value adds the value to the sorted set; but values of
            // rows that are changed or replaced may stay in it.
            let member = unique.indexed_column().filter(|_| grows && sets.len() == 1).and_then(|n| {
                let column = &table.definition.columns[n];
                trace(keys, &column.name, column.affinity, &row[n]).member
            });
            match member {
                Some((sorted_set, _, member)) => self.growing.entry(sorted_set).or_default().push(member),
                None if self.large => {}
                None => self.watched.extend(sets.iter().cloned()),
            }
            for key in sets {
                self.ask(cmd("SMEMBERS").arg(&key), Expect::Unique(key.clone(), rowid));
            }
        }
    }

    /// Asks for the types of keys that no script looks at: a wrong one in the middle of a transaction
    /// would leave the rest of it done.
    fn ask_types(&mut self, assumed: &[String]) {
        let (table, keys) = (self.table, self.keys);
        let mut sets = BTreeSet::new();
        self.asked.push(Asked::new(cmd("ZCARD").arg(keys.rowids()), Expect::Nothing));
        for name in assumed {
            self.asked.push(Asked::new(cmd("ZCARD").arg(keys.values(name)), Expect::Nothing));
            self.asked.push(Asked::new(cmd("ZCARD").arg(keys.others(name)), Expect::Nothing));
            sets.insert(keys.nulls(name));
        }
        for row in table.writes.borrow().pending.values().filter_map(|pending| pending.row.as_deref()) {
            for (column, value) in table.definition.columns.iter().zip(row) {
                if assumed.contains(&column.name) {
                    sets.insert(trace(keys, &column.name, column.affinity, value).set);
                }
            }
        }
        for chunk in Vec::from_iter(sets).chunks(CHUNK) {
            self.asked.push(Asked::new(cmd("SDIFF").arg(keys.nothing()).arg(chunk), Expect::Sets));
        }
    }
}

impl Checked {
    /// Why the transaction can't be written, if so.
    pub(super) fn refused(&self, table: &Table) -> Result<()> {
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

pub(super) fn answers(
    table: &Table,
    keys: &Keys,
    asked: Vec<Asked>,
    singly: bool,
    replies: Vec<Reply>,
) -> Result<Checked> {
    let writes = table.writes.borrow();
    let (together, only_new) = (is_together(table, singly), is_only_new(table, singly));
    let mut found = Checked { together, only_new, ..Checked::default() };
    for (Asked { command, about, unwatched }, reply) in asked.into_iter().zip(replies) {
        if let (Expect::Sets, Reply::ServerError(error)) = (&about, &reply)
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
            Expect::Nothing | Expect::Sets => {}
            Expect::Counter => found.counter = table.counter_of(&reply)?,
            Expect::Hold => found.held = count(&reply) > 0,
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
