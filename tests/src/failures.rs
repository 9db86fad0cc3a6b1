//! The code and the message of a failure.

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Connection, OpenFlags};
use sqlite_redis::Options;

/// SQLite's result codes (<https://sqlite.org/rescode.html>).
pub mod code {
    #![allow(missing_docs, reason = "named as SQLite names them")]
    pub const PERM: i32 = 3;
    pub const BUSY: i32 = 5;
    pub const READONLY: i32 = 8;
    pub const CORRUPT: i32 = 11;
    pub const FULL: i32 = 13;
    pub const CANTOPEN: i32 = 14;
    pub const AUTH: i32 = 23;
    pub const IOERR_READ: i32 = 266;
    pub const BUSY_SNAPSHOT: i32 = 517;
    pub const IOERR_FSYNC: i32 = 1034;
    pub const IOERR_LOCK: i32 = 3850;
}

/// Opens a URI through SQLite, as any program does.
///
/// # Errors
/// SQLite's.
pub fn open_uri(uri: &str) -> rusqlite::Result<Connection> {
    sqlite_redis::register().expect("it can be registered");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri, flags)
}

/// SQLite's code and this library's message of a failed open.
///
/// # Panics
/// When it opens.
pub fn open_failure(options: &Options) -> (i32, String) {
    let through_sqlite = crate::code(open_uri(&options.uri()).map(|_| ()));
    let why = sqlite_redis::last_failure().expect("a reason").to_string();
    let error = options.open().map(|_| ()).expect_err("it opened");
    // Both messages are equal, up to socket names and pids after the first semicolon.
    assert_eq!(error.to_string().split(';').next(), why.split(';').next());
    (through_sqlite, why)
}

/// SQLite's code and this library's message of failed SQL. Asserts that `redis_last_error` has the same message.
///
/// # Panics
/// When it does not fail.
pub fn failure(connection: &Connection, sql: &str) -> (i32, String) {
    let code = crate::code(run(connection, sql));
    let why = sqlite_redis::last_error(connection).unwrap_or_else(|| panic!("{sql}: no reason for {code}")).to_string();
    let pragma: String = connection.query_row("PRAGMA redis_last_error", [], |row| row.get(0)).expect("the pragma");
    assert_eq!(pragma, why);
    (code, why)
}

/// Runs SQL to the last row of its last statement.
///
/// # Errors
/// SQLite's.
pub fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    let mut batch = rusqlite::Batch::new(connection, sql);
    while let Some(mut statement) = batch.next()? {
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {}
    }
    Ok(())
}

/// Asserts the code of a failure, and that its message names the database and contains `words`.
///
/// # Panics
/// When one of them differs.
#[track_caller]
pub fn assert_failure((code, why): (i32, String), expected: i32, words: &str) {
    assert_eq!(code, expected, "{why}");
    assert!(why.starts_with("database `"), "no database and server in: {why}");
    assert!(why.contains(words), "not {words}: {why}");
}
