//! `redis_create_index()`, `redis_drop_index()`, `redis_drop_data()`, and `ALTER TABLE ... RENAME`:
//! what is done to a whole table, outside of transactions.

use std::collections::BTreeMap;

use redis::{Cmd, cmd};

use crate::model::error::{Cause, Result};
use crate::sqlite::value::{Affinity, Value};
use crate::vtab::commit::hold::Lock;
use crate::vtab::commit::optimistic::Watch;
use crate::vtab::commit::scripted::Sink;
use crate::vtab::layout::index::{Part, Trace, trace, value_of};
use crate::vtab::layout::keys::{Keys, refuse_ambiguous};
use crate::vtab::layout::replies::{Row, bulk, count, names};
use crate::vtab::query::operand::Reach;
use crate::vtab::query::range;
use crate::vtab::query::range::{Member, Window};
use crate::vtab::query::row_source::members;
use crate::vtab::table::Table;
use crate::vtab::write::conflicts::unique_key;
use crate::wire::reply::array;
use crate::wire::request::Request;
use crate::wire::scan::Scan;

/// Rows indexed in one transaction or read in one request, keys removed by one command.
const BATCH: usize = 500;
/// Members read in one round trip where nothing else is.
const MEMBERS: usize = 5000;

impl Table {
    /// Makes an index on a column. Rows that are there are indexed batch by batch, while writers
    /// already keep the index; all clients use it from one moment on. `false` if there is one.
    pub(crate) fn create_index(&self, name: &str) -> Result<bool> {
        let column = self.indexable(name)?;
        let name = &self.definition.columns[column].name;
        let keys = self.keys();
        let mut request = Request::one(cmd("SISMEMBER").arg(keys.indices()).arg(name));
        request.push(cmd("SADD").arg(keys.building()).arg(name));
        if self.ask(&request)?.first().is_some_and(|reply| count(reply) > 0) {
            self.ask(&Request::one(cmd("SREM").arg(keys.building()).arg(name)))?;
            self.refresh()?;
            return Ok(false);
        }
        let values = self.index_rows(&keys, column)?;
        if self.is_unique(column) {
            self.refuse_duplicates(&keys, column, values)?;
        }
        self.at_once(|watch| {
            let named = [keys.building(), keys.indices()];
            let is_member = |key| cmd("SISMEMBER").arg(key).arg(name).to_owned();
            if watch.ask(&named, &named.each_ref().map(is_member))?.iter().all(|reply| count(reply) == 0) {
                return Err(Cause::Conflict(format!("the index on `{name}`")).into());
            }
            let [building, indices] = &named;
            let switch =
                [cmd("SREM").arg(building).arg(name).to_owned(), cmd("SADD").arg(indices).arg(name).to_owned()];
            Ok((switch.to_vec(), ()))
        })?;
        self.refresh()?;
        Ok(true)
    }

    fn is_unique(&self, column: usize) -> bool {
        self.definition.uniques.iter().any(|unique| unique.indexed_column() == Some(column))
    }

    fn indexable(&self, name: &str) -> Result<usize> {
        let refuse = |message: String| Err(Cause::Declaration(message).into());
        let Some(column) = self.definition.column(name) else {
            return refuse(format!("there is no column `{name}`"));
        };
        if self.definition.alias == Some(column) {
            return refuse(format!("the column `{name}` is the rowid, which needs no index"));
        }
        if name.contains(':') {
            return refuse(format!("the column `{name}` can't have an index: keys would be ambiguous for its colon"));
        }
        Ok(column)
    }

    /// Returns how many rows have a value other than NULL.
    fn index_rows(&self, keys: &Keys, column: usize) -> Result<u64> {
        let mut values = 0;
        for mut window in range::rowids(keys, &Reach::whole(), false) {
            let mut progress = Scan::default();
            loop {
                let (members, more) = self.read_window(&mut window, BATCH, &mut progress)?;
                let rowids: Vec<i64> = members.iter().filter_map(rowid_of).collect();
                for chunk in rowids.chunks(BATCH) {
                    values += self.at_once(|watch| self.index_batch(watch, keys, column, chunk))?;
                }
                if !more {
                    break;
                }
            }
        }
        Ok(values)
    }

    /// What adds some rows to an index, and how many of them have a value other than NULL.
    fn index_batch(
        &self,
        watch: &mut Watch<'_>,
        keys: &Keys,
        column: usize,
        rowids: &[i64],
    ) -> Result<(Vec<Cmd>, u64)> {
        let column_of = &self.definition.columns[column];
        let (mut changes, mut values) = (Vec::new(), 0);
        for (rowid, row) in self.watched_rows(watch, keys, rowids)? {
            let Trace { set, member } = trace(keys, &column_of.name, column_of.affinity, &row[column]);
            changes.push(cmd("SADD").arg(set).arg(rowid).to_owned());
            if let Some((key, score, member)) = member {
                changes.push(cmd("ZADD").arg(key).arg(score).arg(member).to_owned());
                values += 1;
            }
        }
        Ok((changes, values))
    }

