//! Calls from SQLite: the callbacks of the VFS and of the virtual table, SQL functions, the entry points of the extension.
//! Only this module and [`sqlite`](crate::sqlite) contain unsafe code.
//!
//! Every callback runs inside [`guard`], which keeps panics on this side.

mod activity;
pub(crate) mod connection;
pub(crate) mod extension;
pub(crate) mod failures;
pub(crate) mod file;
pub(crate) mod eponymous;
pub(crate) mod function;
mod integrity;
pub(crate) mod module;
pub(crate) mod query;
pub(crate) mod update;
pub(crate) mod value;
pub(crate) mod vfs;

use std::ffi::{CString, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

pub use crate::ffi::failures::{forget_last_failure, last_failure};
use crate::sqlite::api::Api;
use rusqlite::ffi::sqlite3;

use crate::model::error::{Cause, During, Error, code, sqlite_code};
use crate::process::log;

/// The SQLite whose error log gets the messages: the first in which the VFS was registered.
static LOG: OnceLock<&'static Api> = OnceLock::new();

/// Runs a callback's body; a panic becomes `SQLITE_INTERNAL`.
pub(crate) fn guard(body: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        report(&Cause::Internal(message).into(), During::Control)
    })
}

/// Records an error without a connection, and returns its code.
pub(crate) fn report(error: &Error, during: During) -> c_int {
    report_on(std::ptr::null_mut(), error, during)
}

/// Records an error of a connection for `redis_last_error()` and SQLite's error log, and returns its code.
pub(crate) fn report_on(db: *mut sqlite3, error: &Error, during: During) -> c_int {
    let code = sqlite_code(&error.cause, during);
    failures::note(db, error);
    // Locks, interrupts and constraint violations are part of normal use, so they are not logged.
    if ![code::BUSY, code::INTERRUPT, code::CONSTRAINT, code::MISMATCH].contains(&(code & 0xff)) {
        log::log_as(code, &error.to_string());
    }
    code
}

/// Writes to SQLite's error log: the sink of [`crate::process::log`].
pub(crate) fn log_as(code: c_int, message: &str) {
    let Some(api) = LOG.get() else { return };
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    // SAFETY: `sqlite3_log` takes a printf format and its arguments; both strings are
    // NUL-terminated and outlive the call.
    unsafe { (api.log)(code, c"sqlite-redis: %s".as_ptr(), message.as_ptr()) };
}

#[cfg(test)]
mod tests;
