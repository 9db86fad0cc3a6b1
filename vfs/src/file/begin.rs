//! How a transaction begins: with a snapshot, and with the write lease where that will be needed.

use std::time::{Duration, Instant};

use crate::config::Replicas;
use crate::database::{busy_sleep, refuses_lease};
use crate::file::patience::Patience;
use crate::file::{Address, File};
use crate::model::error::{Cause, Error, Result};
use crate::model::version::Snapshot;
use crate::reading::reader::Reader;
use crate::transaction::Txn;

/// A refusal of the lease that is not older is one of the same step of SQLite, which asks for the write lock right
/// after it has read page 1.
const JUST_NOW: Duration = Duration::from_millis(20);

/// The lease was to come with a snapshot, and another had it.
pub(super) struct Refusal {
    holder: String,
    /// When the try began.
    begun: Instant,
    at: Instant,
}

impl File {
    /// Takes a snapshot to read.
    pub(super) fn begin(&mut self) -> Result<Reader> {
        self.finish_opening()?;
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
        self.finish_opening()?;
        if self.read_only || !(self.exclusive || self.writes) {
            return self.begin();
        }
        let asked = Instant::now();
        let patience = self.patience.at(asked);
        match self.session.begin_to_write(&self.database, self.owner, patience) {
            Ok((lease, reader)) => {
                self.patience = Patience::default();
                if self.exclusive {
                    self.ahead = Some(lease);
                } else {
                    self.database.hold(lease, reader.snapshot, self.owner);
                    self.is_held = true;
                }
                Ok(reader)
            }
            Err(error) => {
                if let Cause::Busy(holder) = &error.cause {
                    self.refused(holder.clone(), asked);
                }
                if self.exclusive || !refuses_lease(&error.cause) { Err(error) } else { self.begin() }
            }
        }
    }

    /// Another holds the lease, at the end of a try that began then.
    fn refused(&mut self, holder: String, begun: Instant) {
        let now = Instant::now();
        self.patience.spend(now - begun, now);
        busy_sleep::refused(&self.database, self.owner, begun);
        self.refused = Some(Refusal { holder, begun, at: now });
    }

    /// SQLite reads on although the write lock would come next if it was about to write: it writes elsewhere.
    pub(super) fn reads_on(&mut self) {
        self.refused = None;
        if std::mem::take(&mut self.is_held) {
            self.database.give_up(self.owner);
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
    /// A refusal because another has committed makes SQLite unlock at the end of the transaction, unless it is in
    /// a `locking_mode=EXCLUSIVE` of which nothing was told. Then it would be refused for ever. So in its next
    /// transaction it gets the lock, and its commit is refused: what follows makes it drop its page cache (see
    /// [`Txn::start_overtaken`]).
    pub(super) fn start_writing(&mut self) -> Result<()> {
        if let Some(Refusal { holder, begun, at }) = self.refused.take()
            && at.elapsed() < JUST_NOW
        {
            busy_sleep::refused(&self.database, self.owner, begun);
            return Err(Cause::Busy(holder).into());
        }
        self.is_held = false;
        let asked = Instant::now();
        match self.txn.start_writing(&self.database, self.ahead.take(), self.owner) {
            Err(Error { cause: Cause::Stale { .. }, .. }) if self.overtaken => {
                self.txn.start_overtaken(&self.database);
                Ok(())
            }
            outcome => {
                match outcome.as_ref().map_err(|error| &error.cause) {
                    Ok(()) => self.patience = Patience::default(),
                    Err(Cause::Stale { .. }) => self.overtaken = true,
                    Err(Cause::Busy(holder)) => {
                        let holder = holder.clone();
                        self.refused(holder, asked);
                        self.refused = None;
                    }
                    Err(_) => {}
                }
                outcome
            }
        }
    }

    /// Whether the next refusal of the write lock is to be told at the commit.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.overtaken
    }

    /// A transaction is open that may have read: SQLite keeps its lock for that.
    pub(crate) fn goes_on_reading(&mut self) {
        self.overtaken = false;
    }

    /// `PRAGMA locking_mode`. Returns whether SQLite may change the mode.
    pub(super) fn set_locking_mode(&mut self, exclusive: bool) -> Result<bool> {
        self.look_for_fork()?;
        if exclusive && self.read_only {
            return Ok(false);
        }
        if exclusive && !self.exclusive && self.ahead.is_none() && matches!(self.txn, Txn::Reading(_)) {
            self.ahead = self.txn.lease(&self.database, self.owner)?;
        }
        self.exclusive = exclusive;
        Ok(true)
    }
}
