//! What a connection is doing: its running statements, and the files that its transaction writes to.

use rusqlite::ffi::{self, sqlite3, sqlite3_file, sqlite3_io_methods, sqlite3_stmt};

use crate::sqlite::api::Api;
use crate::transaction::group::Files;

/// Maximum number of prepared statements to examine. Programs keep some dozens; beyond this number, the search costs more
/// than it saves.
const MANY_STATEMENTS: usize = 200;

/// Whether a connection is running a statement that may write. This is a hint: the statement may write to another database
/// and only read this one.
///
/// # Safety
/// `connection` is null or points to a connection that is in use by this thread.
pub(super) unsafe fn writes(api: &Api, connection: *const *mut sqlite3) -> bool {
    // SAFETY: by contract; they are statements of the connection, which nobody else uses meanwhile.
    unsafe { running(api, connection) }.any(|statement| unsafe { (api.stmt_readonly)(statement) == 0 })
}

/// Whether a connection may have read a database in its transaction before it asks for the write lock. In autocommit mode,
/// a statement that runs alone asks for all its locks on a database at once.
///
/// # Safety
/// As for [`writes`].
pub(super) unsafe fn may_have_read(api: &Api, connection: *const *mut sqlite3) -> bool {
    if connection.is_null() {
        return true;
    }
    // SAFETY: by contract.
    unsafe {
        let is_first = (api.txn_state)(*connection, std::ptr::null()) == ffi::SQLITE_TXN_NONE;
        let is_alone = (api.get_autocommit)(*connection) != 0 && running(api, connection).count() == 1;
        !is_first && !is_alone
    }
}

/// The running statements among the first [`MANY_STATEMENTS`] of a connection.
///
/// # Safety
/// As for [`writes`], for as long as the iterator is used.
pub(super) unsafe fn running(api: &Api, connection: *const *mut sqlite3) -> impl Iterator<Item = *mut sqlite3_stmt> {
    let there = |statement: *mut sqlite3_stmt| (!statement.is_null()).then_some(statement);
    // SAFETY: by contract.
    let next = move |statement| there(unsafe { (api.next_stmt)(*connection, statement) });
    let first = if connection.is_null() { None } else { next(std::ptr::null_mut()) };
    let prepared = std::iter::successors(first, move |statement| next(*statement)).take(MANY_STATEMENTS);
    // SAFETY: by contract.
    prepared.filter(|statement| unsafe { (api.stmt_busy)(*statement) != 0 })
}

/// The files to which a transaction writes beside databases of this VFS, which have these `methods`. SQLite asks databases
/// to commit in the order of `PRAGMA database_list`.
///
/// # Safety
/// `db` is null or in use by this thread. `this` is the file of a database that it commits.
pub(super) unsafe fn files_that_write(
    api: &Api,
    db: *mut sqlite3,
    this: *mut sqlite3_file,
    methods: *const sqlite3_io_methods,
) -> Files {
    let Some(db_name) = api.db_name.filter(|_| !db.is_null()) else { return Files::None };
    let (mut is_after, mut before, mut after) = (false, 0, 0);
    // 1 is `temp`, whose commit writes nothing.
    for index in std::iter::once(0).chain(2..) {
        // SAFETY: by contract. After the last database, the name is null.
        let name = unsafe { db_name(db, index) };
        if name.is_null() {
            break;
        }
        // SAFETY: by contract, with a name that SQLite has just returned.
        if unsafe { (api.txn_state)(db, name) } != ffi::SQLITE_TXN_WRITE {
            continue;
        }
        let mut file: *mut sqlite3_file = std::ptr::null_mut();
        // SAFETY: this control writes the address of the database's file to its argument.
        unsafe { (api.file_control)(db, name, ffi::SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast()) };
        if file == this {
            is_after = true;
            continue;
        }
        // SAFETY: SQLite keeps the file for as long as the database is attached.
        let other = if file.is_null() { std::ptr::null() } else { unsafe { (*file).pMethods } };
        // An in-memory database has no methods, and can't refuse a commit.
        if other.is_null() || std::ptr::eq(other, methods) {
            continue;
        }
        if is_after { after += 1 } else { before += 1 }
    }
    // With another VFS above this one, the address is that of its file, which was counted too.
    if !is_after {
        before -= 1;
    }
    match (before, after) {
        (..=0, 0) => Files::None,
        (..=0, _) => Files::After,
        _ => Files::Before,
    }
}