    /// Those of some rows that exist.
    fn watched_rows(&self, watch: &mut Watch<'_>, keys: &Keys, rowids: &[i64]) -> Result<Vec<(i64, Row)>> {
        let row_keys: Vec<Vec<u8>> = rowids.iter().map(|rowid| keys.row(*rowid)).collect();
        let exist = row_keys.iter().map(|key| cmd("EXISTS").arg(key).to_owned());
        let fetch = rowids.iter().map(|rowid| self.fetch_command(keys, *rowid));
        let mut replies = watch.ask(&row_keys, &exist.chain(fetch).collect::<Vec<Cmd>>())?;
        let fetched = replies.split_off(rowids.len());
        let mut rows = Vec::new();
        for ((rowid, exists), reply) in rowids.iter().zip(replies).zip(fetched) {
            if count(&exists) > 0 {
                rows.push((*rowid, self.row_of(*rowid, reply)?.unwrap_or_else(|| self.empty_row(*rowid))));
            }
        }
        Ok(rows)
    }

    /// Rows that were there before the constraint may violate it.
    fn refuse_duplicates(&self, keys: &Keys, column: usize, rows: u64) -> Result<()> {
        let name = &self.definition.columns[column].name;
        let mut request = Request::one(cmd("ZCARD").arg(keys.values(name)));
        request.push(cmd("ZCARD").arg(keys.others(name)));
        let distinct: u64 = self.ask(&request)?.iter().map(count).sum();
        if distinct >= rows {
            return Ok(());
        }
        self.remove_index(keys, name, self.definition.columns[column].affinity)?;
        Err(Cause::Declaration(format!(
            "the column `{name}` can't be UNIQUE: {rows} rows that are there have {distinct} different values"
        ))
        .into())
    }

    /// Removes the index of a column, for all clients. `false` if there is none.
    pub(crate) fn drop_index(&self, name: &str) -> Result<bool> {
        let column = self.indexable(name)?;
        if self.is_unique(column) {
            return Err(Cause::Declaration(format!("the index on `{name}` can't go: the column is UNIQUE")).into());
        }
        let column = &self.definition.columns[column];
        let removed = self.remove_index(&self.keys(), &column.name, column.affinity)?;
        self.refresh()?;
        Ok(removed)
    }

    fn remove_index(&self, keys: &Keys, name: &str, affinity: Affinity) -> Result<bool> {
        self.locked(std::slice::from_ref(keys), |lock, changes| {
            let look = Request::one(cmd("SISMEMBER").arg(keys.indices()).arg(name));
            let removed = self.ask(&look)?.first().is_some_and(|reply| count(reply) > 0);
            changes.push(cmd("SREM").arg(keys.indices()).arg(name));
            changes.push(cmd("SREM").arg(keys.building()).arg(name));
            delete(&self.index_keys(lock, keys, name, affinity)?, changes);
            Ok(removed)
        })
    }

