//! The fork generation: distinguishes a process from a forked child, which has a copy of its memory.

use std::sync::atomic::{AtomicU32, Ordering};

/// The number of forks between the first process and this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u32);

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// This process's generation.
pub(crate) fn generation() -> Generation {
    Generation(GENERATION.load(Ordering::Relaxed))
}

/// Called in a child, right after the fork.
pub(crate) fn forked() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
