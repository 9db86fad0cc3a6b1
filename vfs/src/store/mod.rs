//! The conversation with the server that keeps the pages.
//!
//! [`Store`] is all that a database asks of it: pages with the version they belong to, the log,
//! and one writer at a time. [`redis`] is the real one; [`memory`] is its twin for tests.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Wait;
use crate::error::{Cause, Result};

pub(crate) mod commit;
mod dial;
pub(crate) mod discovery;
mod full;
pub(crate) mod keys;
mod lease_by_watch;
mod log_batch;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod pace;
pub(crate) mod packing;
pub(crate) mod pool;
pub(crate) mod protocol;
pub(crate) mod redis;
pub(crate) mod request;
pub(crate) mod route;
pub(crate) mod scan;
pub(crate) mod script;
pub(crate) mod server;
mod socket;
pub(crate) mod stage;
mod tls;
pub(crate) mod together;
pub(crate) mod turn;
pub(crate) mod undo;
pub(crate) mod wait;
pub(crate) mod wire;
pub(crate) mod writer;

/// The format that this version writes, as the hash field `format`.
pub const FORMAT: u32 = 1;
/// What stands there while pages of the last commit are still to move to their place.
pub const STAGED_FORMAT: u32 = 2;

/// Number of a commit; 0 is the empty database before the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

impl Version {
    pub(crate) fn next(self) -> Version {
        Version(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Random id of a commit: tells two commits of the same number apart after a failover lost one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CommitId(pub u64);

impl CommitId {
    pub(crate) fn draw() -> Result<Self> {
        crate::process::unique().map(CommitId)
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let digits = std::str::from_utf8(text).ok().filter(|text| text.len() == 16)?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
        u64::from_str_radix(digits, 16).ok().map(CommitId)
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Number of a page, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(NonZeroU32);

impl PageNo {
    pub(crate) const FIRST: PageNo = PageNo(NonZeroU32::MIN);

    pub(crate) fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(PageNo)
    }

    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }

    /// Pages `first` to `last`, both included; none when `last` is smaller.
    pub(crate) fn range(first: u32, last: u32) -> impl DoubleEndedIterator<Item = PageNo> {
        (first.max(1)..=last).filter_map(PageNo::new)
    }
}

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bytes of a page, shared by everyone who reads it.
pub(crate) type Page = Arc<Vec<u8>>;

/// One version of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Number of the commit that made it.
    pub version: Version,
    /// Random id of that commit.
    pub commit: CommitId,
    /// Bytes of a page: a power of two from 512 to 65536, or 0 in the empty database.
    pub page_size: u32,
    /// Pages that it has.
    pub page_count: u32,
}

impl Snapshot {
    /// The database before its first commit, which has no key in Redis.
    pub(crate) const EMPTY: Snapshot =
        Snapshot { version: Version(0), commit: CommitId(0), page_size: 0, page_count: 0 };

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.page_count)
    }

    /// The failure when the server has said something else of the same version before.
    pub(crate) fn contradicted_by(&self, other: &Snapshot) -> crate::Error {
        let shape = |it: &Snapshot| format!("{} pages of {} bytes", it.page_count, it.page_size);
        Cause::Damaged(format!("version {} has {}, and then {}", self.version, shape(self), shape(other))).into()
    }

    /// Refuses a page count that a hash with so few fields does not have the pages for.
    pub(crate) fn check_stored(&self, fields: u64) -> Result<()> {
        let (version, page_count) = (self.version, self.page_count);
        if fields >= u64::from(page_count) {
            return Ok(());
        }
        Err(Cause::Damaged(format!("version {version} has {page_count} pages, and its hash {fields} fields")).into())
    }

    pub(crate) fn has(&self, page: PageNo) -> bool {
        page.get() <= self.page_count
    }

    /// Version and commit id: two snapshots with equal identity have equal pages.
    pub(crate) fn identity(&self) -> (Version, CommitId) {
        (self.version, self.commit)
    }
}

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

/// How to take a commit back, as [`crate::undo`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undo {
    /// The reverse deltas, as [`crate::delta`] writes them: little enough for the log's entry.
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
    /// As [`crate::delta`] writes them.
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
    /// Only which they are, as [`crate::undo::PageList`] writes it.
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

/// The log's entries after a version, and pages that were asked for with them.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub entries: Vec<LogEntry>,
    pub fetched: Option<Fetched>,
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
    fn stage(&self) -> Result<Option<stage::Stage>> {
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

/// The one who holds the write lease.
pub(crate) trait Writer: Send {
    /// Makes the next version, or not: never half of it, never twice, never over another's. Its pages
    /// are in `stage`, if there is one. Tells whether the lease lingers, if it was to; if not, it was
    /// given back.
    fn commit(&mut self, commit: &Commit<'_>, stage: Option<stage::Stage>, ending: Ending) -> Result<Option<Lingers>>;

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
    fn as_redis(&mut self) -> Option<&mut writer::RedisWriter> {
        None
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

/// Checks the numbers that describe a version.
pub(crate) fn check_shape(page_size: u64, page_count: u64) -> Result<(u32, u32)> {
    if !(512..=65536).contains(&page_size) || !page_size.is_power_of_two() {
        return Err(Cause::Damaged(format!("its page size is {page_size}")).into());
    }
    match u32::try_from(page_count) {
        Ok(count) if count > 0 && count < u32::MAX => Ok((page_size as u32, count)),
        _ => Err(Cause::Damaged(format!("its page count is {page_count}")).into()),
    }
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

    #[test]
    fn commit_ids_are_sixteen_hex_digits() {
        let id = CommitId(0xab);
        assert_eq!(CommitId::parse(id.to_string().as_bytes()), Some(id));
        for text in ["", "ab", "+0000000000000ab", "00000000000000ag", "00000000000000abc"] {
            assert_eq!(CommitId::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn shapes_are_checked() {
        assert!(check_shape(4096, 1).is_ok());
        for (size, count) in [(0, 1), (4095, 1), (131_072, 1), (256, 1), (4096, 0), (4096, 1 << 33)] {
            assert!(check_shape(size, count).is_err());
        }
    }
}
