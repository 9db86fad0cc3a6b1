//! `redis_create_index()`, `redis_drop_index()`, `redis_drop_data()`, and `ALTER TABLE ... RENAME`:
//! what is done to a whole table, outside of transactions.

use redis::{Value as Reply, cmd};

use super::index::{Part, Trace, trace, value_of};
use super::keys::{Keys, shown};
use super::range::{self, Member, Window};
use super::table::{Table, bulk, count, names};
use super::value::{Affinity, Value};
use super::write::unique_key;
use crate::error::{Cause, Result};
use crate::store::protocol::{array, text};
use crate::store::server::{Request, checked};

/// Rows indexed in one transaction, keys removed or renamed by one command.
const BATCH: usize = 500;

impl Table {
    /// Makes an index on a column. Rows that are there are indexed batch by batch, while writers
    /// already keep the index; all clients use it from one moment on. `false` if there is one.
    pub(crate) fn create_index(&self, name: &str) -> Result<bool> {
        let column = self.indexable(name)?;
        let name = &self.definition.columns[column].name;
        let keys = self.keys();
        let mut request = Request::one(cmd("SISMEMBER").arg(keys.indices()).arg(name));
        request.push(cmd("SADD").arg(keys.building()).arg(name));
        if self.place.ask(&request)?.first().is_some_and(|reply| count(reply) > 0) {
            self.place.ask(&Request::one(cmd("SREM").arg(keys.building()).arg(name)))?;
            self.refresh()?;
            return Ok(false);
        }
        let values = self.index_rows(&keys, column)?;
        if self.is_unique(column) {
            self.refuse_duplicates(&keys, column, values)?;
        }
        let mut switch = Request::one(&cmd("MULTI"));
        switch.push(cmd("SREM").arg(keys.building()).arg(name));
        switch.push(cmd("SADD").arg(keys.indices()).arg(name));
        switch.push(&cmd("EXEC"));
        self.place.ask(&switch)?;
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
        let mut windows = range::rowids(keys, &None, &None, false);
        let Some(mut window) = windows.pop() else { return Ok(0) };
        let mut values = 0;
        loop {
            let reply = self.place.ask(&Request::one(&window.command(BATCH)))?.pop().unwrap_or_default();
            let (members, more) = window.advance(scored(reply)?, BATCH);
            let rowids: Vec<i64> = members.iter().filter_map(rowid_of).collect();
            for chunk in rowids.chunks(BATCH) {
                values += loop {
                    if let Some(values) = self.index_batch(keys, column, chunk)? {
                        break values;
                    }
                };
            }
            if !more {
                return Ok(values);
            }
        }
    }

    /// Indexes some rows, unless one of them changes meanwhile: `None` then.
    fn index_batch(&self, keys: &Keys, column: usize, rowids: &[i64]) -> Result<Option<u64>> {
        let name = &self.definition.columns[column].name;
        let row_keys: Vec<Vec<u8>> = rowids.iter().map(|rowid| keys.row(*rowid)).collect();
        let mut look = Request::one(cmd("WATCH").arg(&row_keys));
        for (rowid, key) in rowids.iter().zip(&row_keys) {
            look.push(cmd("EXISTS").arg(key));
            look.push(&self.fetch_command(keys, *rowid));
        }
        look.push(&cmd("MULTI"));
        let server = self.place.server()?;
        let mut link = server.link()?;
        let replies: Result<Vec<Reply>> = link.exchange(&look)?.into_iter().map(checked).collect();
        if replies.is_err() {
            link.close();
        }
        let mut replies = replies?.into_iter().skip(1);
        let mut request = Request::default();
        let mut values = 0;
        for rowid in rowids {
            let (exists, reply) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
            if count(&exists) == 0 {
                continue;
            }
            let row = self.row_of(*rowid, reply).inspect_err(|_| link.close())?;
            let row = row.unwrap_or_else(|| self.empty_row(*rowid));
            let Trace { set, member } = trace(keys, name, self.definition.columns[column].affinity, &row[column]);
            request.push(cmd("SADD").arg(set).arg(*rowid));
            if let Some((key, score, member)) = member {
                request.push(cmd("ZADD").arg(key).arg(score).arg(member));
                values += 1;
            }
        }
        request.push(&cmd("EXEC"));
        let mut replies = link.exchange(&request)?;
        let exec = replies.pop().unwrap_or_default();
        for reply in replies {
            checked(reply)?;
        }
        match checked(exec)? {
            Reply::Nil => Ok(None),
            Reply::Array(results) => {
                results.into_iter().map(checked).collect::<Result<Vec<_>>>()?;
                Ok(Some(values))
            }
            other => Err(crate::store::protocol::bad_reply("EXEC", &other).into()),
        }
    }

