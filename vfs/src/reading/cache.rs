//! The page cache: one for each database in a process, shared by its connections.
//!
//! Invariants, under the lock:
//! 1. `head` is a snapshot that the server had; every cached page is the page as of `head`.
//! 2. A page has not changed from its entry's `since` to `head`. So a reader of version `v` may
//!    use it if `since <= v <= head`, in the same history.
//! 3. `epoch` identifies the history. It changes whenever `head` moves to a version that does not
//!    provably follow the previous one. Readers remember the epoch that admitted them, and get no
//!    page of another epoch.
//! 4. `lineage` holds recent versions of this history; `head` is the newest of them.
//! 5. Only the primary can start another history. A replica's version that is not of this history
//!    is ignored.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Instant;

use lru::LruCache;

use crate::model::delta;
use crate::model::log_entry::{Changes, LogEntry, check_chain};
use crate::model::page::{Page, PageNo};
use crate::model::undo::PageList;
use crate::model::version::{CommitId, Snapshot, Version};
use crate::process::sync::Mutex;

/// Maximum number of versions in `lineage`, by which stale readers and lagging replicas are recognised.
const LINEAGE: usize = 4096;

/// Identifies one history of a database; see the invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// The epoch of a reader that may not use the cache.
    pub(crate) const NONE: Epoch = Epoch(u64::MAX);

    /// Whether this history started after `other`.
    pub(crate) fn is_after(self, other: Epoch) -> bool {
        self.0 > other.0
    }
}

/// How a snapshot relates to the cache's history.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recognised {
    /// It belongs to this history.
    Known(Epoch),
    /// It is newer than `head`.
    Newer {
        /// The newest known version.
        head: Version,
    },
    /// It is older than the remembered versions, or belongs to another history.
    Unknown(Epoch),
}

/// Whether a snapshot of the primary may use the cache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may, with this epoch.
    Admitted(Epoch),
    /// Only with the log entries after this version; see [`Cache::admit_with`].
    NeedsHistory { after: Version },
}

struct Entry {
    page: Page,
    since: Version,
}

struct State {
    head: Snapshot,
    /// When `head` was set.
    since: Instant,
    epoch: Epoch,
    lineage: BTreeMap<Version, CommitId>,
    pages: LruCache<PageNo, Entry>,
}

/// See the [module](self).
pub(crate) struct Cache {
    /// Maximum size of all pages, in bytes.
    size: u64,
    state: Mutex<State>,
}

impl Cache {
    pub(crate) fn new(size: u64) -> Self {
        // Not preallocated: the size comes from a setting, and may exceed the memory.
        let mut pages = LruCache::unbounded();
        pages.resize(capacity(size, 4096));
        let state = State {
            head: Snapshot::EMPTY,
            since: Instant::now(),
            epoch: Epoch(0),
            lineage: BTreeMap::from([Snapshot::EMPTY.identity()]),
            pages,
        };
        Cache { size, state: Mutex::new(state) }
    }

    /// The newest snapshot of this history, its epoch, and the time since when it is known.
    pub(crate) fn head(&self) -> (Snapshot, Epoch, Instant) {
        let state = self.state.lock();
        (state.head, state.epoch, state.since)
    }

    /// Compares a snapshot with this history.
    pub(crate) fn recognise(&self, snapshot: &Snapshot) -> Recognised {
        self.state.lock().recognise(snapshot)
    }

    /// Requests to use the cache for a snapshot that the primary has just sent.
    pub(crate) fn admit(&self, snapshot: &Snapshot) -> Admission {
        let mut state = self.state.lock();
        match state.recognise(snapshot) {
            Recognised::Known(epoch) => Admission::Admitted(epoch),
            Recognised::Newer { head } => Admission::NeedsHistory { after: head },
            Recognised::Unknown(_) => {
                state.begin_anew(snapshot, self.size);
                Admission::Admitted(state.epoch)
            }
        }
    }

    /// Notes that the primary had no database in reply to a request sent at `asked`. If the cache knew one by then, it
    /// was removed, and another history starts.
    pub(crate) fn removed(&self, asked: Instant) {
        let mut state = self.state.lock();
        if state.head != Snapshot::EMPTY && asked > state.since {
            state.begin_anew(&Snapshot::EMPTY, self.size);
        }
    }

    /// Repeats the request with the log entries after the version in [`Admission::NeedsHistory`]. If they lead to the
    /// snapshot, the cached pages that they changed are dropped, and returned. Otherwise all pages are dropped, and none
    /// returned.
    pub(crate) fn admit_with(&self, snapshot: &Snapshot, entries: &[LogEntry]) -> (Epoch, Vec<PageNo>) {
        let mut state = self.state.lock();
        let followed = state.follow(snapshot, entries);
        if followed.is_none() {
            state.begin_anew(snapshot, self.size);
        }
        (state.epoch, followed.unwrap_or_default())
    }

    /// The same for a snapshot of a replica. It is refused if the entries don't lead to it.
    pub(crate) fn follow(&self, snapshot: &Snapshot, entries: &[LogEntry]) -> Option<Epoch> {
        let mut state = self.state.lock();
        state.follow(snapshot, entries).map(|_| state.epoch)
    }

    /// Adds an older version to this history, after the primary's log has proven that it belongs there.
    pub(crate) fn remember(&self, older: &Snapshot, epoch: Epoch) -> Option<Epoch> {
        let mut state = self.state.lock();
        let of_this = state.epoch == epoch && older.version < state.head.version;
        if of_this {
            state.lineage.insert(older.version, older.commit);
        }
        of_this.then_some(epoch)
    }

