//! A write lease that is kept after a commit, for the next transaction of any connection of this process
//! to the same database: one that comes in time needs neither to ask for the lease nor for the version.
//!
//! While the lease is held nobody else commits, so the version is the newest. It is used only for the
//! first half of its life, and the commit watches the hash as ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Lease;
use crate::store::Snapshot;
use crate::sync::Mutex;

/// How long it lingers when others wait: as long as a busy client takes to come back.
const LINGER_IF_WANTED: Duration = Duration::from_millis(1);

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Lingering {
    state: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    lease: Option<(Lease, Snapshot, Instant)>,
    /// When a lease was given back, or kept.
    ended: Option<Instant>,
}

impl Lingering {
    /// Keeps a lease that a commit has left, at this version.
    pub(crate) fn keep(self: &Arc<Self>, lease: Lease, snapshot: Snapshot) {
        let renewer = lease.renewer.clone();
        renewer.remove(&lease.token);
        let linger = if lease.turn.wanted { lease.linger.min(LINGER_IF_WANTED) } else { lease.linger };
        let now = Instant::now();
        let due = lease.extended.map_or(now, |extended| (now + linger).min(extended + lease.lingering_life() / 2));
        let mut state = self.state.lock();
        state.ended = Some(now);
        let before = state.lease.replace((lease, snapshot, due));
        drop(state);
        renewer.watch(self, due);
        drop(before);
    }

    /// A transaction has ended without leaving anything here.
    pub(crate) fn ended(&self) {
        self.state.lock().ended = Some(Instant::now());
    }

    /// Whether the last transaction ended less than this ago.
    pub(crate) fn is_busy(&self, linger: Duration) -> bool {
        self.state.lock().ended.is_some_and(|ended| ended.elapsed() < linger)
    }

    /// The lease, if it is not too late.
    pub(crate) fn take(&self) -> Option<(Lease, Snapshot)> {
        let mut state = self.state.lock();
        let (lease, snapshot, _) = state.lease.take_if(|(_, _, due)| Instant::now() < *due)?;
        drop(state);
        lease.keep_alive(lease.lingering_life() / 2);
        Some((lease, snapshot))
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.state.lock().lease.as_ref().map(|(_, _, due)| *due)
    }

    pub(super) fn end_if_due(&self, now: Instant) {
        let over = self.state.lock().lease.take_if(|(_, _, due)| *due <= now);
        release(over);
    }

    /// Gives the lease back.
    pub(crate) fn end(&self) {
        let over = self.state.lock().lease.take();
        release(over);
    }
}

fn release(over: Option<(Lease, Snapshot, Instant)>) {
    if let Some((lease, ..)) = over
        && let Err(error) = lease.release()
    {
        crate::ffi::log(&format!("a write lease that lingered will end by itself: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Renewer;
    use crate::store::memory::MemoryStore;
    use crate::store::{Bid, Store, Version};

    /// Keeps a lease that lives for a minute, and was given that so long ago; whether it can be used then.
    fn is_used(extended: Duration) -> bool {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (life, known) = (Duration::from_secs(60), Version(0));
        let bid = Bid { token: "me", life, patience: Duration::ZERO, known, pages: &[] };
        let (mut lease, at, _) = Lease::take(&store, bid, &Arc::new(Renewer::default()), life).unwrap();
        lease.extended = Some(Instant::now() - extended);
        let lingering = Arc::new(Lingering::default());
        lingering.keep(lease, at);
        lingering.take().is_some()
    }

    #[test]
    fn a_kept_lease_is_used_only_in_the_first_half_of_its_life() {
        assert!(is_used(Duration::ZERO));
        assert!(is_used(Duration::from_secs(15)));
        assert!(!is_used(Duration::from_secs(31)));
        assert!(!is_used(Duration::from_secs(59)));
    }
}
