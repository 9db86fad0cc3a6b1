//! The write lease: who holds it, and the thread that keeps it alive through long transactions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Cause, Error, Result};
use crate::process::unique;
use crate::store::{Leased, Snapshot, Store, Writer};
use crate::sync::{Condvar, Mutex};

/// A token that nobody else has, and that tells an operator who it is.
pub(crate) fn token() -> Result<String> {
    let host = gethostname::gethostname();
    Ok(format!("{}/{}/{:016x}", host.to_string_lossy(), std::process::id(), unique()?))
}

/// Renews the leases of this process. One thread, which runs while there are any.
#[derive(Default)]
pub(crate) struct Renewer {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    leases: HashMap<String, Held>,
    running: bool,
    /// When the thread looks next, unless it is woken.
    wakes_at: Option<Instant>,
}

struct Held {
    store: Arc<dyn Store>,
    life: Duration,
    due: Instant,
}

/// How long the thread stays without a lease to renew.
const LINGER: Duration = Duration::from_secs(5);

impl Renewer {
    fn add(self: &Arc<Self>, token: String, store: Arc<dyn Store>, life: Duration) {
        let mut state = self.state.lock();
        let due = Instant::now() + life / 3;
        state.leases.insert(token, Held { store, life, due });
        if !state.running {
            state.running = true;
            let renewer = self.clone();
            let spawned = std::thread::Builder::new().name("sqlite-redis-lease".into()).spawn(move || renewer.run());
            if let Err(error) = spawned {
                // Without renewal a long transaction may lose its lease; its commit notices.
                state.running = false;
                crate::ffi::log(&format!("leases can't be renewed: {error}"));
            }
        } else if state.wakes_at.is_some_and(|at| due < at) {
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
            let due: Vec<_> = state
                .leases
                .iter()
                .filter(|(_, held)| held.due <= now)
                .map(|(token, held)| (token.clone(), held.store.clone(), held.life))
                .collect();
            if due.is_empty() {
                let next = state.leases.values().map(|held| held.due).min();
                let wakes_at = next.unwrap_or(now + LINGER);
                state.wakes_at = Some(wakes_at);
                let timed_out;
                (state, timed_out) = self.wake.wait_until(state, wakes_at);
                if timed_out.timed_out() && state.leases.is_empty() && next.is_none() {
                    state.running = false;
                    return;
                }
                continue;
            }
            // The server may be slow to answer; nobody waits for that with the lock held.
            drop(state);
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
                    // A transaction that just ended has given its lease back.
                    Ok(false) if !state.leases.contains_key(&token) => {}
                    Ok(false) => {
                        crate::ffi::log(&format!("the write lease {token} was lost before its transaction ended"));
                        state.leases.remove(&token);
                    }
                    Err(error) => crate::ffi::log(&format!("renewing the write lease {token}: {error}")),
                }
                if let Some(held) = state.leases.get_mut(&token) {
                    held.due = Instant::now() + life / 3;
                }
            }
        }
    }
}

/// A write lease in use. Renewed until it is released or dropped.
pub(crate) struct Lease {
    writer: Box<dyn Writer>,
    token: String,
    renewer: Arc<Renewer>,
}

impl Lease {
    /// Takes the lease; with it comes the version that the server has now.
    ///
    /// # Errors
    /// [`Cause::Busy`] when another holds it for as long as there is `patience`.
    pub(crate) fn take(
        store: &Arc<dyn Store>,
        life: Duration,
        patience: Duration,
        renewer: &Arc<Renewer>,
    ) -> Result<(Lease, Snapshot)> {
        let token = token()?;
        match store.lease(&token, life, patience)? {
            Leased::ByAnother(holder) => Err(Cause::Busy(holder).into()),
            Leased::Held(writer, snapshot) => {
                renewer.add(token.clone(), store.clone(), life);
                Ok((Lease { writer, token, renewer: renewer.clone() }, snapshot))
            }
        }
    }

    pub(crate) fn writer(&mut self) -> &mut dyn Writer {
        &mut *self.writer
    }

    /// Gives the lease back.
    pub(crate) fn release(mut self) -> Result<()> {
        self.renewer.remove(&self.token);
        self.writer.release()
    }

    /// Gives the lease back after a failure, which is the one to report whatever comes of this.
    pub(crate) fn release_after(self, error: Error) -> Error {
        if let Err(second) = self.release() {
            crate::ffi::log(&format!("after a failure ({error}), giving back the lease failed too: {second}"));
        }
        error
    }

    /// In a forked child: forgets the lease, which is the parent's, and its connection.
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
    fn a_held_lease_is_renewed_and_a_released_one_is_not() {
        let memory = Arc::new(MemoryStore::default());
        let store: Arc<dyn Store> = memory.clone();
        let renewer = Arc::new(Renewer::default());
        let (lease, _) = Lease::take(&store, Duration::from_millis(30), Duration::ZERO, &renewer).unwrap();
        eventually("renewed", || memory.renewals() >= 3);
        assert!(
            matches!(Lease::take(&store, Duration::from_secs(1), Duration::ZERO, &renewer), Err(e) if matches!(e.cause, Cause::Busy(_)))
        );
        lease.release().unwrap();
        assert!(Lease::take(&store, Duration::from_secs(1), Duration::ZERO, &renewer).is_ok());
    }
}
