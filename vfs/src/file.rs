//! An open database: SQLite's reads, writes, locks and syncs, turned into a transaction.
//!
//! What SQLite calls, and what becomes of it:
//!
//! ```text
//! xLock(SHARED)           a transaction begins; nothing is sent
//! xRead, xFileSize        the first one takes the snapshot (1 round trip), then pages
//! xLock(RESERVED)         lease, watch, version check (1 round trip)
//! xWrite, xTruncate       into the write set
//! FCNTL_SYNC              the commit point (1 round trip)
//! xUnlock                 the lease is given back if the commit did not
//! ```

use std::sync::Arc;

use cookie::SchemaCookie;

use crate::cache::{Admission, Epoch};
use crate::config::{Config, Wait};
use crate::database::Database;
use crate::error::{Cause, Error, Result};
use crate::ffi::fork;
use crate::process::Process;
use crate::reader::Reader;
use crate::store::{CommitId, Snapshot, Version};
use crate::txn::{Asked, Committed, Txn};

/// SQLite's lock levels (<https://sqlite.org/c3ref/c_lock_exclusive.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    None = 0,
    Shared = 1,
    Reserved = 2,
    Pending = 3,
    Exclusive = 4,
}

impl Level {
    pub(crate) fn from_int(level: i32) -> Option<Level> {
        Some(match level {
            0 => Level::None,
            1 => Level::Shared,
            2 => Level::Reserved,
            3 => Level::Pending,
            4 => Level::Exclusive,
            _ => return None,
        })
    }
}

/// Where the header has change counter, page count and free list: 16 bytes that SQLite compares
/// to find out whether its own page cache is still valid.
const VERSION_BYTES: std::ops::Range<usize> = 24..40;

/// What SQLite's own page cache holds.
struct PagerCache {
    /// The version that its pages are of; `None` when they are of no version.
    identity: Option<(Version, CommitId)>,
    /// The bytes that it will compare.
    bytes: [u8; 16],
}

/// Where a database is: what it takes to find it again after a fork.
pub(crate) struct Address {
    pub config: Config,
    pub name: String,
}

/// See the [module](self).
pub(crate) struct File {
    database: Arc<Database>,
    address: Option<Address>,
    txn: Txn,
    level: Level,
    read_only: bool,
    /// `PRAGMA locking_mode=EXCLUSIVE` was seen: the lease is kept between commits.
    exclusive: bool,
    /// What a commit waits for.
    wait: Wait,
    /// The journal mode in force, for the answer to `PRAGMA journal_mode=WAL`.
    journal_mode: String,
    pager: PagerCache,
    cookie: SchemaCookie,
    /// The newest snapshot of this connection.
    last: Option<(Snapshot, Epoch)>,
    /// What opening found, for the header that SQLite reads without a lock.
    opened: Option<Reader>,
    last_error: Option<Error>,
}

/// How a pragma is to be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// As SQLite does.
    NotOurs,
    Text(String),
}

impl File {
    /// Opens a database; `create` allows that there is none.
    pub(crate) fn open(address: Address, read_only: bool, create: bool) -> Result<File> {
        let database = Process::current().database(&address.config, &address.name)?;
        let opened = database.open().map_err(|error| error.at(&database.place))?;
        if opened.snapshot == Snapshot::EMPTY && !create {
            return Err(Error::from(Cause::Missing).at(&database.place));
        }
        let read_only = read_only || address.config.read_only;
        let mut file = File::on(database, read_only);
        file.wait = address.config.wait;
        file.address = Some(address);
        file.last = Some((opened.snapshot, opened.epoch));
        file.opened = Some(opened);
        Ok(file)
    }

