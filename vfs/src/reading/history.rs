//! The commits after a snapshot, which a reader rolls back in the pages that it fetches.

use std::time::Duration;

use crate::model::delta;
use crate::model::error::{Cause, Result};
use crate::model::log_entry::{Changes, LogEntry, Piece, PiecesAsked, check_chain};
use crate::model::page::PageNo;
use crate::model::undo::{Deltas, PIECE, PageList};
use crate::model::version::{CommitId, Snapshot, Version};
use crate::store::Store;
use crate::wire::pace::Pace;

/// Maximum number of pieces of undo data per round trip: 1 MB.
const PIECES: usize = 16;
/// Maximum memory of one reader's history, in bytes.
const MOST_BYTES: usize = 512 << 20;
/// Memory of a commit without its undo data, in bytes; an estimate.
const STEP: usize = 256;
/// Time limit for fetching undo data. Each byte received extends it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The commits after a snapshot, as far as they were needed.
pub(crate) struct History {
    snapshot: Snapshot,
    /// The newest version in `steps`; the snapshot itself at first.
    known: Snapshot,
    steps: Vec<Step>,
    /// Estimated memory of `steps`.
    bytes: usize,
}

/// One commit, with the data that rolls it back.
struct Step {
    version: Version,
    commit: CommitId,
    /// Number of pages before the commit.
    page_count: u32,
    /// The changed pages; `None` if `deltas` is complete.
    changed: Option<PageList>,
    /// The undo data fetched so far, ascending.
    deltas: Vec<Deltas>,
}

/// The change of one page by a commit.
enum Change<'a> {
    None,
    /// The delta that rolls the change back.
    Delta(&'a [u8]),
    /// The delta was not fetched.
    Missing,
}

impl Step {
    /// `None` if the entry has no undo data, or malformed undo data.
    fn of(entry: LogEntry) -> Option<Step> {
        let (changed, deltas) = match entry.changes {
            Changes::Deltas(deltas) => (None, vec![Deltas::of(deltas)?]),
            Changes::Pages(pages) => (Some(PageList::parse(&pages)?), Vec::new()),
            Changes::Unknown => return None,
        };
        let LogEntry { version, commit, page_count, .. } = entry;
        Some(Step { version, commit, page_count, changed, deltas })
    }

    fn change(&self, page: PageNo) -> Change<'_> {
        if self.changed.as_ref().is_some_and(|changed| !changed.contains(page)) {
            return Change::None;
        }
        let at = self.deltas.partition_point(|deltas| deltas.last() < Some(page));
        match self.deltas.get(at).and_then(|deltas| deltas.get(page)) {
            Some(delta) => Change::Delta(delta),
            None if self.changed.is_none() => Change::None,
            None => Change::Missing,
        }
    }

    /// Adds a piece. `None` if it is malformed or belongs to another commit.
    fn add(&mut self, commit: CommitId, piece: Piece) -> Option<()> {
        let deltas = Deltas::of(piece.deltas)?;
        if commit != self.commit || deltas.last() != Some(piece.last) {
            return None;
        }
        let at = self.deltas.partition_point(|deltas| deltas.last() < Some(piece.last));
        if self.deltas.get(at).is_none_or(|known| known.last() != Some(piece.last)) {
            self.deltas.insert(at, deltas);
        }
        Some(())
    }
}

