//! What a value leaves in an index: a set of rowids, and a member of a sorted set.
//!
//! The published layout has one sorted set for each column: numbers by their score, or text at
//! score 0 in lexical order. Values that it has no place for (text in a number column, numbers in
//! a text column, blobs) go to a second, lexical one, and rows with NULL to a set of their own.

use std::ops::Range;

use crate::sqlite::value::{Affinity, Value, exact_real_text, real_text};
use crate::vtab::layout::keys::Keys;

/// A part of an index in which values are in order. Parts follow each other as SQLite orders
/// values: NULL, numbers, text, blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Nulls,
    /// Numbers of a number column: the published sorted set, by score.
    Numbers,
    /// Text of a text column: the published sorted set, lexical.
    Texts,
    OtherNumbers,
    OtherTexts,
    OtherBlobs,
}

/// The parts of a column's index, in order.
pub(crate) fn parts(affinity: Affinity) -> [Part; 4] {
    if affinity.is_numeric() {
        [Part::Nulls, Part::Numbers, Part::OtherTexts, Part::OtherBlobs]
    } else {
        [Part::Nulls, Part::OtherNumbers, Part::Texts, Part::OtherBlobs]
    }
}

/// The part that a value belongs to.
pub(crate) fn part(value: &Value, affinity: Affinity) -> Part {
    match (value, affinity.is_numeric()) {
        (Value::Null, _) => Part::Nulls,
        (Value::Integer(_) | Value::Real(_), true) => Part::Numbers,
        (Value::Integer(_) | Value::Real(_), false) => Part::OtherNumbers,
        (Value::Text(_), true) => Part::OtherTexts,
        (Value::Text(_), false) => Part::Texts,
        (Value::Blob(_), _) => Part::OtherBlobs,
    }
}

impl Part {
    /// The sorted set that holds it.
    pub(crate) fn key(self, keys: &Keys, column: &str) -> Vec<u8> {
        match self {
            Part::Nulls => keys.nulls(column),
            Part::Numbers | Part::Texts => keys.values(column),
            Part::OtherNumbers | Part::OtherTexts | Part::OtherBlobs => keys.others(column),
        }
    }

    /// What members of a shared sorted set begin with.
    pub(crate) fn tag(self) -> &'static [u8] {
        match self {
            Part::OtherNumbers => b"n",
            Part::OtherTexts => b"t",
            Part::OtherBlobs => b"b",
            Part::Nulls | Part::Numbers | Part::Texts => b"",
        }
    }
}

/// The trace of one value of one row in an index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Trace {
    /// Set that holds the rowid.
    pub set: Vec<u8>,
    /// Sorted set, score and member; none for NULL.
    pub member: Option<(Vec<u8>, String, Vec<u8>)>,
}

/// The trace of a value.
pub(crate) fn trace(keys: &Keys, column: &str, affinity: Affinity, value: &Value) -> Trace {
    let part = part(value, affinity);
    let Some(text) = value.key_text() else { return Trace { set: keys.nulls(column), member: None } };
    let (score, member) = match part {
        Part::Numbers => (score(value), number_member(value, affinity)),
        _ => ("0".to_owned(), member(part, value)),
    };
    Trace { set: keys.rows_with(column, &text), member: Some((part.key(keys, column), score, member)) }
}

/// A number as a score.
pub(crate) fn score(value: &Value) -> String {
    match value {
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) if real.is_infinite() => if *real > 0.0 { "inf" } else { "-inf" }.to_owned(),
        // 0 and -0 are one value.
        Value::Real(real) => format!("{:?}", real + 0.0),
        Value::Null | Value::Text(_) | Value::Blob(_) => "0".to_owned(),
    }
}

/// A number as member: as the C module writes it where nothing is lost by that.
fn number_member(value: &Value, affinity: Affinity) -> Vec<u8> {
    let Value::Real(real) = value else { return value.key_text().unwrap_or_default() };
    let real = real + 0.0;
    let fixed = format!("{real:.6}");
    let text = if affinity == Affinity::Real && fixed.parse() == Ok(real) { fixed } else { exact_real_text(real) };
    text.into_bytes()
}

