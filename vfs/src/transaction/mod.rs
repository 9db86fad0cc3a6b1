//! One transaction of one connection, as a state that owns what it needs.

use std::cell::LazyCell;
use std::sync::Arc;

use crate::config::Wait;
use crate::database::Database;
use crate::lease::{Lease, Owner};
use crate::model::error::{Cause, Error, Result};
use crate::model::header::Header;
use crate::model::log_entry::Undo;
use crate::model::page::{Page, PageNo};
use crate::model::undo::UndoBuilder;
use crate::model::version::{CommitId, Snapshot};
use crate::reading::cache::Epoch;
use crate::reading::reader::{Reader, WINDOW_PAGES};
use crate::transaction::changed_pages::Gathered;
use crate::transaction::group::{Group, Member, Moment};
use crate::transaction::prepared::{Prepared, take_back};
use crate::transaction::write_set::{Base, WriteSet};

pub(crate) mod changed_pages;
pub(crate) mod group;
pub(crate) mod journal;
pub(crate) mod prepared;
pub(crate) mod write_set;

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

/// A write transaction.
pub(crate) struct Writing {
    reader: Reader,
    /// `None` after a commit gave it back, until more is written, and while a group has it.
    lease: Option<Lease>,
    /// The lease is to be kept for the next transaction.
    lingers: bool,
    writes: WriteSet,
    /// Something was committed since the write lock was taken. More than one commit comes of
    /// `locking_mode=EXCLUSIVE` and of a transaction over several databases.
    committed: bool,
    /// A commit was refused: what follows is SQLite writing the originals back.
    refused: bool,
    /// A whole transaction ended since the write lock was taken, so this is
    /// `locking_mode=EXCLUSIVE`. The pragma itself may not have been seen: without the name of a
    /// database it is for all of them, but only the main one is told.
    ended: bool,
    exclusivity: Exclusivity,
    /// The group that is to publish the commit, and the place in it.
    in_group: Option<(Arc<Group>, usize)>,
    /// What a group has published and SQLite may still roll back.
    published: Option<Prepared>,
}

/// Whether the lock that SQLite keeps in `locking_mode=EXCLUSIVE` was worth what it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exclusivity {
    Kept,
    /// Another has committed in spite of it. SQLite's page cache is of the old version, and it
    /// would never look for changes by itself.
    Lost,
    /// SQLite was told, by an I/O error in its rollback: that is what makes it drop its page
    /// cache. It rolls back once more, then looks for changes.
    Told,
}

/// What SQLite has said about the commit that it asks for.
pub(crate) struct Asked {
    /// When the commit is to be published.
    pub moment: Moment,
    /// `locking_mode=EXCLUSIVE`: the write lock is kept for the next transaction.
    pub exclusive: bool,
    /// What the commit waits for.
    pub wait: Wait,
    /// Whose commit it is.
    pub owner: Owner,
}

/// What a commit left behind for the one who called.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    /// There was nothing to write.
    Nothing,
    /// A new version. `altered` when page 1 is not as SQLite has it.
    Version { altered: bool },
    /// A group will publish it.
    Later,
}

/// Reads whole chunks of a snapshot.
struct SnapshotBase<'a> {
    reader: &'a mut Reader,
    database: &'a Database,
}

impl Base for SnapshotBase<'_> {
    fn chunk(&mut self, index: u64, chunk: &mut [u8]) -> Result<()> {
        let page = u32::try_from(index + 1).ok().and_then(PageNo::new);
        let page = page.ok_or_else(|| Cause::Internal(format!("chunk {index} is out of range")))?;
        let bytes = self.reader.page(self.database.pages(), page)?;
        chunk.copy_from_slice(&bytes);
        Ok(())
    }
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
        let reader = reader.through(None);
        let writes = write_set(database, &reader.snapshot);
        *self = Txn::Writing(Box::new(Writing {
            reader,
            lease,
            lingers: false,
            writes,
            committed: false,
            refused: false,
            ended: false,
            exclusivity,
            in_group: None,
            published: None,
        }));
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

/// The chunk of the write set that is this page, where their sizes agree.
fn chunk_of(page: PageNo) -> u64 {
    u64::from(page.get()) - 1
}

