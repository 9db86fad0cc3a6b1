//! Where a query's rowids come from: what xFilter's arguments mean, in windows of an index, sets and
//! single rowids.

use std::cmp::Ordering;

use redis::{Cmd, Value as Reply, cmd};

use super::cursor::Cursor;
use super::declare::Column;
use super::index::Part;
use super::plan::{Access, Op};
use super::range::{self, Bound, Member, Window};
use super::table::bulk;
use super::value::{Affinity, Value};
use crate::error::Result;
use crate::store::protocol::array;

/// Letters at the start of a `LIKE` pattern that are looked up in both cases.
const CASES: usize = 4;

/// Where rowids come from.
pub(super) enum Source {
    Window(Window),
    /// Sets, the union of which is wanted.
    Sets(Vec<Cmd>),
    Rowids(Vec<i64>),
}

impl Cursor {
    /// Constraints on the column of the access, with the operands as they are compared.
    pub(super) fn constraints<'a>(
        &'a self,
        arguments: &'a [Vec<Value>],
    ) -> impl Iterator<Item = (Op, Vec<Value>)> + 'a {
        let affinity = self.affinity();
        self.plan.arguments.iter().zip(arguments).filter_map(move |((column, op), values)| {
            let own = match self.plan.access {
                Access::Rowid => !op.is_count(),
                Access::Index(n) => *column == Some(n),
            };
            own.then(|| (*op, values.iter().map(|value| affinity.of_operand(value.clone())).collect()))
        })
    }

    pub(super) fn affinity(&self) -> Affinity {
        match self.plan.access {
            Access::Rowid => Affinity::Integer,
            Access::Index(n) => self.table.definition.columns[n].affinity,
        }
    }

    /// The sources of rowids in order; `None` when no row can be meant.
    pub(super) fn sources(&self, arguments: &[Vec<Value>]) -> Option<Vec<Source>> {
        let (mut low, mut high): (Bound, Bound) = (None, None);
        for (op, values) in self.constraints(arguments) {
            let first = values.first().cloned().unwrap_or(Value::Null);
            let compares = !matches!(op, Op::Null | Op::In);
            if compares && first == Value::Null {
                return None;
            }
            match op {
                Op::Eq | Op::In => return Some(self.points(values, arguments)),
                Op::Null => {
                    let Access::Index(n) = self.plan.access else { return None };
                    let name = &self.table.definition.columns[n].name;
                    return Some(vec![Source::Sets(vec![cmd("SMEMBERS").arg(self.keys.nulls(name)).to_owned()])]);
                }
                Op::Gt | Op::Ge => tighten(&mut low, first, op == Op::Ge, Ordering::Greater),
                Op::Lt | Op::Le => tighten(&mut high, first, op == Op::Le, Ordering::Less),
                Op::Like | Op::Glob => {
                    if let Some(windows) = self.prefixes(op, &first) {
                        return Some(windows);
                    }
                }
                Op::Limit | Op::Offset | Op::Skip => {}
            }
        }
        let windows = match self.plan.access {
            Access::Rowid => {
                let windows = range::rowids(&self.keys, &low, &high, self.plan.descending);
                windows.into_iter().map(Window::bare).collect()
            }
            Access::Index(n) => {
                let column = &self.table.definition.columns[n];
                // SQLite does not say whether it will compare as numbers or as text.
                let unsure = |bound: &Bound| matches!(bound, Some((Value::Integer(_) | Value::Real(_), _)));
                if column.affinity == Affinity::Text && (unsure(&low) || unsure(&high)) {
                    (low, high) = (None, None);
                }
                self.windows(column, &low, &high)
            }
        };
        Some(windows.into_iter().map(Source::Window).collect())
    }

    /// A range of a column's index. Where NULL should not be, only other programs leave it; that
    /// comes last then, because `min()` looks at the first row only.
    fn windows(&self, column: &Column, low: &Bound, high: &Bound) -> Vec<Window> {
        let descending = self.plan.descending;
        let mut windows = range::windows(&self.keys, &column.name, column.affinity, (low, high), descending);
        if column.not_null && !descending && windows.first().is_some_and(|window| window.part == Part::Nulls) {
            windows.rotate_left(1);
        }
        windows
    }

    /// Rows with one of some values.
    fn points(&self, values: Vec<Value>, arguments: &[Vec<Value>]) -> Vec<Source> {
        let Access::Index(n) = self.plan.access else {
            let mut rowids: Vec<i64> = values.iter().filter_map(as_rowid).collect();
            rowids.sort_unstable();
            rowids.dedup();
            if self.plan.descending {
                rowids.reverse();
            }
            return vec![Source::Rowids(rowids)];
        };
        let column = &self.table.definition.columns[n];
        let unsure = |value: &Value| matches!(value, Value::Integer(_) | Value::Real(_));
        let mut others = Vec::new();
        for ((other, op), values) in self.plan.arguments.iter().zip(arguments) {
            let Some(other) = other.filter(|other| *other != n && *op == Op::Eq) else { continue };
            let other = &self.table.definition.columns[other];
            let value = other.affinity.of_operand(values.first().cloned().unwrap_or(Value::Null));
            if !(other.affinity == Affinity::Text && unsure(&value)) {
                others.push((&other.name, value.key_texts()));
            }
        }
        if column.affinity == Affinity::Text && values.iter().any(unsure) {
            return self.windows(column, &None, &None).into_iter().map(Source::Window).collect();
        }
        let mut values = values;
        values.sort_by(Value::compare);
        values.dedup_by(|a, b| a.compare(b).is_eq());
        if self.plan.descending {
            values.reverse();
        }
        let intersections = |value: &Value| {
            let mut sets: Vec<Vec<Vec<u8>>> =
                value.key_texts().iter().map(|text| vec![self.keys.rows_with(&column.name, text)]).collect();
            for (name, texts) in &others {
                let with = |set: &Vec<Vec<u8>>| {
                    let set = set.clone();
                    let more = move |text: &Vec<u8>| [set.as_slice(), &[self.keys.rows_with(name, text)]].concat();
                    texts.iter().map(more).collect::<Vec<_>>()
                };
                sets = sets.iter().flat_map(with).collect();
            }
            sets.iter().map(|set| cmd(if set.len() == 1 { "SMEMBERS" } else { "SINTER" }).arg(set).to_owned()).collect()
        };
        values.iter().filter(|value| **value != Value::Null).map(|value| Source::Sets(intersections(value))).collect()
    }

    /// Text that begins as a pattern does; `None` when that can be anything.
    fn prefixes(&self, op: Op, pattern: &Value) -> Option<Vec<Source>> {
        let (Access::Index(n), Value::Text(pattern)) = (self.plan.access, pattern) else { return None };
        let wild: &[u8] = if op == Op::Like { b"%_" } else { b"*?[" };
        let end = pattern.iter().position(|b| wild.contains(b)).unwrap_or(pattern.len());
        // Past letters that would need too many prefixes, the rest is left to SQLite.
        let letters = pattern[..end].iter().enumerate().filter(|(_, b)| b.is_ascii_alphabetic());
        let end = if op == Op::Like { letters.map(|(at, _)| at).nth(CASES).unwrap_or(end) } else { end };
        let mut prefixes = vec![Vec::new()];
        for byte in &pattern[..end] {
            let mut cases = vec![*byte];
            if op == Op::Like && byte.is_ascii_alphabetic() {
                cases = vec![byte.to_ascii_uppercase(), byte.to_ascii_lowercase()];
            }
            let longer = |prefix: &Vec<u8>| cases.iter().map(|case| [prefix.as_slice(), &[*case]].concat()).collect();
            prefixes = prefixes.iter().flat_map(|prefix| -> Vec<Vec<u8>> { longer(prefix) }).collect();
        }
        if end == 0 {
            return None;
        }
        let name = &self.table.definition.columns[n].name;
        let windows = range::prefixes(&self.keys, name, &prefixes, self.plan.descending);
        Some(windows.into_iter().map(Source::Window).collect())
    }
}

