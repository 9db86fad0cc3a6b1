//! Named places in a write where tests let something happen: between any two steps that matter.
//! In a build that is not a test, nothing is there.

use crate::model::error::Result;

/// A place in a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Before lease, watch and version are asked for.
    BeforeLease,
    /// The server has answered that.
    AfterLease,
    /// The pages of a large commit are gathered.
    Staged,
    /// Before pages, log entry and `EXEC` are sent.
    BeforeExec,
    /// The server has carried them out; a failure here is a reply that is lost.
    AfterExec,
    /// Before it is asked what became of a commit whose reply was lost.
    BeforeResolve,
    /// Before staged pages are moved to their place.
    BeforePromote,
    /// Before the lease is given back by itself, which a commit does on its way.
    BeforeRelease,
    /// The server has it back.
    AfterRelease,
}

/// Comes by a place. In tests, what happens there is up to the thread's hook.
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
        // Taken out while it runs: what it does may come by places of its own.
        let Some(mut hook) = HOOK.with(|slot| slot.borrow_mut().take()) else { return Ok(()) };
        let outcome = hook(point);
        HOOK.with(|slot| *slot.borrow_mut() = Some(hook));
        outcome
    }

    /// Lets something happen on this thread, until [`clear`].
    pub(crate) fn set(hook: impl FnMut(Point) -> Result<()> + 'static) {
        HOOK.with(|slot| *slot.borrow_mut() = Some(Box::new(hook)));
    }

    pub(crate) fn clear() {
        HOOK.with(|slot| *slot.borrow_mut() = None);
    }
}
