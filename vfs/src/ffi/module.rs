//! `sqlite3_module`: the callbacks of the virtual table `redis`
//! (<https://sqlite.org/vtab.html>). Each only passes on what SQLite gives to `vtab`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::rc::Rc;

use rusqlite::ffi::{
    self, sqlite3, sqlite3_context, sqlite3_index_info, sqlite3_module, sqlite3_value, sqlite3_vtab,
    sqlite3_vtab_cursor,
};

use super::api::Api;
use super::value::{answer, arguments, read};
use super::{guard, report};
use crate::error::{Cause, During, Error, Result, code};
use crate::vtab::commit;
use crate::vtab::cursor::Cursor;
use crate::vtab::declare::{Conflict, Definition};
use crate::vtab::omitted::{self, Listed};
use crate::vtab::plan::{self, Constraint, Op, Plan, Question};
use crate::vtab::table::{Session, Table};
use crate::vtab::value::Value;
use crate::vtab::write::{Given, Writes};

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
struct Vtab {
    /// First, so that SQLite's pointer is one to this.
    base: sqlite3_vtab,
    api: &'static Api,
    db: *mut sqlite3,
    table: Rc<Table>,
}

/// A cursor as SQLite knows it.
#[repr(C)]
struct VtabCursor {
    /// First, as above.
    base: sqlite3_vtab_cursor,
    cursor: Option<Cursor>,
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
    let session = Session::new();
    let host = Host::boxed(api, db, &session);
    // SAFETY: by contract; the module is static, and SQLite frees the host, also when it fails.
    let created =
        unsafe { (api.create_module_v2)(db, c"redis".as_ptr(), &raw const MODULE, host.cast(), Some(drop_host)) };
    if created != code::OK {
        return Err(Cause::Host(format!("sqlite3_create_module_v2 answered {created}")).into());
    }
    // SAFETY: by contract.
    unsafe { super::eponymous::register(api, db)? };
    Ok(session)
}

/// Frees a [`Host`].
///
/// # Safety
/// SQLite passes what was registered, once.
pub(crate) unsafe extern "C" fn drop_host(host: *mut c_void) {
    guard(|| {
        // SAFETY: it was made by `Box::into_raw`.
        drop(unsafe { Box::from_raw(host.cast::<Host>()) });
        code::OK
    });
}

/// # Safety
/// `vtab` is one that [`connect`] made, in a callback that SQLite runs.
unsafe fn vtab_of<'a>(vtab: *mut sqlite3_vtab) -> &'a Vtab {
    // SAFETY: by contract, and `base` comes first.
    unsafe { &*vtab.cast::<Vtab>() }
}

/// # Safety
/// `cursor` is one that [`open`] made, in a callback that SQLite runs.
unsafe fn cursor_of<'a>(cursor: *mut sqlite3_vtab_cursor) -> (&'a Vtab, &'a mut VtabCursor) {
    // SAFETY: by contract, and `base` comes first; SQLite sets its `pVtab`.
    unsafe {
        let cursor = &mut *cursor.cast::<VtabCursor>();
        (vtab_of(cursor.base.pVtab), cursor)
    }
}

/// Ends a callback: the one place where a failure becomes a code and the table's message.
///
/// # Safety
/// As for [`vtab_of`].
unsafe fn outcome(vtab: *mut sqlite3_vtab, result: Result<()>, during: During) -> c_int {
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
    report(&error, during)
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
    match unsafe { new_table(host, &arguments, create) } {
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
            report(&error, During::Open)
        }
    }
}

/// # Safety
/// SQLite is running xCreate or xConnect on the host's connection.
unsafe fn new_table(host: &Host, arguments: &[String], create: bool) -> Result<Rc<Table>> {
    let (definition, judge) = Definition::parse(host.api, arguments)?;
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
    let table = Table::new(definition, judge, &host.session);
    if create {
        table.create().map_err(|error| table.at(error))?;
    } else if let Err(error) = table.refresh() {
        // A table must be there to be dropped, even when its server is not. Queries will say so.
        super::log(&table.at(error).to_string());
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

unsafe extern "C" fn best_index(vtab: *mut sqlite3_vtab, info: *mut sqlite3_index_info) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours and a question about it.
        let vtab = unsafe { vtab_of(vtab) };
        // SAFETY: as above.
        let question = unsafe { question_of(vtab.api, info) };
        let answer = plan::best(&vtab.table.definition, &vtab.table.known(), &question);
        // SAFETY: as above; places come from the question.
        unsafe { reply(vtab, info, &answer) }
    })
}

