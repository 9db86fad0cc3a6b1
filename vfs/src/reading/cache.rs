//! The page cache: one for each database in a process, shared by its connections.
//!
//! Invariants, under the lock:
//! 1. `head` is a snapshot that the server had; every cached page is the page as of `head`.
//! 2. An entry's `since` is a version from which on the page is what it is, up to `head`. So a
//!    reader of version `v` may use it when `since <= v <= head`, in the same history.
//! 3. `epoch` names the history: it changes whenever `head` moves to a version that does not
//!    demonstrably follow the one before. Readers remember the epoch that admitted them, and
//!    get nothing from another.
//! 4. `lineage` holds recent versions of this history, `head` the newest of them.
//! 5. Only the primary begins another history. What a replica says is of this one, or of no use.

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

/// Recent versions remembered, so that readers and replicas behind `head` are recognised.
const LINEAGE: usize = 4096;

/// Names one history of a database; see the invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// The epoch of a reader that may not use the cache.
    pub(crate) const NONE: Epoch = Epoch(u64::MAX);

    /// Whether the cache came to this history after the other one.
    pub(crate) fn is_after(self, other: Epoch) -> bool {
        self.0 > other.0
    }
}

/// What the cache makes of a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recognised {
    /// It belongs to this history.
    Known(Epoch),
    /// It is newer than all that is known.
    Newer {
        /// The newest that is.
        head: Version,
    },
    /// It is older than what is remembered, or of another history.
    Unknown(Epoch),
}

/// Whether a snapshot of the primary may use the cache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may, with this epoch.
    Admitted(Epoch),
    /// First the log's entries after this version must be seen.
    NeedsHistory { after: Version },
}

struct Entry {
    page: Page,
    since: Version,
}

struct State {
    head: Snapshot,
    /// When `head` became what it is.
    since: Instant,
    epoch: Epoch,
    lineage: BTreeMap<Version, CommitId>,
    pages: LruCache<PageNo, Entry>,
}

/// See the [module](self).
pub(crate) struct Cache {
    /// Bytes that the pages may take.
    size: u64,
    state: Mutex<State>,
}

impl Cache {
    pub(crate) fn new(size: u64) -> Self {
        // Room for pages is made as they come: the size is what a setting says.
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

    /// The newest snapshot of this history, and since when it is known.
    pub(crate) fn head(&self) -> (Snapshot, Epoch, Instant) {
        let state = self.state.lock();
        (state.head, state.epoch, state.since)
    }

    /// Whether a snapshot belongs to this history, as far as is known.
    pub(crate) fn recognise(&self, snapshot: &Snapshot) -> Recognised {
        self.state.lock().recognise(snapshot)
    }

    /// Asks to use the cache for a snapshot that the primary has just answered with.
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

    /// Takes note that the primary had no database when it was asked, at `asked`. If one was known then, it
    /// was removed: what comes next is another history.
    pub(crate) fn removed(&self, asked: Instant) {
        let mut state = self.state.lock();
        if state.head != Snapshot::EMPTY && asked > state.since {
            state.begin_anew(&Snapshot::EMPTY, self.size);
        }
    }

    /// Asks again, with the log's entries after the version that [`Admission::NeedsHistory`]
    /// named. Pages that they changed are dropped, and returned; all are dropped, and none returned,
    /// when the entries don't explain how the snapshot came about.
    pub(crate) fn admit_with(&self, snapshot: &Snapshot, entries: &[LogEntry]) -> (Epoch, Vec<PageNo>) {
        let mut state = self.state.lock();
        let followed = state.follow(snapshot, entries);
        if followed.is_none() {
            state.begin_anew(snapshot, self.size);
        }
        (state.epoch, followed.unwrap_or_default())
    }

    /// The same for a snapshot of a replica, which is refused if the entries don't explain it.
    pub(crate) fn follow(&self, snapshot: &Snapshot, entries: &[LogEntry]) -> Option<Epoch> {
        let mut state = self.state.lock();
        state.follow(snapshot, entries).map(|_| state.epoch)
    }

    /// Takes note of an older version that the primary's log has shown to be of this history.
    pub(crate) fn remember(&self, older: &Snapshot, epoch: Epoch) -> Option<Epoch> {
        let mut state = self.state.lock();
        let of_this = state.epoch == epoch && older.version < state.head.version;
        if of_this {
            state.lineage.insert(older.version, older.commit);
        }
        of_this.then_some(epoch)
    }

    /// The page as of `version`, if it is here.
    pub(crate) fn get(&self, page: PageNo, version: Version, epoch: Epoch) -> Option<Page> {
        let mut state = self.state.lock();
        if state.epoch != epoch {
            return None;
        }
        let entry = state.pages.get(&page)?;
        (entry.since <= version).then(|| entry.page.clone())
    }

    /// Whether [`Cache::get`] would find the page; leaves its age alone.
    pub(crate) fn has(&self, page: PageNo, version: Version, epoch: Epoch) -> bool {
        let state = self.state.lock();
        state.epoch == epoch && state.pages.peek(&page).is_some_and(|entry| entry.since <= version)
    }

    /// Takes pages that are as given at each version in `valid_at`, and from version `since` on up
    /// to those. They are taken only if `head` is one of them: by identity, since equal numbers
    /// may belong to two histories.
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

    /// Takes over what this process has committed itself. Whoever goes on reading that may use the
    /// cache with the epoch returned: none where the commit followed an older version than `head`, since
    /// then `head` and what is known of it belong to another history. A changed page that is not at hand
    /// is `None`.
    pub(crate) fn committed(
        &self,
        base: &Snapshot,
        snapshot: &Snapshot,
        pages: impl Iterator<Item = (PageNo, Option<Page>)>,
    ) -> Epoch {
        let mut state = self.state.lock();
        // A follower may have heard of the commit before its reply was here.
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
    /// One that is `head` by name but not by shape is not known: either is wrong, and a reader
    /// finds out which.
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

    /// Moves `head` on to a snapshot that the entries lead to, and tells which pages were dropped
    /// because they changed. `None` when they don't lead there, or don't say what they changed.
    fn follow(&mut self, snapshot: &Snapshot, entries: &[LogEntry]) -> Option<Vec<PageNo>> {
        // Another thread may have moved `head` on meanwhile.
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
    /// The listed pages that are cached, ascending. Takes no longer than to go through the cache.
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
