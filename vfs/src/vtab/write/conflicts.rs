//! What is in the way of a new row: rows that a `UNIQUE` constraint or the rowid rules out beside it,
//! and what the conflict clauses say about them.

use std::hash::{DefaultHasher, Hash, Hasher};

use redis::{Value as Reply, cmd};

use crate::model::error::{Cause, Result, code};
use crate::sqlite::value::{Affinity, Value};
use crate::vtab::commit::found::Stranger;
use crate::vtab::declare::{Column, Conflict, Unique, unique_values};
use crate::vtab::layout::index::trace;
use crate::vtab::layout::keys::{Keys, shown};
use crate::vtab::layout::replies::{count, digest, names, rowids};
use crate::vtab::query::operand::Reach;
use crate::vtab::query::range;
use crate::vtab::table::Table;
use crate::vtab::write::Existing;
use crate::wire::request::Request;
use crate::wire::scan::Scan;

/// Rows read at once to know all that can be in the way of others.
const READ_AT_ONCE: usize = 10_000;
/// Rows that are read in the time of a round trip over a network. On one machine it is fewer; so small
/// transactions ask for each of their rows all the same.
const READ_IN_A_TRIP: u64 = 1000;
/// Round trips for single rows before all are read, at least.
const SINGLE: u64 = 12;
/// Tables with more rows are never read for that.
const READ_AT_MOST: u64 = 500_000;

/// What to ask about a row: a key, and the constraint that it is about, or none for the rowid.
type Question = (Option<usize>, Vec<u8>);