/// # Safety
/// SQLite passed `info` to xBestIndex.
unsafe fn question_of(api: &Api, info: *mut sqlite3_index_info) -> Question {
    let mut question = Question::default();
    // SAFETY: by contract the arrays have as many items as told.
    let (constraints, order) = unsafe {
        let slice = |n: c_int| usize::try_from(n).unwrap_or(0);
        let none_if_null = |n: c_int, null: bool| if null { 0 } else { slice(n) };
        let constraints = (*info).aConstraint;
        let order = (*info).aOrderBy;
        (
            (0..none_if_null((*info).nConstraint, constraints.is_null()))
                .map(|n| *constraints.add(n))
                .collect::<Vec<_>>(),
            (0..none_if_null((*info).nOrderBy, order.is_null())).map(|n| *order.add(n)).collect::<Vec<_>>(),
        )
    };
    for (n, constraint) in constraints.iter().enumerate().filter(|(_, constraint)| constraint.usable != 0) {
        let Some(mut op) = op_of(constraint.op) else { continue };
        // SAFETY: by contract, for a constraint with this number.
        let (collation, is_in) =
            unsafe { ((api.vtab_collation)(info, n as c_int), (api.vtab_in)(info, n as c_int, -1) != 0) };
        // SAFETY: SQLite answers null or NUL-terminated text.
        let binary =
            collation.is_null() || unsafe { CStr::from_ptr(collation) }.to_bytes().eq_ignore_ascii_case(b"BINARY");
        if op == Op::Eq && is_in {
            op = Op::In;
        }
        let column = usize::try_from(constraint.iColumn).ok();
        question.constraints.push((n, Constraint { column, op, binary }));
    }
    question.order = order.iter().map(|term| (usize::try_from(term.iColumn).ok(), term.desc != 0)).collect();
    question
}

fn op_of(op: u8) -> Option<Op> {
    Some(match c_int::from(op) {
        ffi::SQLITE_INDEX_CONSTRAINT_EQ => Op::Eq,
        ffi::SQLITE_INDEX_CONSTRAINT_GT => Op::Gt,
        ffi::SQLITE_INDEX_CONSTRAINT_LE => Op::Le,
        ffi::SQLITE_INDEX_CONSTRAINT_LT => Op::Lt,
        ffi::SQLITE_INDEX_CONSTRAINT_GE => Op::Ge,
        ffi::SQLITE_INDEX_CONSTRAINT_LIKE => Op::Like,
        ffi::SQLITE_INDEX_CONSTRAINT_GLOB => Op::Glob,
        ffi::SQLITE_INDEX_CONSTRAINT_ISNULL => Op::Null,
        ffi::SQLITE_INDEX_CONSTRAINT_LIMIT => Op::Limit,
        ffi::SQLITE_INDEX_CONSTRAINT_OFFSET => Op::Offset,
        _ => return None,
    })
}

/// # Safety
/// SQLite passed `info` to xBestIndex, and the answer is one to it.
unsafe fn reply(vtab: &Vtab, info: *mut sqlite3_index_info, answer: &plan::Answer) -> c_int {
    let text = vtab.api.allocated(&answer.plan.text(&vtab.table.definition));
    if text.is_null() {
        return ffi::SQLITE_NOMEM;
    }
    // SAFETY: by contract; `aConstraintUsage` has an item for each constraint.
    unsafe {
        for (n, (place, (_, op))) in answer.used.iter().zip(&answer.plan.arguments).enumerate() {
            (*(*info).aConstraintUsage.add(*place)).argvIndex = n as c_int + 1;
            if *op == Op::In {
                (vtab.api.vtab_in)(info, *place as c_int, 1);
            }
        }
        (*info).idxNum = answer.plan.number();
        (*info).idxStr = text;
        (*info).needToFreeIdxStr = 1;
        (*info).orderByConsumed = answer.consumes_order.into();
        (*info).estimatedCost = answer.cost;
        (*info).estimatedRows = i64::try_from(answer.rows).unwrap_or(i64::MAX);
        if answer.unique {
            (*info).idxFlags |= ffi::SQLITE_INDEX_SCAN_UNIQUE;
        }
    }
    code::OK
}

