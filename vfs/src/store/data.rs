//! What passes between a database and its store: pages, news of the log, bids for the lease.

use std::sync::LazyLock;
use std::time::Duration;

use crate::config::Wait;
use crate::model::error::Result;
use crate::model::log_entry::LogEntry;
use crate::model::page::{Page, PageNo};
use crate::model::unique;
use crate::model::version::{Snapshot, Version};

/// Pages read in one atomic step, and the version that they belong to.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub at: Snapshot,
    /// One for each page asked for, in that order; `None` past the end of the database.
    pub pages: Vec<Option<Page>>,
}

/// What came of listening to a log.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// Commits that were new, in order; more may have followed.
    pub entries: Vec<LogEntry>,
    /// The version that the server had in the end.
    pub at: Snapshot,
    /// Whether it is a primary, as far as it may be asked.
    pub as_primary: bool,
}

/// What one who wants the write lease says, and knows.
pub(crate) struct Bid<'a> {
    /// What tells it from all others.
    pub token: &'a str,
    /// How long the lease is to live, unless it is renewed.
    pub life: Duration,
    /// How long to stand in line while another holds it.
    pub patience: Duration,
    /// The version that is known, and pages to come with the lease if they had to be waited for.
    pub known: Version,
    pub pages: &'a [PageNo],
}

/// The log's entries after a version, and pages that were asked for with them.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub entries: Vec<LogEntry>,
    pub fetched: Option<Fetched>,
}

/// What is to become of the lease with a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It is kept: more is to be committed under it.
    Keep,
    /// It is given back, whatever comes of the commit.
    Release,
    /// It is kept for the next transaction if the commit succeeds, with so long to live, or with what
    /// it has.
    Linger(Option<Duration>),
}

/// The lease lingers: what the next transaction needs is there. Whether others wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lingers {
    pub wanted: bool,
}

/// How a commit is to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// What is to become of the lease.
    pub lease: After,
    /// What is waited for.
    pub wait: Wait,
}

/// A token that nobody else has, and that tells an operator who it is.
pub(crate) fn token() -> Result<String> {
    static HOST: LazyLock<String> = LazyLock::new(|| gethostname::gethostname().to_string_lossy().into_owned());
    Ok(format!("{}/{}/{:016x}", *HOST, std::process::id(), unique()?))
}

/// Gives a lease back from another thread. If that fails, the lease ends by itself.
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