/// A value as member of a lexical part.
pub(crate) fn member(part: Part, value: &Value) -> Vec<u8> {
    let mut member = part.tag().to_vec();
    match value {
        Value::Integer(_) | Value::Real(_) => {
            member.extend_from_slice(sortable(value).as_bytes());
            member.extend_from_slice(match value {
                Value::Integer(_) => b"i",
                _ => b"r",
            });
        }
        Value::Text(bytes) | Value::Blob(bytes) => member.extend_from_slice(bytes),
        Value::Null => {}
    }
    member
}

/// A number as hexadecimal digits whose lexical order is that of the numbers: its nearest double,
/// then how far an integer is from that.
pub(crate) fn sortable(value: &Value) -> String {
    let (real, rest) = match value {
        Value::Integer(integer) => {
            let real = *integer as f64;
            (real, i128::from(*integer) - real as i128)
        }
        Value::Real(real) => (real + 0.0, 0),
        Value::Null | Value::Text(_) | Value::Blob(_) => (0.0, 0),
    };
    let bits = real.to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    format!("{ordered:016x}{:04x}", rest + 0x8000)
}

/// The value that a member stands for, of which the set's key is made.
pub(crate) fn value_of(part: Part, affinity: Affinity, member: &[u8], score: f64) -> Option<Value> {
    let rest = member.strip_prefix(part.tag())?;
    match part {
        Part::Nulls => None,
        Part::Numbers => Some(match std::str::from_utf8(member).ok().and_then(|text| text.parse::<i64>().ok()) {
            Some(integer) if affinity != Affinity::Real => Value::Integer(integer),
            _ => Value::Real(score),
        }),
        Part::Texts | Part::OtherTexts => Some(Value::Text(rest.to_vec())),
        Part::OtherBlobs => Some(Value::Blob(rest.to_vec())),
        Part::OtherNumbers => {
            // Other programs may have put any bytes there.
            let digits = |at: Range<usize>| std::str::from_utf8(rest.get(at)?).ok();
            let ordered = u64::from_str_radix(digits(0..16)?, 16).ok()?;
            let rest_of = i128::from_str_radix(digits(16..20)?, 16).ok()? - 0x8000;
            let real = f64::from_bits(if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered });
            match rest.get(20)? {
                b'i' => i64::try_from((real as i128).checked_add(rest_of)?).ok().map(Value::Integer),
                _ => Some(Value::Real(real)).filter(|_| !real.is_nan()),
            }
        }
    }
}

/// The values of a uniqueness constraint as part of a key, collations applied; `None` when one of
/// them is NULL, which is like nothing.
pub(crate) fn unique_text(values: &[(&Value, &str)]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    for (value, collation) in values {
        let (tag, bytes) = match value {
            Value::Null => return None,
            Value::Integer(_) | Value::Real(_) => (b'n', sortable(value).into_bytes()),
            Value::Text(bytes) => (b't', folded(bytes, collation)),
            Value::Blob(bytes) => (b'b', bytes.clone()),
        };
        text.push(tag);
        text.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
        text.extend_from_slice(&bytes);
    }
    Some(text)
}

/// A text such that those which a collation finds equal are equal.
fn folded(bytes: &[u8], collation: &str) -> Vec<u8> {
    if collation.eq_ignore_ascii_case("NOCASE") {
        bytes.to_ascii_lowercase()
    } else if collation.eq_ignore_ascii_case("RTRIM") {
        let end = bytes.iter().rposition(|b| *b != b' ').map_or(0, |at| at + 1);
        bytes[..end].to_vec()
    } else {
        bytes.to_vec()
    }
}

