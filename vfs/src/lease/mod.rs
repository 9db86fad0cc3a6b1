//! The write lease of a database, and the thread that renews it during long transactions.

mod linger;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Wait;
use crate::model::error::{Cause, Error, Result};
use crate::model::log_entry::Commit;
use crate::model::version::Snapshot;
use crate::process::sync::{Condvar, Mutex, MutexGuard};
use crate::sqlite::interrupt;
use crate::store::redis::base::HANDOVER;
use crate::store::redis::stage::Stage;
use crate::store::{After, Bid, Ending, Held, Leased, Lingers, News, Store, Writer};

pub(crate) use crate::lease::linger::{Lingering, Owner};

/// Renews this process's leases of one database, and releases an unused one in time. Its thread runs while there are any.
#[derive(Default)]
pub(crate) struct Renewer {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    leases: HashMap<String, Renewed>,
    /// Set while an unused lease may have to be released.
    lingering: Option<Arc<Lingering>>,
    running: bool,
    /// The thread ends as soon as it has no lease.
    rests: bool,
    /// When the thread wakes by itself.
    wakes_at: Option<Instant>,
}

struct Renewed {
    store: Arc<dyn Store>,
    life: Duration,
    due: Instant,
}

/// How long the thread keeps running without a lease.
const IDLE: Duration = Duration::from_secs(5);

impl Renewer {
    fn add(self: &Arc<Self>, token: String, store: Arc<dyn Store>, life: Duration, due: Instant) {
        let mut state = self.state.lock();
        state.leases.insert(token, Renewed { store, life, due });
        self.see_to(state, due);
    }

    /// Has the thread release an unused lease at `due`.
    fn watch(self: &Arc<Self>, lingering: &Arc<Lingering>, due: Instant) {
        let mut state = self.state.lock();
        state.lingering = Some(lingering.clone());
        self.see_to(state, due);
    }

    /// Makes sure that the thread runs, and wakes at `due` at the latest.
    fn see_to(self: &Arc<Self>, mut state: MutexGuard<'_, State>, due: Instant) {
        state.rests = false;
        if !state.running {
            state.running = true;
            let renewer = self.clone();
            let spawned = std::thread::Builder::new().name("sqlite-redis-lease".into()).spawn(move || renewer.run());
            if let Err(error) = spawned {
                // Without renewal a long transaction may lose its lease. That is safe: its commit then fails.
                state.running = false;
                crate::process::log::log(&format!("leases can't be renewed: {error}"));
            }
        } else if state.wakes_at.is_some_and(|at| due < at) {
            // The thread needs the lock as soon as it wakes.
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Ends the thread, unless there are leases. Called when a connection is closed. Does nothing while the state is
    /// locked: in a forked child, a thread of the parent may have left it locked for ever.
    pub(crate) fn rest(&self) {
        let Some(mut state) = self.state.try_lock() else { return };
        if state.running {
            state.rests = true;
            drop(state);
            self.wake.notify_one();
        }
    }

    fn remove(&self, token: &str) {
        self.state.lock().leases.remove(token);
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            let over = state.lingering.take_if(|lingering| lingering.due().is_none_or(|due| due <= now));
            let due: Vec<_> = state
                .leases
                .iter()
                .filter(|(_, held)| held.due <= now)
                .map(|(token, held)| (token.clone(), held.store.clone(), held.life))
                .collect();
            if due.is_empty() && over.is_none() {
                let lingers_until = state.lingering.as_ref().and_then(|lingering| lingering.due());
                let next = state.leases.values().map(|held| held.due).chain(lingers_until).min();
                if next.is_none() && state.rests {
                    state.running = false;
                    return;
                }
                let wakes_at = next.unwrap_or(now + IDLE);
                state.wakes_at = Some(wakes_at);
                let timed_out;
                (state, timed_out) = self.wake.wait_until(state, wakes_at);
                if timed_out.timed_out() && next.is_none() && state.leases.is_empty() && state.lingering.is_none() {
                    state.running = false;
                    return;
                }
                continue;
            }
            // Not under the lock, because the server may answer slowly.
            drop(state);
            if let Some(lingering) = over {
                lingering.end_if_due(now);
            }
            let renewed: Vec<_> = due
                .into_iter()
                .map(|(token, store, life)| {
                    let outcome = store.renew(&token, life);
                    (token, life, outcome)
                })
                .collect();
            state = self.state.lock();
            for (token, life, outcome) in renewed {
                match outcome {
                    Ok(true) => {}
                    // The transaction has just ended and released its lease.
                    Ok(false) if !state.leases.contains_key(&token) => {}
                    Ok(false) => {
                        crate::process::log::log(&format!(
                            "the write lease {token} was lost before its transaction ended"
                        ));
                        state.leases.remove(&token);
                    }
                    Err(error) => crate::process::log::log(&format!("renewing the write lease {token}: {error}")),
                }
                if let Some(held) = state.leases.get_mut(&token) {
                    held.due = Instant::now() + life / 3;
                }
            }
        }
    }
}

/// A write lease in use. It is renewed until it is released or dropped, except while it lingers.
pub(crate) struct Lease {
    writer: Box<dyn Writer>,
    store: Arc<dyn Store>,
    token: String,
    life: Duration,
    renewer: Arc<Renewer>,
    /// How long it may linger.
    linger: Duration,
    /// When a commit last set the lease's life for lingering.
    extended: Option<Instant>,
    turn: Turn,
}

/// A turn of this client: commits with one lease, limited if others wait.
struct Turn {
    since: Instant,
    commits: u32,
    /// Whether others waited at the last commit.
    wanted: bool,
}

impl Turn {
    /// Maximum number of commits in a turn. More than one, because a hand-over costs as much as a few commits.
    const COMMITS: u32 = 8;
    /// Maximum duration of a turn.
    const TIME: Duration = Duration::from_millis(50);

