//! The callbacks of the table-valued functions (<https://sqlite.org/vtab.html#tabfunc2>).

use std::ffi::{c_char, c_int, c_void};

use rusqlite::ffi::{
    self, sqlite3, sqlite3_context, sqlite3_index_info, sqlite3_module, sqlite3_value, sqlite3_vtab,
    sqlite3_vtab_cursor,
};

use crate::ffi::module::direct_only;
use crate::ffi::value::{answer, arguments, read};
use crate::ffi::{failures, guard, report_on};
use crate::model::error::{Cause, During, Result, code};
use crate::sqlite::api::Api;
use crate::sqlite::interrupt;
use crate::sqlite::value::Value;
use crate::vtab::browse::{Look, View};

/// The state that the callbacks of one function on one connection share.
struct Host {
    api: &'static Api,
    look: Look,
}

/// A function, with the base structure that SQLite requires of a virtual table.
#[repr(C)]
struct Vtab {
    /// The first field, so that SQLite's pointer to it points to the whole.
    base: sqlite3_vtab,
    api: &'static Api,
    db: *mut sqlite3,
    look: Look,
}

/// A call, with the base structure that SQLite requires of a cursor.
#[repr(C)]
struct VtabCursor {
    /// First, as above.
    base: sqlite3_vtab_cursor,
    view: Option<View>,
}

static MODULE: sqlite3_module = sqlite3_module {
    iVersion: 1,
    // Without xCreate, `CREATE VIRTUAL TABLE` refuses the module: it is only a function.
    xCreate: None,
    xConnect: Some(connect),
    xBestIndex: Some(best_index),
    xDisconnect: Some(disconnect),
    xDestroy: None,
    xOpen: Some(open),
    xClose: Some(close),
    xFilter: Some(filter),
    xNext: Some(next),
    xEof: Some(eof),
    xColumn: Some(column),
    xRowid: Some(rowid),
    xUpdate: None,
    xBegin: None,
    xSync: None,
    xCommit: None,
    xRollback: None,
    xFindFunction: None,
    xRename: None,
    xSavepoint: None,
    xRelease: None,
    xRollbackTo: None,
    xShadowName: None,
    xIntegrity: None,
};

/// Adds the functions to a connection.
///
/// # Safety
/// `db` is an open connection of the SQLite that `api` belongs to.
pub(crate) unsafe fn register(api: &'static Api, db: *mut sqlite3) -> Result<()> {
    for look in Look::ALL {
        let host = Box::into_raw(Box::new(Host { api, look }));
        // SAFETY: by contract; the module is static, and SQLite frees the host, also when it fails.
        let created = unsafe {
            (api.create_module_v2)(db, look.name().as_ptr(), &raw const MODULE, host.cast(), Some(drop_host))
        };
        if created != code::OK {
            return Err(Cause::Host(format!("sqlite3_create_module_v2 answered {created}")).into());
        }
    }
    Ok(())
}

unsafe extern "C" fn drop_host(host: *mut c_void) {
    guard(|| {
        // SAFETY: it was made by `Box::into_raw`, and SQLite passes it once.
        drop(unsafe { Box::from_raw(host.cast::<Host>()) });
        code::OK
    });
}

/// # Safety
/// `cursor` is one that [`open`] made, in a callback that SQLite runs.
unsafe fn cursor_of<'a>(cursor: *mut sqlite3_vtab_cursor) -> (&'a Vtab, &'a mut VtabCursor) {
    // SAFETY: by contract, and `base` comes first; SQLite sets its `pVtab`.
    unsafe {
        let cursor = &mut *cursor.cast::<VtabCursor>();
        (&*cursor.base.pVtab.cast::<Vtab>(), cursor)
    }
}

/// Returns an error's code from a callback, and sets the function's message.
///
/// # Safety
/// `vtab` is one that [`connect`] made.
unsafe fn outcome(vtab: *mut sqlite3_vtab, result: Result<()>) -> c_int {
    let Err(error) = result else { return code::OK };
    // SAFETY: by contract; SQLite owns the message, made by its allocator, and the one before.
    unsafe {
        let Vtab { api, db, .. } = *vtab.cast::<Vtab>();
        (api.free)((*vtab).zErrMsg.cast());
        (*vtab).zErrMsg = api.allocated(&error.to_string());
        report_on(db, &error, During::Read)
    }
}

unsafe extern "C" fn connect(
    db: *mut sqlite3,
    host: *mut c_void,
    _count: c_int,
    _arguments: *const *const c_char,
    vtab: *mut *mut sqlite3_vtab,
    _message: *mut *mut c_char,
) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes what was registered.
        let host = unsafe { &*host.cast::<Host>() };
        // SAFETY: SQLite passes the connection that is running xConnect.
        let declared = unsafe { (host.api.declare_vtab)(db, host.look.declaration().as_ptr()) };
        if declared != code::OK {
            return declared;
        }
        // SAFETY: as above.
        if let Err(error) = unsafe { direct_only(host.api, db) } {
            return report_on(db, &error, During::Open);
        }
        let base = sqlite3_vtab { pModule: std::ptr::null(), nRef: 0, zErrMsg: std::ptr::null_mut() };
        let made = Box::into_raw(Box::new(Vtab { base, api: host.api, db, look: host.look }));
        // SAFETY: SQLite passes a place for the table.
        unsafe { vtab.write(made.cast()) };
        code::OK
    })
}

