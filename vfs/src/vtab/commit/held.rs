//! The value of a table's hold key.

use redis::Value as Reply;

use crate::vtab::layout::replies::bulk;

/// The state of a table's hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Hold {
    #[default]
    Free,
    /// Another client holds the lock with this id.
    Locked(Vec<u8>),
    Decided(Decided),
}

impl Hold {
    /// Parses the reply to `GET`.
    pub(crate) fn of(reply: &Reply) -> Hold {
        let Some(value) = bulk(Some(reply)) else { return Hold::Free };
        if value.starts_with(b"done ") {
            return Hold::Free;
        }
        Decided::of(value).map_or_else(|| Hold::Locked(value.to_vec()), Hold::Decided)
    }
}

/// A change that is decided but not completely applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(super) count: u32,
    pub(super) staged: Vec<u8>,
}

impl Decided {
    pub(crate) fn new(count: u32, staged: Vec<u8>) -> Decided {
        Decided { count, staged }
    }

    /// Parses a value that begins with `apply`.
    pub(crate) fn of(hold: &[u8]) -> Option<Decided> {
        let rest = hold.strip_prefix(b"apply ")?;
        let at = rest.iter().position(|byte| *byte == b' ')?;
        let count = std::str::from_utf8(&rest[..at]).ok()?.parse().ok()?;
        Some(Decided { count, staged: rest[at + 1..].to_vec() })
    }

    /// The number of its slices.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The key of the hash that has the slices.
    pub(crate) fn staged(&self) -> &[u8] {
        &self.staged
    }

    /// The value of the hold until all slices are applied.
    pub(crate) fn value(&self) -> Vec<u8> {
        [format!("apply {} ", self.count).as_bytes(), &self.staged].concat()
    }

    /// The value of the hold afterwards.
    pub(crate) fn done(&self) -> Vec<u8> {
        let id = self.staged.rsplit(|byte| *byte == b':').next().unwrap_or_default();
        [b"done ", id].concat()
    }
}