    fn begin() -> Self {
        Turn { since: Instant::now(), commits: 0, wanted: false }
    }

    /// Whether the next commit must be the last of this turn.
    fn is_over(&self) -> bool {
        self.wanted && (self.commits + 1 >= Self::COMMITS || self.since.elapsed() >= Self::TIME)
    }
}

impl Lease {
    /// Acquires the lease, and returns it with the server's newest version. After a commit, it may linger for `linger`.
    ///
    /// # Errors
    /// [`Cause::Busy`] if another client still holds the lease after the patience of `bid`.
    pub(crate) fn take(
        store: &Arc<dyn Store>,
        bid: Bid<'_>,
        renewer: &Arc<Renewer>,
        linger: Duration,
    ) -> Result<(Lease, Snapshot, Option<News>)> {
        let whole_life = bid.life;
        match store.lease(bid)? {
            Leased::ByAnother(holder) => Err(Cause::Busy(holder).into()),
            Leased::Held(Held { writer, snapshot, token, life, news }) => {
                let (store, renewer, turn) = (store.clone(), renewer.clone(), Turn::begin());
                let lease = Lease { writer, store, token, life: whole_life, renewer, linger, extended: None, turn };
                lease.keep_alive(life);
                Ok((lease, snapshot, news))
            }
        }
    }

    /// Has the renewer renew the lease, which expires in `left`.
    fn keep_alive(&self, left: Duration) {
        let due = Instant::now() + left / 3;
        self.renewer.add(self.token.clone(), self.store.clone(), self.life, due);
    }

    /// The life that a commit sets for a lingering lease: three times `linger`, but at least [`HANDOVER`] and at most the
    /// whole life. The lease is used only in the first half of it. A commit in the first sixth thus leaves a third of it,
    /// so the lease can linger without being extended.
    fn lingering_life(&self) -> Duration {
        self.life.min(HANDOVER.max(self.linger * 3))
    }

    /// Whether the lease was extended so recently that it can linger without being extended again.
    fn is_extended(&self) -> bool {
        self.extended.is_some_and(|extended| extended.elapsed() < self.lingering_life() / 6)
    }

    /// Commits. With `keep`, the lease stays in use; otherwise it is released or lingers. Returns whether it lingers.
    pub(crate) fn commit(
        &mut self,
        commit: &Commit<'_>,
        stage: Option<Stage>,
        keep: bool,
        wait: Wait,
    ) -> Result<Option<Lingers>> {
        let lease = match keep {
            true => After::Keep,
            false if self.linger.is_zero() || self.turn.is_over() => After::Release,
            false => After::Linger((!self.is_extended()).then(|| self.lingering_life())),
        };
        let sent = Instant::now();
        let lingers = self.writer.commit(commit, stage, Ending { lease, wait })?;
        if lingers.is_some() && matches!(lease, After::Linger(Some(_))) {
            self.extended = Some(sent);
        }
        self.turn.commits += 1;
        self.turn.wanted = lingers.is_some_and(|lingers| lingers.wanted);
        Ok(lingers)
    }

