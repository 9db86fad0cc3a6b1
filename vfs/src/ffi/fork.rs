//! Notices that the process has forked.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Grows with every fork on the way from the first process to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u32);

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// This process's generation.
pub(crate) fn generation() -> Generation {
    Generation(GENERATION.load(Relaxed))
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Relaxed);
}

/// Begins to count.
pub(crate) fn watch() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handler only changes an atomic, which is allowed after a fork; it stays
        // in memory, because the extension is loaded for good (`SQLITE_OK_LOAD_PERMANENTLY`).
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        if failed != 0 {
            super::log("fork can't be noticed: don't use open connections in a child process");
        }
    });
}
