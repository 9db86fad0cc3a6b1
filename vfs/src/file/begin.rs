//! How a transaction begins: with a snapshot, and with the write lease where that will be needed.

use super::{Address, File};
use crate::config::Replicas;
use crate::database::refuses_lease;
use crate::error::{Cause, Result};
use crate::reader::Reader;
use crate::store::Snapshot;
use crate::txn::Txn;

impl File {
    /// Takes a snapshot to read.
    pub(super) fn begin(&mut self) -> Result<Reader> {
        if let Some(Address { config, name }) = &self.address
            && let Replicas::Auto = config.replicas
        {
            self.session.set_replicas(self.database.replicas.of(&self.database, config, name)?);
        }
        self.session.begin(&self.database)
    }

    /// The snapshot of a transaction. One that will write takes the lease with it: that saves a
    /// round trip, and nobody can commit between the two.
    ///
    /// In `locking_mode=EXCLUSIVE` SQLite keeps its page cache and does not look for changes any more, so
    /// nobody may commit after its first read: without the lease, there is no snapshot.
    fn first_reader(&mut self) -> Result<Reader> {
        if self.read_only || !(self.exclusive || self.writes) {
            return self.begin();
        }
        match self.session.begin_to_write(&self.database) {
            Ok((lease, reader)) => {
                self.ahead = Some(lease);
                Ok(reader)
            }
            Err(error) if !self.exclusive && refuses_lease(&error.cause) => self.begin(),
            Err(error) => Err(error),
        }
    }

    pub(super) fn need_snapshot(&mut self) -> Result<()> {
        if matches!(self.txn, Txn::Begun) {
            let reader = self.first_reader()?;
            self.enter(&reader);
            self.txn = Txn::Reading(reader);
        }
        Ok(())
    }

    /// What SQLite is shown from now on is of this snapshot.
    fn enter(&mut self, reader: &Reader) {
        self.cookie.enter(reader.epoch, reader.snapshot == Snapshot::EMPTY);
    }

    /// SQLite looks for changes, having dropped its page cache: in `locking_mode=EXCLUSIVE` that
    /// only happens after another has committed in spite of it.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        if !matches!(&self.txn, Txn::Writing(writing) if writing.is_lost()) {
            return Ok(());
        }
        self.session.want_newest();
        self.txn.writing()?.drop_lease()?;
        let reader = self.first_reader()?;
        self.enter(&reader);
        self.txn.writing()?.catch_up(&self.database, reader, self.ahead.take());
        Ok(())
    }

    /// Turns the read transaction into a write transaction.
    ///
    /// A refusal because another has committed makes SQLite unlock, unless the application goes on with its
    /// transaction or SQLite is in a `locking_mode=EXCLUSIVE` of which nothing was told. Then SQLite would be
    /// refused for ever. So the second time it gets the lock, and its commit is refused: what follows makes it
    /// drop its page cache (see [`Txn::start_overtaken`]).
    pub(super) fn start_writing(&mut self) -> Result<()> {
        match self.txn.start_writing(&self.database, self.ahead.take()) {
            Err(error) if matches!(error.cause, Cause::Stale { .. }) => {
                if !self.overtaken {
                    self.overtaken = true;
                    return Err(error);
                }
                self.txn.start_overtaken(&self.database);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Whether the next refusal of the write lock is to be told at the commit.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.overtaken
    }

    /// Another statement of the connection reads: the lock is kept for that.
    pub(crate) fn has_another_reader(&mut self) {
        self.overtaken = false;
    }

    /// `PRAGMA locking_mode`. Returns whether SQLite may change the mode.
    pub(super) fn set_locking_mode(&mut self, exclusive: bool) -> Result<bool> {
        self.look_for_fork()?;
        if exclusive && self.read_only {
            return Ok(false);
        }
        if exclusive && !self.exclusive && self.ahead.is_none() && matches!(self.txn, Txn::Reading(_)) {
            self.ahead = self.txn.lease(&self.database)?;
        }
        self.exclusive = exclusive;
        Ok(true)
    }
}