    /// Rows that were there before the constraint may violate it.
    fn refuse_duplicates(&self, keys: &Keys, column: usize, rows: u64) -> Result<()> {
        let name = &self.definition.columns[column].name;
        let mut request = Request::one(cmd("ZCARD").arg(keys.values(name)));
        request.push(cmd("ZCARD").arg(keys.others(name)));
        let distinct: u64 = self.place.ask(&request)?.iter().map(count).sum();
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
        let mut switch = Request::one(&cmd("MULTI"));
        switch.push(cmd("SREM").arg(keys.indices()).arg(name));
        switch.push(cmd("SREM").arg(keys.building()).arg(name));
        switch.push(&cmd("EXEC"));
        let done = self.place.ask(&switch)?.pop().unwrap_or_default();
        let removed = array("EXEC", done)?.first().is_some_and(|reply| count(reply) > 0);
        self.unlink(self.index_keys(keys, name, affinity)?)?;
        Ok(removed)
    }

    fn unlink(&self, all: Vec<Vec<u8>>) -> Result<()> {
        for chunk in all.chunks(BATCH) {
            self.place.ask(&Request::one(cmd("UNLINK").arg(chunk)))?;
        }
        Ok(())
    }

    /// Every key of one index; some may not exist.
    fn index_keys(&self, keys: &Keys, name: &str, affinity: Affinity) -> Result<Vec<Vec<u8>>> {
        let mut all = vec![keys.values(name), keys.others(name), keys.nulls(name)];
        for mut window in range::windows(keys, name, affinity, (&None, &None), false) {
            if window.part == Part::Nulls {
                continue;
            }
            for (member, score) in self.all_members(&mut window)? {
                let value = value_of(window.part, affinity, &member, score);
                all.extend(value.as_ref().and_then(Value::key_text).map(|text| keys.rows_with(name, &text)));
            }
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    fn all_members(&self, window: &mut Window) -> Result<Vec<Member>> {
        let mut all = Vec::new();
        loop {
            let reply = self.place.ask(&Request::one(&window.command(BATCH)))?.pop().unwrap_or_default();
            let members = if window.part == Part::Numbers { scored(reply)? } else { unscored(reply)? };
            let (members, more) = window.advance(members, BATCH);
            all.extend(members);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Every key of the table; some may not exist.
    fn all_keys(&self, keys: &Keys) -> Result<(Vec<Vec<u8>>, usize)> {
        let indices =
            names(self.place.ask(&Request::one(cmd("SMEMBERS").arg(keys.indices())))?.pop().unwrap_or_default())?;
        let mut all = vec![keys.rowids(), keys.counter(), keys.indices(), keys.building(), keys.uniques()];
        let mut rows = 0;
        for mut window in range::rowids(keys, &None, &None, false) {
            let members = self.all_members(&mut window)?;
            rows += members.len();
            all.extend(members.iter().filter_map(rowid_of).map(|rowid| keys.row(rowid)));
        }
        for name in &indices {
            // The type of a column that is not ours is not known: all that it could be.
            let known = self.definition.columns.iter().find(|column| column.name == *name);
            let affinities = match known {
                Some(column) => vec![column.affinity],
                None => vec![Affinity::Text, Affinity::Integer, Affinity::Real],
            };
            for affinity in affinities {
                // A sorted set of text read by score, and the other way round, gives its members.
                let keys_of = self.index_keys(keys, name, affinity)?;
                all.extend(keys_of);
            }
        }
        all.extend(self.unique_keys(keys)?);
        all.sort();
        all.dedup();
        Ok((all, rows))
    }

    /// Keys of uniqueness constraints, also of those that only other clients declare.
    fn unique_keys(&self, keys: &Keys) -> Result<Vec<Vec<u8>>> {
        let registered = self.place.ask(&Request::one(cmd("EXISTS").arg(keys.uniques())))?;
        if registered.first().is_none_or(|reply| count(reply) == 0) {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        let pattern = escaped(&keys.unique("", b""));
        let pattern = [pattern.strip_suffix(b":").unwrap_or(&pattern), b"*"].concat();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
            let mut parts = array("SCAN", self.place.ask(&Request::one(&scan))?.pop().unwrap_or_default())?.into_iter();
            cursor = parts.next().as_ref().and_then(text).unwrap_or_default();
            let found = array("SCAN", parts.next().unwrap_or_default())?;
            all.extend(found.iter().filter_map(|key| bulk(Some(key))).map(<[u8]>::to_vec));
            if cursor == "0" || cursor.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Removes all rows and indexes from Redis. Returns how many rows there were.
    pub(crate) fn drop_data(&self) -> Result<usize> {
        self.refuse_inside_transaction("its data can't be dropped")?;
        let keys = self.keys();
        let (all, rows) = self.all_keys(&keys)?;
        self.unlink(all)?;
        self.refresh()?;
        // Indexes that the definition asks for are there also when nothing else is.
        self.create_declared_indexes()?;
        Ok(rows)
    }

    fn refuse_inside_transaction(&self, what: &str) -> Result<()> {
        if self.writes.borrow().is_empty() {
            return Ok(());
        }
        Err(Cause::Declaration(format!("{what} while a transaction has changed it; commit or roll back first")).into())
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
        self.create_unique_keys(&known)
    }

    /// Uniqueness constraints with keys of their own, over rows that are there.
    fn create_unique_keys(&self, known: &super::table::Known) -> Result<()> {
        let definition = &self.definition;
        let own: Vec<_> = definition.uniques.iter().filter(|unique| unique.indexed_column().is_none()).collect();
        if own.is_empty() {
            return Ok(());
        }
        let keys = self.keys();
        let reply = self.place.ask(&Request::one(cmd("SMEMBERS").arg(keys.uniques())))?.pop().unwrap_or_default();
        let registered = names(reply)?;
        let missing = own.into_iter().filter(|unique| !registered.contains(&unique.name(&definition.columns)));
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() || known.rows == 0 {
            return Ok(());
        }
        for mut window in range::rowids(&keys, &None, &None, false) {
            for chunk in self.all_members(&mut window)?.chunks(BATCH) {
                let rowids: Vec<i64> = chunk.iter().filter_map(rowid_of).collect();
                let mut request = Request::default();
                rowids.iter().for_each(|rowid| request.push(&self.fetch_command(&keys, *rowid)));
                let mut add = Request::default();
                for (rowid, reply) in rowids.iter().zip(self.place.ask(&request)?) {
                    let Some(row) = self.row_of(*rowid, reply)? else { continue };
                    for unique in &missing {
                        let Some(key) = unique_key(self, &keys, unique, &row) else { continue };
                        add.push(cmd("SADD").arg(&key).arg(*rowid));
                        add.push(cmd("SCARD").arg(&key));
                    }
                }
                let replies = self.place.ask(&add)?;
                if replies.iter().skip(1).step_by(2).any(|reply| count(reply) > 1) {
                    let all = self.unique_keys(&keys)?;
                    self.unlink(all)?;
                    return Err(Cause::Declaration("rows that are there violate a UNIQUE constraint".into()).into());
                }
            }
        }
        let names: Vec<String> = missing.iter().map(|unique| unique.name(&definition.columns)).collect();
        self.place.ask(&Request::one(cmd("SADD").arg(keys.uniques()).arg(names)))?;
        Ok(())
    }

    /// `ALTER TABLE ... RENAME TO`: renames the keys, all at once.
    /// SQLite has no callback that would take it back.
    pub(crate) fn rename(&self, name: &str, autocommit: bool) -> Result<()> {
        if !autocommit {
            let words = "it can't be renamed inside a transaction, which could not be rolled back; commit first";
            return Err(Cause::Declaration(words.into()).into());
        }
        self.refuse_inside_transaction("it can't be renamed")?;
        super::commit::forget_mark(self);
        self.rename_keys(&self.keys(), &Keys::new(&self.definition.prefix, &self.definition.schema, name))?;
        self.set_name(name);
        Ok(())
    }

    fn rename_keys(&self, old: &Keys, new: &Keys) -> Result<()> {
        let taken = Request::one(cmd("EXISTS").arg(new.rowids()).arg(new.counter()).arg(new.indices()));
        if self.place.ask(&taken)?.first().is_some_and(|reply| count(reply) > 0) {
            return Err(Cause::Declaration(format!("there are keys `{}` already", new.base())).into());
        }
        let (all, _) = self.all_keys(old)?;
        let mut look = Request::default();
        for chunk in all.chunks(BATCH) {
            look.push(cmd("WATCH").arg(chunk));
        }
        let watched = all.len().div_ceil(BATCH);
        all.iter().for_each(|key| look.push(cmd("EXISTS").arg(key)));
        look.push(&cmd("MULTI"));
        let server = self.place.server()?;
        let mut link = server.link()?;
        let replies: Result<Vec<Reply>> = link.exchange(&look)?.into_iter().map(checked).collect();
        if replies.is_err() {
            link.close();
        }
        let mut request = Request::default();
        for (key, exists) in all.iter().zip(replies?.iter().skip(watched)) {
            if count(exists) > 0 {
                let renamed = [new.base().as_bytes(), &key[old.base().len()..]].concat();
                request.push(cmd("RENAME").arg(key).arg(renamed));
            }
        }
        request.push(&cmd("EXEC"));
        let mut replies = link.exchange(&request)?;
        let exec = checked(replies.pop().unwrap_or_default())?;
        replies.into_iter().map(checked).collect::<Result<Vec<_>>>()?;
        match exec {
            Reply::Nil => Err(Cause::Conflict(format!("the table `{}`", shown(old.base().as_bytes()))).into()),
            exec => array("EXEC", exec)?.into_iter().map(checked).collect::<Result<Vec<_>>>().map(|_| ()),
        }
    }
}

fn rowid_of(member: &Member) -> Option<i64> {
    std::str::from_utf8(&member.0).ok()?.parse().ok()
}

fn scored(reply: Reply) -> Result<Vec<Member>> {
    super::cursor::members(Part::Numbers, reply)
}

fn unscored(reply: Reply) -> Result<Vec<Member>> {
    super::cursor::members(Part::Texts, reply)
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
