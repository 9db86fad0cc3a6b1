//! Access of the Rust API to the C connection below rusqlite.

use std::ptr;

use rusqlite::Connection;
use rusqlite::ffi::sqlite3_file_control;

use crate::ffi::file::{FCNTL_LAST_ERROR, LastError};
use crate::model::error::Error;

/// Returns the last error of a connection's main database, if that is in Redis and there was one.
pub fn last_error(connection: &Connection) -> Option<Error> {
    let mut question = LastError::question();
    // SAFETY: the handle is valid while the connection is borrowed, and the argument is what
    // this file control wants. Any other VFS does not know the control and leaves it alone.
    unsafe {
        sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            FCNTL_LAST_ERROR,
            ptr::from_mut(&mut question).cast(),
        );
    }
    question.answer
}
