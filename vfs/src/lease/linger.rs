//! An unused write lease, which is released unless a transaction takes it soon.
//!
//! After a commit, the lease is kept for the next transaction of any connection of this process to the same
//! database. That transaction saves the round trip for the lease and the version. Before a transaction, the lease
//! is held for one connection that will most likely write, until SQLite asks for the write lock.
//!
//! While the lease is held, no other client commits, so its version is the newest. After a commit, the lease is used
//! only in the first half of its life, and the next commit still watches the hash.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::lease::{Lease, Renewer};
use crate::model::version::Snapshot;
use crate::process::sync::Mutex;

/// How long a lease lingers while others wait for it: about the pause of a busy client between two transactions.
const LINGER_IF_WANTED: Duration = Duration::from_millis(1);
/// How long a lease is held for a connection that will most likely write. If SQLite wants the write lock, it asks right
/// after reading page 1.
const SOON: Duration = Duration::from_millis(50);

/// Identifies an open file of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl Owner {
    /// Returns an id that is unique in this process.
    pub(crate) fn new() -> Owner {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Owner(NEXT.fetch_add(1, Relaxed))
    }
}

/// The unused lease of a database, if there is one. See the [module](self).
#[derive(Default)]
pub(crate) struct Lingering {
    state: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    lease: Option<Unused>,
    /// When the last transaction released its lease, or left it here.
    ended: Option<Instant>,
}

struct Unused {
    lease: Lease,
    /// The newest version, as of this lease.
    snapshot: Snapshot,
    /// When the lease is released.
    due: Instant,
    /// The only file that may take the lease; `None` for any.
    owner: Option<Owner>,
}

impl Lingering {
    /// Holds a lease for a connection that will most likely write soon. The renewer keeps renewing it.
    pub(crate) fn hold(self: &Arc<Self>, lease: Lease, snapshot: Snapshot, owner: Owner) {
        let (renewer, due) = (lease.renewer.clone(), Instant::now() + SOON);
        self.put(&renewer, Unused { lease, snapshot, due, owner: Some(owner) });
    }

    fn put(self: &Arc<Self>, renewer: &Arc<Renewer>, unused: Unused) {
        let due = unused.due;
        let before = self.state.lock().lease.replace(unused);
        renewer.watch(self, due);
        drop(before);
    }

    /// Keeps the lease of a commit that made version `snapshot`. The lease is no longer renewed.
    pub(crate) fn keep(self: &Arc<Self>, lease: Lease, snapshot: Snapshot) {
        let renewer = lease.renewer.clone();
        renewer.remove(&lease.token);
        let linger = if lease.turn.wanted { lease.linger.min(LINGER_IF_WANTED) } else { lease.linger };
        let now = Instant::now();
        let due = lease.extended.map_or(now, |extended| (now + linger).min(extended + lease.lingering_life() / 2));
        self.ended();
        self.put(&renewer, Unused { lease, snapshot, due, owner: None });
    }

    /// Notes that a transaction ended, and released its lease.
    pub(crate) fn ended(&self) {
        self.state.lock().ended = Some(Instant::now());
    }

    /// Whether the last transaction ended less than `linger` ago.
    pub(crate) fn is_busy(&self, linger: Duration) -> bool {
        self.state.lock().ended.is_some_and(|ended| ended.elapsed() < linger)
    }

    /// Takes the lease, if `owner` may have it and it is not due.
    pub(crate) fn take(&self, owner: Owner) -> Option<(Lease, Snapshot)> {
        let mut state = self.state.lock();
        let fits = |unused: &mut Unused| Instant::now() < unused.due && unused.owner.is_none_or(|other| other == owner);
        let Unused { lease, snapshot, owner, .. } = state.lease.take_if(fits)?;
        drop(state);
        if owner.is_none() {
            lease.keep_alive(lease.lingering_life() / 2);
        }
        Some((lease, snapshot))
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.state.lock().lease.as_ref().map(|unused| unused.due)
    }

    pub(super) fn end_if_due(&self, now: Instant) {
        let over = self.state.lock().lease.take_if(|unused| unused.due <= now);
        release(over);
    }

    /// Releases the lease that is held for `owner`.
    pub(crate) fn give_up(&self, owner: Owner) {
        let over = self.state.lock().lease.take_if(|unused| unused.owner == Some(owner));
        release(over);
    }

    /// Releases a lease that is held for no particular connection.
    pub(crate) fn end(&self) {
        let over = self.state.lock().lease.take_if(|unused| unused.owner.is_none());
        release(over);
    }
}

fn release(over: Option<Unused>) {
    if let Some(Unused { lease, .. }) = over
        && let Err(error) = lease.release()
    {
        crate::process::log::log(&format!("an unused write lease could not be released and will expire: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::version::Version;
    use crate::store::memory::MemoryStore;
    use crate::store::{Bid, Store};

    /// Keeps a lease with a life of a minute that was extended `extended` ago. Returns whether it can still be taken.
    fn is_used(extended: Duration) -> bool {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (life, known) = (Duration::from_secs(60), Version(0));
        let bid = Bid { token: "me", life, patience: Duration::ZERO, known, pages: &[] };
        let (mut lease, at, _) = Lease::take(&store, bid, &Arc::new(Renewer::default()), life).unwrap();
        lease.extended = Some(Instant::now() - extended);
        let lingering = Arc::new(Lingering::default());
        lingering.keep(lease, at);
        lingering.take(Owner::new()).is_some()
    }

    #[test]
    fn a_kept_lease_is_used_only_in_the_first_half_of_its_life() {
        assert!(is_used(Duration::ZERO));
        assert!(is_used(Duration::from_secs(15)));
        assert!(!is_used(Duration::from_secs(31)));
        assert!(!is_used(Duration::from_secs(59)));
    }

    #[test]
    fn a_lease_held_for_a_connection_is_taken_by_no_other_and_is_released() {
        let memory = Arc::new(MemoryStore::default());
        let store: Arc<dyn Store> = memory.clone();
        let renewer = Arc::new(Renewer::default());
        let lingering = Arc::new(Lingering::default());
        let [one, two] = [Owner::new(), Owner::new()];
        let hold = || {
            let (life, known) = (Duration::from_secs(60), Version(0));
            let bid = Bid { token: "me", life, patience: Duration::ZERO, known, pages: &[] };
            let (lease, at, _) = Lease::take(&store, bid, &renewer, Duration::ZERO).unwrap();
            lingering.hold(lease, at, one);
        };
        hold();
        assert!(lingering.take(two).is_none());
        lingering.give_up(two);
        lingering.end();
        assert!(store.leased().unwrap(), "only its owner may end it");
        let (lease, _) = lingering.take(one).unwrap();
        lease.release().unwrap();
        hold();
        lingering.give_up(one);
        assert!(!store.leased().unwrap());
        hold();
        let held = Instant::now();
        while store.leased().unwrap() {
            assert!(held.elapsed() < Duration::from_secs(20), "an unused lease is released");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(held.elapsed() >= SOON);
    }
}
