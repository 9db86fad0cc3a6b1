//! xUpdate of the virtual table `redis`.

use std::ffi::{CStr, c_int};

use rusqlite::ffi::{self, sqlite3_value, sqlite3_vtab};

use crate::ffi::guard;
use crate::ffi::module::{Vtab, outcome, vtab_of};
use crate::ffi::value::{arguments, read};
use crate::model::error::{Cause, During, Error, Result, code};
use crate::sqlite::value::Value;
use crate::vtab::declare::Conflict;
use crate::vtab::declare::omitted_columns;
use crate::vtab::declare::omitted_columns::Listed;
use crate::vtab::write::change::Given;

pub(super) unsafe extern "C" fn update(
    vtab: *mut sqlite3_vtab,
    count: c_int,
    values: *mut *mut sqlite3_value,
    rowid: *mut i64,
) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours and `count` values.
        let (table, raw) = unsafe { (vtab_of(vtab), arguments(count, values)) };
        // SAFETY: the values are this callback's.
        let values: Vec<Value> = raw.iter().map(|value| unsafe { read(table.api, *value) }).collect();
        // SAFETY: SQLite is running xUpdate on this connection.
        let conflict = unsafe { conflict(table) };
        // SAFETY: as above.
        let changed = unsafe { table.interruptible(|| change(table, raw, &values, conflict)) };
        if let (Conflict::Ignore, Err(Error { cause: Cause::Constraint { code, .. }, .. })) = (conflict, &changed) {
            // SQLite skips the row. A message set here would appear with the statement's next error.
            return *code;
        }
        let changed = changed.map(|made| {
            if let Some(made) = made {
                // SAFETY: for an INSERT, SQLite passes a place for the new rowid.
                unsafe { rowid.write(made) };
            }
        });
        // SAFETY: SQLite passes a table of ours.
        unsafe { outcome(vtab, changed, During::Write) }
    })
}

/// The conflict clause of the running statement.
///
/// # Safety
/// SQLite is running xUpdate on this connection.
unsafe fn conflict(vtab: &Vtab) -> Conflict {
    // SAFETY: by contract.
    match unsafe { (vtab.api.vtab_on_conflict)(vtab.db) } {
        ffi::SQLITE_ROLLBACK => Conflict::Rollback,
        ffi::SQLITE_IGNORE => Conflict::Ignore,
        ffi::SQLITE_FAIL => Conflict::Fail,
        ffi::SQLITE_REPLACE => Conflict::Replace,
        _ => Conflict::Abort,
    }
}

/// xUpdate: `DELETE` has one argument, `INSERT` a NULL first, `UPDATE` the old rowid first.
/// Returns the new rowid of an `INSERT`.
///
/// # Safety
/// SQLite is running xUpdate with these values.
unsafe fn change(vtab: &Vtab, raw: &[*mut sqlite3_value], values: &[Value], conflict: Conflict) -> Result<Option<i64>> {
    let table = &vtab.table;
    table.session.reopen()?;
    let autocommit = !vtab.in_transaction();
    match values {
        [Value::Integer(old)] => {
            table.delete(*old);
            Ok(None)
        }
        [old, rowid, columns @ ..] if columns.len() == table.definition.columns.len() => {
            let inserting = *old == Value::Null;
            let omitted = if inserting {
                // SAFETY: by contract; the first two values are the rowids.
                unsafe { omitted(vtab, &raw[2..], columns) }
            } else {
                // SAFETY: by contract; the first two values are the rowids.
                unsafe { unset(vtab, &raw[2..]) }
            };
            let given = Given { values: columns, omitted: &omitted, rowid, conflict, autocommit };
            let made = match old {
                Value::Integer(old) => table.update(*old, &given)?.map(|_| None),
                _ => table.insert(&given)?.map(Some),
            };
            match made {
                Some(made) => Ok(made),
                // SQLite skips the row, and does not count it.
                None if conflict == Conflict::Ignore => {
                    Err(Cause::Constraint { code: code::CONSTRAINT, message: "skipped".into() }.into())
                }
                None => Ok(None),
            }
        }
        _ => Err(Cause::Internal(format!("xUpdate with {} values", values.len())).into()),
    }
}

/// The generated columns that an `UPDATE` does not set, as far as SQLite reports them.
///
/// # Safety
/// SQLite is running xUpdate with these values.
unsafe fn unset(vtab: &Vtab, raw: &[*mut sqlite3_value]) -> Vec<bool> {
    let columns = vtab.table.definition.columns.iter().zip(raw);
    // SAFETY: by contract.
    columns.map(|(column, raw)| column.generated && unsafe { (vtab.api.value_nochange)(*raw) } != 0).collect()
}

/// The columns that an `INSERT` leaves to their default. SQLite passes NULL for them, so they must be told from an
/// explicit NULL.
///
/// # Safety
/// SQLite is running xUpdate with these values.
unsafe fn omitted(vtab: &Vtab, raw: &[*mut sqlite3_value], values: &[Value]) -> Vec<bool> {
    let columns = &vtab.table.definition.columns;
    if !columns.iter().zip(values).any(|(column, value)| column.default && *value == Value::Null) {
        return vec![false; columns.len()];
    }
    // SAFETY: by contract.
    let listed = unsafe { listed(vtab) };
    let is_left_out = |name: &str, raw: &*mut sqlite3_value| match &listed {
        Some(Listed::All) => false,
        Some(Listed::These(names)) => !names.iter().any(|listed| listed.eq_ignore_ascii_case(name)),
        // The statement of a trigger has no text. A bound parameter is an explicit value.
        // SAFETY: by contract.
        None => unsafe { (vtab.api.value_frombind)(*raw) == 0 },
    };
    let columns = columns.iter().zip(raw.iter().zip(values));
    columns
        .map(|(column, (raw, value))| column.default && *value == Value::Null && is_left_out(&column.name, raw))
        .collect()
}

/// The columns that the running statement names; `None` if several statements may be the running one.
///
/// # Safety
/// The table's connection is open.
unsafe fn listed(vtab: &Vtab) -> Option<Listed> {
    let name = vtab.table.name.borrow();
    let mut found = None;
    let mut statement = std::ptr::null_mut();
    loop {
        // SAFETY: by contract; statements stay valid while this callback runs.
        let (next, sql) = unsafe {
            let next = (vtab.api.next_stmt)(vtab.db, statement);
            if next.is_null() {
                return found;
            }
            let sql = if (vtab.api.stmt_busy)(next) == 0 { std::ptr::null() } else { (vtab.api.sql)(next) };
            (next, sql)
        };
        statement = next;
        if sql.is_null() {
            continue;
        }
        // SAFETY: SQLite answers NUL-terminated text.
        let listed = omitted_columns::listed(&unsafe { CStr::from_ptr(sql) }.to_string_lossy(), &name);
        match (listed, &found) {
            (Some(listed), None) => found = Some(listed),
            (Some(_), Some(_)) => return None,
            (None, _) => {}
        }
    }
}
