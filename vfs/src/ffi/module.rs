//! `sqlite3_module`: the callbacks of the virtual table `redis`
//! (<https://sqlite.org/vtab.html>). Each only passes on what SQLite gives to `vtab`; those of
//! queries are in [`query`](crate::ffi::query), that of writes in [`update`](mod@crate::ffi::update).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::rc::Rc;
use std::time::Duration;

use rusqlite::ffi::{self, sqlite3, sqlite3_module, sqlite3_vtab};

use crate::ffi::query::{best_index, close, column, eof, filter, next, open, rowid};
use crate::ffi::update::update;
use crate::ffi::{failures, guard, report_on};
use crate::model::error::{Cause, During, Result, code};
use crate::sqlite::api::Api;
use crate::sqlite::value::Value;
use crate::sqlite::{interrupt, memory};
use crate::vtab::commit;
use crate::vtab::commit::published;
use crate::vtab::declare::Definition;
use crate::vtab::table::{Session, Table};
use crate::vtab::write::Writes;

/// What the callbacks of one connection share.
pub(crate) struct Host {
    pub api: &'static Api,
    pub db: *mut sqlite3,
    pub session: Rc<Session>,
}

impl Host {
    /// For SQLite to keep, until [`drop_host`].
    pub(crate) fn boxed(api: &'static Api, db: *mut sqlite3, session: &Rc<Session>) -> *mut Host {
        Box::into_raw(Box::new(Host { api, db, session: session.clone() }))
    }
}

/// A table as SQLite knows it.
#[repr(C)]
pub(super) struct Vtab {
    /// First, so that SQLite's pointer is one to this.
    base: sqlite3_vtab,
    pub api: &'static Api,
    pub db: *mut sqlite3,
    pub table: Rc<Table>,
}

impl Vtab {
    /// Runs the body of a callback whose waits end with `sqlite3_interrupt`.
    ///
    /// # Safety
    /// SQLite is running a callback of the table.
    pub(super) unsafe fn interruptible<T>(&self, body: impl FnOnce() -> T) -> T {
        // SAFETY: by contract.
        unsafe { interrupt::on_connection(self.api, self.db, body) }
    }

    /// Whether the running statement is one of a transaction that may have others.
    pub(super) fn in_transaction(&self) -> bool {
        // SAFETY: SQLite frees its tables before it closes their connection.
        (unsafe { (self.api.get_autocommit)(self.db) }) == 0
    }

    /// Whether SQLite's own function is the only one of this name: an application may have one instead,
    /// such as a `like()` that takes accents for nothing. `false` if SQLite does not say.
    pub(super) fn has_own_function(&self, name: &str) -> bool {
        // SAFETY: the connection is open; the statement is finalized before it closes.
        let Ok(list) = (unsafe { memory::prepare(self.api, self.db, "PRAGMA function_list") }) else { return false };
        let mut found = false;
        loop {
            match list.step() {
                Ok(false) => return found,
                Err(_) => return false,
                Ok(true) => {}
            }
            match list.row().as_slice() {
                [Value::Text(of), Value::Integer(own), ..] if of.eq_ignore_ascii_case(name.as_bytes()) => {
                    if *own == 0 {
                        return false;
                    }
                    found = true;
                }
                _ => {}
            }
        }
    }
}

static MODULE: sqlite3_module = sqlite3_module {
    // 2: with savepoints.
    iVersion: 2,
    xCreate: Some(create),
    xConnect: Some(connect),
    xBestIndex: Some(best_index),
    xDisconnect: Some(disconnect),
    // "DROP TABLE removes no data": there is nothing else to do than to disconnect.
    xDestroy: Some(disconnect),
    xOpen: Some(open),
    xClose: Some(close),
    xFilter: Some(filter),
    xNext: Some(next),
    xEof: Some(eof),
    xColumn: Some(column),
    xRowid: Some(rowid),
    xUpdate: Some(update),
    xBegin: Some(begin),
    xSync: Some(sync),
    xCommit: Some(committed),
    xRollback: Some(rollback),
    xFindFunction: None,
    xRename: Some(rename),
    xSavepoint: Some(savepoint),
    xRelease: Some(release),
    xRollbackTo: Some(rollback_to),
    xShadowName: None,
    xIntegrity: None,
};

