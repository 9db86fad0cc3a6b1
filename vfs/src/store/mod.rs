//! The conversation with the server that keeps the pages.
//!
//! [`Store`] is all that a database asks of it: pages with the version they belong to, the log,
//! and one writer at a time. [`redis`] is the real one; [`memory`] is its twin for tests.

use std::time::Duration;

use crate::model::error::Result;
use crate::model::log_entry::{Commit, LogEntry, Piece, PiecesAsked};
use crate::model::page::PageNo;
use crate::model::version::{CommitId, Snapshot, Version};

pub(crate) mod data;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod redis;

pub(crate) use crate::store::data::{After, Bid, Ending, Fetched, Heard, Lingers, News, release_later, token};

/// What became of the attempt to get the write lease.
pub(crate) enum Leased {
    Held(Held),
    /// Another holds it: its token.
    ByAnother(String),
}

/// The write lease, and what came with it.
pub(crate) struct Held {
    pub writer: Box<dyn Writer>,
    /// The version found at that moment.
    pub snapshot: Snapshot,
    /// Under which it is held, and how long it has to live.
    pub token: String,
    pub life: Duration,
    /// There is some after a wait.
    pub news: Option<News>,
}

/// What keeps the pages of one database.
pub(crate) trait Store: Send + Sync {
    /// Pages, and the snapshot they belong to, in one atomic read. Asking for none is how the
    /// current snapshot is had.
    fn fetch(&self, pages: &[PageNo]) -> Result<Fetched>;

    /// The same, of a replica; `None` when the server has become a primary and goes its own way.
    fn fetch_as_replica(&self, pages: &[PageNo]) -> Result<Option<Fetched>> {
        self.fetch(pages).map(Some)
    }

    /// A way to ask for pages before they are needed; `None` where there is none.
    fn ahead(&self) -> Result<Option<Box<dyn Ahead>>> {
        Ok(None)
    }

    /// The log's entries after one version and through another, in order; those that were
    /// trimmed are missing.
    fn history(&self, after: Version, through: Version) -> Result<Vec<LogEntry>>;

    /// The same, and pages in the same trip where that can be.
    fn news(&self, after: Version, through: Version, _pages: &[PageNo]) -> Result<News> {
        Ok(News { entries: self.history(after, through)?, fetched: None })
    }

    /// Pieces of undo data with the ids of their commits, for each question in ascending order; those that
    /// were trimmed are missing.
    fn undo(&self, asked: &[PiecesAsked]) -> Result<Vec<Vec<(CommitId, Piece)>>>;

    /// Waits until the log goes on after this version, for `patience` at most.
    fn listen(&self, after: Version, patience: Duration) -> Result<Heard>;

    /// Refuses a page count that the server can't have the pages for.
    fn check_complete(&self, _at: &Snapshot) -> Result<()> {
        Ok(())
    }

    /// A place beside the database for the pages of a large commit; `None` where there is none.
    fn stage(&self) -> Result<Option<crate::store::redis::stage::Stage>> {
        Ok(None)
    }

    /// Tries to get the write lease, and reads the current version as the base of the commit.
    fn lease(&self, bid: Bid<'_>) -> Result<Leased>;

    /// Prolongs a lease; `false` when it is not held under this token any more.
    fn renew(&self, token: &str, life: Duration) -> Result<bool>;

    /// Whether anyone holds the lease.
    fn leased(&self) -> Result<bool>;
}

/// Questions for pages that are asked one after the other without waiting for the answers.
pub(crate) trait Ahead: Send {
    /// Asks for pages.
    fn ask(&mut self, pages: &[PageNo]) -> Result<()>;

    /// The answer to the oldest question that has none yet; `None` when these pages must be asked for in
    /// another way.
    fn answer(&mut self) -> Option<Fetched>;
}

/// The one who holds the write lease.
pub(crate) trait Writer: Send {
    /// Makes the next version, or not: never half of it, never twice, never over another's. Its pages
    /// are in `stage`, if there is one. Tells whether the lease lingers, if it was to; if not, it was
    /// given back.
    fn commit(
        &mut self,
        commit: &Commit<'_>,
        stage: Option<crate::store::redis::stage::Stage>,
        ending: Ending,
    ) -> Result<Option<Lingers>>;

    /// Gives the lease back, if it is still held.
    fn release(&mut self) -> Result<()>;

    /// Removes the database, if it is still at this version.
    fn remove(&mut self, at: &Snapshot) -> Result<()>;

    /// Which transactions this commit can be part of: those of writers that answer the same. `None`
    /// where each commits by itself.
    fn joins(&self) -> Option<String> {
        None
    }

    /// The writer, where the store is a Redis server.
    fn as_redis(&mut self) -> Option<&mut crate::store::redis::writer::RedisWriter> {
        None
    }
}
