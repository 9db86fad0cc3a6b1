//! An open database: SQLite's reads, writes, locks and syncs, turned into a transaction.
//!
//! What SQLite calls, and what becomes of it:
//!
//! ```text
//! xOpen                   server and keys are looked at, the first pages come along (1 round trip)
//! xLock(SHARED)           a transaction begins; nothing is sent
//! xRead, xFileSize        the first one takes the snapshot (1 round trip), then pages; with it the
//!                         lease, where a statement that writes is running
//! xLock(RESERVED)         lease, watch, version check (1 round trip), unless that was done
//! xWrite, xTruncate       into the write set
//! FCNTL_SYNC              the commit point (1 round trip), save over several databases: see [`crate::transaction::group`]
//! xUnlock                 the lease is given back if the commit did not
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::database::open;
use crate::file::begin::Refusal;
use crate::file::opening::Unopened;
use crate::file::patience::Patience;
pub(crate) use crate::file::pragmas::Answer;
#[cfg(test)]
pub(crate) use crate::file::pragmas::PRAGMAS;
use crate::file::schema_cookie::SchemaCookie;
use crate::process::generation::generation;
use crate::transaction::group::PARTICIPANTS;
use crate::transaction::journal::{JOURNAL_NAMES, SUPER_JOURNALS};

use crate::config::{Config, Consistency, Wait};
use crate::database::Database;
use crate::database::session::Session;
use crate::lease::{Lease, Owner};
use crate::model::error::{Cause, Error, Result};
use crate::model::version::{CommitId, Version};
use crate::reading::cache::{Admission, Epoch};
use crate::reading::reader::Reader;
use crate::transaction::group::{Files, Group, Moment, Participant};
use crate::transaction::journal::Notes;
use crate::transaction::{Asked, Committed, Txn};

pub(crate) mod patience;
mod begin;
mod opening;
pub(crate) mod name;
mod pragmas;
mod schema_cookie;

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
    /// The version that its pages are of, and what its schema cookie was shown with; `None` when they
    /// are of no version.
    shown: Option<((Version, CommitId), u32)>,
    /// The bytes that it will compare.
    bytes: [u8; 16],
}

/// Where a database is: what it takes to find it again after a fork.
pub(crate) struct Address {
    pub config: Config,
    pub name: String,
}

impl Address {
    fn session(&self, database: &Arc<Database>) -> Result<Session> {
        let replicas = database.replicas.of(database, &self.config, &self.name)?;
        Ok(Session::new(self.config.consistency, self.config.catch_up, replicas))
    }
}

/// See the [module](self).
pub(crate) struct File {
    database: Arc<Database>,
    address: Option<Address>,
    txn: Txn,
    level: Level,
    /// The transaction that begins will most likely write.
    writes: bool,
    /// The lease that came with the snapshot in `locking_mode=EXCLUSIVE`, until the write lock is asked for.
    ahead: Option<Lease>,
    /// The lease came with the snapshot, and the database holds it for a while.
    is_held: bool,
    refused: Option<Refusal>,
    /// Whom the database holds a lease for.
    owner: Owner,
    patience: Patience,
    read_only: bool,
    /// `PRAGMA locking_mode=EXCLUSIVE` was seen: the lease is taken with the first snapshot and kept.
    exclusive: bool,
    /// The write lock was refused because another has committed, and SQLite has not unlocked since.
    overtaken: bool,
    /// What a commit waits for.
    wait: Wait,
    /// The journal mode in force, for the answer to `PRAGMA journal_mode=WAL`.
    journal_mode: String,
    pager: PagerCache,
    cookie: SchemaCookie,
    /// The connection that has this file open, as a number; 0 while that is not known.
    connection: usize,
    /// Its part in the connection's transaction, while it writes.
    participant: Option<Arc<Participant>>,
    /// What its rollback journal tells, and the address of the journal's name.
    journal: Arc<Notes>,
    journal_name: Option<usize>,
    /// What this connection has seen, and where it reads from.
    session: Session,
    /// The server was busy when the database was opened, so that is still to be done.
    unopened: Option<Unopened>,
    /// What opening found, for the header that SQLite reads without a lock.
    opened: Option<Reader>,
    last_error: Option<Error>,
}

