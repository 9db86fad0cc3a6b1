//! Fault points: named points between the steps of a write, where tests inject failures and other clients' actions.
//! Other builds have none.

use crate::model::error::Result;

/// A fault point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Before the request for the lease, `WATCH` and the version is sent.
    BeforeLease,
    /// The reply to that request has arrived.
    AfterLease,
    /// The pages of a large commit are staged.
    Staged,
    /// Before pages, log entry and `EXEC` are sent.
    BeforeExec,
    /// The server has executed the commit. A failure here stands for a lost reply.
    AfterExec,
    /// Before the outcome of a commit is looked up whose reply was lost.
    BeforeResolve,
    /// Before staged pages are promoted.
    BeforePromote,
    /// Before the lease is released with a separate request. (A commit can release it too.)
    BeforeRelease,
    /// The server has released the lease.
    AfterRelease,
}

/// Passes a fault point. In tests, this calls the thread's hook.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn at(_point: Point) -> Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use hooked::at;

#[cfg(test)]
pub(crate) mod hooked {
    use std::cell::RefCell;

    use super::{Point, Result};

    type Hook = Box<dyn FnMut(Point) -> Result<()>>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    pub(crate) fn at(point: Point) -> Result<()> {
        // Taken out while it runs, because the hook itself may pass fault points.
        let Some(mut hook) = HOOK.with(|slot| slot.borrow_mut().take()) else { return Ok(()) };
        let outcome = hook(point);
        HOOK.with(|slot| *slot.borrow_mut() = Some(hook));
        outcome
    }

    /// Sets this thread's hook, until [`clear`].
    pub(crate) fn set(hook: impl FnMut(Point) -> Result<()> + 'static) {
        HOOK.with(|slot| *slot.borrow_mut() = Some(Box::new(hook)));
    }

    pub(crate) fn clear() {
        HOOK.with(|slot| *slot.borrow_mut() = None);
    }
}
