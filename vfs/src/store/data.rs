//! The data that passes between a database and its store: pages, log entries, and requests for the lease.

use std::sync::LazyLock;
use std::time::Duration;

use crate::config::Wait;
use crate::model::error::Result;
use crate::model::log_entry::LogEntry;
use crate::model::page::{Page, PageNo};
use crate::model::unique;
use crate::model::version::{Snapshot, Version};

/// Pages from one atomic read, and the version they belong to.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub at: Snapshot,
    /// One entry for each requested page, in that order; `None` past the end of the database.
    pub pages: Vec<Option<Page>>,
}

/// The result of waiting for the log to grow.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// The new commits, in order. There may be more.
    pub entries: Vec<LogEntry>,
    /// The server's version when the wait ended.
    pub at: Snapshot,
    /// Whether the server is a primary; false where access rules forbid `ROLE`.
    pub as_primary: bool,
}

/// A request for the write lease.
pub(crate) struct Bid<'a> {
    /// Identifies the requester.
    pub token: &'a str,
    /// The lease's time to live without renewal.
    pub life: Duration,
    /// How long to wait in the lease queue.
    pub patience: Duration,
    /// The newest version that the requester knows, and pages to fetch if the lease had to be waited for.
    pub known: Version,
    pub pages: &'a [PageNo],
}

/// The log entries after a version, and pages fetched in the same round trip.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub entries: Vec<LogEntry>,
    pub fetched: Option<Fetched>,
}

/// What happens to the lease with a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It is kept for further commits.
    Keep,
    /// It is released, even if the commit fails.
    Release,
    /// It is kept for the next transaction if the commit succeeds. With a duration, the commit sets its time to live.
    Linger(Option<Duration>),
}

/// The lease lingers. `wanted` says whether other clients wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lingers {
    pub wanted: bool,
}

/// How to end a commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// What happens to the lease.
    pub lease: After,
    /// The replicas and disks to wait for.
    pub wait: Wait,
}

/// A unique token, which tells an operator the host and process.
pub(crate) fn token() -> Result<String> {
    static HOST: LazyLock<String> = LazyLock::new(|| gethostname::gethostname().to_string_lossy().into_owned());
    Ok(format!("{}/{}/{:016x}", *HOST, std::process::id(), unique()?))
}

/// Releases a lease from another thread. If that fails, the lease expires.
pub(crate) fn release_later(release: impl FnOnce() -> Result<()> + Send + 'static) {
    let work = move || {
        if let Err(error) = release() {
            crate::process::log::log(&format!("after an interrupt, giving back the write lease failed: {error}"));
        }
    };
    if let Err(error) = std::thread::Builder::new().name("sqlite-redis-release".into()).spawn(work) {
        crate::process::log::log(&format!("after an interrupt, the write lease will end by itself: {error}"));
    }
}
