//! A query's way through the rows: those of the server, batch by batch ([`batch`](crate::vtab::query::batch)), and
//! what the transaction has written itself.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use crate::model::error::Result;
use crate::sqlite::value::Value;
use crate::vtab::layout::keys::Keys;
use crate::vtab::layout::replies::Row;
use crate::vtab::query::batch::{Awaited, BATCH};
use crate::vtab::query::plan::{Access, Op, Plan, Wanted};
use crate::vtab::query::row_source::{Argument, Source};
use crate::vtab::table::Table;
use crate::wire::request::Numbered;

/// A row on its way, with the value by which the index found it.
pub(crate) struct Found {
    pub rowid: i64,
    pub by: Option<Value>,
}

/// See the [module](self).
pub(crate) struct Cursor {
    pub(crate) table: Rc<Table>,
    pub(crate) keys: Keys,
    pub(crate) plan: Plan,
    /// The query is part of a transaction of several statements.
    explicit: bool,
    /// So many of the next rows come before the query's `OFFSET`: SQLite most likely does not ask what is
    /// in them.
    pub(crate) bare: usize,
    pub(crate) sources: VecDeque<Source>,
    /// Text that looks like a number is found in a window of its own, also where a set has it.
    pub(crate) numerals: bool,
    /// Values whose sets of rowids are to be read.
    pub(crate) values: VecDeque<Value>,
    pub(crate) rowids: VecDeque<Found>,
    pub(crate) rows: VecDeque<(Found, Content)>,
    /// Rows that the transaction has written, in order, as they were when the query began.
    pub(crate) own: VecDeque<(Found, Rc<Row>)>,
    pub(crate) own_rowids: HashSet<i64>,
    /// The query has a limit, so what comes next may not be needed.
    pub(crate) limited: bool,
    /// Batches of rows that have come.
    pub(crate) batches: usize,
    /// The next batch, which the server may be working on.
    pub(crate) awaited: Option<Awaited>,
    /// Fetches a row.
    pub(crate) fetch: Numbered,
    /// Members to ask for at once.
    pub(crate) window: usize,
    /// The index was looked for in Redis.
    pub(crate) looked: bool,
    current: Option<(Found, Content)>,
}

/// What is in a row; `None` as long as nobody has asked.
pub(crate) type Content = Option<Rc<Row>>;

impl Cursor {
    /// Begins a query; `explicit` when the transaction may have other statements.
    pub(crate) fn new(table: Rc<Table>, plan: Plan, arguments: &[Argument], explicit: bool) -> Result<Cursor> {
        let keys = table.keys();
        let mut cursor = Cursor {
            fetch: table.fetch(&keys),
            keys,
            limited: false,
            batches: 0,
            awaited: None,
            sources: VecDeque::new(),
            numerals: false,
            values: VecDeque::new(),
            rowids: VecDeque::new(),
            rows: VecDeque::new(),
            own: VecDeque::new(),
            own_rowids: HashSet::new(),
            window: BATCH,
            looked: false,
            current: None,
            bare: 0,
            explicit,
            table,
            plan,
        };
        cursor.set_limit(arguments);
        let sources = cursor.sources(arguments);
        let Some(sources) = sources else { return Ok(cursor) };
        let sets_and_windows = matches!(sources.as_slice(), [Source::Sets(_), Source::Window(_), ..]);
        cursor.numerals = sets_and_windows;
        cursor.sources = sources.into();
        cursor.take_own(arguments);
        cursor.next()?;
        Ok(cursor)
    }

    /// A limit tells how much to read first.
    fn set_limit(&mut self, arguments: &[Argument]) {
        let of = |op: Op| {
            let found = self.plan.arguments.iter().zip(arguments).find(|(wanted, _)| wanted.op == op);
            found.map(|(_, argument)| match argument.first() {
                Value::Integer(number) => usize::try_from(*number).unwrap_or(if op == Op::Limit { BATCH } else { 0 }),
                _ => BATCH,
            })
        };
        if let Some(limit) = of(Op::Limit) {
            self.limited = true;
            let offset = of(Op::Offset).unwrap_or(0);
            let own = |wanted: &Wanted| match self.plan.access {
                Access::Rowid => true,
                Access::Index(n) => wanted.column == Some(n),
            };
            // What the transaction has written comes between.
            if self.table.writes.borrow().pending.is_empty()
                && self.plan.arguments.iter().all(|wanted| wanted.op.is_count() || own(wanted))
            {
                self.bare = offset;
            }
            self.window = limit.saturating_add(offset).clamp(16, self.batch());
        }
    }

