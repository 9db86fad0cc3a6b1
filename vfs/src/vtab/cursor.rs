//! A query's way through the rows: those of the server, batch by batch ([`batch`](super::batch)), and
//! what the transaction has written itself.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use super::batch::{Awaited, BATCH};
use super::keys::Keys;
use super::plan::{Access, Op, Plan};
use super::source::Source;
use super::table::{Row, Table};
use super::value::{Affinity, Value};
use crate::error::Result;
use crate::store::request::Numbered;

/// A row on its way, with the value by which the index found it.
pub(super) struct Found {
    pub rowid: i64,
    pub by: Option<Value>,
}

/// See the [module](self).
pub(crate) struct Cursor {
    pub(super) table: Rc<Table>,
    pub(super) keys: Keys,
    pub(super) plan: Plan,
    /// The query is part of a transaction of several statements.
    explicit: bool,
    /// Rows still to be skipped, and what those that count for that have to be like.
    pub(super) skip: usize,
    counted: Vec<(Op, Value)>,
    /// Rows can be skipped unread: nothing was found to be missing.
    pub(super) unread: bool,
    pub(super) sources: VecDeque<Source>,
    /// Values whose sets of rowids are to be read.
    pub(super) values: VecDeque<Value>,
    pub(super) rowids: VecDeque<Found>,
    pub(super) rows: VecDeque<(Found, Rc<Row>)>,
    /// Rows that the transaction has written, in order, as they were when the query began.
    pub(super) own: VecDeque<(Found, Rc<Row>)>,
    pub(super) own_rowids: HashSet<i64>,
    /// The query has a limit, so what comes next may not be needed.
    pub(super) limited: bool,
    /// Batches of rows that have come.
    pub(super) batches: usize,
    /// The next batch, which the server may be working on.
    pub(super) awaited: Option<Awaited>,
    /// Fetches a row.
    pub(super) fetch: Numbered,
    /// Members to ask for at once.
    pub(super) window: usize,
    /// The index was looked for in Redis.
    pub(super) looked: bool,
    current: Option<(i64, Rc<Row>)>,
}

impl Cursor {
    /// Begins a query; `explicit` when the transaction may have other statements.
    pub(crate) fn new(table: Rc<Table>, plan: Plan, arguments: &[Vec<Value>], explicit: bool) -> Result<Cursor> {
        let keys = table.keys();
        let unread = table.writes.borrow().pending.is_empty();
        let mut cursor = Cursor {
            fetch: table.fetch(&keys),
            keys,
            limited: false,
            batches: 0,
            awaited: None,
            sources: VecDeque::new(),
            values: VecDeque::new(),
            rowids: VecDeque::new(),
            rows: VecDeque::new(),
            own: VecDeque::new(),
            own_rowids: HashSet::new(),
            window: BATCH,
            looked: false,
            current: None,
            skip: 0,
            counted: Vec::new(),
            unread,
            explicit,
            table,
            plan,
        };
        cursor.set_limit(arguments);
        let sources = cursor.sources(arguments);
        let Some(sources) = sources else { return Ok(cursor) };
        cursor.sources = sources.into();
        if cursor.skip > 0 {
            let counted =
                cursor.constraints(arguments).filter_map(|(op, values)| Some((op, values.into_iter().next()?)));
            cursor.counted = counted.collect();
        }
        cursor.take_own(arguments);
        cursor.next()?;
        Ok(cursor)
    }

    /// A limit tells how much to read first.
    fn set_limit(&mut self, arguments: &[Vec<Value>]) {
        let of = |op: Op| {
            let found = self.plan.arguments.iter().zip(arguments).find(|((_, other), _)| *other == op);
            found.map(|(_, values)| match values.first() {
                Some(Value::Integer(number)) => {
                    usize::try_from(*number).unwrap_or(if op == Op::Limit { BATCH } else { 0 })
                }
                _ => BATCH,
            })
        };
        self.skip = of(Op::Skip).unwrap_or(0);
        if let Some(limit) = of(Op::Limit) {
            self.limited = true;
            let skipped = of(Op::Offset).unwrap_or(0).saturating_add(self.skip);
            self.window = limit.saturating_add(skipped).clamp(16, self.batch());
        }
    }