unsafe extern "C" fn open(_vtab: *mut sqlite3_vtab, cursor: *mut *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        let base = sqlite3_vtab_cursor { pVtab: std::ptr::null_mut() };
        let made = Box::into_raw(Box::new(VtabCursor { base, cursor: None }));
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
    number: c_int,
    text: *const c_char,
    count: c_int,
    values: *mut *mut sqlite3_value,
) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (vtab, cursor) = unsafe { cursor_of(cursor) };
        let base = cursor.base.pVtab;
        let mut begin = || {
            // SAFETY: SQLite passes the text of the plan, and `count` values.
            let (text, values) = unsafe {
                let text = if text.is_null() { c"" } else { CStr::from_ptr(text) };
                (text.to_string_lossy(), arguments(count, values))
            };
            let columns = vtab.table.definition.columns.len();
            let plan = Plan::parse(number, &text, columns)
                .ok_or_else(|| Error::from(Cause::Internal(format!("the plan {number} {text}"))))?;
            let given = plan.arguments.iter().zip(values).map(|((_, op), value)| {
                // SAFETY: the values are this callback's.
                unsafe { if *op == Op::In { read_in(vtab.api, *value) } else { vec![read(vtab.api, *value)] } }
            });
            let given: Vec<Vec<Value>> = given.collect();
            cursor.cursor = None;
            cursor.cursor = Some(Cursor::new(vtab.table.clone(), plan, &given)?);
            Ok(())
        };
        let begun = begin();
        // SAFETY: the cursor belongs to this table.
        unsafe { outcome(base, begun, During::Read) }
    })
}

/// The values on the right side of an `IN`.
///
/// # Safety
/// `value` is an argument of the running xFilter for which `sqlite3_vtab_in` was asked.
unsafe fn read_in(api: &Api, value: *mut sqlite3_value) -> Vec<Value> {
    let mut found = Vec::new();
    let mut item = std::ptr::null_mut();
    // SAFETY: by contract.
    let mut step = unsafe { (api.vtab_in_first)(value, &raw mut item) };
    while step == code::OK && !item.is_null() {
        // SAFETY: the item is valid until the next one is asked for.
        found.push(unsafe { read(api, item) });
        // SAFETY: by contract.
        step = unsafe { (api.vtab_in_next)(value, &raw mut item) };
    }
    found
}

unsafe extern "C" fn next(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (_, cursor) = unsafe { cursor_of(cursor) };
        let moved = cursor.cursor.as_mut().map_or(Ok(()), Cursor::next);
        // SAFETY: the cursor belongs to this table.
        unsafe { outcome(cursor.base.pVtab, moved, During::Read) }
    })
}

unsafe extern "C" fn eof(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (_, cursor) = unsafe { cursor_of(cursor) };
        cursor.cursor.as_ref().and_then(Cursor::current).is_none().into()
    })
}

unsafe extern "C" fn column(cursor: *mut sqlite3_vtab_cursor, context: *mut sqlite3_context, n: c_int) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (vtab, cursor) = unsafe { cursor_of(cursor) };
        let row = cursor.cursor.as_ref().and_then(Cursor::current);
        let value = row.and_then(|(_, row)| row.get(usize::try_from(n).ok()?)).unwrap_or(&Value::Null);
        // SAFETY: SQLite passes the context of the call.
        unsafe { answer(vtab.api, context, value) };
        code::OK
    })
}

unsafe extern "C" fn rowid(cursor: *mut sqlite3_vtab_cursor, place: *mut i64) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (_, cursor) = unsafe { cursor_of(cursor) };
        let Some((rowid, _)) = cursor.cursor.as_ref().and_then(Cursor::current) else { return code::ERROR };
        // SAFETY: SQLite passes a place for the answer.
        unsafe { place.write(rowid) };
        code::OK
    })
}

