//! Reads the pages of one version, even after newer versions were committed.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::error::{Cause, Result};
use crate::model::header::Header;
use crate::model::page::{Page, PageNo};
use crate::model::version::Snapshot;
use crate::reading::cache::{Cache, Epoch};
use crate::reading::history::History;
use crate::reading::read_server::Source;
use crate::store::{Ahead, Fetched, Store};

/// Maximum number of pages per round trip.
pub(crate) const WINDOW_PAGES: u32 = 64;
/// Maximum number of bytes per round trip.
const WINDOW_BYTES: u32 = 1 << 20;

/// The sources of a database's pages: the page cache, then the primary.
#[derive(Clone, Copy)]
pub(crate) struct PageSource<'a> {
    pub cache: &'a Cache,
    pub store: &'a dyn Store,
}

/// Reads the pages of one snapshot.
pub(crate) struct Reader {
    pub snapshot: Snapshot,
    pub epoch: Epoch,
    history: History,
    ahead: ReadAhead,
    asked: Asked,
    /// The replica to ask first; `None` to ask only the primary.
    replica: Option<Arc<Source>>,
}

impl Reader {
    pub(crate) fn new(snapshot: Snapshot, epoch: Epoch) -> Self {
        let (history, ahead, asked) = (History::new(snapshot), ReadAhead::default(), Asked::default());
        Reader { snapshot, epoch, history, ahead, asked, replica: None }
    }

    /// Reads from this replica first, until it fails or lags.
    pub(crate) fn through(mut self, replica: Option<Arc<Source>>) -> Self {
        self.replica = replica;
        self
    }

    /// Returns a page from the cache, or from a server together with the pages likely to be read next.
    pub(crate) fn page(&mut self, from: PageSource<'_>, page: PageNo) -> Result<Page> {
        if !self.snapshot.has(page) {
            return Err(Cause::NoSuchPage(page).into());
        }
        if let Some(bytes) = from.cache.get(page, self.snapshot.version, self.epoch) {
            return self.fitting(page, bytes);
        }
        if self.asked.has(page)
            && let Some(bytes) = self.answered(from, page)
        {
            self.ask_ahead(from);
            return self.fitting(page, bytes);
        }
        let wanted = self.ahead.plan(page, &self.snapshot, self.cached(from));
        let mut pages = match self.load(from, &wanted) {
            // The reason may be another page of the window. The wanted page may still be readable alone.
            Err(error) if wanted.len() > 1 && matches!(error.cause, Cause::SnapshotGone { .. } | Cause::Damaged(_)) => {
                self.load(from, &wanted[..1])?
            }
            outcome => outcome?,
        };
        if self.ahead.is_long(&self.snapshot) {
            self.ask_ahead(from);
        }
        self.fitting(page, pages.swap_remove(0))
    }