/// Traces of a value in a column that this table does not declare: its type is not known, only
/// the text in the hash.
pub(crate) fn unknown_trace(keys: &Keys, column: &str, text: Option<&[u8]>) -> Vec<Trace> {
    let Some(text) = text else { return vec![Trace { set: keys.nulls(column), member: None }] };
    let mut traces: Vec<Trace> = [Affinity::Text, Affinity::Integer, Affinity::Real]
        .into_iter()
        .map(|affinity| trace(keys, column, affinity, &affinity.of_text(text)))
        .collect();
    if let Value::Real(real) = Affinity::Real.of_text(text) {
        traces.push(trace(keys, column, Affinity::Integer, &Value::Text(real_text(real).into_bytes())));
    }
    traces.sort();
    traces.dedup();
    traces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_number() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            (-5i64..5).prop_map(Value::Integer),
            any::<f64>().prop_filter("NaN is NULL", |real| !real.is_nan()).prop_map(Value::Real),
            Just(Value::Real(-0.0)),
        ]
    }

    proptest! {
        #[test]
        fn digits_are_in_the_order_of_numbers(a in any_number(), b in any_number()) {
            prop_assert_eq!(sortable(&a).cmp(&sortable(&b)), a.compare(&b));
        }

        #[test]
        fn any_bytes_are_some_member_or_none(
            head in "[0-9a-fn]{0,18}",
            middle in "[é0-9a-f]{0,8}",
            tail in prop::collection::vec(any::<u8>(), 0..6),
            score: f64,
        ) {
            let bytes = [b"n", head.as_bytes(), middle.as_bytes(), &tail].concat();
            for part in [Part::Numbers, Part::Texts, Part::OtherNumbers, Part::OtherTexts, Part::OtherBlobs] {
                for affinity in [Affinity::Text, Affinity::Integer, Affinity::Real] {
                    value_of(part, affinity, &bytes, score);
                }
            }
        }

        #[test]
        fn members_tell_their_value(value in any_number()) {
            for affinity in [Affinity::Text, Affinity::Integer, Affinity::Real] {
                let part = part(&value, affinity);
                let (member, number) = match part {
                    Part::Numbers => {
                        (number_member(&value, affinity), score(&value).parse::<f64>().unwrap_or(0.0))
                    }
                    _ => (member(part, &value), 0.0),
                };
                let back = value_of(part, affinity, &member, number).unwrap();
                let whole_as_real = affinity == Affinity::Real && matches!(value, Value::Integer(_));
                prop_assert!(whole_as_real || back.compare(&value).is_eq(), "{back:?} {value:?}");
            }
        }
    }

    #[test]
    fn members_that_other_programs_have_made_up_stand_for_nothing() {
        let value = |member: &[u8]| value_of(Part::OtherNumbers, Affinity::Text, member, 0.0);
        let one = member(Part::OtherNumbers, &Value::Integer(1));
        assert_eq!(value(&one), Some(Value::Integer(1)));
        for bad in [
            "n",
            "n123456789012345é8000i",
            "n12345678901234é8000i",
            // Larger than any integer, and no number.
            &format!("n{:016x}ffffi", f64::MAX.to_bits() | 1 << 63),
            &format!("n{:016x}8000r", f64::NAN.to_bits() | 1 << 63),
        ] {
            assert_eq!(value(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn traces_are_those_of_the_published_layout() {
        let keys = Keys::new("p", "main", "idx");
        let trace = |column: &str, affinity, value: &Value| {
            let trace = trace(&keys, column, affinity, value);
            let (key, score, member) = trace.member.unwrap();
            [trace.set, key, score.into_bytes(), member].map(|bytes| String::from_utf8(bytes).unwrap())
        };
        let real = trace("f", Affinity::Real, &Value::Real(1.5));
        assert_eq!(real, ["p.main.idx.index:f:1.5", "p.main.idx.index:f", "1.5", "1.500000"]);
        let integer = trace("i", Affinity::Integer, &Value::Integer(-2));
        assert_eq!(integer, ["p.main.idx.index:i:-2", "p.main.idx.index:i", "-2", "-2"]);
        let text = trace("s", Affinity::Text, &Value::Text(b"apple".to_vec()));
        assert_eq!(text, ["p.main.idx.index:s:apple", "p.main.idx.index:s", "0", "apple"]);
    }
}
