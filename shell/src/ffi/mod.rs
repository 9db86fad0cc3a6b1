//! Calls to SQLite that `rusqlite` does not wrap, and changes of the environment. All unsafe code of the shell is
//! here.

use std::ffi::{CStr, CString, c_char, c_int};

use rusqlite::{Connection, ffi};

/// Sets an environment variable that the VFS reads when it opens a database. Call it before any thread starts.
pub fn set_variable(name: &str, value: &str) {
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var(name, value) };
}

/// The name of a database's VFS.
pub fn vfs_name(db: &Connection, schema: &str) -> Option<String> {
    let schema = CString::new(schema).ok()?;
    let mut name: *mut c_char = std::ptr::null_mut();
    // SAFETY: the handle is that of an open connection, and this file control puts a pointer to a string,
    // which becomes ours, into `name`.
    let rc = unsafe {
        ffi::sqlite3_file_control(db.handle(), schema.as_ptr(), ffi::SQLITE_FCNTL_VFSNAME, (&raw mut name).cast())
    };
    if rc != ffi::SQLITE_OK || name.is_null() {
        return None;
    }
    // SAFETY: SQLite made a NUL-terminated string, to be freed by sqlite3_free.
    unsafe {
        let text = CStr::from_ptr(name).to_string_lossy().into_owned();
        ffi::sqlite3_free(name.cast());
        Some(text)
    }
}

/// The keywords of the linked SQLite.
pub fn keywords() -> impl Iterator<Item = String> {
    // SAFETY: takes no arguments and only reads a constant.
    let count = unsafe { ffi::sqlite3_keyword_count() };
    (0..count).filter_map(keyword)
}

fn keyword(index: c_int) -> Option<String> {
    let mut text: *const c_char = std::ptr::null();
    let mut length: c_int = 0;
    // SAFETY: both out-parameters are valid for the call.
    let rc = unsafe { ffi::sqlite3_keyword_name(index, &raw mut text, &raw mut length) };
    if rc != ffi::SQLITE_OK || text.is_null() {
        return None;
    }
    // SAFETY: SQLite promises `length` bytes of a static string, without NUL at the end, when it answers
    // SQLITE_OK.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), usize::try_from(length).ok()?) };
    String::from_utf8(bytes.to_vec()).ok()
}

/// Whether a text ends with a complete statement (`sqlite3_complete`).
pub fn is_complete(sql: &CStr) -> bool {
    // SAFETY: a NUL-terminated string that lives through the call.
    unsafe { ffi::sqlite3_complete(sql.as_ptr()) != 0 }
}
