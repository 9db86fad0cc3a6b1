//! The entry points of the loadable extension, and the modules and functions that every connection gets.

use std::ffi::{c_char, c_int, c_void};

use rusqlite::ffi::{self, sqlite3, sqlite3_context, sqlite3_value};

use crate::ffi::{failures, guard, vfs};
use crate::model::error::{Cause, Error, Result, code};
use crate::sqlite::api::{Api, Destructor};
use crate::sqlite::interrupt::flag;

/// The entry point that SQLite looks for first. (The test program contains this crate twice, so there the names of the
/// entry points differ.)
///
/// # Safety
/// SQLite calls this as <https://sqlite.org/loadext.html> says.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, unsafe(export_name = "sqlite3_extension_init_under_test"))]
pub unsafe extern "C" fn sqlite3_extension_init(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    routines: *const c_void,
) -> c_int {
    guard(|| {
        // SAFETY: by contract.
        match unsafe { load(db, routines) } {
            // Otherwise SQLite would unload the library with this connection, while the VFS is still registered.
            Ok(()) => ffi::SQLITE_OK_LOAD_PERMANENTLY,
            Err(error) => {
                // SAFETY: by contract.
                unsafe { explain(&error, message, routines) };
                code::ERROR
            }
        }
    })
}

/// The entry point that SQLite derives from the file name `libsqlite_redis.so`, for hosts that use only that name.
///
/// # Safety
/// As for [`sqlite3_extension_init`].
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, unsafe(export_name = "sqlite3_sqliteredis_init_under_test"))]
pub unsafe extern "C" fn sqlite3_sqliteredis_init(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    routines: *const c_void,
) -> c_int {
    // SAFETY: by contract.
    unsafe { sqlite3_extension_init(db, message, routines) }
}

/// # Safety
/// As for [`sqlite3_extension_init`].
unsafe fn load(db: *mut sqlite3, routines: *const c_void) -> Result<()> {
    // SAFETY: by contract.
    let api = unsafe { Api::of_host(routines)? };
    flag::prepare(api);
    vfs::register(api, crate::config::default_vfs_wanted()?)?;
    // SAFETY: the entry point stays in memory, see above.
    let registered = unsafe { (api.auto_extension)(Some(connection_of_host)) };
    if registered != code::OK {
        return Err(Cause::Host(format!("sqlite3_auto_extension answered {registered}")).into());
    }
    // SAFETY: by contract.
    unsafe { add_functions(api, db) }
}

/// Passes an error message to the host that loads the extension.
///
/// # Safety
/// As for [`sqlite3_extension_init`]. Only routines are called that the oldest SQLite with loadable
/// extensions has.
unsafe fn explain(error: &Error, message: *mut *mut c_char, routines: *const c_void) {
    /// Place of `sqlite3_mprintf` in `sqlite3_api_routines`.
    const MPRINTF: usize = 69;
    if message.is_null() || routines.is_null() {
        return;
    }
    let text = std::ffi::CString::new(error.to_string()).unwrap_or_default();
    // SAFETY: by contract the slot holds this function; SQLite frees the text.
    unsafe {
        let mprintf = *routines.cast::<*const c_void>().add(MPRINTF);
        let mprintf =
            std::mem::transmute::<*const c_void, unsafe extern "C" fn(*const c_char, ...) -> *mut c_char>(mprintf);
        message.write(mprintf(c"%s".as_ptr(), text.as_ptr()));
    }
}

/// Registers the VFS with the SQLite that is linked in.
pub(crate) fn register_linked() -> Result<()> {
    let api = Api::linked();
    flag::prepare(api);
    vfs::register(api, false)?;
    // SAFETY: the entry point is part of this program.
    let registered = unsafe { (api.auto_extension)(Some(connection_of_linked)) };
    if registered != code::OK {
        return Err(Cause::Host(format!("sqlite3_auto_extension answered {registered}")).into());
    }
    Ok(())
}

/// Called for each connection that a host opens after it has loaded the extension.
unsafe extern "C" fn connection_of_host(db: *mut sqlite3, message: *mut *mut c_char, routines: *const c_void) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes its routines to what `sqlite3_auto_extension` registered.
        let added = unsafe { Api::of_host(routines).and_then(|api| add_functions(api, db)) };
        added.map_or_else(
            |error| {
                // SAFETY: as above.
                unsafe { explain(&error, message, routines) };
                code::ERROR
            },
            |()| code::OK,
        )
    })
}

/// Called for each connection of the SQLite that is linked in.
unsafe extern "C" fn connection_of_linked(
    db: *mut sqlite3,
    _message: *mut *mut c_char,
    _routines: *const c_void,
) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes the connection that is being opened.
        let added = unsafe { add_functions(Api::linked(), db) };
        added.map_or(code::ERROR, |()| code::OK)
    })
}

/// Adds the virtual tables and SQL functions to a connection.
///
/// # Safety
/// `db` is an open connection of the SQLite that `api` belongs to.
unsafe fn add_functions(api: &'static Api, db: *mut sqlite3) -> Result<()> {
    // SAFETY: by contract.
    let session = unsafe { crate::ffi::module::register(api, db)? };
    // The functions answer through the SQLite that came first. A second one in the same process
    // has the VFS, but must not be given them.
    if !crate::ffi::LOG.get().is_some_and(|first| std::ptr::eq(*first, api)) {
        return Ok(());
    }
    // SAFETY: by contract.
    unsafe { crate::ffi::function::register(api, db, &session)? };
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DIRECTONLY;
    // SAFETY: by contract.
    let created = unsafe {
        (api.create_function_v2)(
            db,
            c"redis_last_error".as_ptr(),
            0,
            flags,
            db.cast(),
            Some(redis_last_error),
            None,
            None,
            None,
        )
    };
    // Busy: the connection has it already, and a statement is running, such as the
    // `SELECT load_extension(...)` that led here.
    if created != code::OK && created != code::BUSY {
        return Err(Cause::Host(format!("sqlite3_create_function_v2 answered {created}")).into());
    }
    Ok(())
}

/// `redis_last_error()`: the message of the last error, or NULL; see [`failures`]. On another connection, it also returns
/// why a database could not be opened.
unsafe extern "C" fn redis_last_error(context: *mut sqlite3_context, _count: c_int, _values: *mut *mut sqlite3_value) {
    guard(|| {
        let Some(api) = crate::ffi::LOG.get() else { return code::OK };
        // SAFETY: the connection was registered with the function.
        let db = unsafe { (api.user_data)(context) }.cast::<sqlite3>();
        let Some(error) = failures::last(db) else { return code::OK };
        let text = error.to_string();
        // `SQLITE_TRANSIENT`: SQLite makes a copy.
        // SAFETY: SQLite defines this value of a destructor; it is compared, never called.
        let transient = unsafe { std::mem::transmute::<isize, Destructor>(-1) };
        let length = c_int::try_from(text.len()).unwrap_or(c_int::MAX);
        // SAFETY: SQLite passes the context of the call; the text is as long as told.
        unsafe { (api.result_text)(context, text.as_ptr().cast(), length, Some(transient)) };
        code::OK
    });
}
