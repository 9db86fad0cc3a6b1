//! Where a query's rowids come from: what xFilter's arguments mean, in windows of an index, sets and
//! single rowids.

use std::collections::BTreeSet;

use redis::Value as Reply;

use crate::model::error::Result;
use crate::sqlite::value::{Affinity, Value};
use crate::vtab::declare::Column;
use crate::vtab::layout::index::Part;
use crate::vtab::layout::replies::bulk;
use crate::vtab::query::cursor::Cursor;
use crate::vtab::query::operand::{Compared, Comparison, Equal, Reach};
use crate::vtab::query::plan::{Access, Op, Wanted};
use crate::vtab::query::range;
use crate::vtab::query::range::{Member, Window};
use crate::wire::reply::array;

/// Letters at the start of a `LIKE` pattern that are looked up in both cases.
const CASES: usize = 4;

/// Key texts of one value with which a set is intersected, one after the other.
const FORMS: usize = 4;

/// Intersections for one value. Each further column multiplies them.
const INTERSECTIONS: usize = 16;

/// Bytes of a `LIKE` or `GLOB` pattern that are looked up; the rest is left to SQLite.
const PREFIX: usize = 256;

/// Commands beyond which no further conditions are intersected.
const COMMANDS: usize = 64;

/// Keys of sets that are intersected.
pub(crate) type Keys = Vec<Vec<u8>>;

/// Where rowids come from.
pub(crate) enum Source {
    Window(Window),
    /// Rowids in any of these: a set each, or several that are intersected.
    Sets(Vec<Keys>),
    Rowids(Vec<i64>),
}

/// What xFilter is given for one argument of the plan.
#[derive(Debug)]
pub(crate) struct Argument {
    /// Several for `IN`.
    pub values: Vec<Value>,
    /// The value is that of a bound parameter.
    pub bound: bool,
}

impl Argument {
    /// The value; the first one of `IN`.
    pub(crate) fn first(&self) -> &Value {
        self.values.first().unwrap_or(&Value::Null)
    }
}