    fn cached<'a>(&self, from: PageSource<'a>) -> impl Fn(PageNo) -> bool + use<'a> {
        let (version, epoch) = (self.snapshot.version, self.epoch);
        move |page| from.cache.has(page, version, epoch)
    }

    /// Returns a page that was requested ahead, after taking in all replies up to the one that contains it. `None` if the
    /// page must be requested again.
    fn answered(&mut self, from: PageSource<'_>, page: PageNo) -> Option<Page> {
        while let Some((pages, fetched)) = self.asked.next() {
            let loaded = self.take_in(from.store, from, &pages, fetched).ok();
            let Some(loaded) = loaded else { break };
            if let Some(at) = pages.iter().position(|&other| other == page) {
                return loaded.into_iter().nth(at);
            }
        }
        self.asked = Asked::default();
        None
    }

    /// During a long run, requests the next pages before SQLite needs them, so that server and SQLite work in parallel.
    /// Errors are dropped here: the page is requested again when SQLite needs it.
    fn ask_ahead(&mut self, from: PageSource<'_>) {
        while self.replica.is_none() && self.asked.questions.len() <= self.asked.answered {
            let Some(pages) = self.ahead.next(&self.snapshot, self.cached(from)) else { return };
            if self.asked.ask(from.store, pages).is_none() {
                self.asked = Asked::default();
                return;
            }
        }
    }

    /// Checks that a page's length, and the header of page 1, match the snapshot's page size and page count. With wrong
    /// numbers, pages would be read and written at wrong places.
    fn fitting(&self, number: PageNo, page: Page) -> Result<Page> {
        let Snapshot { version, page_size, page_count, .. } = self.snapshot;
        let damaged = |what: String| Err(Cause::Damaged(format!("version {version}: {what}")).into());
        if page.len() != page_size as usize {
            return damaged(format!("page {number} has {} bytes, not {page_size}", page.len()));
        }
        if number != PageNo::FIRST {
            return Ok(page);
        }
        let Some(header) = Header::of(&page).filter(Header::is_sqlite) else { return Ok(page) };
        let (size, count) = (header.page_size().unwrap_or(page_size), header.page_count().unwrap_or(page_count));
        if (size, count) != (page_size, page_count) {
            return damaged(format!(
                "it has {page_count} pages of {page_size} bytes, and page 1 says {count} of {size}"
            ));
        }
        Ok(page)
    }

    /// Returns several pages. Those that are not cached take one round trip.
    pub(crate) fn pages(&mut self, from: PageSource<'_>, wanted: &[PageNo]) -> Result<Vec<Page>> {
        let mut pages: Vec<Option<Page>> =
            wanted.iter().map(|&page| from.cache.get(page, self.snapshot.version, self.epoch)).collect();
        let missing: Vec<PageNo> =
            wanted.iter().zip(&pages).filter(|(_, page)| page.is_none()).map(|(&page, _)| page).collect();
        if !missing.is_empty() {
            let mut loaded = self.load(from, &missing)?.into_iter();
            for page in pages.iter_mut().filter(|page| page.is_none()) {
                *page = loaded.next();
            }
        }
        let all: Option<Vec<Page>> = pages.into_iter().collect();
        let all = all.ok_or_else(|| Cause::Internal("a page that was loaded is not there".into()))?;
        wanted.iter().zip(all).map(|(&number, page)| self.fitting(number, page)).collect()
    }

    /// Fetches pages from the replica, or from the primary if the replica fails or lags. Both send the version of the
    /// pages along, so the result is the same.
    fn load(&mut self, from: PageSource<'_>, wanted: &[PageNo]) -> Result<Vec<Page>> {
        if let Some(replica) = self.replica.take() {
            match self.load_from(&*replica.store, from, wanted) {
                Ok(pages) => {
                    self.replica = Some(replica);
                    return Ok(pages);
                }
                // The replica lags. It stays in use for other reads.
                Err(error) if matches!(error.cause, Cause::SnapshotGone { .. }) => {}
                Err(error) => replica.failed(&error),
            }
        }
        self.load_from(from.store, from, wanted)
    }

    /// Fetches pages, and rolls them back to the snapshot if the server has a newer version.
    fn load_from(&mut self, store: &dyn Store, from: PageSource<'_>, wanted: &[PageNo]) -> Result<Vec<Page>> {
        let fetched = store.fetch(wanted)?;
        self.take_in(store, from, wanted, fetched)
    }

    /// Rolls fetched pages back to the snapshot, and puts them into the cache.
    fn take_in(
        &mut self,
        store: &dyn Store,
        from: PageSource<'_>,
        wanted: &[PageNo],
        fetched: Fetched,
    ) -> Result<Vec<Page>> {
        let (snapshot, now) = (self.snapshot, fetched.at);
        if now.identity() == snapshot.identity() {
            if now != snapshot {
                return Err(snapshot.contradicted_by(&now));
            }
            let pages: Vec<Page> = wanted
                .iter()
                .zip(fetched.pages)
                .map(|(page, bytes)| bytes.ok_or_else(|| Cause::Damaged(format!("page {page} is missing")).into()))
                .collect::<Result<_>>()?;
            let numbered = wanted.iter().copied().zip(pages.iter().cloned());
            from.cache.insert(self.epoch, snapshot.version, &[snapshot], numbered);
            return Ok(pages);
        }
        self.history.extend(store, &now)?;
        self.history.fetch_undo(store, wanted, &now)?;
        let mut pages = Vec::with_capacity(wanted.len());
        for (&page, bytes) in wanted.iter().zip(fetched.pages) {
            let old = self.history.roll_back(page, bytes.as_deref().map(Vec::as_slice), &now)?;
            match old {
                None => {
                    let bytes = bytes.ok_or_else(|| Cause::Damaged(format!("page {page} is missing")))?;
                    from.cache.insert(self.epoch, snapshot.version, &[snapshot, now], [(page, bytes.clone())]);
                    pages.push(bytes);
                }
                Some(old) => {
                    let old = Page::new(old);
                    from.cache.insert(self.epoch, snapshot.version, &[snapshot], [(page, old.clone())]);
                    if let Some(bytes) = bytes {
                        from.cache.insert(self.epoch, now.version, &[now], [(page, bytes)]);
                    }
                    pages.push(old);
                }
            }
        }
        Ok(pages)
    }
}