    /// Every key of one index; some may not exist.
    fn index_keys(&self, lock: &Lock<'_>, keys: &Keys, name: &str, affinity: Affinity) -> Result<Vec<Vec<u8>>> {
        let mut all = of_index(keys, name);
        for mut window in range::windows(keys, name, affinity, &Reach::whole(), false) {
            if window.part == Part::Nulls {
                continue;
            }
            for (member, score) in self.all_members(lock, &mut window)? {
                let value = value_of(window.part, affinity, &member, score);
                all.extend(value.as_ref().and_then(Value::key_text).map(|text| keys.rows_with(name, &text)));
            }
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// The next members of a window, and whether there are more.
    pub(super) fn read_window(
        &self,
        window: &mut Window,
        limit: usize,
        progress: &mut Scan,
    ) -> Result<(Vec<Member>, bool)> {
        let reply = self.ask(&Request::one(&window.command(limit)))?.pop().unwrap_or_default();
        progress.called(|| self.place.size(&window.size()))?;
        Ok(window.advance(members(window.part, reply)?, limit))
    }

    fn all_members(&self, lock: &Lock<'_>, window: &mut Window) -> Result<Vec<Member>> {
        let (mut all, mut progress) = (Vec::new(), Scan::default());
        loop {
            lock.renew()?;
            let (members, more) = self.read_window(window, MEMBERS, &mut progress)?;
            all.extend(members);
            if !more {
                return Ok(all);
            }
        }
    }

    fn all_rowids(&self, lock: &Lock<'_>, keys: &Keys) -> Result<Vec<i64>> {
        let mut all = Vec::new();
        for mut window in range::rowids(keys, &Reach::whole(), false) {
            all.extend(self.all_members(lock, &mut window)?.iter().filter_map(rowid_of));
        }
        Ok(all)
    }

    /// Every key of the table, and how many rows there are; some keys may not exist.
    fn all_keys(&self, lock: &Lock<'_>, keys: &Keys) -> Result<(Vec<Vec<u8>>, usize)> {
        let mut all = vec![keys.rowids(), keys.counter(), keys.indices(), keys.building(), keys.uniques()];
        let named = Request::one(cmd("SUNION").arg(keys.indices()).arg(keys.building()));
        let indices = names(self.ask(&named)?.pop().unwrap_or_default())?;
        let rows = self.all_rowids(lock, keys)?;
        for name in &indices {
            // The type of a column that is not ours is not known: all that it could be.
            let known = self.definition.columns.iter().find(|column| column.name == *name);
            let affinities = match known {
                Some(column) => vec![column.affinity],
                None => vec![Affinity::Text, Affinity::Integer, Affinity::Real],
            };
            for affinity in affinities {
                // A sorted set of text read by score, and the other way round, gives its members.
                all.extend(self.index_keys(lock, keys, name, affinity)?);
            }
        }
        all.extend(self.unique_keys(lock, keys)?);
        let count = rows.len();
        all.extend(rows.into_iter().map(|rowid| keys.row(rowid)));
        all.sort();
        all.dedup();
        Ok((all, count))
    }

    /// Keys of uniqueness constraints, also of those that only other clients declare.
    fn unique_keys(&self, lock: &Lock<'_>, keys: &Keys) -> Result<Vec<Vec<u8>>> {
        let registered = self.ask(&Request::one(cmd("EXISTS").arg(keys.uniques())))?;
        if registered.first().is_none_or(|reply| count(reply) == 0) {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        // Names of constraints begin with a quote, unlike the rowids of a table whose name ends with `.unique`.
        let pattern = escaped(&keys.unique("\"", b""));
        let pattern = [pattern.strip_suffix(b":").unwrap_or(&pattern), b"*"].concat();
        let (mut cursor, mut progress) = ("0".to_owned(), Scan::default());
        loop {
            lock.renew()?;
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
            let mut parts = array("SCAN", self.ask(&Request::one(&scan))?.pop().unwrap_or_default())?.into_iter();
            let next = progress.after(parts.next().as_ref(), || self.place.size(&cmd("DBSIZE")))?;
            let found = array("SCAN", parts.next().unwrap_or_default())?;
            all.extend(found.iter().filter_map(|key| bulk(Some(key))).map(<[u8]>::to_vec));
            let Some(next) = next else { return Ok(all) };
            cursor = next;
        }
    }

    /// Removes all rows and indexes from Redis, at once. Returns how many rows there were. Indexes
    /// that the definition asks for stay in use, or `UNIQUE` would not hold for a moment.
    pub(crate) fn drop_data(&self) -> Result<usize> {
        self.refuse_inside_transaction("its data can't be dropped")?;
        let keys = self.keys();
        let declared: Vec<&str> =
            self.definition.indexed.iter().map(|column| self.definition.columns[*column].name.as_str()).collect();
        let uniques: Vec<String> = self.definition.own_uniques().collect();
        let rows = self.locked(std::slice::from_ref(&keys), |lock, changes| {
            let (all, rows) = self.all_keys(lock, &keys)?;
            delete(&all, changes);
            if !declared.is_empty() {
                changes.push(cmd("SADD").arg(keys.indices()).arg(&declared));
            }
            if !uniques.is_empty() {
                changes.push(cmd("SADD").arg(keys.uniques()).arg(&uniques));
            }
            Ok(rows)
        })?;
        self.refresh()?;
        Ok(rows)
    }

    fn refuse_inside_transaction(&self, what: &str) -> Result<()> {
        if self.writes.borrow().is_empty() {
            return Ok(());
        }
        Err(Cause::Declaration(format!("{what} while a transaction has changed it; commit or roll back first")).into())
    }

    /// Whether an index or constraint that the definition asks for is not among these: another client has dropped
    /// it, or the server has lost its keys.
    pub(crate) fn lacks_indexes(&self, indices: &[String], uniques: &[String]) -> bool {
        let definition = &self.definition;
        definition.indexed.iter().any(|column| !indices.contains(&definition.columns[*column].name))
            || definition.own_uniques().any(|name| !uniques.contains(&name))
    }

    /// Makes the declared indexes that are missing.
    ///
    /// # Errors
    /// Rows that are there violate a `UNIQUE` constraint.
    pub(crate) fn restore_indexes(&self) -> Result<()> {
        self.refresh()?;
        self.create_declared_indexes()
    }

    /// Makes the indexes of columns declared `INDEXED` or `UNIQUE`, as far as they are missing.
    pub(crate) fn create_declared_indexes(&self) -> Result<()> {
        let known = self.known();
        for column in &self.definition.indexed {
            let name = &self.definition.columns[*column].name;
            if !known.indices.contains(name) {
                self.create_index(name)?;
            }
        }
        self.create_unique_keys()
    }

    /// Uniqueness constraints with keys of their own, over rows that are there.
    fn create_unique_keys(&self) -> Result<()> {
        let definition = &self.definition;
        let own: Vec<_> = definition.uniques.iter().filter(|unique| unique.indexed_column().is_none()).collect();
        if own.is_empty() {
            return Ok(());
        }
        let keys = self.keys();
        let reply = self.ask(&Request::one(cmd("SMEMBERS").arg(keys.uniques())))?.pop().unwrap_or_default();
        let registered = names(reply)?;
        let missing = own.into_iter().filter(|unique| !registered.contains(&unique.name(&definition.columns)));
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = missing.iter().map(|unique| unique.name(&definition.columns)).collect();
        self.locked(std::slice::from_ref(&keys), |lock, changes| {
            let mut sets: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
            for chunk in self.all_rowids(lock, &keys)?.chunks(BATCH) {
                lock.renew()?;
                for (rowid, row) in self.rows_of(&keys, chunk)? {
                    for key in missing.iter().filter_map(|unique| unique_key(self, &keys, unique, &row)) {
                        if sets.insert(key, rowid).is_some() {
                            let why = "rows that are there violate a UNIQUE constraint";
                            return Err(Cause::Declaration(why.into()).into());
                        }
                    }
                }
            }
            sets.into_iter().for_each(|(key, rowid)| changes.push(cmd("SADD").arg(key).arg(rowid)));
            changes.push(cmd("SADD").arg(keys.uniques()).arg(&names));
            Ok(())
        })
    }

    /// Those of some rows that exist.
    fn rows_of(&self, keys: &Keys, rowids: &[i64]) -> Result<Vec<(i64, Row)>> {
        let (mut request, fetch) = (Request::default(), self.fetch(keys));
        for rowid in rowids {
            request.push_numbered(&fetch, *rowid);
            request.push(cmd("EXISTS").arg(keys.row(*rowid)));
        }
        let replies = self.ask(&request)?;
        let mut rows = Vec::new();
        for (rowid, [row, exists]) in rowids.iter().zip(replies.as_chunks::<2>().0) {
            if count(exists) > 0 {
                rows.push((*rowid, self.row_of(*rowid, row.clone())?.unwrap_or_else(|| self.empty_row(*rowid))));
            }
        }
        Ok(rows)
    }

    /// `ALTER TABLE ... RENAME TO`: renames the keys, all at once.
    /// SQLite has no callback that would take it back.
    pub(crate) fn rename(&self, name: &str, autocommit: bool) -> Result<()> {
        if !autocommit {
            let words = "it can't be renamed inside a transaction, which could not be rolled back; commit first";
            return Err(Cause::Declaration(words.into()).into());
        }
        self.refuse_inside_transaction("it can't be renamed")?;
        refuse_ambiguous(&self.definition.prefix, &self.definition.schema, name)?;
        self.rename_keys(&self.keys(), &Keys::new(&self.definition.prefix, &self.definition.schema, name))?;
        crate::vtab::commit::forget_mark(self);
        self.set_name(name);
        Ok(())
    }

    fn rename_keys(&self, old: &Keys, new: &Keys) -> Result<()> {
        self.locked(&[old.clone(), new.clone()], |lock, changes| {
            let taken = Request::one(cmd("EXISTS").arg(&[new.rowids(), new.counter(), new.indices()]));
            if self.ask(&taken)?.first().is_some_and(|reply| count(reply) > 0) {
                return Err(Cause::Declaration(format!("there are keys `{}` already", new.base())).into());
            }
            for key in self.all_keys(lock, old)?.0 {
                let renamed = [new.base().as_bytes(), &key[old.base().len()..]].concat();
                changes.push(cmd("move").arg(key).arg(renamed));
            }
            Ok(())
        })
    }
}

/// The sorted sets of an index, and the set of NULL.
fn of_index(keys: &Keys, name: &str) -> Vec<Vec<u8>> {
    vec![keys.values(name), keys.others(name), keys.nulls(name)]
}

fn delete(keys: &[Vec<u8>], changes: &mut impl Sink) {
    keys.chunks(BATCH).for_each(|chunk| changes.push(cmd("UNLINK").arg(chunk)));
}

fn rowid_of(member: &Member) -> Option<i64> {
    std::str::from_utf8(&member.0).ok()?.parse().ok()
}

/// A text as pattern of `SCAN` that only it fits.
fn escaped(text: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::new();
    for byte in text {
        if b"*?[]\\^".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern
}