    /// What the transaction has written. SQLite looks at the constraints again.
    fn take_own(&mut self, arguments: &[Vec<Value>]) {
        let writes = self.table.writes.borrow();
        if writes.pending.is_empty() {
            return;
        }
        let only: Option<Vec<i64>> = match (self.plan.access, self.sources.front()) {
            (Access::Rowid, Some(Source::Rowids(rowids))) => Some(rowids.clone()),
            _ => None,
        };
        let equal: Option<Value> = match self.plan.access {
            Access::Index(n) if self.table.definition.columns[n].affinity != Affinity::Text => self
                .constraints(arguments)
                .find(|(op, values)| *op == Op::Eq && values.len() == 1)
                .and_then(|(_, mut values)| values.pop()),
            _ => None,
        };
        let mut own = Vec::new();
        let mut take = |rowid: i64| {
            let Some(row) = writes.pending.get(&rowid).and_then(|pending| pending.row.clone()) else { return };
            let by = match self.plan.access {
                Access::Rowid => None,
                Access::Index(n) => Some(row[n].clone()),
            };
            if equal.as_ref().is_none_or(|equal| by.as_ref().is_some_and(|by| by.compare(equal).is_eq())) {
                own.push((Found { rowid, by }, row));
            }
        };
        match only {
            Some(rowids) => rowids.into_iter().for_each(&mut take),
            None => writes.pending.keys().for_each(|rowid| take(*rowid)),
        }
        drop(writes);
        own.sort_by(|a, b| self.order(&a.0, &b.0));
        self.own_rowids = own.iter().map(|(found, _)| found.rowid).collect();
        self.own = own.into();
    }

    pub(super) fn order(&self, a: &Found, b: &Found) -> Ordering {
        let by = match (&a.by, &b.by) {
            (Some(a), Some(b)) => a.compare(b),
            _ => Ordering::Equal,
        };
        let order = by.then(a.rowid.cmp(&b.rowid));
        if self.plan.descending { order.reverse() } else { order }
    }

    /// The row at which the cursor stands; `None` past the last one.
    pub(crate) fn current(&self) -> Option<(i64, &Row)> {
        self.current.as_ref().map(|(rowid, row)| (*rowid, &**row))
    }

    /// Goes to the next row.
    pub(crate) fn next(&mut self) -> Result<()> {
        self.step()?;
        while self.skip > 0
            && let Some((rowid, row)) = &self.current
        {
            let value = match self.plan.access {
                Access::Rowid => &Value::Integer(*rowid),
                Access::Index(n) => &row[n],
            };
            self.skip -= usize::from(self.counts(value));
            self.step()?;
        }
        Ok(())
    }

    /// Whether a row with this value in the column of the access counts for an `OFFSET`.
    pub(super) fn counts(&self, value: &Value) -> bool {
        self.counted.iter().all(|(op, operand)| {
            let order = value.compare(operand);
            let fits = match op {
                Op::Eq => order == Ordering::Equal,
                Op::Lt => order == Ordering::Less,
                Op::Le => order != Ordering::Greater,
                Op::Gt => order == Ordering::Greater,
                _ => order != Ordering::Less,
            };
            fits && !matches!(value, Value::Null)
        })
    }

    fn step(&mut self) -> Result<()> {
        loop {
            if self.rows.is_empty() && self.has_more() {
                self.refill()?;
                continue;
            }
            let own_first = match (self.own.front(), self.rows.front()) {
                (Some((own, _)), Some((found, _))) => self.order(own, found) != Ordering::Greater,
                (own, _) => own.is_some(),
            };
            if own_first {
                let Some((found, row)) = self.own.pop_front() else { continue };
                // Meanwhile the statement may have changed it.
                let now = self.table.writes.borrow().pending.get(&found.rowid).cloned();
                let row = match now {
                    Some(pending) => pending.row,
                    None => Some(row),
                };
                let Some(row) = row else { continue };
                self.current = Some((found.rowid, row));
                return Ok(());
            }
            let Some((found, row)) = self.rows.pop_front() else {
                self.current = None;
                return Ok(());
            };
            if self.own_rowids.contains(&found.rowid) {
                continue;
            }
            let now = self.table.writes.borrow().pending.get(&found.rowid).cloned();
            let row = match now {
                Some(pending) => match pending.row {
                    Some(row) => row,
                    None => continue,
                },
                None => {
                    self.table.writes.borrow_mut().saw(found.rowid, &row, self.explicit);
                    row
                }
            };
            self.current = Some((found.rowid, row));
            return Ok(());
        }
    }

    pub(super) fn has_more(&self) -> bool {
        self.awaited.is_some() || !(self.sources.is_empty() && self.values.is_empty() && self.rowids.is_empty())
    }
}
