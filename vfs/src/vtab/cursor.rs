//! A query's way through the rows: windows of an index, the rowids behind them, the rows behind
//! those, each read ahead in batches; and what the transaction has written itself.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use redis::{Cmd, Value as Reply, cmd};

use super::index::{Part, value_of};
use super::keys::Keys;
use super::plan::{Access, Op, Plan};
use super::range::{self, Window};
use super::source::{Source, members};
use super::table::{Row, Table, count, names, rowids};
use super::value::{Affinity, Value};
use crate::error::Result;
use crate::store::server::Request;

/// Rows fetched in one round trip, and members of an index read in one.
const BATCH: usize = 500;
/// Rows skipped in one round trip.
const PASSED: usize = 5000;
/// Windows asked for in one round trip.
const WINDOWS: usize = 20;

/// A row on its way, with the value by which the index found it.
struct Found {
    rowid: i64,
    by: Option<Value>,
}

/// See the [module](self).
pub(crate) struct Cursor {
    pub(super) table: Rc<Table>,
    pub(super) keys: Keys,
    pub(super) plan: Plan,
    /// The query is part of a transaction of several statements.
    explicit: bool,
    /// Rows still to be skipped, and what those that count for that have to be like.
    skip: usize,
    counted: Vec<(Op, Value)>,
    /// Rows can be skipped unread: nothing was found to be missing.
    unread: bool,
    sources: VecDeque<Source>,
    /// Values whose sets of rowids are to be read.
    values: VecDeque<Value>,
    rowids: VecDeque<Found>,
    rows: VecDeque<(Found, Rc<Row>)>,
    /// Rows that the transaction has written, in order, as they were when the query began.
    own: VecDeque<(Found, Rc<Row>)>,
    own_rowids: HashSet<i64>,
    /// Members to ask for at once.
    window: usize,
    /// The index was looked for in Redis.
    looked: bool,
    current: Option<(i64, Rc<Row>)>,
}

/// What a reply is about.
enum Expect {
    Indices,
    Rows,
    Row(Found),
    /// How many of some rows that are skipped exist.
    Passed(Vec<Found>),
    /// Whether the row before it exists.
    Exists,
    Rowids(Option<Value>),
    Nulls,
    /// The next members of a window, so many were asked for.
    Members(Window, usize),
    /// Distinct values of a column.
    Distinct(String),
}