unsafe extern "C" fn disconnect(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table that `connect` made, for the last time.
        drop(unsafe { Box::from_raw(vtab.cast::<Vtab>()) });
        code::OK
    })
}

/// Both arguments are needed; no other way is offered.
unsafe extern "C" fn best_index(vtab: *mut sqlite3_vtab, info: *mut sqlite3_index_info) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        let first = unsafe { &*vtab.cast::<Vtab>() }.look.columns() as c_int;
        let mut places = [None, None];
        // SAFETY: SQLite passes arrays with as many items as told.
        unsafe {
            for n in 0..usize::try_from((*info).nConstraint).unwrap_or(0) {
                let constraint = *(*info).aConstraint.add(n);
                let argument = usize::try_from(constraint.iColumn - first).ok();
                let equal = c_int::from(constraint.op) == ffi::SQLITE_INDEX_CONSTRAINT_EQ;
                if let Some(place) = argument.filter(|_| equal).and_then(|argument| places.get_mut(argument)) {
                    if constraint.usable == 0 {
                        return ffi::SQLITE_CONSTRAINT;
                    }
                    *place = Some(n);
                }
            }
            let [Some(url), Some(subject)] = places else {
                let api = (*vtab.cast::<Vtab>()).api;
                (api.free)((*vtab).zErrMsg.cast());
                (*vtab).zErrMsg = api.allocated("two arguments are needed: a server, and a key or pattern");
                return code::ERROR;
            };
            for (n, place) in [url, subject].into_iter().enumerate() {
                (*(*info).aConstraintUsage.add(place)).argvIndex = n as c_int + 1;
                (*(*info).aConstraintUsage.add(place)).omit = 1;
            }
            (*info).estimatedCost = 1000.0;
            (*info).estimatedRows = 1000;
        }
        code::OK
    })
}

unsafe extern "C" fn open(_vtab: *mut sqlite3_vtab, cursor: *mut *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        let base = sqlite3_vtab_cursor { pVtab: std::ptr::null_mut() };
        let made = Box::into_raw(Box::new(VtabCursor { base, view: None }));
        // SAFETY: SQLite passes a place for the cursor.
        unsafe { cursor.write(made.cast()) };
        code::OK
    })
}

unsafe extern "C" fn close(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor that `open` made, for the last time.
        drop(unsafe { Box::from_raw(cursor.cast::<VtabCursor>()) });
        code::OK
    })
}

unsafe extern "C" fn filter(
    cursor: *mut sqlite3_vtab_cursor,
    _number: c_int,
    _text: *const c_char,
    count: c_int,
    values: *mut *mut sqlite3_value,
) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours, and `count` values.
        let (vtab, cursor, given) = unsafe {
            let (vtab, cursor) = cursor_of(cursor);
            let given: Vec<Value> = arguments(count, values).iter().map(|value| read(vtab.api, *value)).collect();
            (vtab, cursor, given)
        };
        cursor.view = None;
        failures::goes_on(vtab.db);
        let begin = || match given.as_slice() {
            [url, subject] => View::new(vtab.look, url, subject).map(|view| cursor.view = view),
            _ => Err(Cause::Internal("a look without arguments".into()).into()),
        };
        // SAFETY: SQLite is running a callback of this connection.
        let begun = unsafe { interrupt::on_connection(vtab.api, vtab.db, begin) };
        // SAFETY: the cursor belongs to this table.
        unsafe { outcome(cursor.base.pVtab, begun) }
    })
}

unsafe extern "C" fn next(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (vtab, cursor) = unsafe { cursor_of(cursor) };
        let step = || cursor.view.as_mut().map_or(Ok(()), View::next);
        // SAFETY: SQLite is running a callback of this connection.
        let moved = unsafe { interrupt::on_connection(vtab.api, vtab.db, step) };
        // SAFETY: the cursor belongs to this table.
        unsafe { outcome(cursor.base.pVtab, moved) }
    })
}

unsafe extern "C" fn eof(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (_, cursor) = unsafe { cursor_of(cursor) };
        cursor.view.as_ref().is_none_or(View::is_at_end).into()
    })
}

unsafe extern "C" fn column(cursor: *mut sqlite3_vtab_cursor, context: *mut sqlite3_context, n: c_int) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (vtab, cursor) = unsafe { cursor_of(cursor) };
        let column = usize::try_from(n).unwrap_or(usize::MAX);
        let value = cursor.view.as_ref().and_then(|view| view.value(column)).unwrap_or(&Value::Null);
        // SAFETY: SQLite passes the context of the call.
        unsafe { answer(vtab.api, context, value) };
        code::OK
    })
}

unsafe extern "C" fn rowid(cursor: *mut sqlite3_vtab_cursor, place: *mut i64) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (_, cursor) = unsafe { cursor_of(cursor) };
        // SAFETY: SQLite passes a place for the answer.
        unsafe { place.write(cursor.view.as_ref().map_or(0, |view| view.number)) };
        code::OK
    })
}
