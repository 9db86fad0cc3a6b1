//! Which values of an indexed column can satisfy a comparison.
//!
//! SQLite compares every row that a query returns again, so an index may return too many rows, never
//! too few. What SQLite does not tell a virtual table is how it will compare: xFilter gets the operand
//! as it is, before the affinity of the other side is applied (<https://sqlite.org/datatype3.html>,
//! section 4.2). The affinity of a number column always wins. A column for text, or one without type, is compared
//!
//! - as it is, or as text, with an operand without affinity: a parameter, a literal
//! - as numbers with an operand of a number column or a `CAST`: then `'5'`, `'05'` and `'5.0'` equal 5,
//!   and every text that looks like a number comes before every other text
//!
//! Both have to be found. An operand of a number column that is text does not look like a number: such
//! a column would have stored the number.
//!
//! In a database in UTF-16, SQLite orders text by its bytes in that encoding, and text that is not valid
//! UTF-8 changes on its way. Only equality of ASCII text is as in the index then.

use std::cmp::Ordering;

use crate::sqlite::value::{Affinity, Value, number};
use crate::vtab::query::plan::Op;

/// One side of a range: a value, and whether it belongs to it.
pub(crate) type Bound = Option<(Value, bool)>;

/// A range of values of one class, lower and upper bound.
pub(crate) type Interval = (Bound, Bound);

/// An indexed column in a comparison in the collation BINARY.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compared {
    pub affinity: Affinity,
    /// Text in the database is UTF-8.
    pub utf8: bool,
}

/// A comparison with one operand, for a range.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    pub op: Op,
    pub operand: &'a Value,
    /// The operand has no affinity.
    pub plain: bool,
}

/// Where the rows are that can equal an operand.
#[derive(Debug, PartialEq)]
pub(crate) enum Equal {
    Nothing,
    /// Under one of these key texts, and, for `numerals`, among text that looks like a number.
    Keys {
        texts: Vec<Vec<u8>>,
        numerals: bool,
    },
    Anything,
}

/// The values that can satisfy all constraints, by class; `None`: no value of the class.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reach {
    pub nulls: bool,
    pub numbers: Option<Interval>,
    pub texts: Option<Interval>,
    pub blobs: Option<Interval>,
}

/// Text that SQLite reads as a number begins with a blank, a sign, a point or a digit. All of these come
/// before `:`.
const NUMERALS_END: &[u8] = b":";
/// The first blank.
const NUMERALS_START: &[u8] = b"\t";
/// SQLite's conversion of text to a double may be off by this many steps, depending on its version.
const STEPS: usize = 2;

impl Reach {
    /// Every value, NULL included.
    pub(crate) fn whole() -> Reach {
        let any = Some((None, None));
        Reach { nulls: true, numbers: any.clone(), texts: any.clone(), blobs: any }
    }

    /// Text that looks like a number, and some that does not.
    pub(crate) fn numerals() -> Reach {
        let numerals = (text(NUMERALS_START, true), text(NUMERALS_END, false));
        Reach { nulls: false, numbers: None, texts: Some(numerals), blobs: None }
    }
}

/// Whether a value is one of [`Reach::numerals`].
pub(crate) fn is_numeral(value: &Value) -> bool {
    matches!(value, Value::Text(text) if (NUMERALS_START..NUMERALS_END).contains(&text.as_slice()))
}

fn text(text: &[u8], included: bool) -> Bound {
    Some((Value::Text(text.to_vec()), included))
}

impl Compared {
    /// What SQLite may make of an operand when it applies the column's affinity: one value, unless
    /// versions of SQLite read other numbers from the same text.
    pub(crate) fn candidates(self, operand: &Value) -> Vec<Value> {
        let Value::Text(text) = operand else { return vec![operand.clone()] };
        // Since 3.54, text is a number if it is one up to a NUL.
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        let Some(number) = number(&text[..end]).filter(|_| self.affinity.is_numeric()) else {
            return vec![operand.clone()];
        };
        let digits = |b: &u8| b.is_ascii_digit() || b" \t\n\x0b\x0c\r+-".contains(b);
        let exact = matches!(number, Value::Integer(_)) && text[..end].iter().all(digits);
        let more = if exact { Vec::new() } else { around(&number) };
        let as_text = (end < text.len()).then(|| operand.clone());
        std::iter::once(number).chain(more).chain(as_text).collect()
    }

