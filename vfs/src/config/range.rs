//! Numeric settings: units and allowed values.

use std::fmt;

use crate::config::Value;
use crate::model::error::Result;

/// A day, in milliseconds. Every wait in this library ends, so no time limit can be longer.
const DAY: u64 = 24 * 60 * 60 * 1000;
/// Maximum of a setting in bytes.
const MOST_BYTES: u64 = 1 << 40;

/// The unit, the minimum and the maximum of a numeric setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    unit: Unit,
    least: u64,
    most: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Milliseconds,
    /// An optional suffix `k`, `M` or `G` follows the number.
    Bytes,
    Count,
}

impl Range {
    pub(super) const BYTES: Range = Range { unit: Unit::Bytes, least: 0, most: MOST_BYTES };

    pub(super) const fn milliseconds_from(least: u64) -> Range {
        Range { unit: Unit::Milliseconds, least, most: DAY }
    }

    pub(super) const fn up_to(most: u64) -> Range {
        Range { unit: Unit::Count, least: 0, most }
    }

    /// Parses a number; `None` if it is malformed or out of range.
    pub(crate) fn parse(&self, text: &str) -> Option<u64> {
        let number = match self.unit {
            Unit::Bytes => bytes(text),
            Unit::Milliseconds | Unit::Count => text.parse().ok(),
        }?;
        (self.least..=self.most).contains(&number).then_some(number)
    }

    /// The expected form, for error messages.
    pub(crate) fn expected(&self) -> String {
        match self.unit {
            Unit::Milliseconds => format!("expected milliseconds, {self}"),
            Unit::Bytes => format!("expected bytes, {self}, such as 65536, 512k, 64M or 2G"),
            Unit::Count => format!("expected a whole number, {self}"),
        }
    }
}

/// The bounds, as a setting spells them.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Bytes => write!(f, "{} to {}G", self.least, self.most >> 30),
            Unit::Milliseconds | Unit::Count => write!(f, "{} to {}", self.least, self.most),
        }
    }
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

impl Value {
    /// Parses the number of a setting with this range.
    pub(super) fn number(self, range: Option<Range>) -> Result<u64> {
        let Some(range) = range else { return self.bad("expected no number") };
        match range.parse(&self.text) {
            Some(number) => Ok(number),
            None => self.bad(range.expected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let parse = |text: &str| Range::BYTES.parse(text);
        assert_eq!(parse("512"), Some(512));
        assert_eq!(parse("2k"), Some(2048));
        assert_eq!(parse("1G"), Some(1 << 30));
        assert_eq!(parse("k"), None);
    }

    #[test]
    fn numbers_end_where_their_range_does() {
        for (range, inside, outside) in [
            (Range::BYTES, ["0", "1024G"], ["-1", "1025G"]),
            (Range::milliseconds_from(100), ["100", "86400000"], ["99", "86400001"]),
            (Range::up_to(1000), ["0", "1000"], ["0.5", "1001"]),
        ] {
            assert!(inside.iter().all(|text| range.parse(text).is_some()), "{range}");
            assert!(outside.iter().all(|text| range.parse(text).is_none()), "{range}");
            for text in ["", " 1", "17179869183G", &"9".repeat(30), &format!("{}G", "9".repeat(30))] {
                assert_eq!(range.parse(text), None, "{range}: {text}");
            }
        }
        assert_eq!(Range::BYTES.to_string(), "0 to 1024G");
        assert_eq!(Range::milliseconds_from(1).to_string(), "1 to 86400000");
    }
}
