//! What a commit rests on: the questions about a table before it is written, the keys that are
//! watched meanwhile, and whether the replies are what the transaction saw.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis::{Cmd, Value as Reply, cmd};

use super::commit::CHUNK;
use super::index::trace;
use super::keys::{Keys, shown};
use super::large::Claim;
use super::rivals::unique_keys;
use super::table::{Table, bulk, count, digest, names, rowids};
use super::write::Base;
use crate::error::Result;
use crate::store::protocol::array;
use crate::store::request::Request;
use crate::store::server::checked;

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
    /// A value that shall be unique is in its sorted set already: that one would not grow.
    pub settled: bool,
    /// The transaction is overtaken: why.
    pub conflict: Option<String>,
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
    /// What a key holds that is not watched, and the command that asks.
    Unwatched(Cmd, Box<Expect>),
}

/// Whether a table's new rows are to be watched together.
pub(super) fn is_together(table: &Table, singly: bool) -> bool {
    let writes = table.writes.borrow();
    !singly && writes.pending.values().filter(|pending| pending.base == Base::Absent).nth(SINGLY).is_some()
}

/// Whether the keys that a table's rows are watched by, each by itself, are too many for that.
fn is_large(table: &Table, singly: bool) -> bool {
    let together = is_together(table, singly);
    let writes = table.writes.borrow();
    let each = writes.pending.values().filter(|pending| !(together && pending.base == Base::Absent)).map(|_| ());
    each.chain(writes.watched().map(|_| ())).nth(SINGLY).is_some() && !table.place.is_cluster().unwrap_or(true)
}

/// The questions about one table, and what the replies are about.
pub(super) fn questions(
    table: &Table,
    keys: &Keys,
    assumed: &[String],
    singly: bool,
    request: &mut Request,
) -> Vec<Expect> {
    let (together, large) = (is_together(table, singly), is_large(table, singly));
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
    let unwatched = |command: Cmd, about: Expect| match large {
        true => (command.clone(), Expect::Unwatched(command, Box::new(about))),
        false => (command, about),
    };
    for (rowid, pending) in &writes.pending {
        let is_new = together && pending.base == Base::Absent;
        if !is_new && !large {
            watched.push(keys.row(*rowid));
        }
        match pending.base {
            Base::Absent => absent.push(keys.row(*rowid)),
            base => {
                let command = cmd("HGETALL").arg(keys.row(*rowid)).to_owned();
                asked.push(unwatched(command, Expect::Row(*rowid, base)));
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
                None if large => {}
                None => watched.extend(sets.iter().cloned()),
            }
            for key in sets {
                asked.push(unwatched(cmd("SMEMBERS").arg(&key).to_owned(), Expect::Unique(key, *rowid)));
            }
        }
        for (column, value) in table.definition.columns.iter().zip(row) {
            if assumed.contains(&column.name) {
                sets.insert(trace(keys, &column.name, column.affinity, value).set);
            }
        }
    }
    for (rowid, digest) in writes.watched() {
        if !large {
            watched.push(keys.row(rowid));
        }
        asked.push(unwatched(table.fetch_command(keys, rowid), Expect::Seen(rowid, digest)));
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
        let command = cmd("EXISTS").arg(chunk).to_owned();
        asked.push(if together { (command, Expect::Absent) } else { unwatched(command, Expect::Absent) });
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

pub(super) fn answers(table: &Table, keys: &Keys, expected: Vec<Expect>, replies: Vec<Reply>) -> Result<Checked> {
    let writes = table.writes.borrow();
    let mut found = Checked::default();
    for (about, reply) in expected.into_iter().zip(replies) {
        let reply = checked(reply)?;
        let about = match about {
            Expect::Unwatched(command, about) => {
                found.claims.push((command, reply.clone()));
                *about
            }
            about => about,
        };
        match about {
            Expect::Nothing | Expect::Unwatched(..) => {}
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
