//! SQLite's values: their order, their affinity, and their text form in Redis.

use std::cmp::Ordering;
use std::collections::HashSet;

/// A value as SQLite stores it (<https://sqlite.org/datatype3.html>). Text need not be UTF-8.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

/// A column's affinity (<https://sqlite.org/datatype3.html#type_affinity>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    /// "Determination Of Column Affinity", in the order of the rules there.
    pub(crate) fn of(declared: &str) -> Affinity {
        let declared = declared.to_ascii_uppercase();
        let has = |word: &str| declared.contains(word);
        if has("INT") {
            Affinity::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Affinity::Text
        } else if has("BLOB") || declared.is_empty() {
            Affinity::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }

    pub(crate) fn is_numeric(self) -> bool {
        matches!(self, Affinity::Integer | Affinity::Real | Affinity::Numeric)
    }

    /// The value that a column of this affinity stores for a text.
    pub(crate) fn of_text(self, text: &[u8]) -> Value {
        match self {
            Affinity::Text | Affinity::Blob => Value::Text(text.to_vec()),
            Affinity::Integer | Affinity::Numeric => number(text).unwrap_or_else(|| Value::Text(text.to_vec())),
            Affinity::Real => match number(text) {
                Some(Value::Integer(integer)) => Value::Real(integer as f64),
                Some(real) => real,
                None => Value::Text(text.to_vec()),
            },
        }
    }

    /// Converts a value for a comparison with a column of this affinity.
    pub(crate) fn of_operand(self, value: Value) -> Value {
        match value {
            Value::Text(text) if self.is_numeric() => Affinity::Numeric.of_text(&text),
            other => other,
        }
    }
}

/// Whole reals in this range are stored as integers by columns with integer or numeric affinity
/// (`sqlite3VdbeIntegerAffinity`). Reals next to the smallest and the largest integer are excluded.
const WHOLE: std::ops::Range<f64> = -9_223_372_036_854_774_784.0..9_223_372_036_854_775_808.0;

/// The number that a text spells, as a column with numeric affinity stores it. White space around it is ignored. `None` if
/// the text is not a number as a whole.
pub(crate) fn number(text: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !is_numeric_literal(digits.as_bytes()) {
        return None;
    }
    if digits.bytes().all(|b| b.is_ascii_digit())
        && let Ok(integer) = text.parse::<i64>()
    {
        return Some(Value::Integer(integer));
    }
    let real: f64 = text.parse().ok()?;
    if real.trunc() == real && WHOLE.contains(&real) {
        return Some(Value::Integer(real as i64));
    }
    Some(Value::Real(real))
}

/// Whether the text is digits with an optional point and an optional exponent.
fn is_numeric_literal(text: &[u8]) -> bool {
    let (mantissa, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let points = mantissa.iter().filter(|b| **b == b'.').count();
    let digits = mantissa.iter().filter(|b| b.is_ascii_digit()).count();
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    });
    points <= 1 && digits > 0 && digits + points == mantissa.len() && exponent_fits
}

/// The text of a real in SQLite's format `%!.15g`. Part of key names, so it must not depend on the version of SQLite.
pub(crate) fn real_text(real: f64) -> String {
    if real.is_infinite() {
        return if real > 0.0 { "Inf".into() } else { "-Inf".into() };
    }
    if real == 0.0 {
        return "0.0".into();
    }
    if (1e-4..1e15).contains(&real.abs()) {
        // Fast path: if the shortest text that parses to the same real has at most 15 digits, `%!.15g` prints the same.
        let short = format!("{real:?}");
        let digits = short.trim_start_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit);
        if digits.count() <= 15 {
            return short;
        }
    }
    fifteen_digits(real)
}

