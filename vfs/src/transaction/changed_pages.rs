//! The changed pages of a commit: at hand while they are few, else staged beside the database in Redis
//! while they are compared with the snapshot. So a client never has more than a part of them.

use crate::database::Database;
use crate::model::error::Result;
use crate::model::page::{Page, PageNo};
use crate::model::version::Snapshot;
use crate::store::redis::stage::{BATCH, Stage};

/// See the [module](self).
pub(crate) struct Gathered<'a> {
    database: &'a Database,
    /// Pages at hand, in ascending order. While others are staged, those that go there next.
    pub pages: Vec<(PageNo, Page)>,
    pub stage: Option<Stage>,
    /// Pages that are not at hand any more.
    pub staged: Vec<PageNo>,
}

impl<'a> Gathered<'a> {
    pub(crate) fn new(database: &'a Database) -> Self {
        Gathered { database, pages: Vec::new(), stage: None, staged: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.staged.is_empty()
    }

    /// Adds the next page.
    pub(crate) fn push(&mut self, page: PageNo, bytes: Page) -> Result<()> {
        let bytes_each = bytes.len() as u64;
        self.pages.push((page, bytes));
        if self.stage.is_some() {
            if self.pages.len() >= BATCH { self.send() } else { Ok(()) }
        } else {
            self.stage_if_large(self.pages.len() as u64 * bytes_each)
        }
    }

    fn stage_if_large(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.database.stage_bytes {
            self.stage = self.database.store().stage()?;
        }
        if self.stage.is_some() { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        if let Some(stage) = &mut self.stage {
            stage.add(self.pages.iter().map(|(page, bytes)| (*page, bytes.as_slice())))?;
            self.staged.extend(self.pages.drain(..).map(|(page, _)| page));
        }
        Ok(())
    }

    /// With the last page, and staged if the pages that go away make it large.
    pub(crate) fn whole(mut self, base: &Snapshot, snapshot: &Snapshot) -> Result<Self> {
        if self.stage.is_none() {
            let pages = self.pages.len() as u64 + u64::from(base.page_count.saturating_sub(snapshot.page_count));
            self.stage_if_large(pages * u64::from(snapshot.page_size))?;
        }
        self.send()?;
        Ok(self)
    }
}