unsafe extern "C" fn update(
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
        // SAFETY: as above.
        let changed = unsafe { change(table, raw, &values) }.map(|made| {
            if let Some(made) = made {
                // SAFETY: for an INSERT, SQLite passes a place for the new rowid.
                unsafe { rowid.write(made) };
            }
        });
        // SAFETY: SQLite passes a table of ours.
        unsafe { outcome(vtab, changed, During::Write) }
    })
}

/// xUpdate: `DELETE` has one argument, `INSERT` a NULL first, `UPDATE` the old rowid first.
/// Returns the new rowid of an `INSERT`.
///
/// # Safety
/// SQLite is running xUpdate with these values.
unsafe fn change(vtab: &Vtab, raw: &[*mut sqlite3_value], values: &[Value]) -> Result<Option<i64>> {
    let table = &vtab.table;
    // SAFETY: SQLite is running xUpdate on this connection.
    let (conflict, autocommit) =
        unsafe { ((vtab.api.vtab_on_conflict)(vtab.db), (vtab.api.get_autocommit)(vtab.db) != 0) };
    let conflict = match conflict {
        ffi::SQLITE_ROLLBACK => Conflict::Rollback,
        ffi::SQLITE_IGNORE => Conflict::Ignore,
        ffi::SQLITE_FAIL => Conflict::Fail,
        ffi::SQLITE_REPLACE => Conflict::Replace,
        _ => Conflict::Abort,
    };
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
                vec![false; columns.len()]
            };
            let given = Given { values: columns, omitted: &omitted, rowid, conflict, autocommit };
            let made = match old {
                Value::Integer(old) => table.update(*old, &given)?.map(|_| None),
                _ => table.insert(&given)?.map(Some),
            };
            match made {
                Some(made) => Ok(made),
                // SQLite itself skips the row, and does not count it.
                None if conflict == Conflict::Ignore => {
                    Err(Cause::Constraint { code: code::CONSTRAINT, message: "skipped".into() }.into())
                }
                None => Ok(None),
            }
        }
        _ => Err(Cause::Internal(format!("xUpdate with {} values", values.len())).into()),
    }
}

/// Which columns an `INSERT` leaves to their default. SQLite hands over NULL for those, as for
/// NULL itself.
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
        // A trigger's statement has no text. What was bound was not left out.
        // SAFETY: by contract.
        None => unsafe { (vtab.api.value_frombind)(*raw) == 0 },
    };
    let columns = columns.iter().zip(raw.iter().zip(values));
    columns
        .map(|(column, (raw, value))| column.default && *value == Value::Null && is_left_out(&column.name, raw))
        .collect()
}

/// The columns that the running statement names, if there is just one that it can be.
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
        let listed = omitted::listed(&unsafe { CStr::from_ptr(sql) }.to_string_lossy(), &name);
        match (listed, &found) {
            (Some(listed), None) => found = Some(listed),
            (Some(_), Some(_)) => return None,
            (None, _) => {}
        }
    }
}

unsafe extern "C" fn begin(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        let table = unsafe { vtab_of(vtab) };
        *table.table.writes.borrow_mut() = Writes::begun();
        code::OK
    })
}

unsafe extern "C" fn sync(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        let synced = commit::sync(unsafe { &vtab_of(vtab).table });
        // SAFETY: as above.
        unsafe { outcome(vtab, synced, During::Commit) }
    })
}

unsafe extern "C" fn committed(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        *unsafe { vtab_of(vtab) }.table.writes.borrow_mut() = Writes::default();
        code::OK
    })
}

unsafe extern "C" fn rollback(vtab: *mut sqlite3_vtab) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours.
        let table = unsafe { &vtab_of(vtab).table };
        let committed = table.writes.borrow().committed;
        if !committed {
            commit::rolled_back(table);
        }
        *table.writes.borrow_mut() = Writes::default();
        code::OK
    })
}

unsafe extern "C" fn rename(vtab: *mut sqlite3_vtab, name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours and a name.
        let (table, name) = unsafe { (vtab_of(vtab), CStr::from_ptr(name).to_string_lossy()) };
        // SAFETY: SQLite is running xRename on this connection.
        let autocommit = unsafe { (table.api.get_autocommit)(table.db) } != 0;
        let renamed = table.table.rename(&name, autocommit);
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
        unsafe { vtab_of(vtab) }.table.rollback_to(number);
        code::OK
    })
}