impl History {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        History { snapshot, known: snapshot, steps: Vec::new(), bytes: 0 }
    }

    fn gone<T>(&self, reason: String) -> Result<T> {
        Err(Cause::SnapshotGone { snapshot: self.snapshot.version, reason }.into())
    }

    /// Turns a malformed reply about the log into [`Cause::SnapshotGone`].
    fn of_log<T>(&self, answer: Result<T>) -> Result<T> {
        match answer {
            Err(error) if matches!(error.cause, Cause::BadReply(_) | Cause::Damaged(_)) => {
                self.gone(format!("the log is no use: {}", error.cause))
            }
            answer => answer,
        }
    }

    /// Fetches the commits up to `now`, and checks that they follow the snapshot.
    pub(crate) fn extend(&mut self, store: &dyn Store, now: &Snapshot) -> Result<()> {
        if now.version <= self.known.version {
            return match self.identity_at(now.version) {
                Some(commit) if commit == now.commit => Ok(()),
                _ => self.gone(format!("the server went back to another version {}", now.version)),
            };
        }
        let entries = self.of_log(store.history(self.known.version, now.version))?;
        if let Err(reason) = check_chain(&self.known, now, &entries) {
            return self.gone(reason);
        }
        let mut steps = Vec::with_capacity(entries.len());
        for entry in entries {
            let version = entry.version;
            self.takes(STEP + entry.changes.bytes())?;
            let Some(step) = Step::of(entry) else {
                return self.gone(format!("version {version} can't be taken back"));
            };
            steps.push(step);
        }
        self.steps.extend(steps);
        self.known = *now;
        Ok(())
    }

    /// Adds to the memory estimate, and fails if it exceeds the maximum.
    fn takes(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        if self.bytes > MOST_BYTES {
            return self.gone(format!("its history takes more than {MOST_BYTES} bytes"));
        }
        Ok(())
    }

    fn identity_at(&self, version: Version) -> Option<CommitId> {
        if version == self.snapshot.version {
            return Some(self.snapshot.commit);
        }
        self.steps.iter().find(|step| step.version == version).map(|step| step.commit)
    }

    /// Fetches the pieces of undo data that these pages need to get from `now` back to the snapshot, a
    /// bounded number in each round trip. Pieces that are here already are not fetched again.
    pub(crate) fn fetch_undo(&mut self, store: &dyn Store, pages: &[PageNo], now: &Snapshot) -> Result<()> {
        let mut pages = pages.to_vec();
        pages.sort_unstable();
        let mut pace = Pace::new(PATIENCE);
        loop {
            let asked = self.missing(&pages, now);
            if asked.is_empty() {
                return Ok(());
            }
            let mut answers = self.of_log(store.undo(&asked))?.into_iter();
            for asked in &asked {
                let pieces = answers.next().unwrap_or_default();
                let bytes = pieces.iter().map(|(_, piece)| piece.deltas.len()).sum();
                pace.came(bytes)?;
                self.takes(bytes)?;
                self.add(asked, pieces)?;
            }
        }
    }

    /// The pieces to fetch next.
    fn missing(&self, pages: &[PageNo], now: &Snapshot) -> Vec<PiecesAsked> {
        let (mut asked, mut room) = (Vec::new(), PIECES);
        let mut pages = pages.to_vec();
        for step in self.steps.iter().take_while(|step| step.version <= now.version) {
            // A page that this commit added was removed by an earlier one, which knows its content.
            pages.retain(|page| page.get() <= step.page_count);
            let missing: Vec<PageNo> =
                pages.iter().copied().filter(|page| matches!(step.change(*page), Change::Missing)).collect();
            let Some(&from) = missing.first() else { continue };
            // As many as they fill when they lie side by side and all of their bytes have changed.
            let count = (1 + missing.len() * self.snapshot.page_size as usize / PIECE).min(room);
            asked.push(PiecesAsked { version: step.version, from, count });
            room -= count;
            if room == 0 {
                break;
            }
        }
        asked
    }

    /// Adds pieces of one commit. They must contain the requested page.
    fn add(&mut self, asked: &PiecesAsked, pieces: Vec<(CommitId, Piece)>) -> Result<()> {
        let version = asked.version;
        let gone = |history: &Self, what: &str| history.gone(format!("the undo data of version {version} is {what}"));
        let Ok(at) = self.steps.binary_search_by_key(&version, |step| step.version) else { return gone(self, "gone") };
        for (commit, piece) in pieces {
            if self.steps[at].add(commit, piece).is_none() {
                return gone(self, "no use");
            }
        }
        match self.steps[at].change(asked.from) {
            Change::Delta(_) => Ok(()),
            Change::None | Change::Missing => gone(self, "gone"),
        }
    }

    /// Rolls a page back from `now` to the snapshot. `None` if it did not change.
    pub(crate) fn roll_back(&self, page: PageNo, bytes: Option<&[u8]>, now: &Snapshot) -> Result<Option<Vec<u8>>> {
        let size = self.snapshot.page_size as usize;
        let steps = &self.steps[..self.steps.partition_point(|step| step.version <= now.version)];
        // Nothing newer than a commit that added the page says what it was before.
        let added = steps.iter().position(|step| page.get() > step.page_count);
        let mut old = added.map(|_| vec![0; size]);
        for step in steps[..added.unwrap_or(steps.len())].iter().rev() {
            let delta = match step.change(page) {
                Change::None => continue,
                Change::Delta(delta) => delta,
                Change::Missing => return self.gone(format!("the undo data of version {} is gone", step.version)),
            };
            let mut content = old.take().or_else(|| bytes.map(<[u8]>::to_vec)).unwrap_or_else(|| vec![0; size]);
            if content.len() != size || delta::apply(delta, &mut content).is_none() {
                return self.gone(format!("the log's version {} does not fit page {page}", step.version));
            }
            old = Some(content);
        }
        Ok(old)
    }
}
