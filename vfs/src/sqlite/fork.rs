//! Detects forks, and keeps SQLite usable in the child.
//!
//! A fork copies locks in their current state. If another thread of the parent holds one, it stays
//! locked in the child for ever. The mutexes that all connections of one SQLite share, such as the
//! memory allocator's, are therefore acquired before a fork and released after it.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::ffi::{SQLITE_MUTEX_STATIC_MAIN, SQLITE_MUTEX_STATIC_VFS3, sqlite3_mutex};

use crate::model::error::code;
use crate::process::generation;
use crate::process::log::log;
use crate::sqlite::api::Api;

/// Starts to detect forks.
pub(crate) fn watch() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handlers stay in memory, because the extension is loaded for good
        // (`SQLITE_OK_LOAD_PERMANENTLY`). After a fork they only change an atomic and a cell of their
        // thread, and unlock what that thread has locked.
        let failed = unsafe { libc::pthread_atfork(Some(before), Some(after), Some(in_child)) };
        if failed != 0 {
            log("forks can't be detected: don't use open connections in a child process");
        }
    });
}

/// The static mutexes of one SQLite (<https://sqlite.org/c3ref/c_mutex_fast.html>).
struct Statics {
    api: &'static Api,
    mutexes: Vec<*mut sqlite3_mutex>,
    next: *mut Statics,
}

/// The static mutexes of each SQLite in the process: a linked list that only grows, at its head.
static STATICS: AtomicPtr<Statics> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    /// The list whose mutexes this thread has acquired for a fork.
    static TAKEN: Cell<Option<&'static Statics>> = const { Cell::new(None) };
}

/// Has the static mutexes of this SQLite acquired during each fork. Must be called once per SQLite.
pub(crate) fn share(api: &'static Api) {
    // SAFETY: these numbers stand for static mutexes, which exist for as long as the process runs.
    let mutex = |number: c_int| unsafe { (api.mutex_alloc)(number) };
    let mutexes = (SQLITE_MUTEX_STATIC_MAIN..=SQLITE_MUTEX_STATIC_VFS3).map(mutex);
    // Null if SQLite was built single-threaded.
    let mutexes: Vec<_> = mutexes.filter(|mutex| !mutex.is_null()).collect();
    let statics = Box::leak(Box::new(Statics { api, mutexes, next: STATICS.load(Ordering::Acquire) }));
    while let Err(head) = STATICS.compare_exchange(statics.next, statics, Ordering::Release, Ordering::Acquire) {
        statics.next = head;
    }
}

impl Statics {
    /// All mutexes of the list from here on, always in the same order.
    fn all(&'static self) -> impl Iterator<Item = (&'static Api, *mut sqlite3_mutex)> {
        // SAFETY: members of the list are never freed, and never changed after they were added.
        let list = std::iter::successors(Some(self), |statics| unsafe { statics.next.as_ref() });
        list.flat_map(|statics| statics.mutexes.iter().map(|mutex| (statics.api, *mutex)))
    }

    /// Acquires all mutexes or none. Waiting for one while holding another could deadlock, because SQLite acquires them in
    /// another order.
    fn take(&'static self) -> bool {
        for (n, (api, mutex)) in self.all().enumerate() {
            // SAFETY: a mutex of this SQLite.
            if unsafe { (api.mutex_try)(mutex) } != code::OK {
                self.give_back(n);
                return false;
            }
        }
        true
    }

    /// Releases the first `count` mutexes.
    fn give_back(&'static self, count: usize) {
        for (api, mutex) in self.all().take(count) {
            // SAFETY: a mutex of this SQLite, which this thread has acquired.
            unsafe { (api.mutex_leave)(mutex) };
        }
    }
}

/// How long a fork waits for threads that hold one of the mutexes. They hold it for moments, unless the forking thread
/// itself holds it.
const PATIENCE: Duration = Duration::from_secs(2);

extern "C" fn before() {
    // SAFETY: members of the list are never freed.
    let Some(statics) = (unsafe { STATICS.load(Ordering::Acquire).as_ref() }) else { return };
    let deadline = Instant::now() + PATIENCE;
    while !statics.take() {
        if Instant::now() > deadline {
            return;
        }
        sleep(Duration::from_micros(100));
    }
    TAKEN.set(Some(statics));
}

extern "C" fn after() {
    if let Some(statics) = TAKEN.take() {
        statics.give_back(usize::MAX);
    }
}

extern "C" fn in_child() {
    generation::forked();
    after();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use rusqlite::ffi::{SQLITE_MUTEX_STATIC_MEM, sqlite3_free, sqlite3_malloc64, sqlite3_mutex_enter};

    use super::*;

    #[test]
    fn a_forked_child_can_allocate_although_another_thread_held_sqlites_memory_mutex() {
        crate::ffi::extension::register_linked().unwrap();
        let api = Api::linked();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // SAFETY: a static mutex, left by the thread that entered it.
                    unsafe {
                        let mutex = (api.mutex_alloc)(SQLITE_MUTEX_STATIC_MEM);
                        sqlite3_mutex_enter(mutex);
                        sleep(Duration::from_millis(1));
                        (api.mutex_leave)(mutex);
                    }
                    sleep(Duration::from_micros(500));
                }
            });
            let failed = (0..20).map(|_| end_of_child()).find(|status| *status != 0);
            over.store(true, Ordering::Relaxed);
            assert_eq!(failed, None, "how a child ended");
        });
    }

    /// Forks, lets the child allocate memory with SQLite, and returns its exit status. An alarm ends a child that hangs.
    fn end_of_child() -> c_int {
        // SAFETY: the child only allocates and frees memory, and exits without returning.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::alarm(30);
                sqlite3_free(sqlite3_malloc64(100));
                libc::_exit(0);
            }
            let mut status = -1;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        }
    }
}
