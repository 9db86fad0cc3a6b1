//! The in-memory twin of the Redis store, for tests that need no server.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::model::error::{Cause, Result};
use crate::model::log_entry::{Changes, Commit, LogEntry, Piece, PiecesAsked, Undo};
use crate::model::page::{Page, PageNo};
use crate::model::version::{CommitId, Snapshot, Version};
use crate::process::sync::Mutex;
use crate::store::redis::stage::Stage;
use crate::store::{After, Ahead, Bid, Ending, Fetched, Heard, Held, Leased, Lingers, Store, Writer};

#[derive(Default, Clone)]
struct State {
    now: Snapshot,
    pages: BTreeMap<PageNo, Page>,
    log: Vec<LogEntry>,
    undo: BTreeMap<(Version, PageNo), (CommitId, Piece)>,
    undo_asked: Vec<PiecesAsked>,
    holder: Option<String>,
    renewals: u64,
    fetches: Vec<Vec<PageNo>>,
    fail_next: Option<Cause>,
    away: bool,
}

/// A store in this process. Clones of the `Arc` share it, as clients share a server.
#[derive(Default)]
pub(crate) struct MemoryStore {
    state: Arc<Mutex<State>>,
}

impl MemoryStore {
    pub(crate) fn renewals(&self) -> u64 {
        self.state.lock().renewals
    }

    /// The page lists of all fetches so far.
    pub(crate) fn fetches(&self) -> Vec<Vec<PageNo>> {
        self.state.lock().fetches.clone()
    }

    pub(crate) fn now(&self) -> Snapshot {
        self.state.lock().now
    }

    pub(crate) fn log(&self) -> Vec<LogEntry> {
        self.state.lock().log.clone()
    }

    /// All questions for undo data so far.
    pub(crate) fn undo_asked(&self) -> Vec<PiecesAsked> {
        self.state.lock().undo_asked.clone()
    }

    /// Changes the pieces of undo data in some way.
    pub(crate) fn change_undo(&self, change: impl FnMut(&(Version, PageNo), &mut (CommitId, Piece)) -> bool) {
        self.state.lock().undo.retain(change);
    }

    /// Makes the next call fail.
    pub(crate) fn fail_next(&self, cause: Cause) {
        self.state.lock().fail_next = Some(cause);
    }

    /// Becomes as another store is now, as a replica does.
    pub(crate) fn copy(&self, of: &MemoryStore) {
        let state = of.state.lock().clone();
        *self.state.lock() = state;
    }

    /// Fails all calls, until it is back.
    pub(crate) fn go_away(&self, away: bool) {
        self.state.lock().away = away;
    }

    /// Forgets the history, as trimming does.
    pub(crate) fn trim(&self) {
        self.state.lock().log.clear();
    }

    /// Takes the lease away from whoever holds it, as its end of life does.
    pub(crate) fn expire(&self) {
        self.state.lock().holder = None;
    }

    /// Replaces the last commit by another of the same number, as a failover does that lost it.
    pub(crate) fn replace_history(&self) {
        let mut state = self.state.lock();
        let replaced = crate::model::version::CommitId(state.now.commit.0 ^ 1);
        state.now.commit = replaced;
        if let Some(last) = state.log.last_mut() {
            last.commit = replaced;
        }
    }

    /// Says something else of its newest version, as damage does.
    pub(crate) fn misstate(&self, page_size: u32, page_count: u32) {
        let mut state = self.state.lock();
        (state.now.page_size, state.now.page_count) = (page_size, page_count);
    }

    fn enter(&self) -> Result<crate::process::sync::MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        match state.fail_next.take() {
            Some(cause) => Err(cause.into()),
            None if state.away => Err(Cause::Unreachable("away".into()).into()),
            None => Ok(state),
        }
    }
}

impl Store for MemoryStore {
    fn fetch(&self, pages: &[PageNo]) -> Result<Fetched> {
        let mut state = self.enter()?;
        state.fetches.push(pages.to_vec());
        let pages = pages.iter().map(|page| state.pages.get(page).cloned()).collect();
        Ok(Fetched { at: state.now, pages })
    }

    fn ahead(&self) -> Result<Option<Box<dyn Ahead>>> {
        let store = MemoryStore { state: self.state.clone() };
        Ok(Some(Box::new(MemoryAhead { store, answers: VecDeque::new() })))
    }

