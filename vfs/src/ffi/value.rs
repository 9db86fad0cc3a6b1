//! `sqlite3_value` and `sqlite3_context`: arguments and results of callbacks.

use std::ffi::c_int;

use rusqlite::ffi::{self, sqlite3, sqlite3_context, sqlite3_value};

use crate::ffi::{During, Error, report_on};
use crate::sqlite::api::{Api, transient};
use crate::sqlite::value::Value;

/// The arguments that SQLite passes to a callback.
///
/// # Safety
/// `values` points to `count` values.
pub(crate) unsafe fn arguments<'a>(count: c_int, values: *mut *mut sqlite3_value) -> &'a [*mut sqlite3_value] {
    match usize::try_from(count) {
        // SAFETY: by contract.
        Ok(count) if count > 0 && !values.is_null() => unsafe { std::slice::from_raw_parts(values, count) },
        _ => &[],
    }
}

/// # Safety
/// `bytes` points to `count` bytes or is null.
unsafe fn copied(bytes: *const u8, count: c_int) -> Vec<u8> {
    match usize::try_from(count) {
        // SAFETY: by contract.
        Ok(count) if count > 0 && !bytes.is_null() => unsafe { std::slice::from_raw_parts(bytes, count) }.to_vec(),
        _ => Vec::new(),
    }
}

/// Copies a value.
///
/// # Safety
/// `value` is one that SQLite passed to the running callback.
pub(crate) unsafe fn read(api: &Api, value: *mut sqlite3_value) -> Value {
    // SAFETY: by contract. The pointer to the bytes is asked for before their count, as
    // <https://sqlite.org/c3ref/value_blob.html> advises.
    unsafe {
        match (api.value_type)(value) {
            ffi::SQLITE_INTEGER => Value::Integer((api.value_int64)(value)),
            ffi::SQLITE_FLOAT => Value::Real((api.value_double)(value)),
            ffi::SQLITE_TEXT => {
                let bytes = (api.value_text)(value);
                Value::Text(copied(bytes, (api.value_bytes)(value)))
            }
            ffi::SQLITE_BLOB => {
                let bytes = (api.value_blob)(value).cast();
                Value::Blob(copied(bytes, (api.value_bytes)(value)))
            }
            _ => Value::Null,
        }
    }
}

/// Sets the result of a function or column to a value.
///
/// # Safety
/// `context` is the one that SQLite passed to the running callback.
pub(crate) unsafe fn answer(api: &Api, context: *mut sqlite3_context, value: &Value) {
    // SAFETY: by contract; SQLite copies the bytes.
    unsafe {
        match value {
            Value::Null => (api.result_null)(context),
            Value::Integer(integer) => (api.result_int64)(context, *integer),
            Value::Real(real) => (api.result_double)(context, *real),
            Value::Text(bytes) => {
                let encoding = ffi::SQLITE_UTF8 as u8;
                (api.result_text64)(context, bytes.as_ptr().cast(), bytes.len() as u64, transient(), encoding);
            }
            Value::Blob(bytes) => {
                (api.result_blob64)(context, bytes.as_ptr().cast(), bytes.len() as u64, transient());
            }
        }
    }
}

/// Sets the result of a function or column to an error.
///
/// # Safety
/// `context` is the one that SQLite passed to the running callback of this connection.
pub(crate) unsafe fn fail(api: &Api, db: *mut sqlite3, context: *mut sqlite3_context, error: &Error, during: During) {
    let code = report_on(db, error, during);
    let text = error.to_string();
    let length = c_int::try_from(text.len()).unwrap_or(c_int::MAX);
    // SAFETY: by contract; SQLite copies the text.
    unsafe {
        (api.result_error)(context, text.as_ptr().cast(), length);
        (api.result_error_code)(context, code);
    }
}
