//! The page cache: one for each database in a process, shared by its connections.
//!
//! Invariants, under the lock:
//! 1. `head` is a snapshot that the server had; every cached page is the page as of `head`.
//! 2. An entry's `since` is a version from which on the page is what it is, up to `head`. So a
//!    reader of version `v` may use it when `since <= v <= head`, in the same history.
//! 3. `epoch` names the history: it changes whenever `head` moves to a version that does not
//!    demonstrably follow the one before. Readers remember the epoch that admitted them, and
//!    get nothing from another.
//! 4. `lineage` holds recent versions of this history, newest last, `head` among them.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use crate::delta;
use crate::store::{CommitId, LogEntry, Page, PageNo, Snapshot, Undo, Version, check_chain};

/// Recent versions remembered, so that readers a little behind `head` are recognised.
const LINEAGE: usize = 256;

/// Names one history of a database; see the invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// The epoch of a reader that may not use the cache.
    pub(crate) const NONE: Epoch = Epoch(u64::MAX);
}

/// Whether a snapshot may use the cache.
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
    epoch: Epoch,
    lineage: VecDeque<(Version, CommitId)>,
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
        let state = State {
            head: Snapshot::EMPTY,
            epoch: Epoch(0),
            lineage: VecDeque::from([Snapshot::EMPTY.identity()]),
            pages: LruCache::new(capacity(size, 4096)),
        };
        Cache { size, state: Mutex::new(state) }
    }

    /// Asks to use the cache for a snapshot that the server has just answered with.
    pub(crate) fn admit(&self, snapshot: &Snapshot) -> Admission {
        let mut state = self.state.lock();
        if state.knows(snapshot) {
            return Admission::Admitted(state.epoch);
        }
        if snapshot.version > state.head.version && state.head != Snapshot::EMPTY {
            return Admission::NeedsHistory { after: state.head.version };
        }
        state.begin_anew(snapshot, self.size);
        Admission::Admitted(state.epoch)
    }

    /// Asks again, with the log's entries after the version that [`Admission::NeedsHistory`]
    /// named. Pages that they changed are dropped; all are when the entries don't explain how
    /// the snapshot came about.
    pub(crate) fn admit_with(&self, snapshot: &Snapshot, entries: &[LogEntry]) -> Epoch {
        let mut state = self.state.lock();
        // Another thread may have moved `head` on meanwhile.
        if state.knows(snapshot) {
            return state.epoch;
        }
        let news: Vec<_> = entries.iter().filter(|entry| entry.version > state.head.version).collect();
        let chained = check_chain(&state.head, snapshot, news.iter().copied());
        if news.is_empty() || chained.is_err() || !state.follow(snapshot, &news) {
            state.begin_anew(snapshot, self.size);
        }
        state.epoch
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

    /// Takes over what this process has committed itself.
    pub(crate) fn committed(&self, base: &Snapshot, snapshot: &Snapshot, pages: impl Iterator<Item = (PageNo, Page)>) {
        let mut state = self.state.lock();
        if state.head.identity() != base.identity() {
            return;
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
            state.pages.put(number, Entry { page, since: snapshot.version });
        }
        state.set_head(snapshot);
    }
}

impl State {
    /// Whether the snapshot belongs to this history. One that is `head` by name but not by shape does
    /// not: either is wrong, and a reader finds out which.
    fn knows(&self, snapshot: &Snapshot) -> bool {
        if self.head.identity() == snapshot.identity() {
            return self.head == *snapshot;
        }
        self.lineage.iter().rev().any(|identity| *identity == snapshot.identity())
    }

    fn set_head(&mut self, snapshot: &Snapshot) {
        self.head = *snapshot;
        if self.lineage.len() == LINEAGE {
            self.lineage.pop_front();
        }
        self.lineage.push_back(snapshot.identity());
    }

    fn begin_anew(&mut self, snapshot: &Snapshot, size: u64) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.pages.clear();
        self.pages.resize(capacity(size, snapshot.page_size));
        self.lineage.clear();
        self.set_head(snapshot);
    }

    /// Moves `head` on; `false` when an entry does not say what it changed.
    fn follow(&mut self, snapshot: &Snapshot, entries: &[&LogEntry]) -> bool {
        for entry in entries {
            let Undo::Deltas(deltas) = &entry.undo else { return false };
            let Some(changed) = delta::parse_undo(deltas) else { return false };
            for (page, _) in changed {
                self.pages.pop(&page);
            }
        }
        for entry in entries {
            self.lineage.push_back((entry.version, entry.commit));
        }
        let surplus = self.lineage.len().saturating_sub(LINEAGE);
        self.lineage.drain(..surplus);
        self.head = *snapshot;
        true
    }
}