impl Cursor {
    /// Begins a query; `explicit` when the transaction may have other statements.
    pub(crate) fn new(table: Rc<Table>, plan: Plan, arguments: &[Vec<Value>], explicit: bool) -> Result<Cursor> {
        let keys = table.keys();
        let unread = table.writes.borrow().pending.is_empty();
        let mut cursor = Cursor {
            keys,
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

    fn order(&self, a: &Found, b: &Found) -> Ordering {
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
    fn counts(&self, value: &Value) -> bool {
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

    fn has_more(&self) -> bool {
        !(self.sources.is_empty() && self.values.is_empty() && self.rowids.is_empty())
    }

    /// One round trip: rows of rowids that are known, rowids of values that are known, and the
    /// next members of the index.
    fn refill(&mut self) -> Result<()> {
        let mut request = Request::default();
        let mut expected = Vec::new();
        let mut push = |command: &Cmd, about| {
            request.push(command);
            expected.push(about);
        };
        let (mut rows, mut rows_wanted) = (0, BATCH);
        if self.skip >= BATCH && self.unread && !self.rowids.is_empty() {
            let passed: Vec<Found> = self.rowids.drain(..self.rowids.len().min(self.skip).min(PASSED)).collect();
            let rows: Vec<Vec<u8>> = passed.iter().map(|found| self.keys.row(found.rowid)).collect();
            push(cmd("EXISTS").arg(rows), Expect::Passed(passed));
            rows_wanted = 0;
        }
        while rows < rows_wanted
            && let Some(found) = self.rowids.pop_front()
        {
            if !self.own_rowids.contains(&found.rowid) {
                push(&self.table.fetch_command(&self.keys, found.rowid), Expect::Row(found));
                rows += 1;
            }
        }
        let batch = self.batch();
        if self.rowids.len() < BATCH {
            let column = self.column_name();
            for value in self.values.drain(..self.values.len().min(batch)) {
                let set = self.keys.rows_with(&column, &value.key_text().unwrap_or_default());
                push(cmd("SMEMBERS").arg(set), Expect::Rowids(Some(value)));
            }
        }
        if self.values.is_empty() && self.rowids.len() < BATCH {
            self.ask_source(&mut push);
        }
        if !self.looked {
            self.looked = true;
            push(cmd("SMEMBERS").arg(self.keys.indices()), Expect::Indices);
            push(cmd("ZCARD").arg(self.keys.rowids()), Expect::Rows);
            for name in self.table.stale_counts() {
                push(cmd("ZCARD").arg(self.keys.values(&name)), Expect::Distinct(name));
            }
        }
        if expected.is_empty() {
            return Ok(());
        }
        let replies = self.table.place.ask(&request)?;
        self.take(expected, replies)
    }

    /// Members or values to ask for at once, once a query has taken more than its limit said.
    fn batch(&self) -> usize {
        if self.unread { self.skip.clamp(BATCH, PASSED) } else { BATCH }
    }

    fn column_name(&self) -> String {
        match self.plan.access {
            Access::Index(n) => self.table.definition.columns[n].name.clone(),
            Access::Rowid => String::new(),
        }
    }

    fn ask_source(&mut self, push: &mut impl FnMut(&Cmd, Expect)) {
        // All that come before a long window are needed; should one of several be long, the rest is
        // asked for again.
        let mut windows = 0;
        while let Some(source) = self.sources.pop_front() {
            match source {
                Source::Rowids(rowids) => {
                    // One row is asked for without looking at anything else.
                    let ask_now = !self.looked && rowids.len() == 1;
                    self.looked |= ask_now;
                    let known = rowids.into_iter().map(|rowid| Found { rowid, by: None });
                    for found in known {
                        let rowid = found.rowid;
                        if self.own_rowids.contains(&rowid) {
                            continue;
                        }
                        if ask_now {
                            push(&self.table.fetch_command(&self.keys, rowid), Expect::Row(found));
                            push(cmd("EXISTS").arg(self.keys.row(rowid)), Expect::Exists);
                        } else {
                            self.rowids.push_back(found);
                        }
                    }
                    return;
                }
                Source::Sets(commands) => commands.iter().for_each(|command| push(command, Expect::Rowids(None))),
                Source::Window(window) if window.part == Part::Nulls => {
                    // Its rowids are known one step earlier than those of values before it.
                    if windows > 0 {
                        self.sources.push_front(Source::Window(window));
                        return;
                    }
                    push(&window.command(self.window), Expect::Nulls);
                }
                Source::Window(window) => {
                    push(&window.command(self.window), Expect::Members(window, self.window));
                    windows += 1;
                    if windows == WINDOWS {
                        return;
                    }
                }
            }
        }
    }

    fn take(&mut self, expected: Vec<Expect>, replies: Vec<Reply>) -> Result<()> {
        let mut unsure = Vec::new();
        let mut in_sets = Vec::new();
        let mut vanished = false;
        let mut again = Vec::new();
        for (about, reply) in expected.into_iter().zip(replies) {
            match about {
                Expect::Indices => {
                    let names = names(reply)?;
                    vanished = matches!(self.plan.access, Access::Index(_)) && !names.contains(&self.column_name());
                    self.table.learn(|known| known.indices = names);
                }
                Expect::Rows => self.table.learn(|known| known.rows = count(&reply)),
                Expect::Passed(passed) => self.pass(passed, count(&reply)),
                Expect::Row(found) => match self.table.row_of(found.rowid, reply)? {
                    Some(row) => self.keep(found, row),
                    None => unsure.push(found),
                },
                Expect::Exists => {
                    if let Some(found) = unsure.pop().filter(|_| count(&reply) > 0) {
                        let row = self.table.empty_row(found.rowid);
                        self.keep(found, row);
                    }
                }
                Expect::Rowids(None) => in_sets.extend(rowids(reply)?),
                Expect::Rowids(Some(value)) => self.rowids.extend(
                    self.directed(rowids(reply)?).into_iter().map(|rowid| Found { rowid, by: Some(value.clone()) }),
                ),
                Expect::Nulls => {
                    let nulls = self.directed(rowids(reply)?).into_iter();
                    self.rowids.extend(nulls.map(|rowid| Found { rowid, by: Some(Value::Null) }));
                }
                Expect::Members(window, _) if !again.is_empty() => again.push(Source::Window(window)),
                Expect::Members(window, limit) => again.extend(self.take_members(window, reply, limit)?),
                Expect::Distinct(name) => self.table.learn(|known| {
                    known.distinct.insert(name, count(&reply));
                }),
            }
        }
        again.into_iter().rev().for_each(|source| self.sources.push_front(source));
        in_sets.sort_unstable();
        in_sets.dedup();
        let in_sets = self.directed(in_sets);
        self.rowids.extend(in_sets.into_iter().map(|rowid| Found { rowid, by: None }));
        self.look_again(unsure)?;
        if vanished { self.without_index() } else { Ok(()) }
    }

    /// Rows were skipped, if all of them exist; else they have to be read.
    fn pass(&mut self, passed: Vec<Found>, exist: u64) {
        let counts = |found: &&Found| match (&found.by, self.plan.access) {
            (Some(value), _) => self.counts(value),
            (None, Access::Rowid) => self.counts(&Value::Integer(found.rowid)),
            // It was found by the value that it is to be equal to.
            (None, Access::Index(_)) => true,
        };
        let counted = passed.iter().filter(counts).count();
        if exist == passed.len() as u64 {
            self.skip -= counted;
            return;
        }
        self.unread = false;
        passed.into_iter().rev().for_each(|found| self.rowids.push_front(found));
    }

    fn directed(&self, mut rowids: Vec<i64>) -> Vec<i64> {
        if self.plan.descending {
            rowids.reverse();
        }
        rowids
    }

    /// Keeps a row that is where the index said.
    fn keep(&mut self, found: Found, row: Row) {
        let there = match (&found.by, self.plan.access) {
            (Some(by), Access::Index(n)) => row[n].compare(by).is_eq(),
            _ => true,
        };
        if there {
            let by = match self.plan.access {
                Access::Index(n) => Some(row[n].clone()),
                Access::Rowid => None,
            };
            self.rows.push_back((Found { by, ..found }, Rc::new(row)));
        }
    }

    /// Rows without any field of ours: deleted meanwhile, or written by another program.
    fn look_again(&mut self, unsure: Vec<Found>) -> Result<()> {
        if unsure.is_empty() {
            return Ok(());
        }
        let mut request = Request::default();
        for found in &unsure {
            request.push(cmd("EXISTS").arg(self.keys.row(found.rowid)));
        }
        let replies = self.table.place.ask(&request)?;
        for (found, reply) in unsure.into_iter().zip(replies) {
            if count(&reply) > 0 {
                let row = self.table.empty_row(found.rowid);
                self.keep(found, row);
            }
        }
        if self.plan.ordered {
            let mut rows: Vec<_> = self.rows.drain(..).collect();
            rows.sort_by(|a, b| self.order(&a.0, &b.0));
            self.rows = rows.into();
        }
        Ok(())
    }

    /// Returns the window if there may be more in it.
    fn take_members(&mut self, mut window: Window, reply: Reply, limit: usize) -> Result<Option<Source>> {
        let members = members(window.part, reply)?;
        self.window = if members.is_empty() { self.window } else { self.batch() };
        let (members, more) = window.advance(members, limit);
        let part = window.part;
        let affinity = self.affinity();
        for (member, score) in members {
            let value = value_of(part, affinity, &member, score);
            match (self.plan.access, value) {
                (Access::Rowid, Some(Value::Integer(rowid))) => self.rowids.push_back(Found { rowid, by: None }),
                (Access::Index(_), Some(value)) => self.values.push_back(value),
                // No rowid, or no value: other programs may have put it there.
                _ => {}
            }
        }
        Ok(more.then_some(Source::Window(window)))
    }

    /// The index was dropped by another client: every row is read, and sorted here if need be.
    fn without_index(&mut self) -> Result<()> {
        let Access::Index(n) = self.plan.access else { return Ok(()) };
        let (plan, own) = (self.plan.clone(), std::mem::take(&mut self.own));
        self.sources.clear();
        self.values.clear();
        self.rowids.clear();
        self.rows.clear();
        self.plan = Plan { access: Access::Rowid, descending: false, ordered: false, arguments: Vec::new() };
        self.sources = range::rowids(&self.keys, &None, &None, false).into_iter().map(Source::Window).collect();
        self.window = BATCH;
        if plan.ordered {
            let mut all = Vec::new();
            while self.has_more() {
                self.refill()?;
                all.extend(self.rows.drain(..).map(|(found, row)| {
                    let by = Some(row[n].clone());
                    (Found { by, ..found }, row)
                }));
            }
            self.plan = plan;
            all.sort_by(|a, b| self.order(&a.0, &b.0));
            self.rows = all.into();
        }
        self.own = own;
        Ok(())
    }
}
