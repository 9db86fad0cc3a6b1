//! Tells a process from the forked child that has a copy of its memory.

use std::sync::atomic::{AtomicU32, Ordering};

/// Grows with every fork on the way from the first process to this one.
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
