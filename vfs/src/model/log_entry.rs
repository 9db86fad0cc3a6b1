//! Commits, and their log entries.

use crate::model::page::PageNo;
use crate::model::version::{CommitId, Snapshot, Version};

/// The undo data of a commit, as [`crate::model::undo`] builds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undo {
    /// The reverse deltas, as [`crate::model::delta`] writes them. They are short enough for the log entry.
    Deltas(Vec<u8>),
    /// The list of changed pages, for the log entry, and the reverse deltas, for the undo stream. `pieces` is empty if
    /// they exceeded the limit.
    Pieces { pages: Vec<u8>, pieces: Vec<Piece> },
    /// The commit can't be rolled back: the page size changed, or the list of pages would be too long.
    Barrier,
}

/// A part of a commit's undo data: the deltas of one or more pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The last page of the piece. It identifies the piece in the undo stream.
    pub last: PageNo,
    /// The deltas, as [`crate::model::delta`] writes them.
    pub deltas: Vec<u8>,
}

/// A request for the piece of a commit's undo data that contains page `from`, and for the pieces after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PiecesAsked {
    pub version: Version,
    pub from: PageNo,
    /// Maximum number of pieces.
    pub count: usize,
}

/// The pages that a commit changed or removed, as its log entry records them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changes {
    /// The pages with their reverse deltas.
    Deltas(Vec<u8>),
    /// Only the page numbers, as [`crate::model::undo::PageList`] writes them.
    Pages(Vec<u8>),
    /// Not recorded: any page may have changed, and the commit can't be rolled back.
    Unknown,
}

impl Changes {
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
    /// Id of the previous commit. It chains the entries, and connects a snapshot to its successor.
    pub base: CommitId,
    /// Number of pages before the commit.
    pub page_count: u32,
    pub changes: Changes,
}

/// A commit to be sent to the server.
#[derive(Debug, Clone)]
pub(crate) struct Commit<'a> {
    /// The version that the transaction read.
    pub base: Snapshot,
    /// The version that the commit creates.
    pub snapshot: Snapshot,
    /// New and changed pages, ascending. Empty if they are staged.
    pub pages: Vec<(PageNo, &'a [u8])>,
    pub undo: &'a Undo,
    /// The database has fewer pages than before, or fewer pages in use.
    pub shrinks: bool,
}

impl Commit<'_> {
    /// Pages of the base that the new version does not have.
    pub(crate) fn removed(&self) -> impl DoubleEndedIterator<Item = PageNo> {
        PageNo::range(self.snapshot.page_count + 1, self.base.page_count)
    }
}

/// Checks that the entries lead from version `from` to version `to` without a gap.
///
/// # Errors
/// The reason, for a message.
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
    fn a_chain_has_no_gap_and_no_commit_of_another_history() {
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