    /// Commits without waiting for replicas, and keeps the lease.
    pub(crate) fn commit_and_keep(&mut self, commit: &Commit<'_>, stage: Option<Stage>) -> Result<()> {
        self.writer.commit(commit, stage, Ending { lease: After::Keep, wait: Wait::NONE }).map(|_| ())
    }

    /// Removes the database, if it is still at version `at`.
    pub(crate) fn remove(&mut self, at: &Snapshot) -> Result<()> {
        self.writer.remove(at)
    }

    /// The writer that commits under this lease.
    pub(crate) fn writer(&mut self) -> &mut dyn Writer {
        &mut *self.writer
    }

    /// Whether one `MULTI`/`EXEC` on a server can commit under both leases.
    pub(crate) fn joins(&self, other: &Lease) -> bool {
        let place = self.writer.joins();
        place.is_some() && place == other.writer.joins()
    }

    /// Releases the lease; after `sqlite3_interrupt`, without waiting for the server.
    pub(crate) fn release(mut self) -> Result<()> {
        self.renewer.remove(&self.token);
        if interrupt::is_pending() {
            crate::store::release_later(move || self.writer.release());
            return Ok(());
        }
        interrupt::never(|| self.writer.release())
    }

    /// Releases the lease after `error`, and returns `error`. An error of the release is only logged.
    pub(crate) fn release_after(self, error: Error) -> Error {
        if let Err(second) = self.release() {
            crate::process::log::log(&format!(
                "after an error ({error}), the write lease could not be released: {second}"
            ));
        }
        error
    }

    /// In a forked child, forgets the lease and its connection. Both still belong to the parent.
    pub(crate) fn abandon(self) {
        std::mem::forget(self);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewer.remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::version::Version;
    use crate::store::memory::MemoryStore;

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..2000 {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{what}");
    }

    #[test]
    fn a_turn_ends_when_others_wait() {
        let mut turn = Turn { commits: Turn::COMMITS - 1, ..Turn::begin() };
        assert!(!turn.is_over(), "no other client waits");
        turn.wanted = true;
        assert!(turn.is_over());
        turn.commits = 0;
        turn.since = Instant::now() - Turn::TIME;
        assert!(turn.is_over(), "it took long");
    }

    #[test]
    fn a_held_lease_is_renewed_and_a_released_one_is_not() {
        let memory = Arc::new(MemoryStore::default());
        let store: Arc<dyn Store> = memory.clone();
        let renewer = Arc::new(Renewer::default());
        let take = |life: u64| {
            let (token, life) = (crate::store::token().unwrap(), Duration::from_millis(life));
            let bid = Bid { token: &token, life, patience: Duration::ZERO, known: Version(0), pages: &[] };
            Lease::take(&store, bid, &renewer, Duration::ZERO)
        };
        let (lease, ..) = take(30).unwrap();
        eventually("renewed", || memory.renewals() >= 3);
        assert!(matches!(take(1000), Err(error) if matches!(error.cause, Cause::Busy(_))));
        lease.release().unwrap();
        assert!(take(1000).is_ok());
    }

    #[test]
    fn the_thread_ends_with_the_last_connection() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let renewer = Arc::new(Renewer::default());
        let (token, life) = (crate::store::token().unwrap(), Duration::from_secs(60));
        let bid = Bid { token: &token, life, patience: Duration::ZERO, known: Version(0), pages: &[] };
        let (lease, ..) = Lease::take(&store, bid, &renewer, Duration::ZERO).unwrap();
        renewer.rest();
        std::thread::sleep(Duration::from_millis(50));
        assert!(renewer.state.lock().running, "there is a lease");
        lease.release().unwrap();
        let closed = Instant::now();
        renewer.rest();
        eventually("it ends", || !renewer.state.lock().running);
        assert!(closed.elapsed() < IDLE, "without waiting until it is idle");
    }
}
