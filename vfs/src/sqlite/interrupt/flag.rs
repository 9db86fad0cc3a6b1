//! Whether a connection was interrupted, for every version of SQLite.
//!
//! SQLite 3.41 added `sqlite3_is_interrupted`. In older versions, `sqlite3_interrupt` sets a private integer in the
//! connection, at an offset that depends on how SQLite was built. The offset is determined once, on a separate
//! connection, by comparing its memory before and after `sqlite3_interrupt`.

use std::ffi::c_int;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use rusqlite::ffi::{self, sqlite3};

use crate::model::error::code;
use crate::sqlite::api::Api;

/// `sqlite3_is_interrupted`.
pub(crate) type IsInterrupted = unsafe extern "C" fn(*mut sqlite3) -> c_int;

/// The offset of the integer, for a SQLite without `sqlite3_is_interrupted`; `None` if it was not found.
pub(crate) struct Place(OnceLock<Option<usize>>);

impl Place {
    pub(crate) const fn unknown() -> Place {
        Place(OnceLock::new())
    }
}

/// Determines the offset, if necessary. Must be called before [`is_interrupted`].
pub(crate) fn prepare(api: &Api) {
    if api.is_interrupted.is_none() {
        api.interrupted_at.0.get_or_init(|| find(api));
    }
}

/// Whether a connection was interrupted, and is still running statements.
///
/// # Safety
/// `db` is open, and `api` is its SQLite.
pub(crate) unsafe fn is_interrupted(api: &Api, db: *mut sqlite3) -> bool {
    if let Some(is_interrupted) = api.is_interrupted {
        // SAFETY: by contract.
        return unsafe { is_interrupted(db) != 0 };
    }
    let Some(Some(place)) = api.interrupted_at.0.get() else { return false };
    // SAFETY: all connections of one SQLite have the same layout, and `find` has seen an integer at this offset in one.
    // SQLite itself reads and writes it atomically.
    unsafe { &*db.byte_add(*place).cast::<AtomicI32>() }.load(Relaxed) != 0
}

/// The offset in bytes of the only integer in a connection that `sqlite3_interrupt` sets to 1.
fn find(api: &Api) -> Option<usize> {
    let mut db = ptr::null_mut();
    let flags = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE | ffi::SQLITE_OPEN_MEMORY;
    // SAFETY: the name is NUL-terminated, and there is a place for the answer.
    let opened = unsafe { (api.open_v2)(c":memory:".as_ptr(), &raw mut db, flags, ptr::null()) };
    let found = if opened == code::OK {
        // SAFETY: it is open, and not shared.
        unsafe { find_in(api, db) }
    } else {
        None
    };
    // SAFETY: it has no statements. A connection that could not be opened must be closed too.
    unsafe { (api.close)(db) };
    found
}

/// # Safety
/// `db` is open, and not shared.
unsafe fn find_in(api: &Api, db: *mut sqlite3) -> Option<usize> {
    // SAFETY: SQLite has allocated the connection itself.
    let count = usize::try_from(unsafe { (api.msize)(db.cast()) }).ok()? / size_of::<AtomicI32>();
    // SAFETY: that much is allocated, and aligned for any number; SQLite has filled it with zeros before it used it.
    let numbers = unsafe { std::slice::from_raw_parts(db.cast::<AtomicI32>(), count) };
    let now = || numbers.iter().map(|number| number.load(Relaxed)).collect::<Vec<i32>>();
    let before = now();
    // SAFETY: by contract.
    unsafe { (api.interrupt)(db) };
    let after = now();
    let mut changed = (0..count).filter(|&n| before[n] != after[n]);
    let only = changed.next().filter(|&n| (before[n], after[n]) == (0, 1))?;
    changed.next().is_none().then_some(only * size_of::<AtomicI32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_an_interrupt_is_found_where_sqlite_does_not_tell() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let old = Api { is_interrupted: None, ..Api::new_linked() };
        prepare(&old);
        // SAFETY: the connection is open, and of the SQLite that is linked.
        let seen = |api: &Api| unsafe { is_interrupted(api, connection.handle()) };
        assert_eq!((seen(&old), seen(Api::linked())), (false, false));
        connection.get_interrupt_handle().interrupt();
        assert_eq!((seen(&old), seen(Api::linked())), (true, true));
        // With no statement running, the next one begins without.
        connection.execute_batch("SELECT 1").unwrap();
        assert_eq!((seen(&old), seen(Api::linked())), (false, false));
    }
}