/// Gives a connection the module `redis`, and those to look around. Returns what its tables share.
///
/// # Safety
/// `db` is an open connection of the SQLite that `api` belongs to.
pub(crate) unsafe fn register(api: &'static Api, db: *mut sqlite3) -> Result<Rc<Session>> {
    // SAFETY: by contract; the session is asked only in callbacks of the connection.
    let session = Session::new(Rc::new(move || unsafe { busy_timeout(api, db) }));
    let host = Host::boxed(api, db, &session);
    // SAFETY: by contract; the module is static, and SQLite frees the host, also when it fails.
    let created =
        unsafe { (api.create_module_v2)(db, c"redis".as_ptr(), &raw const MODULE, host.cast(), Some(drop_host)) };
    if created != code::OK {
        return Err(Cause::Host(format!("sqlite3_create_module_v2 answered {created}")).into());
    }
    // SAFETY: by contract.
    unsafe { crate::ffi::eponymous::register(api, db)? };
    Ok(session)
}

/// What `PRAGMA busy_timeout` answers: SQLite has no function for that. A busy handler of the application counts as none.
/// After `sqlite3_interrupt`, no statement runs.
///
/// # Safety
/// `db` is open, and SQLite is running a callback of it.
unsafe fn busy_timeout(api: &'static Api, db: *mut sqlite3) -> Option<Duration> {
    // SAFETY: by contract; the statement ends with this function.
    let statement = unsafe { crate::sqlite::memory::prepare(api, db, "PRAGMA busy_timeout") }.ok()?;
    match (statement.step().ok()?, statement.row().as_slice()) {
        (true, [Value::Integer(milliseconds)]) => u64::try_from(*milliseconds).ok().map(Duration::from_millis),
        _ => None,
    }
}

/// Frees a [`Host`].
///
/// # Safety
/// SQLite passes what was registered, once.
pub(crate) unsafe extern "C" fn drop_host(host: *mut c_void) {
    guard(|| {
        // SAFETY: it was made by `Box::into_raw`.
        let host = unsafe { Box::from_raw(host.cast::<Host>()) };
        failures::closed(host.db);
        code::OK
    });
}

/// # Safety
/// `vtab` is one that [`connect`] made, in a callback that SQLite runs.
pub(super) unsafe fn vtab_of<'a>(vtab: *mut sqlite3_vtab) -> &'a Vtab {
    // SAFETY: by contract, and `base` comes first.
    unsafe { &*vtab.cast::<Vtab>() }
}

/// Ends a callback: the one place where a failure becomes a code and the table's message.
///
/// # Safety
/// As for [`vtab_of`].
pub(super) unsafe fn outcome(vtab: *mut sqlite3_vtab, result: Result<()>, during: During) -> c_int {
    let Err(error) = result else { return code::OK };
    // SAFETY: by contract.
    let table = unsafe { vtab_of(vtab) };
    let error = table.table.at(error);
    let message = table.api.allocated(&error.to_string());
    // SAFETY: SQLite owns the message, made by its allocator, and the one before.
    unsafe {
        (table.api.free)((*vtab).zErrMsg.cast());
        (*vtab).zErrMsg = message;
    }
    report_on(table.db, &error, during)
}

unsafe extern "C" fn create(
    _db: *mut sqlite3,
    host: *mut c_void,
    count: c_int,
    arguments: *const *const c_char,
    vtab: *mut *mut sqlite3_vtab,
    message: *mut *mut c_char,
) -> c_int {
    // SAFETY: by contract.
    guard(|| unsafe { make(host, count, arguments, vtab, message, true) })
}

