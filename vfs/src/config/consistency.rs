//! How new what a read transaction sees must be.

use std::fmt;
use std::time::Duration;

use crate::config::Range;

/// A level of consistency, as the parameter `consistency` and `PRAGMA redis_consistency` spell it.
/// One version for each read transaction is promised by all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// `strong`: the newest commit of the primary.
    #[default]
    Strong,
    /// `session`: never older than what this connection has read or written.
    Session,
    /// `bounded=<milliseconds>`: whatever was acknowledged this long ago, or longer.
    Bounded(Duration),
    /// `snapshot`: whatever a replica has.
    Snapshot,
}

impl Consistency {
    /// What messages say of a text that [`Consistency::parse`] does not know.
    pub(crate) const EXPECTED: &str = "expected strong, session, bounded=<milliseconds> (1 to 86400000) or snapshot";
    const BOUND: Range = Range::milliseconds_from(1);

    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "strong" => Some(Consistency::Strong),
            "session" => Some(Consistency::Session),
            "snapshot" => Some(Consistency::Snapshot),
            other => {
                let bound = Self::BOUND.parse(other.strip_prefix("bounded=")?)?;
                Some(Consistency::Bounded(Duration::from_millis(bound)))
            }
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Consistency::Strong => f.write_str("strong"),
            Consistency::Session => f.write_str("session"),
            Consistency::Bounded(bound) => write!(f, "bounded={}", bound.as_millis()),
            Consistency::Snapshot => f.write_str("snapshot"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_range_of_the_bound() {
        assert!(Consistency::EXPECTED.contains(&format!("({})", Consistency::BOUND)));
    }

    #[test]
    fn levels_are_read_as_they_are_written() {
        for text in ["strong", "session", "snapshot", "bounded=1", "bounded=60000"] {
            assert_eq!(Consistency::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Consistency::parse("Session"), Some(Consistency::Session));
        for text in
            ["", "weak", "bounded", "bounded=", "bounded=0", "bounded=-1", "bounded=1s", "bounded=86400001", "strong=1"]
        {
            assert_eq!(Consistency::parse(text), None, "{text}");
        }
    }
}