fn digest_of(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// What is in the way of a row.
pub(crate) struct Rival {
    rowid: i64,
    /// `None`: the rowid is taken.
    unique: Option<usize>,
}

/// The key that a row's values have under a uniqueness constraint; `None` when one is NULL.
pub(crate) fn unique_key(table: &Table, keys: &Keys, unique: &Unique, row: &[Value]) -> Option<Vec<u8>> {
    unique_keys(table, keys, unique, row).into_iter().next()
}

/// All keys under which an equal row can be, its own first: 10 and 10.0 are equal, and an index
/// has them apart.
pub(crate) fn unique_keys(table: &Table, keys: &Keys, unique: &Unique, row: &[Value]) -> Vec<Vec<u8>> {
    let columns = &table.definition.columns;
    if let Some(n) = unique.indexed_column() {
        let Column { name, affinity, .. } = &columns[n];
        if row[n] == Value::Null {
            return Vec::new();
        }
        let mut all = vec![trace(keys, name, *affinity, &row[n]).set];
        // Small whole numbers have one form in columns for numbers.
        let one_form =
            affinity.is_numeric() && matches!(row[n], Value::Integer(integer) if integer.abs_diff(0) < 1 << 51);
        if !one_form && *affinity != Affinity::Real {
            all.extend(row[n].key_texts().iter().skip(1).map(|text| keys.rows_with(name, text)));
        }
        return all;
    }
    let text = unique_values(unique, row);
    text.map(|text| keys.unique(&unique.name(columns), &text)).into_iter().collect()
}

impl Table {
    /// Rows that a constraint says can't be beside a new one. `but` is the row that it replaces.
    pub(crate) fn rivals(
        &self,
        keys: &Keys,
        rowid: i64,
        named: bool,
        but: Option<i64>,
        row: &[Value],
    ) -> Result<Vec<Rival>> {
        let (mut rivals, questions) = self.known_rivals(keys, rowid, named, but, row);
        if questions.is_empty() {
            return Ok(rivals);
        }
        let mut request = Request::default();
        for (unique, key) in &questions {
            request.push(cmd(if unique.is_some() { "SMEMBERS" } else { "EXISTS" }).arg(key));
        }
        request.push(cmd("ZREVRANGE").arg(keys.rowids()).arg(0).arg(0));
        request.push(cmd("ZCARD").arg(keys.rowids()));
        let look = !self.writes.borrow().indexes_seen;
        if look {
            request.push(cmd("SMEMBERS").arg(keys.indices()));
            request.push(cmd("SMEMBERS").arg(keys.uniques()));
        }
        let mut replies = self.ask(&request)?;
        if look {
            let uniques = names(replies.pop().unwrap_or_default())?;
            let indices = names(replies.pop().unwrap_or_default())?;
            self.writes.borrow_mut().indexes_seen = true;
            if self.lacks_indexes(&indices, &uniques) {
                // Without them, rivals are not found.
                self.restore_indexes()?;
                return self.rivals(keys, rowid, named, but, row);
            }
        }
        let rows = replies.pop().map_or(0, |reply| count(&reply));
        let greatest = replies.pop().map_or(0, |reply| self.greatest_of(&reply));
        for ((unique, _), reply) in questions.into_iter().zip(replies) {
            let Some(unique) = unique else {
                if count(&reply) > 0 {
                    rivals.push(Rival { rowid, unique: None });
                }
                continue;
            };
            for rival in rowids(reply)? {
                let ours = self.writes.borrow().pending.contains_key(&rival);
                if !ours && rival != rowid && Some(rival) != but && self.is_rival(keys, unique, rival, row)? {
                    rivals.push(Rival { rowid: rival, unique: Some(unique) });
                }
            }
        }
        rivals.sort_by_key(|rival| rival.unique);
        self.note_asked(keys, rows, greatest)?;
        Ok(rivals)
    }

    /// Rivals among what is in memory, and what to ask of Redis.
    fn known_rivals(
        &self,
        keys: &Keys,
        rowid: i64,
        named: bool,
        but: Option<i64>,
        row: &[Value],
    ) -> (Vec<Rival>, Vec<Question>) {
        let writes = self.writes.borrow();
        let existing = writes.existing.as_ref();
        let (mut rivals, mut questions) = (Vec::new(), Vec::new());
        if named && but != Some(rowid) {
            match (writes.pending.get(&rowid), existing) {
                (Some(pending), _) if pending.row.is_none() => {}
                (Some(_), _) => rivals.push(Rival { rowid, unique: None }),
                (None, Some(existing)) if !existing.rowids.contains(&rowid) => {}
                (None, Some(_)) => rivals.push(Rival { rowid, unique: None }),
                (None, None) if writes.greatest.is_some_and(|greatest| rowid > greatest) => {}
                (None, None) => questions.push((None, keys.row(rowid))),
            }
        }
        let is_other = |rival: &i64| *rival != rowid && Some(*rival) != but;
        for (n, unique) in self.definition.uniques.iter().enumerate() {
            let Some(values) = unique_values(unique, row) else { continue };
            let about = (n, values);
            let local = writes.uniques.get(&about).into_iter().flatten().filter(|rival| is_other(rival));
            rivals.extend(local.map(|rival| Rival { rowid: *rival, unique: Some(n) }));
            let there = existing.and_then(|existing| existing.uniques.get(&about));
            if writes.was_empty || there.is_some() {
                let there = there.filter(|rival| is_other(rival) && !writes.pending.contains_key(rival));
                rivals.extend(there.map(|rival| Rival { rowid: *rival, unique: Some(n) }));
                continue;
            }
            let unknown = |key: &Vec<u8>| existing.is_none_or(|existing| existing.keys.contains(&digest_of(key)));
            let asked = unique_keys(self, keys, unique, row).into_iter().filter(unknown);
            questions.extend(asked.map(|key| (Some(n), key)));
        }
        rivals.sort_by_key(|rival| rival.unique);
        (rivals, questions)
    }

    /// Asking for each row is best for a few. When as much was spent on that as it takes to read all
    /// rows once, they are read, so that at most twice the least is spent.
    fn note_asked(&self, keys: &Keys, rows: u64, greatest: i64) -> Result<()> {
        {
            let mut writes = self.writes.borrow_mut();
            writes.was_empty = rows == 0;
            writes.greatest.get_or_insert(greatest);
            writes.asked += 1;
            let worth = writes.asked >= SINGLE.max(rows / READ_IN_A_TRIP);
            if writes.existing.is_some() || rows > READ_AT_MOST || !worth {
                return Ok(());
            }
        }
        let mut existing = Existing::default();
        for mut window in range::rowids(keys, &Reach::whole(), false) {
            let mut progress = Scan::default();
            loop {
                let (members, more) = self.read_window(&mut window, READ_AT_ONCE, &mut progress)?;
                let rowids = members.iter().filter_map(|(member, _)| std::str::from_utf8(member).ok()?.parse().ok());
                self.note_existing(keys, &mut existing, &rowids.collect::<Vec<i64>>())?;
                if !more {
                    break;
                }
            }
        }
        self.writes.borrow_mut().existing = Some(existing);
        Ok(())
    }

    fn note_existing(&self, keys: &Keys, existing: &mut Existing, rowids: &[i64]) -> Result<()> {
        existing.rowids.extend(rowids);
        if self.definition.uniques.is_empty() || rowids.is_empty() {
            return Ok(());
        }
        let mut request = Request::default();
        let fetch = self.fetch(keys);
        rowids.iter().for_each(|rowid| request.push_numbered(&fetch, *rowid));
        for (rowid, reply) in rowids.iter().zip(self.ask(&request)?) {
            let Some(row) = self.row_of(*rowid, reply)? else { continue };
            for (n, unique) in self.definition.uniques.iter().enumerate() {
                existing.keys.extend(unique_keys(self, keys, unique, &row).iter().map(|key| digest_of(key)));
                existing.uniques.extend(unique_values(unique, &row).map(|values| ((n, values), *rowid)));
            }
        }
        Ok(())
    }

    /// Whether a row in Redis has the same values, not only the same key. If not, the commit rests on that.
    pub(crate) fn is_rival(&self, keys: &Keys, unique: usize, rival: i64, row: &[Value]) -> Result<bool> {
        let reply = self.ask(&Request::one(&self.fetch_command(keys, rival)))?.pop().unwrap_or_default();
        self.compare_rival(unique, rival, row, reply)
    }

    fn compare_rival(&self, unique: usize, rival: i64, row: &[Value], fetched: Reply) -> Result<bool> {
        let other = self.row_of(rival, fetched)?.unwrap_or_else(|| self.empty_row(rival));
        let definition = &self.definition.uniques[unique];
        let Some(values) = unique_values(definition, row) else { return Ok(false) };
        if unique_values(definition, &other).is_some_and(|others| others == values) {
            return Ok(true);
        }
        let mut writes = self.writes.borrow_mut();
        writes.tolerated.entry((unique, values)).or_default().insert(rival, digest(&other));
        Ok(false)
    }

    /// Compares rows that share a key with a unique value of the transaction with that value.
    ///
    /// # Errors
    /// One has it, so the transaction is overtaken.
    pub(crate) fn compare_strangers(&self, keys: &Keys, strangers: &[Stranger]) -> Result<()> {
        for chunk in strangers.chunks(READ_AT_ONCE) {
            let (mut request, fetch) = (Request::default(), self.fetch(keys));
            chunk.iter().for_each(|stranger| request.push_numbered(&fetch, stranger.rowid));
            for (stranger, reply) in chunk.iter().zip(self.ask(&request)?) {
                let pending = self.writes.borrow().pending.get(&stranger.ours).cloned();
                let Some(row) = pending.and_then(|pending| pending.row) else { continue };
                if self.compare_rival(stranger.unique, stranger.rowid, &row, reply)? {
                    let key = unique_key(self, keys, &self.definition.uniques[stranger.unique], &row);
                    return Err(
                        Cause::Conflict(format!("a unique value, `{}`,", shown(&key.unwrap_or_default()))).into()
                    );
                }
            }
        }
        Ok(())
    }

    /// Does about rivals what the conflict clauses say; `false` to skip the row.
    pub(crate) fn resolve(&self, conflict: Conflict, rivals: Vec<Rival>) -> Result<bool> {
        let mut replaced = Vec::new();
        for rival in rivals {
            let clause = match rival.unique {
                None => self.definition.alias_conflict,
                Some(n) => self.definition.uniques[n].on_conflict,
            };
            // SQLite does not tell ABORT from no clause at all.
            let mode = if conflict == Conflict::Abort { clause.unwrap_or(conflict) } else { conflict };
            match mode {
                Conflict::Replace => replaced.push(rival.rowid),
                Conflict::Ignore if conflict == Conflict::Abort => return Ok(false),
                Conflict::Ignore | Conflict::Rollback | Conflict::Fail | Conflict::Abort => {
                    return Err(self.violation(rival.unique, conflict));
                }
            }
        }
        let mut writes = self.writes.borrow_mut();
        for rowid in replaced {
            let base = writes.base(rowid);
            writes.put(&self.definition, rowid, None, base, None);
        }
        Ok(true)
    }

    fn violation(&self, unique: Option<usize>, conflict: Conflict) -> crate::model::error::Error {
        let name = |column: usize| format!("{}.{}", self.definition.table, self.definition.columns[column].name);
        let (extended, columns) = match (unique, self.definition.alias) {
            (Some(n), _) => {
                let columns: Vec<String> =
                    self.definition.uniques[n].columns.iter().map(|(column, _)| name(*column)).collect();
                (code::CONSTRAINT_UNIQUE, columns.join(", "))
            }
            (None, Some(alias)) => (code::CONSTRAINT_PRIMARYKEY, name(alias)),
            (None, None) => (code::CONSTRAINT_ROWID, format!("{}.rowid", self.definition.table)),
        };
        // Only the plain code makes SQLite look at the statement's conflict clause.
        let code = if conflict == Conflict::Abort { extended } else { code::CONSTRAINT };
        Cause::Constraint { code, message: format!("UNIQUE constraint failed: {columns}") }.into()
    }
}