unsafe extern "C" fn connect(
    _db: *mut sqlite3,
    host: *mut c_void,
    count: c_int,
    arguments: *const *const c_char,
    vtab: *mut *mut sqlite3_vtab,
    message: *mut *mut c_char,
) -> c_int {
    // SAFETY: by contract.
    guard(|| unsafe { make(host, count, arguments, vtab, message, false) })
}

/// xCreate and xConnect.
///
/// # Safety
/// SQLite calls those so.
unsafe fn make(
    host: *mut c_void,
    count: c_int,
    arguments: *const *const c_char,
    vtab: *mut *mut sqlite3_vtab,
    message: *mut *mut c_char,
    create: bool,
) -> c_int {
    // SAFETY: SQLite passes what was registered, and `count` texts.
    let (host, arguments) = unsafe {
        let arguments = (0..usize::try_from(count).unwrap_or(0))
            .map(|n| CStr::from_ptr(*arguments.add(n)).to_string_lossy().into_owned())
            .collect::<Vec<String>>();
        (&*host.cast::<Host>(), arguments)
    };
    // SAFETY: SQLite passes the connection that is running xCreate or xConnect.
    let made = unsafe { interrupt::on_connection(host.api, host.db, || new_table(host, &arguments, create)) };
    match made {
        Ok(table) => {
            let base = sqlite3_vtab { pModule: std::ptr::null(), nRef: 0, zErrMsg: std::ptr::null_mut() };
            let made = Box::into_raw(Box::new(Vtab { base, api: host.api, db: host.db, table }));
            // SAFETY: SQLite passes a place for the table.
            unsafe { vtab.write(made.cast()) };
            code::OK
        }
        Err(error) => {
            let text = match (&error.place, arguments.get(2)) {
                (None, Some(name)) => format!("virtual table {name}: {error}"),
                _ => error.to_string(),
            };
            // SAFETY: SQLite passes a place for the message, and frees it.
            unsafe { message.write(host.api.allocated(&text)) };
            report_on(host.db, &error, During::Open)
        }
    }
}

/// The encoding of text in the connection's databases, such as `UTF-8`.
///
/// # Safety
/// The host's connection is open.
unsafe fn encoding(host: &Host) -> Result<String> {
    // SAFETY: by contract; the statement is finalized before the connection closes.
    let pragma = unsafe { memory::prepare(host.api, host.db, "PRAGMA encoding")? };
    let row = if pragma.step()? { pragma.row() } else { Vec::new() };
    match row.first() {
        Some(Value::Text(encoding)) => Ok(String::from_utf8_lossy(encoding).into_owned()),
        _ => Err(Cause::Host("PRAGMA encoding has no answer".into()).into()),
    }
}

/// Keeps the table that is being connected out of views and triggers.
///
/// # Safety
/// SQLite is running xCreate or xConnect on this connection.
pub(super) unsafe fn direct_only(api: &Api, db: *mut sqlite3) -> Result<()> {
    // SAFETY: by contract; this option takes nothing.
    match unsafe { (api.vtab_config)(db, ffi::SQLITE_VTAB_DIRECTONLY) } {
        code::OK => Ok(()),
        other => Err(Cause::Host(format!("SQLITE_VTAB_DIRECTONLY was answered with {other}")).into()),
    }
}

