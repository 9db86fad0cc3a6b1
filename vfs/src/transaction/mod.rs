//! One transaction of one connection, as a state that owns what it needs.

use crate::database::Database;
use crate::lease::{Lease, Owner};
use crate::model::error::{Cause, Result};
use crate::model::page::PageNo;
use crate::model::version::Snapshot;
use crate::reading::cache::Epoch;
use crate::reading::reader::Reader;

pub(crate) mod changed_pages;
pub(crate) mod group;
pub(crate) mod journal;
pub(crate) mod prepared;
pub(crate) mod write_set;
mod writing;

pub(crate) use crate::transaction::writing::{Asked, Committed, Writing};
use crate::transaction::writing::{Exclusivity, SnapshotBase};

/// Where a transaction stands.
pub(crate) enum Txn {
    /// None is open.
    None,
    /// One is open, but nothing was read yet: its snapshot will be the one of the first read.
    Begun,
    /// Reads one snapshot.
    Reading(Reader),
    /// Holds the write lease, and what was written so far.
    Writing(Box<Writing>),
}

impl Txn {
    /// The snapshot, if one was taken.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        self.reader().map(|reader| reader.snapshot)
    }

    pub(crate) fn reader(&self) -> Option<&Reader> {
        match self {
            Txn::None | Txn::Begun => None,
            Txn::Reading(reader) => Some(reader),
            Txn::Writing(writing) => Some(&writing.reader),
        }
    }

    /// Bytes of the database as this transaction sees it.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Txn::None | Txn::Begun => None,
            Txn::Reading(reader) => Some(reader.snapshot.bytes()),
            Txn::Writing(writing) => Some(writing.writes.size()),
        }
    }

    /// Fills `buffer` from `offset` on; bytes past the end are zero.
    pub(crate) fn read(&mut self, database: &Database, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match self {
            Txn::None | Txn::Begun => Err(Cause::Internal("a read without a snapshot".into()).into()),
            Txn::Reading(reader) => read_snapshot(reader, database, offset, buffer),
            Txn::Writing(writing) => {
                let Writing { reader, writes, .. } = &mut **writing;
                writes.read(offset, buffer, &mut SnapshotBase { reader, database })
            }
        }
    }

    pub(crate) fn write(&mut self, database: &Database, offset: u64, data: &[u8]) -> Result<()> {
        let Writing { reader, writes, .. } = self.writing()?;
        writes.write(offset, data, &mut SnapshotBase { reader, database })
    }

    pub(crate) fn truncate(&mut self, size: u64) -> Result<()> {
        self.writing()?.writes.truncate(size)
    }

    /// The write transaction. In a forked child there is none although SQLite believes so.
    pub(crate) fn writing(&mut self) -> Result<&mut Writing> {
        match self {
            Txn::Writing(writing) => Ok(writing),
            Txn::None | Txn::Begun | Txn::Reading(_) => Err(Cause::Forked.into()),
        }
    }

    /// Turns a read transaction into a write transaction: the lease, and proof that nobody
    /// committed since its snapshot. A lease that came with the snapshot is that proof.
    pub(crate) fn start_writing(&mut self, database: &Database, ahead: Option<Lease>, owner: Owner) -> Result<()> {
        let Txn::Reading(reader) = self else {
            return Err(Cause::Internal("a write lock without a snapshot".into()).into());
        };
        let lease = ahead.map_or_else(|| lease_at(database, &reader.snapshot, owner), Ok)?;
        self.write_from(database, Some(lease), Exclusivity::Kept);
        Ok(())
    }

    /// The same although another has committed since the snapshot, for SQLite to notice at its commit: that
    /// is refused, and the rollback makes it drop its page cache. Nothing of it is ever published.
    pub(crate) fn start_overtaken(&mut self, database: &Database) {
        self.write_from(database, None, Exclusivity::Lost);
    }

    fn write_from(&mut self, database: &Database, lease: Option<Lease>, exclusivity: Exclusivity) {
        let Txn::Reading(reader) = std::mem::replace(self, Txn::None) else { return };
        *self = Txn::Writing(Box::new(Writing::begin(reader, database, lease, exclusivity)));
    }

    /// The lease, for a transaction that reads the newest version; `None` if it reads none.
    pub(crate) fn lease(&self, database: &Database, owner: Owner) -> Result<Option<Lease>> {
        self.snapshot().map(|snapshot| lease_at(database, &snapshot, owner)).transpose()
    }

    /// Ends the write part; what was not committed is gone. The read part goes on.
    pub(crate) fn stop_writing(&mut self, database: &Database) -> Result<()> {
        if !matches!(self, Txn::Writing(_)) {
            return Ok(());
        }
        let Txn::Writing(writing) = std::mem::replace(self, Txn::None) else { return Ok(()) };
        let Writing { reader, lease, lingers, .. } = *writing;
        let snapshot = reader.snapshot;
        *self = Txn::Reading(reader);
        match (lease, lingers) {
            (Some(lease), true) => database.leave(lease, snapshot),
            (Some(lease), false) => return lease.release(),
            (None, _) => {}
        }
        Ok(())
    }

    /// In a forked child: the lease and its connection stay the parent's, the snapshot is read on
    /// through connections of the child.
    pub(crate) fn forked(&mut self, admit: impl FnOnce(&Snapshot) -> Epoch) {
        let reader = match std::mem::replace(self, Txn::None) {
            Txn::Reading(reader) => reader,
            Txn::Writing(writing) => {
                let Writing { reader, lease, in_group, published, .. } = *writing;
                if let Some(lease) = lease {
                    lease.abandon();
                }
                std::mem::forget((in_group, published));
                reader
            }
            other @ (Txn::None | Txn::Begun) => {
                *self = other;
                return;
            }
        };
        let snapshot = reader.snapshot;
        // It may have asked ahead on a connection that is the parent's.
        std::mem::forget(reader);
        *self = Txn::Reading(Reader::new(snapshot, admit(&snapshot)));
    }
}

/// The lease, and with it the certainty that `snapshot` is the newest version.
fn lease_at(database: &Database, snapshot: &Snapshot, owner: Owner) -> Result<Lease> {
    let (lease, now) = database.lease(owner)?;
    if now.identity() != snapshot.identity() {
        return Err(lease.release_after(Cause::Stale { snapshot: snapshot.version, found: now.version }.into()));
    }
    if now != *snapshot {
        return Err(lease.release_after(snapshot.contradicted_by(&now)));
    }
    Ok(lease)
}

fn read_snapshot(reader: &mut Reader, database: &Database, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let page_size = u64::from(reader.snapshot.page_size);
    let end = reader.snapshot.bytes();
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        if at >= end {
            buffer[done..].fill(0);
            break;
        }
        let page = u32::try_from(at / page_size + 1).ok().and_then(PageNo::new);
        let page = page.ok_or_else(|| Cause::Internal(format!("offset {at} is out of range")))?;
        let bytes = reader.page(database.pages(), page)?;
        let within = (at % page_size) as usize;
        let length = (bytes.len() - within).min(buffer.len() - done);
        buffer[done..done + length].copy_from_slice(&bytes[within..within + length]);
        done += length;
    }
    Ok(())
}