fn fifteen_digits(real: f64) -> String {
    let scientific = format!("{real:.14e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..15).contains(&exponent) {
        let places = usize::try_from(14 - exponent).unwrap_or(0);
        return with_one_place(&format!("{real:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", with_one_place(mantissa), exponent.abs())
}

/// Removes trailing zeros, but keeps one digit after the point.
fn with_one_place(decimal: &str) -> String {
    if !decimal.contains('.') {
        return format!("{decimal}.0");
    }
    let short = decimal.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
}

/// The shortest text that parses to exactly this real.
pub(crate) fn exact_real_text(real: f64) -> String {
    let short = real_text(real);
    if real == 0.0 && real.is_sign_negative() {
        return "-0.0".into();
    }
    if short.parse() == Ok(real) { short } else { format!("{real:?}") }
}

impl Value {
    /// The value's text in key names, such as `index:f:1.5`; `None` for NULL. Different values may share a text.
    pub(crate) fn key_text(&self) -> Option<Vec<u8>> {
        match self {
            Value::Null => None,
            Value::Integer(integer) => Some(integer.to_string().into_bytes()),
            Value::Real(real) => Some(real_text(*real).into_bytes()),
            Value::Text(bytes) | Value::Blob(bytes) => Some(bytes.clone()),
        }
    }

    /// The key texts of all values that are equal to this one: 10 and 10.0 are equal, but differ as text.
    pub(crate) fn key_texts(&self) -> Vec<Vec<u8>> {
        let mut texts: Vec<Vec<u8>> = self.key_text().into_iter().collect();
        let real = match self {
            Value::Integer(integer) => *integer as f64,
            Value::Real(real) => real + 0.0,
            Value::Null | Value::Text(_) | Value::Blob(_) => return texts,
        };
        // `exact_real_text` is the format of newer versions of SQLite.
        texts.extend([real_text(real), exact_real_text(real)].map(String::into_bytes));
        if real.trunc() == real && real.abs() < 9.3e18 {
            texts.push((real as i64).to_string().into_bytes());
        }
        let mut seen = HashSet::new();
        texts.retain(|text| seen.insert(text.clone()));
        texts
    }

    fn class(&self) -> u8 {
        match self {
            Value::Null => 0,
            Value::Integer(_) | Value::Real(_) => 1,
            Value::Text(_) => 2,
            Value::Blob(_) => 3,
        }
    }

    /// Compares in SQLite's order, with the collation BINARY.
    pub(crate) fn compare(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
            (Value::Real(a), Value::Real(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Value::Integer(a), Value::Real(b)) => compare_mixed(*a, *b),
            (Value::Real(a), Value::Integer(b)) => compare_mixed(*b, *a).reverse(),
            (Value::Text(a), Value::Text(b)) | (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
            _ => self.class().cmp(&other.class()),
        }
    }

    /// Continues an FNV-1a hash over this value. Values with the same type and content have the same hash in every
    /// process.
    pub(crate) fn digest(&self, hash: u64) -> u64 {
        let (class, bytes) = match self {
            Value::Null => (0, Vec::new()),
            Value::Integer(integer) => (1, integer.to_be_bytes().to_vec()),
            Value::Real(real) => (2, real.to_bits().to_be_bytes().to_vec()),
            Value::Text(bytes) => (3, bytes.clone()),
            Value::Blob(bytes) => (4, bytes.clone()),
        };
        let hash = fnv(hash, &[class]);
        let hash = fnv(hash, &(bytes.len() as u64).to_be_bytes());
        fnv(hash, &bytes)
    }
}

/// Compares exactly. A cast of the integer to a real could round.
fn compare_mixed(integer: i64, real: f64) -> Ordering {
    if real >= 9_223_372_036_854_775_808.0 {
        return Ordering::Less;
    }
    if real < -9_223_372_036_854_775_808.0 {
        return Ordering::Greater;
    }
    let whole = real.trunc() as i64;
    integer.cmp(&whole).then_with(|| 0.0f64.partial_cmp(&(real - real.trunc())).unwrap_or(Ordering::Equal))
}

/// Initial value of an FNV-1a hash.
pub(crate) const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// Continues an FNV-1a hash over more bytes.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn affinity_follows_the_declared_type() {
        for (declared, affinity) in [
            ("VARCHAR(255)", Affinity::Text),
            ("INTEGER", Affinity::Integer),
            ("CHARINT", Affinity::Integer),
            ("", Affinity::Blob),
            ("DOUBLE PRECISION", Affinity::Real),
            ("DECIMAL(10,5)", Affinity::Numeric),
            ("STRANGE", Affinity::Numeric),
        ] {
            assert_eq!(Affinity::of(declared), affinity, "{declared}");
        }
    }

    #[test]
    fn reals_are_printed_as_sqlite_does() {
        let sqlite = rusqlite::Connection::open_in_memory().unwrap();
        // Of 15 digits at most: newer versions print 17 where they are needed.
        for real in [1.5, 100.0, 2.25, 1e300, -2.5e-7, 123456789012345.0, 1e-5, 0.0001, 0.1] {
            let theirs: String = sqlite.query_row("SELECT CAST(?1 AS TEXT)", [real], |row| row.get(0)).unwrap();
            assert_eq!(real_text(real), theirs);
        }
        assert_eq!(real_text(f64::INFINITY), "Inf");
    }

    proptest! {
        #[test]
        fn few_digits_are_the_fifteen(thousandths in -1_000_000_000_000i64..1_000_000_000_000, any: f64) {
            for real in [thousandths as f64 / 1000.0, thousandths as f64 / 7.0, thousandths as f64, any] {
                prop_assume!(real.is_finite() && real != 0.0);
                prop_assert_eq!(real_text(real), fifteen_digits(real));
            }
        }
    }

    #[test]
    fn texts_become_numbers_only_when_they_are_numbers() {
        let integer = |text: &str| Affinity::Integer.of_text(text.as_bytes());
        assert_eq!(integer(" 12 "), Value::Integer(12));
        assert_eq!(integer("1e3"), Value::Integer(1000));
        assert_eq!(integer("1.5"), Value::Real(1.5));
        for text in ["", "abc", "1.2.3", "0x10", "1e", "--1", "inf", "nan", "."] {
            assert_eq!(integer(text), Value::Text(text.as_bytes().to_vec()), "{text}");
        }
        assert_eq!(integer("9223372036854775807"), Value::Integer(i64::MAX));
        assert_eq!(integer("9223372036854775808"), Value::Real(9_223_372_036_854_775_808.0));
    }

    #[test]
    fn integers_and_reals_compare_exactly() {
        let integer = Value::Integer(9_007_199_254_740_993);
        assert_eq!(integer.compare(&Value::Real(9_007_199_254_740_992.0)), Ordering::Greater);
        assert_eq!(Value::Integer(-1).compare(&Value::Real(-1.5)), Ordering::Greater);
        assert_eq!(Value::Real(f64::NEG_INFINITY).compare(&Value::Integer(i64::MIN)), Ordering::Less);
    }
}