/// # Safety
/// SQLite is running xCreate or xConnect on the host's connection.
unsafe fn new_table(host: &Host, arguments: &[String], create: bool) -> Result<Rc<Table>> {
    // SAFETY: by contract.
    let encoding = unsafe { encoding(host)? };
    let (definition, judge) = Definition::parse(host.api, &encoding, arguments)?;
    let declaration = CString::new(definition.declaration()).map_err(|_| Cause::Declaration("a NUL".into()))?;
    // SAFETY: by contract; the text is NUL-terminated.
    let declared = unsafe { (host.api.declare_vtab)(host.db, declaration.as_ptr()) };
    if declared != code::OK {
        // SAFETY: the connection is open; the message is valid until it is used again.
        let words = unsafe { CStr::from_ptr((host.api.errmsg)(host.db)) }.to_string_lossy().into_owned();
        return Err(Cause::Declaration(words).into());
    }
    // SAFETY: by contract; this option takes an int.
    unsafe { (host.api.vtab_config)(host.db, ffi::SQLITE_VTAB_CONSTRAINT_SUPPORT, 1 as c_int) };
    // Views and triggers of a file may be somebody else's. No file has a table of the schema `temp`.
    if !definition.schema.eq_ignore_ascii_case("temp") {
        // SAFETY: by contract.
        unsafe { direct_only(host.api, host.db)? };
    }
    let table = Table::new(definition, judge, &host.session);
    // xConnect must not reach for a server: SQLite connects a table before it looks whether the statement may use it.
    if create {
        table.create().map_err(|error| table.at(error))?;
    }
    Ok(table)
}

unsafe extern "C" fn disconnect(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table that `make` made, for the last time.
        let vtab = unsafe { Box::from_raw(vtab.cast::<Vtab>()) };
        commit::forget_mark(&vtab.table);
        code::OK
    })
}

unsafe extern "C" fn begin(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        let vtab = unsafe { vtab_of(vtab) };
        failures::goes_on(vtab.db);
        vtab.table.writes.borrow_mut().begin(vtab.in_transaction());
        code::OK
    })
}

unsafe extern "C" fn sync(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        let table = unsafe { &vtab_of(vtab).table };
        let synced = commit::sync(table).map_err(|refusal| published::refused(table, refusal));
        // SAFETY: as above.
        unsafe { outcome(vtab, synced, During::Commit) }
    })
}

unsafe extern "C" fn committed(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        let table = unsafe { &vtab_of(vtab).table };
        *table.writes.borrow_mut() = Writes::default();
        table.session.forget_reads();
        code::OK
    })
}

unsafe extern "C" fn rollback(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        let table = unsafe { &vtab_of(vtab).table };
        // SAFETY: as above.
        let db = unsafe { vtab_of(vtab) }.db;
        let is_parents = table.writes.borrow().is_parents();
        let take_back = || {
            // SQLite ignores what xRollback answers, so a failure can only be reported.
            if !is_parents && let Err(error) = published::roll_back(table) {
                report_on(db, &table.at(error), During::Commit);
            }
            commit::rolled_back(table);
        };
        // SAFETY: SQLite is running a callback of the table.
        unsafe { vtab_of(vtab).interruptible(|| interrupt::never(take_back)) };
        *table.writes.borrow_mut() = Writes::default();
        table.session.forget_reads();
        code::OK
    })
}

unsafe extern "C" fn rename(vtab: *mut sqlite3_vtab, name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours and a name.
        let (table, name) = unsafe { (vtab_of(vtab), CStr::from_ptr(name).to_string_lossy()) };
        // SAFETY: as above.
        let renamed = unsafe { table.interruptible(|| table.table.rename(&name, !table.in_transaction())) };
        // SAFETY: as above.
        unsafe { outcome(vtab, renamed, During::Write) }
    })
}

unsafe extern "C" fn savepoint(vtab: *mut sqlite3_vtab, number: c_int) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        unsafe { vtab_of(vtab) }.table.writes.borrow_mut().savepoint(number);
        code::OK
    })
}

unsafe extern "C" fn release(vtab: *mut sqlite3_vtab, number: c_int) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        unsafe { vtab_of(vtab) }.table.writes.borrow_mut().release(number);
        code::OK
    })
}

unsafe extern "C" fn rollback_to(vtab: *mut sqlite3_vtab, number: c_int) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        let undone = unsafe { vtab_of(vtab) }.table.rollback_to(number);
        // SAFETY: as above.
        unsafe { outcome(vtab, undone, During::Write) }
    })
}
