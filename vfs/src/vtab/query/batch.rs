//! What a cursor asks of the server at once, and what it makes of the replies: rows of rowids that
//! are known, rowids of values that are known, and the next members of the index.
//!
//! While SQLite works on one batch of rows, the server already works on the next: no more than two
//! are in memory, however many rows there are.

use std::rc::Rc;

use redis::{Cmd, Value as Reply, cmd};

use crate::model::error::{Cause, Result};
use crate::sqlite::value::Value;
use crate::vtab::layout::index::{Part, value_of};
use crate::vtab::layout::replies::{Row, count, names};
use crate::vtab::location::Ahead;
use crate::vtab::query::cursor::{Cursor, Found};
use crate::vtab::query::operand::{Reach, is_numeral};
use crate::vtab::query::plan::{Access, Plan};
use crate::vtab::query::range;
use crate::vtab::query::range::{Member, Window};
use crate::vtab::query::row_source::{Keys, Source, members};
use crate::vtab::query::skipped_rows::LOOKED_AT;
use crate::vtab::sets;
use crate::wire::request::Request;

/// Rows fetched in one round trip, and members of an index read in one.
pub(crate) const BATCH: usize = 500;
/// Windows asked for in one round trip.
const WINDOWS: usize = 20;

/// Commands of one round trip, and what each is about.
#[derive(Default)]
pub(crate) struct Questions {
    pub request: Request,
    pub expected: Vec<Expect>,
}

impl Questions {
    pub(crate) fn push(&mut self, command: &Cmd, about: Expect) {
        self.request.push(command);
        self.expected.push(about);
    }
}

/// Commands that were sent for a batch that nobody needs yet.
pub(crate) struct Awaited {
    ahead: Ahead,
    expected: Vec<Expect>,
}

/// What a reply is about.
pub(crate) enum Expect {
    Indices,
    /// The same, while the query goes on.
    IndicesAgain,
    Rows,
    Row(Found),
    /// How many of some rows exist that are not to be read.
    Exist(Vec<Found>),
    /// What a row that is not to be read has in the column of the access.
    Value(Found),
    /// Whether the row before it exists.
    Exists,
    /// Rowids in some sets, found by this value.
    Rowids(Keys, Option<Value>),
    /// The next members of a window, so many were asked for.
    Members(Window, usize),
    /// The last members of the window before it.
    Border,
    /// Distinct values of a column.
    Distinct(String),
}

impl Cursor {
    /// One round trip, or the end of one.
    pub(crate) fn refill(&mut self) -> Result<()> {
        let (expected, replies) = match self.awaited.take() {
            Some(Awaited { ahead, expected }) => (expected, self.table.replies(ahead)?),
            None => {
                let Questions { request, expected } = self.questions();
                if expected.is_empty() {
                    return Ok(());
                }
                (expected, self.table.ask(&request)?)
            }
        };
        self.take(expected, replies)?;
        // Who takes a second batch most likely takes more.
        let ahead = self.batches > 0 && self.bare == 0 && !self.limited && !self.rows.is_empty();
        self.batches += usize::from(!self.rows.is_empty());
        if ahead && self.has_more() {
            let Questions { request, expected } = self.questions();
            self.awaited = Some(Awaited { ahead: self.table.ask_ahead(&request)?, expected });
        }
        Ok(())
    }

    /// What to ask next.
    fn questions(&mut self) -> Questions {
        let mut questions = Questions::default();
        let (mut rows, mut rows_wanted) = (0, BATCH);
        if self.bare >= BATCH && !self.rowids.is_empty() {
            self.ask_bare(&mut questions);
            rows_wanted = 0;
        }
        while rows < rows_wanted
            && let Some(found) = self.rowids.pop_front()
        {
            if !self.own_rowids.contains(&found.rowid) {
                questions.request.push_numbered(&self.fetch, found.rowid);
                questions.expected.push(Expect::Row(found));
                rows += 1;
            }
        }
        let batch = self.batch();
        let before = questions.expected.len();
        if self.rowids.len() < BATCH {
            let column = self.column_name();
            for value in self.values.drain(..self.values.len().min(batch)) {
                let set = vec![self.keys.rows_with(&column, &value.key_text().unwrap_or_default())];
                questions.push(&sets::command(&set), Expect::Rowids(set, Some(value)));
            }
        }
        if self.values.is_empty() && self.rowids.len() < BATCH {
            self.ask_source(&mut questions);
        }
        // After what was asked of the index: if it is there then, it was so before.
        if self.looked && questions.expected.len() > before && matches!(self.plan.access, Access::Index(_)) {
            questions.push(cmd("SMEMBERS").arg(self.keys.indices()), Expect::IndicesAgain);
        }
        if !self.looked {
            self.looked = true;
            questions.push(cmd("SMEMBERS").arg(self.keys.indices()), Expect::Indices);
            questions.push(cmd("ZCARD").arg(self.keys.rowids()), Expect::Rows);
            for name in self.table.stale_counts() {
                questions.push(cmd("ZCARD").arg(self.keys.values(&name)), Expect::Distinct(name));
            }
        }
        questions
    }

    /// Members or values to ask for at once, once a query has taken more than its limit said.
    pub(crate) fn batch(&self) -> usize {
        self.bare.clamp(BATCH, LOOKED_AT)
    }

    fn column_name(&self) -> String {
        match self.plan.access {
            Access::Index(n) => self.table.definition.columns[n].name.clone(),
            Access::Rowid => String::new(),
        }
    }