impl File {
    pub(crate) fn on(database: Arc<Database>, read_only: bool) -> File {
        File {
            journal: Notes::new(database.place.clone()),
            journal_name: None,
            database,
            address: None,
            txn: Txn::None,
            level: Level::None,
            writes: false,
            ahead: None,
            is_held: false,
            refused: None,
            owner: Owner::new(),
            patience: Patience::default(),
            read_only,
            exclusive: false,
            overtaken: false,
            wait: Wait::NONE,
            journal_mode: "delete".to_owned(),
            pager: PagerCache { shown: None, bytes: [0; 16] },
            cookie: SchemaCookie::default(),
            connection: 0,
            participant: None,
            session: Session::new(Consistency::Strong, Duration::from_secs(1), Vec::new()),
            unopened: None,
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

    pub(crate) fn last_error(&mut self) -> Option<&Error> {
        if let Some(error) = self.journal.take_failure() {
            self.last_error = Some(error);
        }
        self.last_error.as_ref()
    }

    /// SQLite will open the rollback journal by the name at this address.
    pub(crate) fn journal_is_named(&mut self, address: usize) {
        self.journal_name = Some(address);
        JOURNAL_NAMES.get().enter(address, &self.journal);
    }

    /// Remembers a failure for `PRAGMA redis_last_error` and the Rust API. Tried again, the same
    /// must not begin with the same old version.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.journal.take_failure();
        self.session.want_newest();
        if !matches!(error.cause, Cause::Interrupted) {
            self.last_error = Some(error.clone());
        }
    }

    /// Fills `buffer`; bytes past the end are zero. Returns whether all of it was there.
    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        self.look_for_fork()?;
        if self.level == Level::None {
            return self.read_unlocked(offset, buffer);
        }
        self.leave_group();
        self.need_snapshot()?;
        self.refuse_parents_transaction()?;
        if offset == VERSION_BYTES.start as u64 && buffer.len() == VERSION_BYTES.len() {
            self.catch_up()?;
        } else if offset > 0 {
            self.reads_on();
        }
        self.txn.read(&self.database, offset, buffer)?;
        let whole = offset + buffer.len() as u64 <= self.txn.size().unwrap_or(0);
        self.mind_pager(offset, buffer, whole);
        if whole {
            self.cookie.show(offset, buffer);
        }
        Ok(whole)
    }

    /// What SQLite has in its page cache when it has what it is shown now.
    fn shown(&self) -> Option<((Version, CommitId), u32)> {
        self.txn.snapshot().map(|snapshot| (snapshot.identity(), self.cookie.added()))
    }

    /// Sees to it that SQLite drops its own page cache when that is of another version. It does
    /// when the 16 bytes differ from what it remembers. They nearly always do by themselves; not
    /// when a failover replaced one version by another of the same number, when commits left the
    /// change counter alone, or when only the schema cookie is shown with something else. Then this
    /// one read is answered with other bytes.
    fn mind_pager(&mut self, offset: u64, buffer: &mut [u8], whole: bool) {
        if offset == VERSION_BYTES.start as u64 && buffer.len() == VERSION_BYTES.len() {
            let shown = self.shown();
            if whole && self.pager.shown != shown && buffer == self.pager.bytes {
                buffer[0] ^= 0x80;
            }
            self.pager.shown = shown;
        } else if offset == 0
            && let Some(bytes) = buffer.get(VERSION_BYTES)
        {
            self.pager.bytes.copy_from_slice(bytes);
        }
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.look_for_fork()?;
        self.leave_group();
        let stored = self.cookie.stored(offset, data);
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
        // Where nothing is written first, this is the end of a commit, whose page count says the same.
        if matches!(&self.txn, Txn::Writing(writing) if writing.is_in_group()) {
            return Ok(());
        }
        self.txn.truncate(size)
    }

    /// Bytes of the database.
    pub(crate) fn size(&mut self) -> Result<u64> {
        self.look_for_fork()?;
        if self.level == Level::None {
            return Ok(self.begin()?.snapshot.bytes());
        }
        self.need_snapshot()?;
        Ok(self.txn.size().unwrap_or(0))
    }