    pub(crate) fn on(database: Arc<Database>, read_only: bool) -> File {
        File {
            database,
            address: None,
            txn: Txn::None,
            level: Level::None,
            read_only,
            exclusive: false,
            wait: Wait::NONE,
            journal_mode: "delete".to_owned(),
            pager: PagerCache { identity: None, bytes: [0; 16] },
            cookie: SchemaCookie::default(),
            last: None,
            opened: None,
            last_error: None,
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn place(&self) -> &Arc<str> {
        &self.database.place
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    pub(crate) fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    /// Remembers a failure for `PRAGMA redis_last_error` and the Rust API.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.last_error = Some(error.clone());
    }

    /// Fills `buffer`; bytes past the end are zero. Returns whether all of it was there.
    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        self.look_for_fork()?;
        if self.level == Level::None {
            return self.read_unlocked(offset, buffer);
        }
        self.need_snapshot()?;
        self.refuse_parents_transaction()?;
        if offset == VERSION_BYTES.start as u64 && buffer.len() == VERSION_BYTES.len() {
            self.catch_up()?;
        }
        self.txn.read(&self.database, offset, buffer)?;
        let whole = offset + buffer.len() as u64 <= self.txn.size().unwrap_or(0);
        self.mind_pager(offset, buffer, whole);
        if whole {
            self.cookie.show(offset, buffer);
        }
        Ok(whole)
    }

    /// SQLite looks for changes, having dropped its page cache: in `locking_mode=EXCLUSIVE` that
    /// only happens after another has committed in spite of it.
    fn catch_up(&mut self) -> Result<()> {
        if !matches!(&self.txn, Txn::Writing(writing) if writing.is_lost()) {
            return Ok(());
        }
        let (snapshot, epoch) = self.take_snapshot()?;
        self.txn.writing()?.catch_up(Reader::new(snapshot, epoch))
    }

    /// SQLite reads the header once before it takes any lock, to learn the page size.
    fn read_unlocked(&mut self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        let reader = self.one_off()?;
        let size = reader.snapshot.bytes();
        let mut txn = Txn::Reading(reader);
        txn.read(&self.database, offset, buffer)?;
        Ok(offset + buffer.len() as u64 <= size)
    }

    fn one_off(&mut self) -> Result<Reader> {
        if let Some(reader) = self.opened.take() {
            return Ok(reader);
        }
        let (snapshot, epoch) = self.take_snapshot()?;
        Ok(Reader::new(snapshot, epoch))
    }

    fn take_snapshot(&mut self) -> Result<(Snapshot, Epoch)> {
        let last = self.last.as_ref().map(|(snapshot, epoch)| (snapshot, *epoch));
        let taken = self.database.snapshot(last)?;
        self.last = Some(taken);
        Ok(taken)
    }

    fn need_snapshot(&mut self) -> Result<()> {
        if matches!(self.txn, Txn::Begun) {
            let (snapshot, epoch) = self.take_snapshot()?;
            self.cookie.enter(epoch);
            self.txn = Txn::Reading(Reader::new(snapshot, epoch));
        }
        Ok(())
    }

    /// Sees to it that SQLite drops its own page cache when that is of another version. It does
    /// when the 16 bytes differ from what it remembers. They nearly always do by themselves; not
    /// when a failover replaced one version by another of the same number, or when commits left
    /// the change counter alone. Then this one read is answered with other bytes.
    fn mind_pager(&mut self, offset: u64, buffer: &mut [u8], whole: bool) {
        let identity = self.txn.snapshot().map(|snapshot| snapshot.identity());
        if offset == VERSION_BYTES.start as u64 && buffer.len() == VERSION_BYTES.len() {
            if whole && self.pager.identity != identity && buffer == self.pager.bytes {
                buffer[0] ^= 0x80;
            }
            self.pager.identity = identity;
        } else if offset == 0
            && let Some(bytes) = buffer.get(VERSION_BYTES)
        {
            self.pager.bytes.copy_from_slice(bytes);
        }
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.look_for_fork()?;
        // The first pages of an empty database don't come from what was shown.
        let grown = self.txn.snapshot().is_some_and(|base| base != Snapshot::EMPTY);
        let stored = if grown { self.cookie.to_store(offset, data) } else { None };
        self.txn.write(&self.database, offset, stored.as_deref().unwrap_or(data))?;
        if offset == 0
            && let Some(bytes) = data.get(VERSION_BYTES)
        {
            self.pager.bytes.copy_from_slice(bytes);
        }
        Ok(())
    }

    pub(crate) fn truncate(&mut self, size: u64) -> Result<()> {
        self.look_for_fork()?;
        self.txn.truncate(size)
    }

    /// Bytes of the database.
    pub(crate) fn size(&mut self) -> Result<u64> {
        self.look_for_fork()?;
        if self.level == Level::None {
            let (snapshot, _) = self.take_snapshot()?;
            return Ok(snapshot.bytes());
        }
        self.need_snapshot()?;
        Ok(self.txn.size().unwrap_or(0))
    }

    pub(crate) fn lock(&mut self, level: Level) -> Result<()> {
        self.look_for_fork()?;
        if level <= self.level {
            return Ok(());
        }
        if self.level == Level::None {
            self.opened = None;
            self.txn = Txn::Begun;
            self.level = Level::Shared;
        }
        self.refuse_parents_transaction()?;
        if level >= Level::Reserved && !matches!(self.txn, Txn::Writing(_)) {
            if self.read_only {
                return Err(Cause::ReadOnly.into());
            }
            self.need_snapshot()?;
            self.txn.start_writing(&self.database)?;
        }
        self.level = level;
        Ok(())
    }

    /// Never fails for SQLite: a lease that could not be given back ends by itself.
    pub(crate) fn unlock(&mut self, level: Level) -> Result<()> {
        let forked = self.look_for_fork();
        if level >= self.level {
            return forked;
        }
        self.level = level;
        let released = self.txn.stop_writing();
        if level == Level::None {
            self.txn = Txn::None;
        }
        forked.and(released)
    }

    /// Whether someone, here or elsewhere, holds the write lock.
    pub(crate) fn reserved(&mut self) -> Result<bool> {
        self.look_for_fork()?;
        Ok(self.level >= Level::Reserved || self.database.store.leased()?)
    }

    /// `SQLITE_FCNTL_SYNC`, the commit point. `super_journal` says that the transaction spans
    /// several databases: SQLite may want to take this commit back if another one fails, so the
    /// lease is kept until it unlocks.
    pub(crate) fn sync(&mut self, super_journal: bool) -> Result<()> {
        self.look_for_fork()?;
        if self.level < Level::Reserved {
            return Ok(());
        }
        let asked = Asked { super_journal, exclusive: self.exclusive, wait: self.wait };
        let committed = self.txn.writing()?.commit(&self.database, asked)?;
        if let Committed::Version { altered } = committed {
            let snapshot = self.txn.snapshot();
            self.pager.identity = snapshot.filter(|_| !altered).map(|snapshot| snapshot.identity());
            self.last = self.txn.reader().map(|reader| (reader.snapshot, reader.epoch));
        }
        Ok(())
    }

    pub(crate) fn pragma(&mut self, name: &str, value: Option<&str>) -> Result<Answer> {
        let value = value.map(str::to_ascii_lowercase);
        match (name.to_ascii_lowercase().as_str(), value.as_deref()) {
            (pragma::LOCKING_MODE, Some(mode)) => {
                self.exclusive = mode == "exclusive";
                Ok(Answer::NotOurs)
            }
            // SQLite refuses WAL by itself, except in exclusive mode.
            (pragma::JOURNAL_MODE, Some("wal")) => Ok(Answer::Text(self.journal_mode.clone())),
            (pragma::JOURNAL_MODE, Some(mode)) => {
                if JOURNAL_MODES.contains(&mode) {
                    self.journal_mode = mode.to_owned();
                }
                Ok(Answer::NotOurs)
            }
            (pragma::WAIT, None) => Ok(Answer::Text(self.wait.replicas.to_string())),
            (pragma::WAIT, Some(replicas)) => match replicas.parse() {
                Ok(replicas) => {
                    self.wait.replicas = replicas;
                    Ok(Answer::Text(replicas.to_string()))
                }
                Err(_) => Err(Cause::BadSetting {
                    setting: pragma::WAIT.to_owned(),
                    value: replicas.to_owned(),
                    reason: "expected a number of replicas".to_owned(),
                }
                .into()),
            },
            (pragma::VERSION, None) => self.version().map(|version| Answer::Text(version.to_string())),
            (pragma::LAST_ERROR, None) => {
                Ok(Answer::Text(self.last_error.as_ref().map(Error::to_string).unwrap_or_default()))
            }
            (pragma::STATS, None) => {
                let stats = self.database.stats();
                Ok(Answer::Text(format!(
                    "round_trips={} commands={} bytes_sent={}",
                    stats.round_trips, stats.commands, stats.bytes_sent
                )))
            }
            _ => Ok(Answer::NotOurs),
        }
    }

    /// The version that the open transaction reads, or else the newest.
    fn version(&mut self) -> Result<Version> {
        self.look_for_fork()?;
        match self.txn.snapshot() {
            Some(snapshot) => Ok(snapshot.version),
            None => Ok(self.take_snapshot()?.0.version),
        }
    }

    /// In a child that was forked with this file open: go on with connections, cache and threads
    /// of the child's own. A write transaction stays the parent's.
    fn look_for_fork(&mut self) -> Result<()> {
        if self.database.generation == fork::generation() {
            return Ok(());
        }
        let Some(address) = &self.address else { return Err(Cause::Forked.into()) };
        let fresh = Process::current().database(&address.config, &address.name)?;
        let parents = std::mem::replace(&mut self.database, fresh);
        // Its locks may be held by threads that only the parent has.
        std::mem::forget(parents);
        (self.last, self.opened) = (None, None);
        self.cookie.forked();
        let database = &self.database;
        self.txn.forked(|snapshot| match database.cache.admit(snapshot) {
            Admission::Admitted(epoch) => epoch,
            Admission::NeedsHistory { .. } => Epoch::NONE,
        });
        Ok(())
    }

    /// In a child that was forked inside a write transaction, SQLite goes on with that until it
    /// rolls back. It must not: what it had written so far only the parent has.
    fn refuse_parents_transaction(&self) -> Result<()> {
        if self.level >= Level::Reserved && !matches!(self.txn, Txn::Writing(_)) {
            return Err(Cause::Forked.into());
        }
        Ok(())
    }

    /// The end of it: whatever was not committed is gone.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.unlock(Level::None)
    }
}

/// Modes that `PRAGMA journal_mode` may set here.
const JOURNAL_MODES: &[&str] = &["delete", "truncate", "persist", "memory", "off"];

/// Pragmas that are answered or watched here.
pub(crate) mod pragma {
    pub const LOCKING_MODE: &str = "locking_mode";
    pub const JOURNAL_MODE: &str = "journal_mode";
    /// Replicas that must have a commit of this connection.
    pub const WAIT: &str = "redis_wait";
    /// The version of the database that the connection reads.
    pub const VERSION: &str = "redis_version";
    /// The last failure of the connection, in words.
    pub const LAST_ERROR: &str = "redis_last_error";
    /// What has gone over the wire.
    pub const STATS: &str = "redis_stats";
}

mod cookie;
#[cfg(test)]
mod tests;
