//! Consistency levels: how recent the version must be that a transaction reads.

use std::fmt;
use std::time::Duration;

use crate::config::Range;

/// A consistency level: how recent the version must be that a transaction reads.
///
/// The setting `consistency` and `PRAGMA redis_consistency` take the same names. At every level, a transaction reads
/// one version from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// `strong`: the newest commit of the primary.
    #[default]
    Strong,
    /// `session`: never older than what this connection has read or written.
    Session,
    /// `bounded=<milliseconds>`: at least every commit that was acknowledged this long ago or earlier.
    Bounded(Duration),
    /// `snapshot`: any version that a replica has, of any age.
    Snapshot,
}

impl Consistency {
    /// The expected form, for error messages.
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