    /// The page as of `version`, if it is cached.
    pub(crate) fn get(&self, page: PageNo, version: Version, epoch: Epoch) -> Option<Page> {
        let mut state = self.state.lock();
        if state.epoch != epoch {
            return None;
        }
        let entry = state.pages.get(&page)?;
        (entry.since <= version).then(|| entry.page.clone())
    }

    /// Whether [`Cache::get`] would find the page. Does not count as a use of the page.
    pub(crate) fn has(&self, page: PageNo, version: Version, epoch: Epoch) -> bool {
        let state = self.state.lock();
        state.epoch == epoch && state.pages.peek(&page).is_some_and(|entry| entry.since <= version)
    }

    /// Adds pages whose content holds from version `since` to each version in `valid_at`. They are added only if `head`
    /// is one of these versions. Versions are compared with their commit ids, since equal numbers may belong to two
    /// histories.
    pub(crate) fn insert(
        &self,
        epoch: Epoch,
        since: Version,
        valid_at: &[Snapshot],
        pages: impl IntoIterator<Item = (PageNo, Page)>,
    ) {
        let mut state = self.state.lock();
        let head = state.head.identity();
        if state.epoch != epoch || !valid_at.iter().any(|at| at.identity() == head) {
            return;
        }
        for (number, page) in pages {
            state.pages.put(number, Entry { page, since });
        }
    }

    /// Adds the changed pages of this process's own commit; a page is `None` if its content is not in memory. Returns the
    /// epoch for readers of the new version. It is [`Epoch::NONE`] if the commit did not follow `head`, since then `head`
    /// belongs to another history.
    pub(crate) fn committed(
        &self,
        base: &Snapshot,
        snapshot: &Snapshot,
        pages: impl Iterator<Item = (PageNo, Option<Page>)>,
    ) -> Epoch {
        let mut state = self.state.lock();
        // A follower may have learnt of the commit before its reply arrived.
        if state.head.identity() != base.identity() && state.head.identity() != snapshot.identity() {
            return Epoch::NONE;
        }
        let resized = base.page_size != snapshot.page_size;
        if resized {
            state.pages.clear();
            state.pages.resize(capacity(self.size, snapshot.page_size));
        }
        for page in PageNo::range(snapshot.page_count + 1, base.page_count) {
            state.pages.pop(&page);
        }
        for (number, page) in pages {
            match page {
                Some(page) => state.pages.put(number, Entry { page, since: snapshot.version }),
                None => state.pages.pop(&number),
            };
        }
        state.set_head(snapshot);
        state.epoch
    }
}

impl State {
    /// A snapshot with the version and commit id of `head`, but another page size or page count, is not known. One of the
    /// two is wrong, and a reader will find out which.
    fn recognise(&self, snapshot: &Snapshot) -> Recognised {
        let known = match self.head.identity() == snapshot.identity() {
            true => self.head == *snapshot,
            false => self.lineage.get(&snapshot.version) == Some(&snapshot.commit),
        };
        if known {
            Recognised::Known(self.epoch)
        } else if snapshot.version > self.head.version && self.head != Snapshot::EMPTY {
            Recognised::Newer { head: self.head.version }
        } else {
            Recognised::Unknown(self.epoch)
        }
    }

    fn set_head(&mut self, snapshot: &Snapshot) {
        (self.head, self.since) = (*snapshot, Instant::now());
        self.lineage.insert(snapshot.version, snapshot.commit);
        while self.lineage.len() > LINEAGE {
            self.lineage.pop_first();
        }
    }

    fn begin_anew(&mut self, snapshot: &Snapshot, size: u64) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.pages.clear();
        self.pages.resize(capacity(size, snapshot.page_size));
        self.lineage.clear();
        self.set_head(snapshot);
    }

    /// Moves `head` to a snapshot that the entries lead to, and drops the changed pages, which it returns. `None` if the
    /// entries don't lead there, or don't list their changes.
    fn follow(&mut self, snapshot: &Snapshot, entries: &[LogEntry]) -> Option<Vec<PageNo>> {
        // Another thread may have moved `head` in the meantime.
        if let Recognised::Known(_) = self.recognise(snapshot) {
            return Some(Vec::new());
        }
        let head = self.head;
        let news = || entries.iter().filter(move |entry| entry.version > head.version);
        if news().next().is_none() || check_chain(&head, snapshot, news()).is_err() {
            return None;
        }
        let mut dropped = Vec::new();
        for entry in news() {
            let changed = match &entry.changes {
                Changes::Deltas(deltas) => delta::parse_undo(deltas)?.into_iter().map(|(page, _)| page).collect(),
                Changes::Pages(pages) => self.cached_of(&PageList::parse(pages)?),
                Changes::Unknown => return None,
            };
            dropped.extend(changed.into_iter().filter(|page| self.pages.pop(page).is_some()));
        }
        for entry in news() {
            self.lineage.insert(entry.version, entry.commit);
        }
        self.set_head(snapshot);
        Some(dropped)
    }
}

impl State {
    /// The listed pages, ascending; only cached ones, if the list is longer than the cache. The cost is bounded by the
    /// cache's size, since a list from the server may name four billion pages.
    fn cached_of(&self, listed: &PageList) -> Vec<PageNo> {
        if listed.count() <= self.pages.len() as u64 {
            return listed.iter().collect();
        }
        let mut cached: Vec<PageNo> =
            self.pages.iter().map(|(page, _)| *page).filter(|page| listed.contains(*page)).collect();
        cached.sort_unstable();
        cached
    }
}

fn capacity(size: u64, page_size: u32) -> NonZeroUsize {
    let pages = size / u64::from(page_size.max(512));
    usize::try_from(pages).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests;