fn capacity(size: u64, page_size: u32) -> NonZeroUsize {
    let pages = size / u64::from(page_size.max(512));
    usize::try_from(pages).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::UndoBuilder;

    fn snapshot(version: u64, commit: u64) -> Snapshot {
        Snapshot { version: Version(version), commit: CommitId(commit), page_size: 512, page_count: 9 }
    }

    fn no(n: u32) -> PageNo {
        PageNo::new(n).unwrap()
    }

    fn page(byte: u8) -> Page {
        Page::new(vec![byte; 512])
    }

    /// The log entry of a version that changed one page.
    fn entry(version: u64, commit: u64, base: u64, changed: u32) -> LogEntry {
        let mut undo = UndoBuilder::default();
        undo.page(no(changed), &[1; 512], &[0; 512]);
        LogEntry {
            version: Version(version),
            commit: CommitId(commit),
            base: CommitId(base),
            page_count: 9,
            undo: Undo::Deltas(undo.finish()),
        }
    }

    fn admitted(cache: &Cache, snapshot: &Snapshot) -> Epoch {
        match cache.admit(snapshot) {
            Admission::Admitted(epoch) => epoch,
            other => panic!("{other:?}"),
        }
    }

    /// A cache at version 5 (commit 50) that holds pages 1 and 2.
    fn cache() -> (Cache, Epoch) {
        let cache = Cache::new(1 << 20);
        let epoch = admitted(&cache, &snapshot(5, 50));
        cache.insert(epoch, Version(5), &[snapshot(5, 50)], [(no(1), page(1)), (no(2), page(2))]);
        (cache, epoch)
    }

    #[test]
    fn the_same_snapshot_finds_its_pages() {
        let (cache, epoch) = cache();
        assert_eq!(admitted(&cache, &snapshot(5, 50)), epoch);
        assert_eq!(cache.get(no(1), Version(5), epoch), Some(page(1)));
        assert_eq!(cache.get(no(3), Version(5), epoch), None);
    }

    #[test]
    fn a_newer_version_drops_only_what_changed() {
        let (cache, epoch) = cache();
        assert_eq!(cache.admit(&snapshot(6, 60)), Admission::NeedsHistory { after: Version(5) });
        assert_eq!(cache.admit_with(&snapshot(6, 60), &[entry(6, 60, 50, 2)]), epoch);
        assert_eq!(cache.get(no(1), Version(6), epoch), Some(page(1)));
        assert_eq!(cache.get(no(2), Version(6), epoch), None);
        assert_eq!(cache.get(no(2), Version(5), epoch), None, "nor does the older reader get it");
        assert_eq!(cache.get(no(1), Version(5), epoch), Some(page(1)), "what did not change serves both");
    }

    #[test]
    fn an_older_reader_gets_no_newer_page() {
        let (cache, epoch) = cache();
        cache.admit_with(&snapshot(6, 60), &[entry(6, 60, 50, 2)]);
        cache.insert(epoch, Version(6), &[snapshot(6, 60)], [(no(2), page(9))]);
        assert_eq!(cache.get(no(2), Version(6), epoch), Some(page(9)));
        assert_eq!(cache.get(no(2), Version(5), epoch), None);
        assert_eq!(admitted(&cache, &snapshot(5, 50)), epoch, "version 5 is still known");
    }

    #[test]
    fn another_history_drops_everything() {
        for (to, log) in [
            (snapshot(5, 51), vec![]),
            (snapshot(4, 40), vec![]),
            (Snapshot { page_count: 8, ..snapshot(5, 50) }, vec![]),
            (snapshot(6, 61), vec![entry(6, 61, 51, 2)]),
            (snapshot(7, 70), vec![entry(7, 70, 60, 2)]),
            (snapshot(7, 70), vec![]),
            (snapshot(6, 60), vec![LogEntry { undo: Undo::Barrier, ..entry(6, 60, 50, 2) }]),
            (snapshot(6, 60), vec![LogEntry { undo: Undo::Deltas(vec![0x80]), ..entry(6, 60, 50, 2) }]),
        ] {
            let (cache, before) = cache();
            let epoch = match cache.admit(&to) {
                Admission::Admitted(epoch) => epoch,
                Admission::NeedsHistory { .. } => cache.admit_with(&to, &log),
            };
            assert_ne!(epoch, before);
            assert_eq!(cache.get(no(1), to.version, epoch), None, "{to:?}");
            cache.insert(epoch, to.version, &[to], [(no(1), page(8))]);
            assert_eq!(cache.get(no(1), Version(9), before), None, "a reader from before, {to:?}");
        }
    }

    #[test]
    fn pages_of_another_moment_are_not_taken() {
        let (cache, epoch) = cache();
        cache.insert(epoch, Version(6), &[snapshot(6, 60)], [(no(3), page(3))]);
        cache.insert(epoch, Version(4), &[snapshot(4, 40), snapshot(6, 60)], [(no(4), page(4))]);
        cache.insert(epoch, Version(5), &[snapshot(5, 51)], [(no(5), page(5))]);
        cache.insert(Epoch(99), Version(5), &[snapshot(5, 50)], [(no(6), page(6))]);
        for n in 3..=6 {
            assert!(!cache.has(no(n), Version(9), epoch), "page {n}");
        }
        cache.insert(epoch, Version(4), &[snapshot(4, 40), snapshot(5, 50)], [(no(7), page(7))]);
        assert!(cache.has(no(7), Version(4), epoch), "unchanged from 4 to 5");
    }

    #[test]
    fn an_own_commit_moves_the_head() {
        let (cache, epoch) = cache();
        let next = Snapshot { page_count: 1, ..snapshot(6, 60) };
        cache.committed(&snapshot(5, 50), &next, [(no(1), page(7))].into_iter());
        assert_eq!(admitted(&cache, &next), epoch);
        assert_eq!(cache.get(no(1), Version(6), epoch), Some(page(7)));
        assert_eq!(cache.get(no(1), Version(5), epoch), None);
        assert_eq!(cache.get(no(2), Version(6), epoch), None, "truncated");
    }

    #[test]
    fn its_size_is_bounded() {
        let cache = Cache::new(10 * 512);
        let epoch = admitted(&cache, &snapshot(5, 50));
        cache.insert(epoch, Version(5), &[snapshot(5, 50)], (1..=100).map(|n| (no(n), page(0))));
        let held = (1..=100).filter(|&n| cache.has(no(n), Version(5), epoch)).count();
        assert_eq!(held, 10);
    }
}
