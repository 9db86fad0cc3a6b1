//! The storage of a database's pages and log.
//!
//! [`Store`] is everything a database needs from it: pages with the version they belong to, the log, and the write
//! lease. [`redis`] is the real implementation, [`memory`] a model for tests.

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

/// The result of a request for the write lease.
pub(crate) enum Leased {
    Held(Held),
    /// Another client holds it, with this token.
    ByAnother(String),
}

/// The write lease, and what was read with it.
pub(crate) struct Held {
    pub writer: Box<dyn Writer>,
    /// The version when the lease was acquired.
    pub snapshot: Snapshot,
    /// The lease's token and its remaining time to live.
    pub token: String,
    pub life: Duration,
    /// Present if the lease had to be waited for.
    pub news: Option<News>,
}

/// The pages and the log of one database.
pub(crate) trait Store: Send + Sync {
    /// Reads pages and the version they belong to, atomically. Without pages, reads only the version.
    fn fetch(&self, pages: &[PageNo]) -> Result<Fetched>;

    /// The same from a replica; `None` if the server has become a primary, whose history may differ.
    fn fetch_as_replica(&self, pages: &[PageNo]) -> Result<Option<Fetched>> {
        self.fetch(pages).map(Some)
    }

    /// A connection to request pages ahead of their use; `None` if the store has none.
    fn ahead(&self) -> Result<Option<Box<dyn Ahead>>> {
        Ok(None)
    }

    /// The log entries after one version up to another, in order. Trimmed entries are missing.
    fn history(&self, after: Version, through: Version) -> Result<Vec<LogEntry>>;

    /// The same, with pages in the same round trip if possible.
    fn news(&self, after: Version, through: Version, _pages: &[PageNo]) -> Result<News> {
        Ok(News { entries: self.history(after, through)?, fetched: None })
    }

    /// Pieces of undo data with their commit ids, in ascending order for each request. Trimmed pieces are missing.
    fn undo(&self, asked: &[PiecesAsked]) -> Result<Vec<Vec<(CommitId, Piece)>>>;

    /// Waits until the log has an entry after this version, or for `patience`.
    fn listen(&self, after: Version, patience: Duration) -> Result<Heard>;

    /// Fails if the database has fewer stored pages than its page count says.
    fn check_complete(&self, _at: &Snapshot) -> Result<()> {
        Ok(())
    }

    /// A key for the pages of a large commit; `None` if the store can't stage pages.
    fn stage(&self) -> Result<Option<crate::store::redis::stage::Stage>> {
        Ok(None)
    }

    /// Requests the write lease, and reads the newest version as the base of the commit.
    fn lease(&self, bid: Bid<'_>) -> Result<Leased>;

    /// Extends a lease. Returns whether it is still held under this token.
    fn renew(&self, token: &str, life: Duration) -> Result<bool>;

    /// Whether any client holds the lease.
    fn leased(&self) -> Result<bool>;
}

/// Requests for pages that are sent without waiting for replies.
pub(crate) trait Ahead: Send {
    /// Sends a request.
    fn ask(&mut self, pages: &[PageNo]) -> Result<()>;

    /// The reply to the oldest outstanding request; `None` if its pages must be requested again.
    fn answer(&mut self) -> Option<Fetched>;
}

/// The holder of the write lease.
pub(crate) trait Writer: Send {
    /// Commits the next version atomically, at most once, and only on top of its base. The pages of a large commit are in
    /// `stage`. Returns `Some` if the lease lingers.
    fn commit(
        &mut self,
        commit: &Commit<'_>,
        stage: Option<crate::store::redis::stage::Stage>,
        ending: Ending,
    ) -> Result<Option<Lingers>>;

    /// Releases the lease, if it is still held.
    fn release(&mut self) -> Result<()>;

    /// Removes the database, if it is still at this version.
    fn remove(&mut self, at: &Snapshot) -> Result<()>;

    /// Writers with equal values can commit in one transaction of the server. `None` if this one can't.
    fn joins(&self) -> Option<String> {
        None
    }

    /// The writer, if the store is a Redis server.
    fn as_redis(&mut self) -> Option<&mut crate::store::redis::writer::RedisWriter> {
        None
    }
}