/// Pages that a commit may remove without asking whether they are there.
const REMOVED_UNCHECKED: u32 = 1 << 16;

/// Nothing written yet over a snapshot.
fn write_set(database: &Database, snapshot: &Snapshot) -> WriteSet {
    WriteSet::new(snapshot.page_size, snapshot.bytes(), database.stage_bytes)
}

/// The lease, and with it the certainty that `snapshot` is the newest version.
fn lease_at(database: &Database, snapshot: &Snapshot, owner: Owner) -> Result<Lease> {
    let (lease, now) = database.lease(owner)?;
    if now.identity() != snapshot.identity() {
        lease.release()?;
        return Err(Cause::Stale { snapshot: snapshot.version, found: now.version }.into());
    }
    if now != *snapshot {
        lease.release()?;
        return Err(snapshot.contradicted_by(&now));
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

impl Writing {
    /// Makes the writes a new version. Called at `SQLITE_FCNTL_SYNC`, which SQLite sends for a
    /// rollback too; see [`Writing::is_rollback`].
    pub(crate) fn commit(&mut self, database: &Arc<Database>, asked: &Asked) -> Result<Committed> {
        let exclusive = asked.exclusive || self.ended;
        let outcome = self.try_commit(database, asked, exclusive);
        if let Err(error) = &outcome {
            self.refuse(database, error, exclusive);
        }
        self.ended |= outcome.is_ok() && matches!(asked.moment, Moment::Alone);
        outcome
    }

    /// The commit is refused: what follows is SQLite's rollback.
    fn refuse(&mut self, database: &Database, error: &Error, exclusive: bool) {
        self.refused = true;
        if exclusive && matches!(error.cause, Cause::Stale { .. } | Cause::Busy(_)) {
            self.exclusivity = Exclusivity::Lost;
        }
        self.forget_writes(database);
    }

    /// Whether a group has the commit.
    pub(crate) fn is_in_group(&self) -> bool {
        self.in_group.is_some()
    }

    /// The group that has the commit.
    pub(crate) fn group(&self) -> Option<&Group> {
        self.in_group.as_ref().map(|(group, _)| &**group)
    }

    /// Takes lease and commit out of the hands of the group. A commit that was not published is dropped:
    /// SQLite rolls back.
    pub(crate) fn leave_group(&mut self, database: &Database, exclusive: bool) -> Result<Committed> {
        let Some((group, index)) = self.in_group.take() else { return Ok(Committed::Nothing) };
        let (Some(member), outcome) = group.leave(index) else { return Ok(Committed::Nothing) };
        self.lease = Some(member.lease);
        match outcome {
            Some(Ok(())) => {
                let altered = member.prepared.altered;
                self.reader = member.prepared.adopt(database);
                self.published = Some(member.prepared);
                self.committed = true;
                self.forget_writes(database);
                Ok(Committed::Version { altered })
            }
            Some(Err(error)) => {
                self.refuse(database, &error, exclusive || self.ended);
                Err(error)
            }
            None => {
                self.refused = true;
                self.forget_writes(database);
                Ok(Committed::Nothing)
            }
        }
    }

    /// SQLite has given up its rollback journal.
    pub(crate) fn end_commit(&mut self) {
        self.ended |= self.published.take().is_some();
    }

    /// SQLite rolls back what a group has published.
    fn take_back(&mut self, database: &Arc<Database>, published: &Prepared) -> Result<Committed> {
        self.forget_writes(database);
        let Some(lease) = &mut self.lease else {
            return Err(Cause::Internal("the lease of a published commit is missing".into()).into());
        };
        if let Some(reverse) = take_back(database, lease, published)? {
            self.reader = reverse.adopt(database);
            self.forget_writes(database);
        }
        Ok(Committed::Nothing)
    }

    /// Whether another has committed although SQLite has kept the write lock.
    pub(crate) fn is_lost(&self) -> bool {
        self.exclusivity != Exclusivity::Kept
    }

    /// Gives back the lease under which nothing can be committed any more.
    pub(crate) fn drop_lease(&mut self) -> Result<()> {
        self.lease.take().map_or(Ok(()), Lease::release)
    }

    /// Begins anew with the current version, when SQLite has dropped its page cache.
    pub(crate) fn catch_up(&mut self, database: &Database, reader: Reader, lease: Option<Lease>) {
        self.writes = write_set(database, &reader.snapshot);
        self.reader = reader.through(None);
        self.lease = lease;
        (self.committed, self.refused, self.exclusivity) = (false, false, Exclusivity::Kept);
    }

    fn try_commit(&mut self, database: &Arc<Database>, asked: &Asked, exclusive: bool) -> Result<Committed> {
        if let Some(published) = self.published.take() {
            return self.take_back(database, &published);
        }
        let Some(mut prepared) = self.prepare(database)? else { return Ok(Committed::Nothing) };
        let lease = match self.lease.take() {
            Some(lease) => lease,
            None => lease_at(database, &prepared.base, asked.owner)?,
        };
        match &asked.moment {
            Moment::Alone => {
                let lease = self.lease.insert(lease);
                self.lingers = false;
                let stage = prepared.stage.take();
                self.lingers = lease.commit(&prepared.commit(), stage, exclusive, asked.wait)?.is_some();
                if !self.lingers && !exclusive {
                    self.lease = None;
                    database.ended();
                }
                let altered = prepared.altered;
                self.reader = prepared.adopt(database);
                self.committed = true;
                self.forget_writes(database);
                Ok(Committed::Version { altered })
            }
            Moment::Now(group) | Moment::Later(group) => {
                let member = Member { database: database.clone(), lease, prepared, wait: asked.wait };
                self.in_group = Some((group.clone(), group.join(member)));
                if let Moment::Now(group) = &asked.moment {
                    // What came of it is with the group, from where it is fetched.
                    let _ = group.publish();
                    return self.leave_group(database, exclusive);
                }
                Ok(Committed::Later)
            }
        }
    }

    /// The commit of what was written; `None` when there is nothing to commit.
    fn prepare(&mut self, database: &Database) -> Result<Option<Prepared>> {
        if !self.writes.is_changed() {
            return Ok(None);
        }
        // The old version may be gone: what follows a refusal is the rollback also if that can't be read.
        if self.is_lost() && self.refused || self.is_rollback(database)? {
            self.forget_writes(database);
            match self.exclusivity {
                Exclusivity::Kept => self.refused = false,
                Exclusivity::Lost => {
                    let snapshot = self.reader.snapshot.version;
                    let found = database.store().fetch(&[]).map_or(snapshot.next(), |now| now.at.version);
                    self.exclusivity = Exclusivity::Told;
                    return Err(Cause::ExclusiveLost { snapshot, found }.into());
                }
                Exclusivity::Told => {}
            }
            return Ok(None);
        }
        let mut header = [0; Header::SIZE];
        self.read_writes(database, 0, &mut header)?;
        let header = Header(header);
        let altered = header.wal();
        if altered {
            let Writing { reader, writes, .. } = self;
            writes.write(18, &[1, 1], &mut SnapshotBase { reader, database })?;
        }
        let base = self.reader.snapshot;
        // SQLite has read page 1, so it is most likely cached.
        let before = database.cache.get(PageNo::FIRST, base.version, self.reader.epoch);
        let used_before = before.and_then(|page| Header::of(&page)).map(|header| header.used_of(base.page_count));
        let (page_size, page_count) = self.writes.shape(&header)?;
        if base.page_count.saturating_sub(page_count) > REMOVED_UNCHECKED {
            database.store().check_complete(&base)?;
        }
        let snapshot = Snapshot { version: base.version.next(), commit: CommitId::draw()?, page_size, page_count };
        let aligned = self.writes.is_aligned() && page_size as usize == self.writes.unit();
        let (gathered, undo) =
            if aligned { self.changes(database, &snapshot)? } else { self.recut(database, &snapshot)? };
        if gathered.is_empty() && page_count == base.page_count && page_size == base.page_size {
            self.forget_writes(database);
            return Ok(None);
        }
        let Gathered { pages, stage, staged, .. } = gathered.whole(&base, &snapshot)?;
        let has_fewer =
            page_count < base.page_count || used_before.is_some_and(|used| header.used_of(page_count) < used);
        let shrinks = page_size == base.page_size && has_fewer;
        Ok(Some(Prepared { base, snapshot, pages, staged, stage, undo, altered, shrinks }))
    }

    /// Whether what was written is SQLite putting the originals back.
    ///
    /// A commit changes page 1, whose change counter every transaction increments that begins by
    /// taking the write lock (`pager_incr_changecounter`); a rollback restores it. Later
    /// transactions under one lock (`locking_mode=EXCLUSIVE`) may leave page 1 alone, so then
    /// only what follows a refused commit is taken for its rollback. What a rollback does not
    /// restore is the content of free pages, so comparing the other pages would not tell.
    fn is_rollback(&mut self, database: &Database) -> Result<bool> {
        if self.committed && !self.refused {
            return Ok(false);
        }
        let first = self.writes.unit().min(self.reader.snapshot.page_size as usize);
        if first == 0 {
            // The database was empty: back to nothing.
            return Ok(self.writes.size() == 0);
        }
        if self.writes.size() == 0 {
            return Ok(false);
        }
        let original = self.reader.page(database.pages(), PageNo::FIRST)?;
        if let Some(now) = self.writes.at_hand(0) {
            return Ok(original[..first] == now[..first]);
        }
        let mut now = vec![0; first];
        self.read_writes(database, 0, &mut now)?;
        Ok(original[..first] == now)
    }

    fn read_writes(&mut self, database: &Database, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Writing { reader, writes, .. } = self;
        writes.read(offset, buffer, &mut SnapshotBase { reader, database })
    }

    fn forget_writes(&mut self, database: &Database) {
        self.writes = write_set(database, &self.reader.snapshot);
    }

    /// The pages that differ from the base, and how to put the old ones back.
    fn changes<'a>(&mut self, database: &'a Database, snapshot: &Snapshot) -> Result<(Gathered<'a>, Undo)> {
        let base = self.reader.snapshot;
        let zeros = LazyCell::new(|| Page::new(vec![0; snapshot.page_size as usize]));
        let written = self.writes.chunks().filter_map(|index| PageNo::new(u32::try_from(index + 1).ok()?));
        // Where nothing was written and nothing of the base shows, the file has zeros.
        let holes = PageNo::range(self.writes.base_chunks() + 1, snapshot.page_count)
            .filter(|page| !self.writes.has(chunk_of(*page)));
        let gone = PageNo::range(snapshot.page_count + 1, base.page_count);
        let mut touched: Vec<PageNo> = written.filter(|page| snapshot.has(*page)).chain(holes).chain(gone).collect();
        touched.sort_unstable();
        let mut gathered = Gathered::new(database);
        let mut undo = UndoBuilder::new(database.undo_bytes);
        for batch in touched.chunks(WINDOW_PAGES as usize) {
            let known: Vec<PageNo> = batch.iter().copied().filter(|page| base.has(*page)).collect();
            let mut originals = self.reader.pages(database.pages(), &known)?.into_iter();
            for &page in batch {
                let original = if base.has(page) { originals.next() } else { None };
                // Nothing is left to go back to if the commit is refused: then all of it goes.
                let new = match self.writes.take_chunk(chunk_of(page))? {
                    Some(chunk) if snapshot.has(page) => Page::new(chunk),
                    _ => Page::clone(&zeros),
                };
                if original.as_ref() == Some(&new) && snapshot.has(page) {
                    continue;
                }
                if let Some(original) = original {
                    undo.page(page, &original, &new);
                }
                if snapshot.has(page) {
                    gathered.push(page, new)?;
                }
            }
        }
        Ok((gathered, undo.finish()))
    }

    /// All pages, cut anew because their size changed.
    fn recut<'a>(&mut self, database: &'a Database, snapshot: &Snapshot) -> Result<(Gathered<'a>, Undo)> {
        let mut gathered = Gathered::new(database);
        for page in PageNo::range(1, snapshot.page_count) {
            let mut bytes = vec![0; snapshot.page_size as usize];
            self.read_writes(database, chunk_of(page) * u64::from(snapshot.page_size), &mut bytes)?;
            gathered.push(page, Page::new(bytes))?;
        }
        Ok((gathered, Undo::Barrier))
    }
}
