//! Locks that a forked child can use. Those of the standard library keep nothing outside of
//! themselves, so one that is made anew in the child works there, whatever threads of the parent were
//! doing. (`parking_lot` keeps waiting threads in a table of the process: a fork copies that locked
//! when a thread of the parent is just using it, and nobody in the child ever unlocks it.)

use std::sync::{PoisonError, TryLockError, WaitTimeoutResult};
use std::time::Instant;

pub(crate) use std::sync::MutexGuard;

/// A mutex that a panic leaves usable: panics end at the border to C, and what they may have left
/// half done is checked where it is used.
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

/// A condition that threads wait for.
#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Condvar);

impl Condvar {
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Waits until notified, or until a moment.
    pub(crate) fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        at: Instant,
    ) -> (MutexGuard<'a, T>, WaitTimeoutResult) {
        let time = at.saturating_duration_since(Instant::now());
        self.0.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner)
    }
}
