//! A row as a Redis hash: one field a column, absent for NULL, and [`TYPES`] where a text alone
//! would be read as another value than was written.
//!
//! `TYPES` holds one entry for each such column: a letter (`i`, `r`, `t`, `b`), 16 hexadecimal
//! digits of the FNV-1a hash of the field's text, the length of the column's name, `:`, and the
//! name. An entry whose hash does not fit is void: another program has written the field since.
//! A row without any field would not exist, so one that is all NULL has an empty `TYPES`.

use std::collections::HashSet;

use crate::sqlite::value::{Affinity, FNV, Value, exact_real_text, fnv, real_text};
use crate::vtab::layout::keys::TYPES;

/// A row as fields of a hash.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The text of a value in a hash, and a letter when the text alone would be taken for another
/// value. `None` for NULL, which has no field.
pub(crate) fn encode(value: &Value, affinity: Affinity) -> Option<(Vec<u8>, Option<u8>)> {
    let given_back = |text: &str| is_same(&affinity.of_text(text.as_bytes()), value);
    let (text, letter) = match value {
        Value::Null => return None,
        Value::Integer(integer) => (integer.to_string(), b'i'),
        Value::Real(real) => {
            (Some(real_text(*real)).filter(|t| given_back(t)).unwrap_or_else(|| exact_real_text(*real)), b'r')
        }
        Value::Text(bytes) => {
            let plain = affinity.of_text(bytes) == *value;
            return Some((bytes.clone(), (!plain).then_some(b't')));
        }
        Value::Blob(bytes) => return Some((bytes.clone(), Some(b'b'))),
    };
    let letter = (!given_back(&text)).then_some(letter);
    Some((text.into_bytes(), letter))
}

/// Equal in every bit: 0.0 and -0.0 are not.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

/// The opposite of [`encode`].
fn decode(text: &[u8], letter: Option<u8>, affinity: Affinity) -> Value {
    let plain = || affinity.of_text(text);
    let parsed = || std::str::from_utf8(text).ok();
    match letter {
        Some(b't') => Value::Text(text.to_vec()),
        Some(b'b') => Value::Blob(text.to_vec()),
        Some(b'i') => parsed().and_then(|text| text.parse().ok()).map_or_else(plain, Value::Integer),
        Some(b'r') => match parsed().and_then(|text| text.parse::<f64>().ok()) {
            Some(real) if !real.is_nan() => Value::Real(real),
            _ => plain(),
        },
        _ => plain(),
    }
}

/// One entry of [`TYPES`].
struct Entry<'a> {
    letter: u8,
    hash: u64,
    column: &'a [u8],
}

/// The entries, as far as they can be read.
fn entries(mut types: &[u8]) -> Vec<Entry<'_>> {
    let mut found = Vec::new();
    let mut next = || {
        let (letter, rest) = types.split_first()?;
        let hash = u64::from_str_radix(std::str::from_utf8(rest.get(..16)?).ok()?, 16).ok()?;
        let rest = &rest[16..];
        let colon = rest.iter().position(|b| *b == b':')?;
        let length: usize = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
        let column = rest.get(colon + 1..)?.get(..length)?;
        types = &rest[colon + 1 + length..];
        Some(Entry { letter: *letter, hash, column })
    };
    while let Some(entry) = next() {
        found.push(entry);
    }
    found
}

/// The entries of a row's `TYPES`, to be looked up by column.
pub(crate) struct Types<'a>(Vec<Entry<'a>>);

impl<'a> Types<'a> {
    /// Entries that are looked through; more are sorted.
    const FEW: usize = 16;

    pub(crate) fn of(types: Option<&'a [u8]>) -> Self {
        let mut entries = entries(types.unwrap_or_default());
        if entries.len() > Self::FEW {
            entries.sort_by_key(|entry| entry.column);
        }
        Types(entries)
    }

    /// The first entry of a column.
    fn get(&self, column: &[u8]) -> Option<&Entry<'a>> {
        let Types(entries) = self;
        if entries.len() <= Self::FEW {
            return entries.iter().find(|entry| entry.column == column);
        }
        let at = entries.partition_point(|entry| entry.column < column);
        entries.get(at).filter(|entry| entry.column == column)
    }
}