/// Makes a bound as narrow as one more constraint asks.
fn tighten(bound: &mut Bound, value: Value, included: bool, narrower: Ordering) {
    let keep = bound.as_ref().is_some_and(|(old, old_included)| {
        let order = value.compare(old);
        !(order == narrower || order == Ordering::Equal && *old_included && !included)
    });
    if !keep {
        *bound = Some((value, included));
    }
}

/// The rowid that equals a value.
fn as_rowid(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(rowid) => Some(*rowid),
        Value::Real(real) if real.trunc() == *real && (-9.3e18..9.3e18).contains(real) => {
            let rowid = *real as i64;
            Value::Integer(rowid).compare(value).is_eq().then_some(rowid)
        }
        Value::Null | Value::Real(_) | Value::Text(_) | Value::Blob(_) => None,
    }
}

/// The members in a reply, with their scores where they have some.
pub(crate) fn members(part: Part, reply: Reply) -> Result<Vec<Member>> {
    let items = array("ZRANGE", reply)?;
    if part != Part::Numbers {
        return Ok(items.iter().filter_map(|item| Some((bulk(Some(item))?.to_vec(), 0.0))).collect());
    }
    let pairs = items.as_chunks::<2>().0.iter();
    Ok(pairs
        .filter_map(|[member, score]| {
            let score = match score {
                Reply::Double(score) => *score,
                other => std::str::from_utf8(bulk(Some(other))?).ok()?.parse().ok()?,
            };
            Some((bulk(Some(member))?.to_vec(), score))
        })
        .collect())
}