/// Requests for pages ahead of their use, on a separate connection.
#[derive(Default)]
struct Asked {
    questions: VecDeque<Vec<PageNo>>,
    /// Number of replies used so far, up to [`Asked::MOST`]. The longer a run, the more requests are sent ahead.
    answered: usize,
    ahead: Option<Box<dyn Ahead>>,
}

impl Asked {
    /// Maximum of `answered`: four requests are in flight then, and hide a latency of four times SQLite's work on a reply.
    const MOST: usize = 3;

    fn has(&self, page: PageNo) -> bool {
        self.questions.iter().any(|pages| pages.contains(&page))
    }

    /// Requests pages; `None` if that fails.
    fn ask(&mut self, store: &dyn Store, pages: Vec<PageNo>) -> Option<()> {
        if self.ahead.is_none() {
            self.ahead = store.ahead().ok().flatten();
        }
        self.ahead.as_mut()?.ask(&pages).ok()?;
        self.questions.push_back(pages);
        Some(())
    }

    /// The oldest request and its reply.
    fn next(&mut self) -> Option<(Vec<PageNo>, Fetched)> {
        let pages = self.questions.pop_front()?;
        let fetched = self.ahead.as_mut()?.answer()?;
        self.answered = (self.answered + 1).min(Self::MOST);
        Some((pages, fetched))
    }
}

/// Decides which other pages to fetch with a missing page.
///
/// A small database is fetched whole. Otherwise, a miss right after the pages of an earlier fetch
/// continues that run and widens its window. Any other miss starts a run with a single page. Several
/// runs are tracked at a time, because a scan of a table visits interior pages in between.
#[derive(Default)]
struct ReadAhead {
    /// Most recently used first.
    runs: [Run; 4],
}

#[derive(Default, Clone, Copy)]
struct Run {
    /// The page after the last fetched page.
    next: u32,
    window: u32,
}

/// Maximum number of pages per request.
fn most_pages(snapshot: &Snapshot) -> u32 {
    (WINDOW_BYTES / snapshot.page_size.max(1)).clamp(2, WINDOW_PAGES)
}

impl ReadAhead {
    fn plan(&mut self, page: PageNo, snapshot: &Snapshot, cached: impl Fn(PageNo) -> bool) -> Vec<PageNo> {
        let most = most_pages(snapshot);
        let mut wanted = vec![page];
        let (first, last) = if snapshot.page_count <= most {
            (1, snapshot.page_count)
        } else {
            let window = self.window(page.get(), most);
            let last = page.get().saturating_add(window - 1).min(snapshot.page_count);
            (page.get() + 1, last)
        };
        wanted.extend(PageNo::range(first, last).filter(|&other| other != page && !cached(other)));
        wanted
    }

