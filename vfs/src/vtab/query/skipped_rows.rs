//! Rows before an `OFFSET`. SQLite counts them itself, and mostly does not ask what is in them: so such
//! a row is looked at, that it is there and has the value under which the index has it, but not read.
//! SQLite may have conditions that it did not tell; should it ask for more, the row is read then, and
//! all that follow as well.

use std::rc::Rc;

use redis::{Value as Reply, cmd};

use crate::model::error::{Cause, Result};
use crate::vtab::layout::keys::{TYPES, shown};
use crate::vtab::layout::replies::{Row, bulk, count};
use crate::vtab::layout::row;
use crate::vtab::query::batch::{Expect, Questions};
use crate::vtab::query::cursor::{Cursor, Found};
use crate::vtab::query::plan::Access;
use crate::wire::reply::array;
use crate::wire::request::{Numbered, Request};

/// Rows looked at in one round trip.
pub(crate) const LOOKED_AT: usize = 5000;

impl Cursor {
    /// Asks about rows that are not to be read.
    pub(crate) fn ask_bare(&mut self, questions: &mut Questions) {
        let next: Vec<Found> = self.rowids.drain(..self.rowids.len().min(self.bare).min(LOOKED_AT)).collect();
        let Access::Index(n) = self.plan.access else {
            let rows: Vec<Vec<u8>> = next.iter().map(|found| self.keys.row(found.rowid)).collect();
            questions.push(cmd("EXISTS").arg(rows), Expect::Exist(next));
            return;
        };
        let name = self.table.definition.columns[n].name.as_bytes();
        let fetch = Numbered::new("HMGET", self.keys.rows(), [name, TYPES].into_iter());
        for found in next {
            questions.request.push_numbered(&fetch, found.rowid);
            questions.expected.push(Expect::Value(found));
        }
    }

    /// Takes rows of which so many exist.
    pub(crate) fn take_existing(&mut self, found: Vec<Found>, exist: u64) {
        if exist == found.len() as u64 {
            self.bare -= found.len();
            self.rows.extend(found.into_iter().map(|found| (found, None)));
        } else {
            self.read_from_here(found);
        }
    }

    /// Takes rows with what they have in the column of the index.
    pub(crate) fn take_values(&mut self, rows: Vec<(Found, Reply)>) -> Result<()> {
        let Access::Index(n) = self.plan.access else { return Ok(()) };
        let mut with_values = Vec::new();
        for (found, reply) in rows {
            let fields = array("HMGET", reply)?;
            let [field, types] = fields.as_slice() else {
                return Err(Cause::BadReply(format!("HMGET was answered with {} values", fields.len())).into());
            };
            with_values.push((found, bulk(Some(field)).map(<[u8]>::to_vec), bulk(Some(types)).map(<[u8]>::to_vec)));
        }
        // Without the field, the row may have NULL there, or be gone.
        if with_values.iter().any(|(_, field, _)| field.is_none()) {
            self.read_from_here(with_values.into_iter().map(|(found, _, _)| found).collect());
            return Ok(());
        }
        self.bare -= with_values.len();
        let column = &self.table.definition.columns[n];
        for (found, field, types) in with_values {
            let types = row::Types::of(types.as_deref());
            let value = row::value(&column.name, column.affinity, field.as_deref(), &types);
            if self.is_found_so(&found, &value) {
                self.rows.push_back((Found { by: Some(value), ..found }, None));
            }
        }
        Ok(())
    }

    /// From these rows on, all are read.
    fn read_from_here(&mut self, found: Vec<Found>) {
        self.bare = 0;
        found.into_iter().rev().for_each(|found| self.rowids.push_front(found));
    }

    /// Reads a row after all, and from now on all rows.
    pub(crate) fn read_bare(&mut self, found: &Found) -> Result<Rc<Row>> {
        let rest: Vec<Found> = self.rows.drain(..).map(|(found, _)| found).collect();
        self.read_from_here(rest);
        let mut request = Request::default();
        request.push_numbered(&self.fetch, found.rowid);
        request.push(cmd("EXISTS").arg(self.keys.row(found.rowid)));
        let mut replies = self.table.ask(&request)?.into_iter();
        let row = self.table.row_of(found.rowid, replies.next().unwrap_or_default())?;
        let exists = replies.next().is_some_and(|reply| count(&reply) > 0);
        let row = row.or_else(|| exists.then(|| self.table.empty_row(found.rowid)));
        let is_same = |row: &Row| match (self.plan.access, &found.by) {
            (Access::Index(n), Some(by)) => row[n] == *by,
            _ => true,
        };
        // SQLite has compared the value that it had.
        let conflict = || Cause::Conflict(format!("the row `{}`", shown(&self.keys.row(found.rowid))));
        Ok(Rc::new(row.filter(is_same).ok_or_else(conflict)?))
    }

    /// An index of the query that is not among those of the table.
    pub(crate) fn missing_index(&self, indices: &[String]) -> Option<String> {
        let Access::Index(n) = self.plan.access else { return None };
        let columns = self.plan.arguments.iter().filter_map(|wanted| wanted.column).chain([n]);
        let mut names = columns.map(|column| &self.table.definition.columns[column].name);
        names.find(|name| !indices.contains(name)).cloned()
    }
}
