//! `PRAGMA integrity_check` and `quick_check` that can't read a page.
//!
//! They list such a page as if it were damaged ("unable to get the page"), whatever the reason, and go on. When the reason
//! is a snapshot or a server that is gone, they are to end with an error. The only one that SQLite takes for that in the
//! middle of a check is an interrupt. `redis_last_error()` tells the reason.

use std::ffi::CStr;

use rusqlite::ffi::{sqlite3, sqlite3_stmt};

use crate::model::error::{Cause, Error};
use crate::sqlite::api::Api;

/// The pragmas, as statements may spell them.
const CHECKS: [&str; 2] = ["integrity_check", "quick_check"];

/// Ends a check that has failed to read a page for another reason than damage.
///
/// # Safety
/// The connection is in use by this thread, and the statements are the ones that it is running.
pub(super) unsafe fn end_check(
    api: &Api,
    db: *mut sqlite3,
    mut running: impl Iterator<Item = *mut sqlite3_stmt>,
    error: &Error,
) {
    if matches!(error.cause, Cause::Damaged(_) | Cause::Interrupted) {
        return;
    }
    let is_check = |statement| {
        // SAFETY: by contract; SQLite answers null or NUL-terminated text.
        let sql = unsafe { (api.sql)(statement) };
        // SAFETY: as above.
        let sql = if sql.is_null() { c"" } else { unsafe { CStr::from_ptr(sql) } };
        let sql = sql.to_string_lossy().to_ascii_lowercase();
        CHECKS.iter().any(|check| sql.contains(check))
    };
    if running.any(is_check) {
        // SAFETY: by contract.
        unsafe { (api.interrupt)(db) };
    }
}