    fn ask_source(&mut self, questions: &mut Questions) {
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
                            questions.request.push_numbered(&self.fetch, rowid);
                            questions.expected.push(Expect::Row(found));
                            questions.push(cmd("EXISTS").arg(self.keys.row(rowid)), Expect::Exists);
                        } else {
                            self.rowids.push_back(found);
                        }
                    }
                    return;
                }
                Source::Sets(sets) => {
                    sets.into_iter().for_each(|set| questions.push(&sets::command(&set), Expect::Rowids(set, None)))
                }
                Source::Window(window) if window.part == Part::Nulls => {
                    // Its rowids are known one step earlier than those of values before it.
                    if windows > 0 {
                        self.sources.push_front(Source::Window(window));
                        return;
                    }
                    let set = vec![self.keys.nulls(&self.column_name())];
                    questions.push(&sets::command(&set), Expect::Rowids(set, Some(Value::Null)));
                }
                Source::Window(window) => {
                    let border = window.bare.then(|| window.border(self.window));
                    questions.push(&window.command(self.window), Expect::Members(window, self.window));
                    border.iter().for_each(|border| questions.push(border, Expect::Border));
                    windows += 1;
                    if windows == WINDOWS {
                        return;
                    }
                }
            }
        }
    }

    fn take(&mut self, expected: Vec<Expect>, replies: Vec<Reply>) -> Result<()> {
        let (mut unsure, mut bare) = (Vec::new(), Vec::new());
        let mut in_sets = Vec::new();
        let mut vanished = false;
        let mut again = Vec::new();
        let mut pairs = expected.into_iter().zip(replies).peekable();
        while let Some((about, reply)) = pairs.next() {
            match about {
                Expect::Indices => {
                    let names = names(reply)?;
                    vanished = self.missing_index(&names).is_some();
                    self.table.learn(|known| known.indices = names);
                }
                // A part may be missing of what was read.
                Expect::IndicesAgain => {
                    if let Some(name) = self.missing_index(&names(reply)?) {
                        return Err(Cause::Conflict(format!("the index on `{name}`")).into());
                    }
                }
                Expect::Rows => self.table.learn(|known| known.rows = count(&reply)),
                Expect::Exist(found) => self.take_existing(found, count(&reply)),
                Expect::Value(found) => bare.push((found, reply)),
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
                Expect::Rowids(set, by) => {
                    let rowids = self.table.rowids_in(&set, reply)?;
                    match by {
                        None => in_sets.extend(rowids),
                        Some(by) => {
                            let found = |rowid| Found { rowid, by: Some(by.clone()) };
                            self.rowids.extend(self.directed(rowids).into_iter().map(found));
                        }
                    }
                }
                Expect::Members(window, _) if !again.is_empty() => again.push(Source::Window(window)),
                Expect::Members(mut window, limit) => {
                    let members = match pairs.next_if(|_| window.bare) {
                        Some((_, border)) => {
                            let bare = members(Part::Texts, reply)?.into_iter().map(|(member, _)| member).collect();
                            window.scored(bare, &members(window.part, border)?, limit)
                        }
                        None => Some(members(window.part, reply)?),
                    };
                    match members {
                        Some(members) => again.extend(self.take_members(window, members, limit)),
                        None => again.push(Source::Window(window)),
                    }
                }
                Expect::Border => {}
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
        self.take_values(bare)?;
        self.look_again(unsure)?;
        if vanished { self.without_index() } else { Ok(()) }
    }

    fn directed(&self, mut rowids: Vec<i64>) -> Vec<i64> {
        if self.plan.descending {
            rowids.reverse();
        }
        rowids
    }

    /// Whether a row with this value in the column of the index is where the index said.
    pub(crate) fn is_found_so(&self, found: &Found, value: &Value) -> bool {
        match &found.by {
            Some(by) => by.compare(value).is_eq(),
            None => !(self.numerals && is_numeral(value)),
        }
    }

    /// Keeps a row that is where the index said.
    fn keep(&mut self, found: Found, row: Row) {
        let there = match self.plan.access {
            Access::Index(n) => self.is_found_so(&found, &row[n]),
            Access::Rowid => true,
        };
        if there {
            let by = match self.plan.access {
                Access::Index(n) => Some(row[n].clone()),
                Access::Rowid => None,
            };
            self.rows.push_back((Found { by, ..found }, Some(Rc::new(row))));
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
        let replies = self.table.ask(&request)?;
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
    fn take_members(&mut self, mut window: Window, members: Vec<Member>, limit: usize) -> Option<Source> {
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
        more.then_some(Source::Window(window))
    }

    /// The index was dropped by another client: every row is read, and sorted here if need be.
    fn without_index(&mut self) -> Result<()> {
        let Access::Index(n) = self.plan.access else { return Ok(()) };
        let (plan, own) = (self.plan.clone(), std::mem::take(&mut self.own));
        self.sources.clear();
        self.values.clear();
        self.rowids.clear();
        self.rows.clear();
        (self.awaited, self.bare) = (None, 0);
        self.plan = Plan { access: Access::Rowid, descending: false, ordered: false, arguments: Vec::new() };
        self.sources = range::rowids(&self.keys, &Reach::whole(), false).into_iter().map(Source::Window).collect();
        self.window = BATCH;
        if plan.ordered {
            let mut all = Vec::new();
            while self.has_more() {
                self.refill()?;
                all.extend(self.rows.drain(..).map(|(found, row)| {
                    let by = row.as_ref().map(|row| row[n].clone());
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
