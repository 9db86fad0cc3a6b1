//! The SQL functions for virtual tables.

use std::ffi::{CStr, c_int};
use std::rc::Rc;

use rusqlite::ffi::{self, sqlite3, sqlite3_context, sqlite3_value};

use crate::ffi::guard;
use crate::ffi::module::{Host, drop_host};
use crate::ffi::value::{answer, arguments, fail, read};
use crate::model::error::{Cause, During, Error, Result, code};
use crate::sqlite::api::{Api, ScalarFunction};
use crate::sqlite::interrupt;
use crate::sqlite::value::Value;
use crate::vtab::declare::token::quoted;
use crate::vtab::table::{Session, Table};

pub(crate) const FUNCTIONS: [(&CStr, c_int, ScalarFunction); 3] = [
    (c"redis_create_index", 2, create_index),
    (c"redis_drop_index", 2, drop_index),
    (c"redis_drop_data", 1, drop_data),
];

/// Adds the functions to a connection.
///
/// # Safety
/// `db` is an open connection of the SQLite that `api` belongs to.
pub(crate) unsafe fn register(api: &'static Api, db: *mut sqlite3, session: &Rc<Session>) -> Result<()> {
    for (name, count, function) in FUNCTIONS {
        let host = Host::boxed(api, db, session);
        let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DIRECTONLY;
        // SAFETY: by contract; SQLite frees the host, also when it fails.
        let created = unsafe {
            (api.create_function_v2)(
                db,
                name.as_ptr(),
                count,
                flags,
                host.cast(),
                Some(function),
                None,
                None,
                Some(drop_host),
            )
        };
        // SQLITE_BUSY: the connection has the function already, and a statement is running.
        if created != code::OK && created != code::BUSY {
            return Err(Cause::Host(format!("sqlite3_create_function_v2 answered {created}")).into());
        }
    }
    Ok(())
}

/// `redis_create_index(table, column)`: 1 if the index was created, 0 if it existed.
unsafe extern "C" fn create_index(context: *mut sqlite3_context, count: c_int, values: *mut *mut sqlite3_value) {
    // SAFETY: SQLite is running this function with these values.
    unsafe { run(context, count, values, |table, column| table.create_index(column).map(i64::from)) };
}

/// `redis_drop_index(table, column)`: 1 if the index was dropped, 0 if there was none.
unsafe extern "C" fn drop_index(context: *mut sqlite3_context, count: c_int, values: *mut *mut sqlite3_value) {
    // SAFETY: as above.
    unsafe { run(context, count, values, |table, column| table.drop_index(column).map(i64::from)) };
}

/// `redis_drop_data(table)`: the number of rows that were removed.
unsafe extern "C" fn drop_data(context: *mut sqlite3_context, count: c_int, values: *mut *mut sqlite3_value) {
    let run_it = |table: &Table, _: &str| table.drop_data().map(|rows| i64::try_from(rows).unwrap_or(i64::MAX));
    // SAFETY: as above.
    unsafe { run(context, count, values, run_it) };
}

/// Runs a function on the table that the first argument names.
///
/// # Safety
/// SQLite is running a function of [`FUNCTIONS`] with these values.
unsafe fn run(
    context: *mut sqlite3_context,
    count: c_int,
    values: *mut *mut sqlite3_value,
    work: impl FnOnce(&Table, &str) -> Result<i64>,
) {
    // The functions are only registered with this one, see `extension::add_functions`.
    let Some(api) = crate::ffi::LOG.get() else { return };
    let ended = guard(|| {
        // SAFETY: what was registered is a `Host`.
        let host = unsafe { &*(api.user_data)(context).cast::<Host>() };
        // SAFETY: by contract.
        let texts: Vec<Option<String>> =
            unsafe { arguments(count, values).iter().map(|value| text(read(api, *value))).collect() };
        // SAFETY: SQLite is running a function on this connection.
        let named = |name: &str| unsafe { table_named(host, name) };
        let work = || match texts.as_slice() {
            [Some(name), rest @ ..] => named(name).and_then(|table| match rest {
                [None] => Err(Cause::Declaration("the name of the column must be text".into()).into()),
                [Some(column)] => work(&table, column).map_err(|error| table.at(error)),
                _ => work(&table, "").map_err(|error| table.at(error)),
            }),
            _ => Err(Error::from(Cause::Declaration("the name of the table must be text".into()))),
        };
        // SAFETY: SQLite is running a function on this connection.
        match unsafe { interrupt::on_connection(host.api, host.db, work) } {
            // SAFETY: by contract.
            Ok(number) => unsafe { answer(api, context, &Value::Integer(number)) },
            // SAFETY: by contract.
            Err(error) => unsafe { fail(api, host.db, context, &error, During::Control) },
        }
        code::OK
    });
    if ended != code::OK {
        // SAFETY: by contract.
        unsafe { (api.result_error_code)(context, ended) };
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Text(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// Finds a table by its name, `table` or `schema.table`.
///
/// # Safety
/// The host's connection is open.
unsafe fn table_named(host: &Host, name: &str) -> Result<Rc<Table>> {
    let known = || {
        let qualified = name.split_once('.').and_then(|(schema, table)| host.session.table(Some(schema), table));
        host.session.table(None, name).or(qualified)
    };
    if let Some(table) = known() {
        return Ok(table);
    }
    // SQLite connects a virtual table when a statement first names it.
    let mention = |name: String| {
        // SAFETY: by contract; the statement is gone before this returns.
        unsafe { crate::sqlite::memory::prepare(host.api, host.db, &format!("SELECT 1 FROM {name} LIMIT 0")) }.map(drop)
    };
    let mentioned = mention(quoted(name)).or_else(|error| match name.split_once('.') {
        Some((schema, table)) => mention(format!("{}.{}", quoted(schema), quoted(table))),
        None => Err(error),
    });
    match (known(), mentioned) {
        (Some(table), _) => Ok(table),
        (None, Err(error)) => Err(Cause::Declaration(error.cause.to_string()).into()),
        (None, Ok(())) => Err(Cause::Declaration(format!("`{name}` is no virtual table of the module redis")).into()),
    }
}
