//! A second connection of the same SQLite, to an in-memory database: for the shadow tables that check rows.

use std::ffi::{CStr, CString, c_int};
use std::ptr;

use rusqlite::ffi::{self, sqlite3, sqlite3_stmt};

use crate::model::error::{Cause, Error, Result, code};
use crate::sqlite::api::{Api, transient};
use crate::sqlite::value::Value;

/// A private in-memory database.
pub(crate) struct Memory {
    api: &'static Api,
    db: *mut sqlite3,
}

/// The last error of a connection.
///
/// # Safety
/// `db` is open.
unsafe fn failure(api: &Api, db: *mut sqlite3) -> Error {
    // SAFETY: by contract; the message is valid until the next call on the connection.
    let (code, message) =
        unsafe { ((api.extended_errcode)(db), CStr::from_ptr((api.errmsg)(db)).to_string_lossy().into_owned()) };
    Cause::Constraint { code, message }.into()
}

impl Memory {
    pub(crate) fn open(api: &'static Api) -> Result<Memory> {
        let mut db = ptr::null_mut();
        // NOMUTEX: the owner uses the connection from one thread at a time.
        let flags =
            ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE | ffi::SQLITE_OPEN_MEMORY | ffi::SQLITE_OPEN_NOMUTEX;
        // SAFETY: the name is NUL-terminated, and there is a place for the answer.
        let opened = unsafe { (api.open_v2)(c":memory:".as_ptr(), &raw mut db, flags, ptr::null()) };
        let memory = Memory { api, db };
        if opened != code::OK {
            return Err(Cause::Host(format!("no database in memory can be opened: code {opened}")).into());
        }
        Ok(memory)
    }

    pub(crate) fn prepare(&self, sql: &str) -> Result<Statement> {
        // SAFETY: the connection is open for as long as `self`.
        unsafe { prepare(self.api, self.db, sql) }
    }

    /// Runs a statement to its end, and drops its rows.
    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        let statement = self.prepare(sql)?;
        while statement.step()? {}
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was opened here, and its owner drops all statements first.
        unsafe { (self.api.close)(self.db) };
    }
}

/// # Safety
/// `db` is open, and stays open for as long as the statement exists.
pub(crate) unsafe fn prepare(api: &'static Api, db: *mut sqlite3, sql: &str) -> Result<Statement> {
    let sql = CString::new(sql).map_err(|_| Cause::Declaration("there is a NUL in the SQL".into()))?;
    let mut statement = ptr::null_mut();
    // SAFETY: by contract; the text is NUL-terminated, and there is a place for the answer.
    let prepared = unsafe { (api.prepare_v2)(db, sql.as_ptr(), -1, &raw mut statement, ptr::null_mut()) };
    if prepared != code::OK {
        // SAFETY: by contract.
        return Err(unsafe { failure(api, db) });
    }
    Ok(Statement { api, db, statement })
}

/// A prepared statement.
pub(crate) struct Statement {
    api: &'static Api,
    db: *mut sqlite3,
    statement: *mut sqlite3_stmt,
}

impl Statement {
    /// Binds a parameter, counted from 0.
    pub(crate) fn bind(&self, parameter: usize, value: &Value) -> Result<()> {
        let (api, statement, n) = (self.api, self.statement, parameter as c_int + 1);
        // SAFETY: the statement is valid; SQLite copies the bytes.
        let bound = unsafe {
            match value {
                Value::Null => (api.bind_null)(statement, n),
                Value::Integer(integer) => (api.bind_int64)(statement, n, *integer),
                Value::Real(real) => (api.bind_double)(statement, n, *real),
                Value::Text(bytes) => {
                    let (pointer, length) = (bytes.as_ptr().cast(), bytes.len() as u64);
                    (api.bind_text64)(statement, n, pointer, length, transient(), ffi::SQLITE_UTF8 as u8)
                }
                Value::Blob(bytes) => {
                    (api.bind_blob64)(statement, n, bytes.as_ptr().cast(), bytes.len() as u64, transient())
                }
            }
        };
        // SAFETY: the connection is open.
        if bound == code::OK { Ok(()) } else { Err(unsafe { failure(api, self.db) }) }
    }

    /// Steps to the next row; `false` after the last one.
    pub(crate) fn step(&self) -> Result<bool> {
        // SAFETY: the statement is valid.
        match unsafe { (self.api.step)(self.statement) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            // SAFETY: the connection is open.
            _ => Err(unsafe { failure(self.api, self.db) }),
        }
    }

    /// The values of the current row.
    pub(crate) fn row(&self) -> Vec<Value> {
        // SAFETY: the statement is valid.
        let count = unsafe { (self.api.column_count)(self.statement) };
        (0..count).map(|column| self.column(column)).collect()
    }

    fn column(&self, n: c_int) -> Value {
        let (api, statement) = (self.api, self.statement);
        // SAFETY: the statement is at a row with this column. SQLite's bytes are copied before
        // the next call on the statement.
        unsafe {
            let bytes = |bytes: *const u8| match usize::try_from((api.column_bytes)(statement, n)) {
                Ok(count) if count > 0 && !bytes.is_null() => std::slice::from_raw_parts(bytes, count).to_vec(),
                _ => Vec::new(),
            };
            match (api.column_type)(statement, n) {
                ffi::SQLITE_INTEGER => Value::Integer((api.column_int64)(statement, n)),
                ffi::SQLITE_FLOAT => Value::Real((api.column_double)(statement, n)),
                ffi::SQLITE_TEXT => Value::Text(bytes((api.column_text)(statement, n))),
                ffi::SQLITE_BLOB => Value::Blob(bytes((api.column_blob)(statement, n).cast())),
                _ => Value::Null,
            }
        }
    }

    /// Resets the statement, so that it can run again.
    pub(crate) fn reset(&self) {
        // SAFETY: the statement is valid.
        unsafe {
            (self.api.reset)(self.statement);
            (self.api.clear_bindings)(self.statement);
        }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: it was prepared here.
        unsafe { (self.api.finalize)(self.statement) };
    }
}
