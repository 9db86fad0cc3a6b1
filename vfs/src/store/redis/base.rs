//! The base of the store in Redis: the server and the keys of a database, and reading its hash.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use redis::{Cmd, Value, cmd};

use crate::config::Config;
use crate::model::error::{Cause, Result};
use crate::model::page::{Page, PageNo};
use crate::model::version::{Snapshot, Version};
use crate::store::data::Fetched;
use crate::store::redis::keys::Keys;
use crate::store::redis::log_batch::EntrySize;
use crate::store::redis::{keys, replies};
use crate::wire::reply::{array, checked};
use crate::wire::request::Request;
use crate::wire::server::Server;

/// Time to live of a lingering lease, and the minimum after a hand-over. The new holder must renew it within a third
/// of that time.
pub(crate) const HANDOVER: Duration = Duration::from_secs(1);

/// Removes comment lines and indentation from a Lua script, which need not be sent.
pub(crate) fn script(source: &str) -> String {
    let lines = source.lines().map(str::trim_start).filter(|line| !line.starts_with("--") && !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

/// Encoded commands that are sent often.
pub(crate) struct Packed {
    /// `HMGET` of the metadata.
    pub(super) metadata: Request,
    /// See [`watching`].
    pub(super) watching: Request,
}

/// The pages of one database on one server.
#[derive(Clone)]
pub(crate) struct RedisStore {
    pub(super) server: Arc<Server>,
    pub(super) keys: Arc<Keys>,
    pub(super) packed: Arc<Packed>,
    /// How long to look up the outcome of a commit whose reply was lost.
    pub(super) patience: Duration,
    /// Timeout of one reply.
    pub(super) reply_time: Duration,
    pub(super) log_commits: u64,
    pub(super) log_bytes: u64,
    pub(super) compress: bool,
    /// Time to live of a lease that is handed over: the whole life, because the next holder reads log entries and
    /// pages before its first renewal.
    pub(super) handover: Duration,
    /// An estimate of the size of log entries.
    pub(super) entry_size: Arc<EntrySize>,
    /// Whether another client held the lease at the last request.
    pub(super) contended: Arc<AtomicBool>,
    /// Whether the server refuses `BLPOP`, so that there is no lease queue.
    pub(super) lacks_line: Arc<AtomicBool>,
    /// Whether pages were staged at the last read. If so, both keys are read at once.
    pub(super) staged: Arc<AtomicBool>,
}

impl RedisStore {
    pub(crate) fn new(server: Arc<Server>, config: &Config, name: &str) -> Self {
        let keys = Keys::new(&config.prefix, name);
        let metadata = Request::one(&hmget(&keys.hash, &[]));
        let watching = watching(&keys.hash, None);
        RedisStore {
            server,
            keys: Arc::new(keys),
            packed: Arc::new(Packed { metadata, watching }),
            patience: config.patience(),
            reply_time: config.timeout,
            log_commits: config.log_commits,
            log_bytes: config.log_bytes,
            compress: config.compress,
            handover: config.lease.max(HANDOVER),
            entry_size: Arc::default(),
            contended: Arc::default(),
            lacks_line: Arc::default(),
            staged: Arc::default(),
        }
    }

    /// The newest version.
    pub(super) fn newest(&self) -> Result<Snapshot> {
        let mut replies = self.server.ask(&self.packed.metadata)?;
        Ok(snapshot(replies.pop().unwrap_or_default())?.0)
    }

    pub(super) fn hmget(&self, pages: &[PageNo]) -> Cmd {
        hmget(&self.keys.hash, pages)
    }

    /// `XRANGE` of at most `count` log entries between two versions.
    pub(super) fn xrange(&self, first: Version, last: Version, count: usize) -> Cmd {
        let mut command = cmd("XRANGE");
        command.arg(&self.keys.log).arg(format!("{first}-0")).arg(format!("{last}-0")).arg("COUNT").arg(count);
        command
    }
}

fn hmget(hash: &str, pages: &[PageNo]) -> Cmd {
    let mut command = cmd("HMGET");
    command.arg(hash).arg(&keys::SNAPSHOT);
    for &page in pages {
        command.arg(keys::page(page));
    }
    command
}

/// The result of an `HMGET` of the hash.
pub(crate) enum Read {
    Whole(Fetched),
    /// Some pages are staged in another key. These are the values in the hash.
    Staged(Snapshot, Vec<Value>),
}

/// The snapshot in the reply to an `HMGET` without pages, and whether pages are staged.
pub(super) fn snapshot(reply: Value) -> Result<(Snapshot, bool)> {
    match read(reply, &[])? {
        Read::Whole(fetched) => Ok((fetched.at, false)),
        Read::Staged(at, _) => Ok((at, true)),
    }
}

/// The snapshot and pages in the reply to an `HMGET`.
pub(crate) fn read(reply: Value, pages: &[PageNo]) -> Result<Read> {
    let mut values = array("HMGET", checked(reply)?)?;
    if values.len() != keys::SNAPSHOT.len() + pages.len() {
        return Err(Cause::BadReply(format!("HMGET was answered with {} values", values.len())).into());
    }
    let found = values.split_off(keys::SNAPSHOT.len());
    let (at, staged) = replies::snapshot(&values)?;
    if staged { Ok(Read::Staged(at, found)) } else { contents(at, pages, found).map(Read::Whole) }
}

pub(super) fn contents(at: Snapshot, pages: &[PageNo], values: Vec<Value>) -> Result<Fetched> {
    let pages = pages
        .iter()
        .zip(values)
        .map(|(&page, value)| Ok(replies::page(page, value, &at)?.map(Page::new)))
        .collect::<Result<_>>()?;
    Ok(Fetched { at, pages })
}

/// Watches the hash and the key of staged pages, reads the version, the log's size and the number of staged pages,
/// and opens a transaction.
pub(crate) fn watching(hash: &str, stage: Option<&str>) -> Request {
    let mut request = Request::one(cmd("WATCH").arg(hash).arg(stage));
    ask_version(&mut request, hash, stage);
    request.push(&cmd("MULTI"));
    request
}

/// Reads the version, the log's size, and the number of staged pages.
pub(crate) fn ask_version(request: &mut Request, hash: &str, stage: Option<&str>) {
    request.push(cmd("HMGET").arg(hash).arg(&keys::SNAPSHOT).arg(keys::LOG_MARK));
    if let Some(stage) = stage {
        request.push(cmd("HLEN").arg(stage));
    }
}