/// The fields of a row with these columns. `before` is the row's `TYPES` so far: entries of
/// columns that are not ours are kept.
pub(crate) fn fields<'a>(
    columns: impl Iterator<Item = (&'a str, Affinity, &'a Value)>,
    before: Option<&[u8]>,
) -> Fields {
    let mut fields = Fields::new();
    let mut types = Vec::new();
    let mut ours = HashSet::new();
    let mut any = false;
    for (name, affinity, value) in columns {
        ours.insert(name.as_bytes());
        let Some((text, letter)) = encode(value, affinity) else { continue };
        any = true;
        if let Some(letter) = letter {
            write_entry(&mut types, letter, fnv(FNV, &text), name.as_bytes());
        }
        fields.push((name.as_bytes().to_vec(), text));
    }
    for entry in entries(before.unwrap_or_default()) {
        if !ours.contains(entry.column) {
            write_entry(&mut types, entry.letter, entry.hash, entry.column);
        }
    }
    if !types.is_empty() || !any {
        fields.push((TYPES.to_vec(), types));
    }
    fields
}

fn write_entry(types: &mut Vec<u8>, letter: u8, hash: u64, column: &[u8]) {
    types.push(letter);
    types.extend_from_slice(format!("{hash:016x}{}:", column.len()).as_bytes());
    types.extend_from_slice(column);
}

/// The value of a column out of its field and the row's `TYPES`.
pub(crate) fn value(name: &str, affinity: Affinity, field: Option<&[u8]>, types: &Types<'_>) -> Value {
    let Some(text) = field else { return Value::Null };
    let letter = types.get(name.as_bytes()).filter(|entry| entry.hash == fnv(FNV, text)).map(|entry| entry.letter);
    decode(text, letter, affinity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            (-20i64..20).prop_map(Value::Integer),
            any::<f64>().prop_filter("NaN is NULL", |real| !real.is_nan()).prop_map(Value::Real),
            (-20i32..20).prop_map(|n| Value::Real(f64::from(n) / 2.0)),
            "[0-9:. e+-]{0,6}".prop_map(|text| Value::Text(text.into_bytes())),
            prop::collection::vec(any::<u8>(), 0..8).prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..8).prop_map(Value::Blob),
        ]
    }

    const AFFINITIES: [Affinity; 5] =
        [Affinity::Integer, Affinity::Text, Affinity::Blob, Affinity::Real, Affinity::Numeric];

    proptest! {
        #[test]
        fn every_value_comes_back_from_every_column(values in prop::collection::vec(any_value(), 5)) {
            let names = ["a", "b:c", "", "é", "9:"];
            let columns = || names.iter().zip(AFFINITIES).zip(&values);
            let fields = fields(columns().map(|((name, affinity), value)| (*name, affinity, value)), None);
            prop_assert!(!fields.is_empty());
            let field = |name: &[u8]| fields.iter().find(|(field, _)| field == name).map(|(_, text)| text.as_slice());
            for ((name, affinity), expected) in columns() {
                let found = value(name, affinity, field(name.as_bytes()), &Types::of(field(TYPES)));
                prop_assert!(is_same(&found, expected), "{name}: {found:?} {expected:?}");
            }
        }

        #[test]
        fn damaged_types_are_survived(types in prop::collection::vec(any::<u8>(), 0..40)) {
            value("a", Affinity::Integer, Some(b"12"), &Types::of(Some(&types)));
        }
    }

    #[test]
    fn a_field_that_another_program_wrote_is_read_by_itself() {
        let blob = Value::Blob(b"12".to_vec());
        let fields = fields([("a", Affinity::Integer, &blob)].into_iter(), None);
        let types = &Types::of(Some(&fields[1].1));
        assert_eq!(value("a", Affinity::Integer, Some(b"12"), types), blob);
        assert_eq!(value("a", Affinity::Integer, Some(b"13"), types), Value::Integer(13));
    }

    #[test]
    fn the_first_entry_of_a_column_counts_however_many_there_are() {
        for columns in [3, 1000] {
            let mut types = Vec::new();
            for n in (0..columns).rev() {
                for letter in [b'b', b't'] {
                    write_entry(&mut types, letter, fnv(FNV, b"12"), format!("c{n}").as_bytes());
                }
            }
            let types = Types::of(Some(&types));
            for n in [0, 1, columns - 1] {
                let found = value(&format!("c{n}"), Affinity::Integer, Some(b"12"), &types);
                assert_eq!(found, Value::Blob(b"12".to_vec()), "c{n}");
            }
            assert_eq!(value("c", Affinity::Integer, Some(b"12"), &types), Value::Integer(12));
        }
    }
}
