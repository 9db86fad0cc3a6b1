//! A commit that is ready to be published, and the commit that takes it back.

use std::sync::Arc;

use crate::database::Database;
use crate::lease::Lease;
use crate::model::delta;
use crate::model::error::{Cause, Error, Result};
use crate::model::log_entry::{Commit, Undo};
use crate::model::page::{Page, PageNo};
use crate::model::undo::UndoBuilder;
use crate::model::version::{CommitId, Snapshot};
use crate::reading::cache::Epoch;
use crate::reading::reader::{Reader, WINDOW_PAGES};
use crate::store::redis::stage::Stage;
use crate::transaction::changed_pages::Gathered;

/// See the [module](self).
pub(crate) struct Prepared {
    /// The version that it was made from.
    pub base: Snapshot,
    /// The version that it makes.
    pub snapshot: Snapshot,
    /// Changed pages at hand, in ascending order.
    pub pages: Vec<(PageNo, Page)>,
    /// Changed pages that are in `stage`.
    pub staged: Vec<PageNo>,
    /// The staged pages, until they are published.
    pub stage: Option<Stage>,
    pub undo: Undo,
    /// Page 1 is not as SQLite has it.
    pub altered: bool,
    /// There are fewer pages than before, or fewer of them are in use.
    pub shrinks: bool,
}

impl Prepared {
    /// What the store is given.
    pub(crate) fn commit(&self) -> Commit<'_> {
        let pages = self.pages.iter().map(|(page, bytes)| (*page, bytes.as_slice())).collect();
        Commit { base: self.base, snapshot: self.snapshot, pages, undo: &self.undo, shrinks: self.shrinks }
    }

    /// Tells the cache that this is committed. Returns a reader of the new version.
    pub(crate) fn adopt(&self, database: &Database) -> Reader {
        let at_hand = self.pages.iter().map(|(page, bytes)| (*page, Some(bytes.clone())));
        let changed = at_hand.chain(self.staged.iter().map(|page| (*page, None)));
        Reader::new(self.snapshot, database.cache.committed(&self.base, &self.snapshot, changed))
    }

    /// Whether [`take_back`] can take it back once it is published.
    pub(crate) fn is_reversible(&self) -> bool {
        self.base == Snapshot::EMPTY || self.deltas().is_some()
    }

    /// All reverse deltas, in one or several parts; `None` where they were too much to keep.
    fn deltas(&self) -> Option<Vec<&[u8]>> {
        match &self.undo {
            Undo::Deltas(deltas) => Some(vec![deltas]),
            Undo::Pieces { pieces, .. } if !pieces.is_empty() => {
                Some(pieces.iter().map(|piece| piece.deltas.as_slice()).collect())
            }
            Undo::Pieces { .. } | Undo::Barrier => None,
        }
    }

    /// The commit that follows this one and has the pages of its base.
    fn reverse(&self, database: &Database) -> Result<Prepared> {
        let Some(parts) = self.deltas() else {
            return Err(Cause::Unsupported("it is too large to be taken back (log_bytes bounds that)".into()).into());
        };
        let damaged = || Error::from(Cause::Internal("the undo data of a commit does not fit it".into()));
        let parts = parts.into_iter().map(delta::parse_undo).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let added = PageNo::range(self.base.page_count + 1, self.snapshot.page_count).map(|page| (page, &[][..]));
        let changes: Vec<(PageNo, &[u8])> = parts.into_iter().flatten().chain(added).collect();
        let zeros = Page::new(vec![0; self.snapshot.page_size as usize]);
        let mut reader = Reader::new(self.snapshot, Epoch::NONE);
        let mut gathered = Gathered::new(database);
        let mut undo = UndoBuilder::new(database.undo_bytes);
        for batch in changes.chunks(WINDOW_PAGES as usize) {
            let elsewhere = |page: &PageNo| self.snapshot.has(*page) && self.at_hand(*page).is_none();
            let wanted: Vec<PageNo> = batch.iter().map(|(page, _)| *page).filter(elsewhere).collect();
            let mut fetched = reader.pages(database.pages(), &wanted)?.into_iter();
            for &(page, delta) in batch {
                let now = match self.at_hand(page) {
                    Some(bytes) => bytes,
                    None if self.snapshot.has(page) => fetched.next().ok_or_else(damaged)?,
                    None => zeros.clone(),
                };
                let before = if self.base.has(page) {
                    let mut bytes = now.to_vec();
                    delta::apply(delta, &mut bytes).ok_or_else(damaged)?;
                    Page::new(bytes)
                } else {
                    zeros.clone()
                };
                if self.snapshot.has(page) {
                    undo.page(page, &now, &before);
                }
                if self.base.has(page) {
                    gathered.push(page, before)?;
                }
            }
        }
        let snapshot = Snapshot { version: self.snapshot.version.next(), commit: CommitId::draw()?, ..self.base };
        let Gathered { pages, stage, staged, .. } = gathered.whole(&self.snapshot, &snapshot)?;
        let undo = undo.finish();
        let shrinks = snapshot.page_count < self.snapshot.page_count;
        Ok(Prepared { base: self.snapshot, snapshot, pages, staged, stage, undo, altered: false, shrinks })
    }

    fn at_hand(&self, page: PageNo) -> Option<Page> {
        let found = self.pages.binary_search_by_key(&page, |(number, _)| *number).ok()?;
        Some(self.pages[found].1.clone())
    }
}

/// Takes a published commit back: commits the version before it anew, or removes a database that it made.
/// Fenced like any commit, so nobody else's is lost.
///
/// # Errors
/// [`Cause::HalfCommitted`], with the reason.
pub(crate) fn take_back(database: &Arc<Database>, lease: &mut Lease, published: &Prepared) -> Result<Option<Prepared>> {
    let mut attempt = || {
        if published.base == Snapshot::EMPTY {
            lease.remove(&published.snapshot)?;
            return Ok(None);
        }
        let mut reverse = published.reverse(database)?;
        let stage = reverse.stage.take();
        lease.commit_and_keep(&reverse.commit(), stage)?;
        Ok(Some(reverse))
    };
    attempt().map_err(|error: Error| {
        let cause = Cause::HalfCommitted { version: published.snapshot.version, reason: error.cause.reason() };
        Error::from(cause).at(&database.place)
    })
}