    fn history(&self, after: Version, through: Version) -> Result<Vec<LogEntry>> {
        let state = self.enter()?;
        let wanted = |entry: &&LogEntry| entry.version > after && entry.version <= through;
        Ok(state.log.iter().filter(wanted).cloned().collect())
    }

    fn undo(&self, asked: &[PiecesAsked]) -> Result<Vec<Vec<(CommitId, Piece)>>> {
        let mut state = self.enter()?;
        state.undo_asked.extend_from_slice(asked);
        let of_one = |asked: &PiecesAsked| {
            let from = state.undo.range((asked.version, asked.from)..).take(asked.count);
            from.take_while(|((version, _), _)| *version == asked.version).map(|(_, piece)| piece.clone()).collect()
        };
        Ok(asked.iter().map(of_one).collect())
    }

    /// Does not wait: the test decides when something happens.
    fn listen(&self, after: Version, _patience: Duration) -> Result<Heard> {
        let state = self.enter()?;
        let entries = state.log.iter().filter(|entry| entry.version > after).cloned().collect();
        Ok(Heard { entries, at: state.now, as_primary: false })
    }

    fn lease(&self, Bid { token, life, .. }: Bid<'_>) -> Result<Leased> {
        let mut state = self.enter()?;
        if let Some(holder) = &state.holder {
            return Ok(Leased::ByAnother(holder.clone()));
        }
        state.holder = Some(token.to_owned());
        let writer = MemoryWriter { state: self.state.clone(), token: token.to_owned() };
        let (writer, snapshot, token) = (Box::new(writer), state.now, token.to_owned());
        Ok(Leased::Held(Held { writer, snapshot, token, life, news: None }))
    }

    fn renew(&self, token: &str, _life: Duration) -> Result<bool> {
        let mut state = self.enter()?;
        state.renewals += 1;
        Ok(state.holder.as_deref() == Some(token))
    }

    fn leased(&self) -> Result<bool> {
        Ok(self.enter()?.holder.is_some())
    }
}

/// As on a connection, what is asked for is as of the question, however late the answer is looked at.
struct MemoryAhead {
    store: MemoryStore,
    answers: VecDeque<Option<Fetched>>,
}

impl Ahead for MemoryAhead {
    fn ask(&mut self, pages: &[PageNo]) -> Result<()> {
        self.answers.push_back(self.store.fetch(pages).ok());
        Ok(())
    }

    fn answer(&mut self) -> Option<Fetched> {
        self.answers.pop_front().flatten()
    }
}

struct MemoryWriter {
    state: Arc<Mutex<State>>,
    token: String,
}

impl Writer for MemoryWriter {
    fn commit(&mut self, commit: &Commit<'_>, _stage: Option<Stage>, ending: Ending) -> Result<Option<Lingers>> {
        let mut state = self.state.lock();
        if let Some(cause) = state.fail_next.take() {
            return Err(cause.into());
        }
        if state.now.identity() != commit.base.identity() {
            return Err(Cause::Stale { snapshot: commit.base.version, found: state.now.version }.into());
        }
        for page in commit.removed() {
            state.pages.remove(&page);
        }
        for (page, bytes) in &commit.pages {
            state.pages.insert(*page, Page::new(bytes.to_vec()));
        }
        let changes = match &commit.undo {
            Undo::Deltas(deltas) => Changes::Deltas(deltas.clone()),
            Undo::Pieces { pages, pieces } => {
                let (version, id) = (commit.snapshot.version, commit.snapshot.commit);
                state.undo.extend(pieces.iter().map(|piece| ((version, piece.last), (id, piece.clone()))));
                Changes::Pages(pages.clone())
            }
            Undo::Barrier => Changes::Unknown,
        };
        state.log.push(LogEntry {
            version: commit.snapshot.version,
            commit: commit.snapshot.commit,
            base: commit.base.commit,
            page_count: commit.base.page_count,
            changes,
        });
        state.now = commit.snapshot;
        if ending.lease != After::Keep && state.holder.as_ref() == Some(&self.token) {
            state.holder = None;
        }
        Ok(None)
    }

    fn remove(&mut self, at: &Snapshot) -> Result<()> {
        let mut state = self.state.lock();
        if state.now.identity() != at.identity() {
            return Err(Cause::Stale { snapshot: at.version, found: state.now.version }.into());
        }
        (state.now, state.pages, state.log) = (Snapshot::EMPTY, BTreeMap::new(), Vec::new());
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        let mut state = self.state.lock();
        if state.holder.as_ref() == Some(&self.token) {
            state.holder = None;
        }
        Ok(())
    }
}
