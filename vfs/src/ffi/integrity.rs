//! Ends `PRAGMA integrity_check` and `quick_check` when the server, not damage, prevents reading a page.
//!
//! For any read error, SQLite lists the page as damaged ("unable to get the page") and continues. If the reason is a lost
//! snapshot or server, the check must end with an error instead. In the middle of a check, SQLite only stops for an
//! interrupt, so the connection is interrupted. `redis_last_error()` returns the reason.

use std::ffi::CStr;

use rusqlite::ffi::{sqlite3, sqlite3_stmt};

use crate::model::error::{Cause, Error};
use crate::sqlite::api::Api;

/// The pragmas, in lower case.
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