impl Cursor {
    /// Constraints on the column of the access, with what they are given.
    pub(crate) fn constraints<'a>(
        &'a self,
        arguments: &'a [Argument],
    ) -> impl Iterator<Item = (&'a Wanted, &'a Argument)> + 'a {
        self.plan.arguments.iter().zip(arguments).filter(move |(wanted, _)| match self.plan.access {
            Access::Rowid => !wanted.op.is_count(),
            Access::Index(n) => wanted.column == Some(n),
        })
    }

    pub(crate) fn affinity(&self) -> Affinity {
        match self.plan.access {
            Access::Rowid => Affinity::Integer,
            Access::Index(n) => self.table.definition.columns[n].affinity,
        }
    }

    /// How the column of the access is compared.
    pub(crate) fn compared(&self) -> Compared {
        Compared { affinity: self.affinity(), utf8: self.table.definition.utf8 }
    }

    /// The sources of rowids in order; `None` when no row can be meant.
    pub(crate) fn sources(&self, arguments: &[Argument]) -> Option<Vec<Source>> {
        let mut comparisons = Vec::new();
        for (wanted, argument) in self.constraints(arguments) {
            let operand = argument.first();
            match wanted.op {
                Op::Eq | Op::In => return self.points(&argument.values, arguments),
                Op::Null => {
                    let Access::Index(n) = self.plan.access else { return None };
                    let name = &self.table.definition.columns[n].name;
                    return Some(vec![Source::Sets(vec![vec![self.keys.nulls(name)]])]);
                }
                Op::Like | Op::Glob if *operand == Value::Null => return None,
                Op::Like | Op::Glob => {
                    if let Some(windows) = self.prefixes(wanted.op, operand) {
                        return Some(windows);
                    }
                }
                Op::Gt | Op::Ge | Op::Lt | Op::Le => {
                    comparisons.push(Comparison { op: wanted.op, operand, plain: wanted.literal || argument.bound });
                }
                Op::Limit | Op::Offset => {}
            }
        }
        let reach = self.compared().reach(&comparisons)?;
        Some(match self.plan.access {
            Access::Rowid => {
                let windows = range::rowids(&self.keys, &reach, self.plan.descending);
                windows.into_iter().map(Window::bare).map(Source::Window).collect()
            }
            Access::Index(n) => self.windows(&self.table.definition.columns[n], &reach),
        })
    }

    /// A part of a column's index. Where NULL should not be, only other programs leave it; that
    /// comes last then, because `min()` looks at the first row only.
    fn windows(&self, column: &Column, reach: &Reach) -> Vec<Source> {
        let descending = self.plan.descending;
        let mut windows = range::windows(&self.keys, &column.name, column.affinity, reach, descending);
        if column.not_null && !descending && windows.first().is_some_and(|window| window.part == Part::Nulls) {
            windows.rotate_left(1);
        }
        windows.into_iter().map(Source::Window).collect()
    }

    /// Rows with one of some values.
    fn points(&self, values: &[Value], arguments: &[Argument]) -> Option<Vec<Source>> {
        let compared = self.compared();
        let Access::Index(n) = self.plan.access else {
            let candidates = values.iter().flat_map(|value| compared.candidates(value));
            let mut rowids: Vec<i64> = candidates.filter_map(|value| as_rowid(&value)).collect();
            rowids.sort_unstable();
            rowids.dedup();
            if self.plan.descending {
                rowids.reverse();
            }
            return Some(vec![Source::Rowids(rowids)]);
        };
        let column = &self.table.definition.columns[n];
        let (mut keys, mut numerals) = (BTreeSet::new(), false);
        for value in values {
            match compared.equal(value) {
                Equal::Nothing => {}
                Equal::Keys { texts, numerals: also } => {
                    keys.extend(texts);
                    numerals |= also;
                }
                Equal::Anything => return Some(self.windows(column, &Reach { nulls: false, ..Reach::whole() })),
            }
        }
        let others = self.other_sets(n, arguments, keys.len());
        let sets = keys.iter().map(|text| {
            let set = self.keys.rows_with(&column.name, text);
            others.iter().fold(vec![vec![set]], |sets, other| {
                if sets.len() * other.len() > INTERSECTIONS {
                    return sets;
                }
                let with = |set: &Vec<Vec<u8>>| {
                    let set = set.clone();
                    other.iter().map(move |other| [set.as_slice(), std::slice::from_ref(other)].concat())
                };
                sets.iter().flat_map(with).collect::<Vec<_>>()
            })
        });
        let mut sources = vec![Source::Sets(sets.flatten().collect())];
        if numerals {
            sources.extend(self.windows(column, &Reach::numerals()));
        }
        Some(sources)
    }

    /// For each equality of another indexed column that its index can answer, the sets of which a row
    /// must be in one. What would make too many commands of so many sets is left to SQLite.
    fn other_sets(&self, n: usize, arguments: &[Argument], sets: usize) -> Vec<Keys> {
        let all = self.plan.arguments.iter().zip(arguments);
        let of_others = all.filter_map(|(wanted, argument)| {
            let other = wanted.column.filter(|other| *other != n && wanted.op == Op::Eq)?;
            let column = &self.table.definition.columns[other];
            let compared = Compared { affinity: column.affinity, utf8: self.table.definition.utf8 };
            match compared.equal(argument.first()) {
                Equal::Keys { texts, numerals: false } if texts.len() <= FORMS => {
                    Some(texts.iter().map(|text| self.keys.rows_with(&column.name, text)).collect())
                }
                _ => None,
            }
        });
        let mut commands = sets.max(1);
        let fits = |others: &Keys| {
            let more = commands.saturating_mul(others.len());
            let fits = others.len() == 1 || more <= COMMANDS;
            commands = if fits { more } else { commands };
            fits
        };
        of_others.filter(fits).collect()
    }

    /// Text that begins as a pattern does; `None` when that can be anything.
    fn prefixes(&self, op: Op, pattern: &Value) -> Option<Vec<Source>> {
        let (Access::Index(n), Value::Text(pattern)) = (self.plan.access, pattern) else { return None };
        // A pattern ends at a NUL.
        let wild: &[u8] = if op == Op::Like { b"%_\0" } else { b"*?[\0" };
        let longest = pattern.len().min(PREFIX);
        let end = pattern[..longest].iter().position(|b| wild.contains(b)).unwrap_or(longest);
        let end = pattern[..end].iter().position(|b| self.is_ambiguous(*b)).unwrap_or(end);
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

    /// Whether text that is not valid UTF-8 can be like this byte of a pattern in other bytes: SQLite
    /// takes a lone byte from 0x80 on for the character with that number, and what makes no sense for U+FFFD.
    fn is_ambiguous(&self, byte: u8) -> bool {
        matches!(byte, 0xc2 | 0xef) || byte >= 0x80 && !self.table.definition.utf8
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