    /// What the transaction has written. SQLite looks at the constraints again.
    fn take_own(&mut self, arguments: &[Argument]) {
        let writes = self.table.writes.borrow();
        if writes.pending.is_empty() {
            return;
        }
        let only: Option<Vec<i64>> = match (self.plan.access, self.sources.front()) {
            (Access::Rowid, Some(Source::Rowids(rowids))) => Some(rowids.clone()),
            _ => None,
        };
        let equal = self.equal(arguments);
        let mut own = Vec::new();
        let mut take = |rowid: i64| {
            let Some(row) = writes.pending.get(&rowid).and_then(|pending| pending.row.clone()) else { return };
            let by = match self.plan.access {
                Access::Rowid => None,
                Access::Index(n) => Some(row[n].clone()),
            };
            let may_equal = |by: &Value| equal.iter().any(|equal| by.compare(equal).is_eq());
            if equal.is_empty() || by.as_ref().is_some_and(may_equal) {
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

    pub(crate) fn order(&self, a: &Found, b: &Found) -> Ordering {
        let by = match (&a.by, &b.by) {
            (Some(a), Some(b)) => a.compare(b),
            _ => Ordering::Equal,
        };
        let order = by.then(a.rowid.cmp(&b.rowid));
        if self.plan.descending { order.reverse() } else { order }
    }

    /// The only values that rows of the query can have in a column for numbers; empty: not known.
    fn equal(&self, arguments: &[Argument]) -> Vec<Value> {
        if !matches!(self.plan.access, Access::Index(_)) || !self.affinity().is_numeric() {
            return Vec::new();
        }
        let mut equal = self.constraints(arguments).filter(|(wanted, _)| wanted.op == Op::Eq);
        equal.next().map_or_else(Vec::new, |(_, argument)| self.compared().candidates(argument.first()))
    }

    /// The rowid of the row at which the cursor stands; `None` past the last one.
    pub(crate) fn rowid(&self) -> Option<i64> {
        self.current.as_ref().map(|(found, _)| found.rowid)
    }

    /// What the row has in a column; `None` past the last row.
    pub(crate) fn value(&mut self, column: usize) -> Result<Option<&Value>> {
        let known = match (&self.current, self.plan.access) {
            (Some((_, Some(_))) | None, _) => true,
            (Some((found, None)), Access::Index(n)) => column == n && found.by.is_some(),
            (Some((_, None)), Access::Rowid) => false,
        };
        if !known {
            self.complete()?;
        }
        Ok(match &self.current {
            Some((_, Some(row))) => row.get(column),
            Some((found, None)) => found.by.as_ref(),
            None => None,
        })
    }

    /// Goes to the next row.
    pub(crate) fn next(&mut self) -> Result<()> {
        self.current = self.step()?;
        Ok(())
    }

    fn step(&mut self) -> Result<Option<(Found, Content)>> {
        loop {
            if self.rows.is_empty() && self.has_more() {
                self.refill()?;
                continue;
            }
            let own_first = match (self.own.front(), self.rows.front()) {
                (Some((own, _)), Some((found, _))) => self.order(own, found) != Ordering::Greater,
                (own, _) => own.is_some(),
            };
            let next = if own_first {
                self.own.pop_front().map(|(found, row)| (found, Some(row)))
            } else {
                self.rows.pop_front().filter(|(found, _)| !self.own_rowids.contains(&found.rowid))
            };
            let Some((found, content)) = next else {
                if self.rows.is_empty() && self.own.is_empty() && !self.has_more() {
                    return Ok(None);
                }
                continue;
            };
            // Meanwhile the statement may have changed it.
            let now = self.table.writes.borrow().pending.get(&found.rowid).cloned();
            match now {
                Some(pending) => match pending.row {
                    Some(row) => return Ok(Some((found, Some(row)))),
                    None => continue,
                },
                None if own_first => return Ok(Some((found, content))),
                None => {
                    self.saw(&found, content.as_deref());
                    return Ok(Some((found, content)));
                }
            }
        }
    }

    pub(crate) fn saw(&self, found: &Found, row: Option<&Row>) {
        if let Some(row) = row {
            self.table.writes.borrow_mut().saw(found.rowid, row, self.explicit);
        }
    }

    /// Reads the row at which the cursor stands.
    fn complete(&mut self) -> Result<()> {
        let Some((found, None)) = self.current.take() else { return Ok(()) };
        let row = self.read_bare(&found)?;
        self.saw(&found, Some(&row));
        self.current = Some((found, Some(row)));
        Ok(())
    }

    pub(crate) fn has_more(&self) -> bool {
        self.awaited.is_some() || !(self.sources.is_empty() && self.values.is_empty() && self.rowids.is_empty())
    }
}