    /// Where rows are that equal an operand.
    pub(crate) fn equal(self, operand: &Value) -> Equal {
        let candidates = self.candidates(operand);
        let is_number = match candidates.first() {
            None | Some(Value::Null) => return Equal::Nothing,
            Some(Value::Text(text)) if !self.utf8 && !text.is_ascii() => return Equal::Anything,
            Some(Value::Text(_) | Value::Blob(_)) => false,
            Some(Value::Integer(_) | Value::Real(_)) if self.affinity == Affinity::Text => return Equal::Anything,
            Some(Value::Integer(_) | Value::Real(_)) => true,
        };
        let mut texts: Vec<Vec<u8>> = candidates.iter().flat_map(Value::key_texts).collect();
        texts.sort();
        texts.dedup();
        Equal::Keys { texts, numerals: is_number && self.affinity == Affinity::Blob }
    }

    /// The values that satisfy all of some comparisons; `None` when there is none, because NULL compares
    /// with nothing.
    pub(crate) fn reach(self, comparisons: &[Comparison<'_>]) -> Option<Reach> {
        let mut reach = Reach { nulls: comparisons.is_empty(), ..Reach::whole() };
        let is_text = |c: &&Comparison<'_>| self.candidates(c.operand).iter().any(|c| matches!(c, Value::Text(_)));
        // SQLite passes `LIKE 'a%' ESCAPE '\'` as `>= 'a' AND < 'b'`, although a number or a blob can be
        // like it, too.
        let pattern = comparisons.iter().filter(is_text).any(|c| is_low(c.op))
            && comparisons.iter().filter(is_text).any(|c| !is_low(c.op));
        for comparison in comparisons {
            self.narrow(&mut reach, comparison, pattern)?;
        }
        Some(reach)
    }

    fn narrow(self, reach: &mut Reach, comparison: &Comparison<'_>, pattern: bool) -> Option<()> {
        let low = is_low(comparison.op);
        let candidates = self.candidates(comparison.operand);
        let included = matches!(comparison.op, Op::Ge | Op::Le) || candidates.len() > 1;
        match candidates.into_iter().reduce(|a, b| outer(a, b, low))? {
            Value::Null => return None,
            Value::Integer(_) | Value::Real(_) if self.affinity == Affinity::Text => {
                // Compared as numbers or as text.
                reach.blobs = reach.blobs.take().filter(|_| low);
            }
            value @ (Value::Integer(_) | Value::Real(_)) => {
                tighten(&mut reach.numbers, (value, included), low);
                if !low {
                    reach.blobs = None;
                    if self.affinity == Affinity::Blob {
                        let [start, end] = [NUMERALS_START, NUMERALS_END].map(|text| Value::Text(text.to_vec()));
                        tighten(&mut reach.texts, (start, true), true);
                        tighten(&mut reach.texts, (end, false), false);
                    } else {
                        reach.texts = None;
                    }
                }
            }
            Value::Text(text) => {
                let other = if low { &mut reach.numbers } else { &mut reach.blobs };
                *other = other.take().filter(|_| pattern);
                let numerals_first = !low && !comparison.plain && !self.affinity.is_numeric();
                let bound = if numerals_first && text.as_slice() < NUMERALS_END {
                    (Value::Text(NUMERALS_END.to_vec()), false)
                } else {
                    (Value::Text(text), included)
                };
                if self.utf8 {
                    tighten(&mut reach.texts, bound, low);
                }
            }
            value @ Value::Blob(_) => {
                if low {
                    (reach.numbers, reach.texts) = (None, None);
                }
                tighten(&mut reach.blobs, (value, included), low);
            }
        }
        Some(())
    }
}

fn is_low(op: Op) -> bool {
    matches!(op, Op::Gt | Op::Ge)
}

/// The doubles nearest to a number.
fn around(value: &Value) -> Vec<Value> {
    let real = match value {
        Value::Integer(integer) => *integer as f64,
        Value::Real(real) => *real,
        Value::Null | Value::Text(_) | Value::Blob(_) => return Vec::new(),
    };
    let below = std::iter::successors(Some(real), |real| Some(real.next_down())).take(STEPS + 1);
    let above = std::iter::successors(Some(real), |real| Some(real.next_up())).take(STEPS + 1);
    below.chain(above.skip(1)).map(Value::Real).collect()
}

/// The lower or the higher of two values.
fn outer(a: Value, b: Value, low: bool) -> Value {
    let order = a.compare(&b);
    if (order == Ordering::Less) == low { a } else { b }
}

/// Makes an interval as narrow as one more bound asks.
fn tighten(interval: &mut Option<Interval>, (value, included): (Value, bool), low: bool) {
    let Some((lower, upper)) = interval else { return };
    let (bound, narrower) = if low { (lower, Ordering::Greater) } else { (upper, Ordering::Less) };
    let keep = bound.as_ref().is_some_and(|(old, old_included)| {
        let order = value.compare(old);
        !(order == narrower || order == Ordering::Equal && *old_included && !included)
    });
    if !keep {
        *bound = Some((value, included));
    }
}
