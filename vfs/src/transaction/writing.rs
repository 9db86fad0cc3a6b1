//! A write transaction: what was written so far, and how it becomes a commit.

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
use crate::reading::reader::{Reader, WINDOW_PAGES};
use crate::transaction::changed_pages::Gathered;
use crate::transaction::group::{Group, Member, Moment};
use crate::transaction::prepared::{Prepared, take_back};
use crate::transaction::write_set::{Base, WriteSet};

use crate::transaction::lease_at;

/// A write transaction.
pub(crate) struct Writing {
    pub(super) reader: Reader,
    /// `None` after a commit gave it back, until more is written, and while a group has it.
    pub(super) lease: Option<Lease>,
    /// The lease is to be kept for the next transaction.
    pub(super) lingers: bool,
    pub(super) writes: WriteSet,
    /// Something was committed since the write lock was taken. More than one commit comes of
    /// `locking_mode=EXCLUSIVE` and of a transaction over several databases.
    pub(super) committed: bool,
    /// A commit was refused: what follows is SQLite writing the originals back.
    pub(super) refused: bool,
    /// A whole transaction ended since the write lock was taken, so this is
    /// `locking_mode=EXCLUSIVE`. The pragma itself may not have been seen: without the name of a
    /// database it is for all of them, but only the main one is told.
    pub(super) ended: bool,
    pub(super) exclusivity: Exclusivity,
    /// The group that is to publish the commit, and the place in it.
    pub(super) in_group: Option<(Arc<Group>, usize)>,
    /// What a group has published and SQLite may still roll back.
    pub(super) published: Option<Prepared>,
}

/// Whether the lock that SQLite keeps in `locking_mode=EXCLUSIVE` was worth what it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exclusivity {
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
pub(super) struct SnapshotBase<'a> {
    pub(super) reader: &'a mut Reader,
    pub(super) database: &'a Database,
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

/// The chunk of the write set that is this page, where their sizes agree.
fn chunk_of(page: PageNo) -> u64 {
    u64::from(page.get()) - 1
}

/// Pages that a commit may remove without asking whether they are there.
const REMOVED_UNCHECKED: u32 = 1 << 16;

/// Fails if the database has another version than the one that a commit is made from.
fn check_newest(database: &Database, base: &Snapshot) -> Result<()> {
    let now = database.store().fetch(&[])?.at;
    if now.identity() == base.identity() {
        return Ok(());
    }
    Err(Cause::Stale { snapshot: base.version, found: now.version }.into())
}

/// Nothing written yet over a snapshot.
fn write_set(database: &Database, snapshot: &Snapshot) -> WriteSet {
    WriteSet::new(snapshot.page_size, snapshot.bytes(), database.stage_bytes)
}

impl Writing {
    /// Begins to write over what the reader has read.
    pub(super) fn begin(
        reader: Reader,
        database: &Database,
        lease: Option<Lease>,
        exclusivity: Exclusivity,
    ) -> Writing {
        let reader = reader.through(None);
        let writes = write_set(database, &reader.snapshot);
        Writing {
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
        }
    }

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
        if let Moment::PhaseTwo(_) = &asked.moment {
            check_newest(database, &prepared.base)?;
        }
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
            Moment::Now(group) | Moment::Later(group) | Moment::PhaseTwo(group) => {
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
