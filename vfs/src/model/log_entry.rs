//! Commits, and the log's entries about them.

use crate::model::page::PageNo;
use crate::model::version::{CommitId, Snapshot, Version};

/// How to take a commit back, as [`crate::model::undo`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undo {
    /// The reverse deltas, as [`crate::model::delta`] writes them: little enough for the log's entry.
    Deltas(Vec<u8>),
    /// The changed pages for the log's entry, and the reverse deltas for the stream of undo data; no
    /// pieces when there was too much to keep.
    Pieces { pages: Vec<u8>, pieces: Vec<Piece> },
    /// Not at all: the page size changed, or the list of pages would be too long.
    Barrier,
}

/// Part of a commit's undo data: whole pages, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The last page in it, which names it.
    pub last: PageNo,
    /// As [`crate::model::delta`] writes them.
    pub deltas: Vec<u8>,
}

/// Asks for the piece of a commit's undo data that has a page, and those that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PiecesAsked {
    pub version: Version,
    pub from: PageNo,
    /// How many pieces at most.
    pub count: usize,
}

/// What a log entry says about the pages that its commit changed or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Which they are, and how to take that back.
    Deltas(Vec<u8>),
    /// Only which they are, as [`crate::model::undo::PageList`] writes it.
    Pages(Vec<u8>),
    /// Nothing: any page may have changed, and the commit can't be taken back.
    Unknown,
}

impl Changes {
    /// Bytes that it has.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Changes::Deltas(bytes) | Changes::Pages(bytes) => bytes.len(),
            Changes::Unknown => 0,
        }
    }
}

/// One commit in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub version: Version,
    pub commit: CommitId,
    /// Id of the commit before: ties the log's entries, and a snapshot to them.
    pub base: CommitId,
    /// Pages before.
    pub page_count: u32,
    pub changes: Changes,
}

/// A commit on its way.
#[derive(Debug, Clone)]
pub(crate) struct Commit<'a> {
    /// The version that it was made from.
    pub base: Snapshot,
    /// The version that it makes.
    pub snapshot: Snapshot,
    /// Pages that are new or different, in ascending order; none when they are staged.
    pub pages: Vec<(PageNo, &'a [u8])>,
    pub undo: &'a Undo,
    /// There are fewer pages than before, or fewer of them are in use.
    pub shrinks: bool,
}

impl Commit<'_> {
    /// Pages of the base that the new version does not have.
    pub(crate) fn removed(&self) -> impl DoubleEndedIterator<Item = PageNo> {
        PageNo::range(self.snapshot.page_count + 1, self.base.page_count)
    }
}

/// Checks that a log continues `from` without a hole up to `to`.
pub(crate) fn check_chain<'a>(
    from: &Snapshot,
    to: &Snapshot,
    entries: impl IntoIterator<Item = &'a LogEntry>,
) -> std::result::Result<(), String> {
    let mut version = from.version;
    let mut commit = from.commit;
    for entry in entries {
        if entry.version != version.next() {
            return Err(format!("the log goes from version {version} to {}", entry.version));
        }
        if entry.base != commit {
            return Err(format!("the log's version {} follows another history", entry.version));
        }
        (version, commit) = (entry.version, entry.commit);
    }
    if (version, commit) == to.identity() {
        return Ok(());
    }
    Err(format!("the log does not reach from version {} to {}", from.version, to.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: u64, commit: u64, base: u64) -> LogEntry {
        LogEntry {
            version: Version(version),
            commit: CommitId(commit),
            base: CommitId(base),
            page_count: 1,
            changes: Changes::Unknown,
        }
    }

    fn snapshot(version: u64, commit: u64) -> Snapshot {
        Snapshot { version: Version(version), commit: CommitId(commit), page_size: 512, page_count: 1 }
    }

    #[test]
    fn a_chain_must_have_no_hole_and_no_stranger() {
        let good = [entry(5, 50, 40), entry(6, 60, 50)];
        assert!(check_chain(&snapshot(4, 40), &snapshot(6, 60), &good).is_ok());
        assert!(check_chain(&snapshot(4, 41), &snapshot(6, 60), &good).is_err(), "another version 4");
        assert!(check_chain(&snapshot(4, 40), &snapshot(6, 61), &good).is_err(), "another version 6");
        assert!(check_chain(&snapshot(4, 40), &snapshot(6, 60), &good[1..]).is_err(), "trimmed");
        assert!(check_chain(&snapshot(4, 40), &snapshot(6, 60), []).is_err(), "no log");
        let foreign = [entry(5, 50, 40), entry(6, 60, 51)];
        assert!(check_chain(&snapshot(4, 40), &snapshot(6, 60), &foreign).is_err());
    }
}