    /// Whether the last planned page belongs to a run with the widest window.
    fn is_long(&self, snapshot: &Snapshot) -> bool {
        self.runs[0].window == most_pages(snapshot)
    }

    /// The pages after the most recently used long run that are not cached.
    fn next(&mut self, snapshot: &Snapshot, cached: impl Fn(PageNo) -> bool) -> Option<Vec<PageNo>> {
        let most = most_pages(snapshot);
        let run = self.runs.iter_mut().find(|run| run.window == most)?;
        let last = run.next.saturating_add(most - 1).min(snapshot.page_count);
        let pages: Vec<PageNo> = PageNo::range(run.next, last).filter(|&page| !cached(page)).collect();
        if pages.is_empty() {
            return None;
        }
        run.next = last + 1;
        Some(pages)
    }

    /// Number of pages to fetch, starting with `page`.
    fn window(&mut self, page: u32, most: u32) -> u32 {
        let continued = self.runs.iter().position(|run| run.window > 0 && page == run.next);
        let close = |run: &&Run| run.window > 0 && page > run.next && page - run.next <= run.window;
        let run = continued.map(|at| &self.runs[at]).or_else(|| self.runs.iter().find(close));
        let window = run.map_or(1, |run| (run.window * 4).min(most));
        // A jump ahead starts another run: the scan may come back for the skipped pages.
        let place = continued.unwrap_or(self.runs.len() - 1);
        self.runs[..=place].rotate_right(1);
        self.runs[0] = Run { next: page.saturating_add(window), window };
        window
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::version::Version;

    fn snapshot(page_count: u32) -> Snapshot {
        Snapshot { version: Version(1), page_size: 4096, page_count, ..Snapshot::EMPTY }
    }

    fn plan(ahead: &mut ReadAhead, page: u32, of: u32) -> Vec<u32> {
        ahead.plan(PageNo::new(page).unwrap(), &snapshot(of), |_| false).iter().map(|page| page.get()).collect()
    }

    #[test]
    fn a_small_database_is_fetched_whole() {
        assert_eq!(plan(&mut ReadAhead::default(), 3, 5), [3, 1, 2, 4, 5]);
    }

    #[test]
    fn a_scan_needs_few_round_trips() {
        let (mut ahead, mut trips, mut have) = (ReadAhead::default(), 0, 0);
        for page in 1..=10_000 {
            if page > have {
                have = plan(&mut ahead, page, 10_000).into_iter().max().unwrap();
                trips += 1;
            }
        }
        assert!(trips <= 170, "{trips}");
    }

    #[test]
    fn a_scan_with_interior_pages_ahead_needs_few_round_trips() {
        for ahead_by in [1, 30, 64, 65, 128, 1000] {
            let (mut ahead, mut trips, mut have) = (ReadAhead::default(), 0, HashSet::new());
            for leaf in 1..=9000 {
                for page in [(leaf % 450 == 0).then_some(leaf + ahead_by), Some(leaf)].into_iter().flatten() {
                    if !have.contains(&page) {
                        have.extend(plan(&mut ahead, page, 10_000));
                        trips += 1;
                    }
                }
            }
            assert!(trips <= 180, "{trips} when they are {ahead_by} ahead");
        }
    }

    #[test]
    fn a_point_read_fetches_one_page() {
        let mut ahead = ReadAhead::default();
        for page in [500, 9000, 3, 700] {
            assert_eq!(plan(&mut ahead, page, 10_000), [page]);
        }
    }

    #[test]
    fn the_window_ends_with_the_database() {
        let mut ahead = ReadAhead::default();
        plan(&mut ahead, 98, 100);
        assert_eq!(plan(&mut ahead, 99, 100), [99, 100]);
    }
}