    /// Tells of the transaction that begins next on which connection it is, and whether it will most likely
    /// write.
    pub(crate) fn expect(&mut self, connection: usize, writes: bool) {
        (self.connection, self.writes) = (connection, writes);
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
            self.start_writing()?;
            self.participant = Some(PARTICIPANTS.get().enter(self.connection, self.journal.clone()));
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
        self.leave_group();
        if let Some(participant) = self.participant.take() {
            PARTICIPANTS.get().leave(self.connection, &participant);
        }
        self.reads_on();
        let unused = self.ahead.take().map_or(Ok(()), Lease::release);
        let released = self.txn.stop_writing(&self.database).and(unused);
        if level == Level::None {
            self.txn = Txn::None;
            self.overtaken = false;
        }
        forked.and(released)
    }

    /// Whether someone, here or elsewhere, holds the write lock.
    pub(crate) fn reserved(&mut self) -> Result<bool> {
        self.look_for_fork()?;
        Ok(self.level >= Level::Reserved || self.database.store().leased()?)
    }

    /// `SQLITE_FCNTL_SYNC`: the commit point of a transaction that writes to this database only. Otherwise `files` or
    /// the name of a `super_journal` say when to commit; see [`crate::transaction::group`].
    pub(crate) fn sync(&mut self, super_journal: Option<&str>, files: Files) -> Result<()> {
        self.look_for_fork()?;
        if self.level < Level::Reserved {
            return Ok(());
        }
        self.leave_group();
        let asked = Asked {
            moment: self.moment(super_journal, files),
            exclusive: self.exclusive,
            wait: self.wait,
            owner: self.owner,
        };
        let committed = self.txn.writing()?.commit(&self.database, &asked)?;
        self.has_committed(&committed);
        Ok(())
    }

    fn moment(&self, super_journal: Option<&str>, files: Files) -> Moment {
        let Some(participant) = &self.participant else { return Moment::Alone };
        PARTICIPANTS.get().moment(self.connection, participant, super_journal, files, &SUPER_JOURNALS.get())
    }

    /// `SQLITE_FCNTL_COMMIT_PHASETWO`: SQLite has given up its rollback journal.
    pub(crate) fn end_commit(&mut self) -> Result<()> {
        self.look_for_fork()?;
        let Txn::Writing(writing) = &mut self.txn else { return Ok(()) };
        let outcome = writing.group().map_or(Ok(()), Group::publish);
        self.leave_group();
        if let Txn::Writing(writing) = &mut self.txn {
            writing.end_commit();
        }
        if let Some(participant) = &self.participant {
            participant.reset();
        }
        outcome
    }

    /// Goes on after a group has published the commit, or after SQLite has given it up.
    fn leave_group(&mut self) {
        let Txn::Writing(writing) = &mut self.txn else { return };
        if !writing.is_in_group() {
            return;
        }
        match writing.leave_group(&self.database, self.exclusive) {
            Ok(committed) => self.has_committed(&committed),
            // Told by whoever published.
            Err(error) => self.failed(&error.at(&self.database.place)),
        }
    }

    fn has_committed(&mut self, committed: &Committed) {
        if let Committed::Version { altered } = committed {
            self.pager.shown = self.shown().filter(|_| !altered);
            if let Some(reader) = self.txn.reader() {
                self.session.saw(reader.snapshot, reader.epoch);
            }
        }
    }

    /// In a child that was forked with this file open: go on with connections, cache and threads
    /// of the child's own. A write transaction stays the parent's.
    fn look_for_fork(&mut self) -> Result<()> {
        if self.database.generation == generation() {
            return Ok(());
        }
        let Some(address) = &self.address else { return Err(Cause::Forked.into()) };
        let fresh = open::database(&address.config, &address.name);
        if self.unopened.is_none() {
            let session = std::mem::replace(&mut self.session, address.session(&fresh)?);
            self.session.inherit(session);
        }
        let parents = std::mem::replace(&mut self.database, fresh);
        // Its locks may be held by threads that only the parent has.
        std::mem::forget(parents);
        self.opened = None;
        if let Some(address) = self.journal_name {
            self.journal_is_named(address);
        }
        if let Some(lease) = self.ahead.take() {
            lease.abandon();
        }
        self.is_held = false;
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
        let unlocked = self.unlock(Level::None);
        if let Some(address) = self.journal_name.take() {
            JOURNAL_NAMES.get().leave(address, &self.journal);
        }
        self.database.close();
        unlocked
    }
}

#[cfg(test)]
mod tests;
