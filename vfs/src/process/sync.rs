//! Locks that a forked child can use.
//!
//! The standard library's locks have no state outside of themselves, so a new lock works in a child,
//! regardless of the parent's threads. `parking_lot` keeps its waiters in a table of the process. If a
//! thread of the parent holds the table's lock during the fork, it stays locked in the child for ever.

use std::sync::{PoisonError, TryLockError, WaitTimeoutResult};
use std::time::Instant;

pub(crate) use std::sync::MutexGuard;

/// A mutex that stays usable after a panic. Panics end at the border to C. Users of the data check it, because a panic
/// may have left it incomplete.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while another thread holds it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A condition variable.
#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Condvar);

impl Condvar {
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Waits until notified, or until the time `at`.
    pub(crate) fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        at: Instant,
    ) -> (MutexGuard<'a, T>, WaitTimeoutResult) {
        let time = at.saturating_duration_since(Instant::now());
        self.0.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner)
    }
}
