//! The callbacks of the virtual table `redis` for queries: xBestIndex, and those of a cursor.

use std::ffi::{CStr, c_char, c_int};

use rusqlite::ffi::{self, sqlite3_context, sqlite3_index_info, sqlite3_value, sqlite3_vtab, sqlite3_vtab_cursor};

use crate::ffi::module::{Vtab, outcome, vtab_of};
use crate::ffi::value::{answer, arguments, read};
use crate::ffi::{failures, guard};
use crate::model::error::{Cause, During, Error, code};
use crate::sqlite::api::Api;
use crate::sqlite::value::Value;
use crate::vtab::query::cursor::Cursor;
use crate::vtab::query::plan;
use crate::vtab::query::plan::{Constraint, Op, Plan, Question};
use crate::vtab::query::row_source::Argument;

/// A cursor, with the base structure that SQLite requires.
#[repr(C)]
struct VtabCursor {
    /// The first field, so that SQLite's pointer to `base` points to the whole.
    base: sqlite3_vtab_cursor,
    cursor: Option<Cursor>,
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

pub(super) unsafe extern "C" fn best_index(vtab: *mut sqlite3_vtab, info: *mut sqlite3_index_info) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a table of ours and a question about it.
        let vtab = unsafe { vtab_of(vtab) };
        // SAFETY: as above.
        let question = unsafe { question_of(vtab, info) };
        // SAFETY: as above.
        let known = unsafe { vtab.interruptible(|| vtab.table.known()) };
        let answer = plan::best(&vtab.table.definition, &known, &question);
        // SAFETY: as above; places come from the question.
        unsafe { reply(vtab, info, &answer) }
    })
}

/// # Safety
/// SQLite passed `info` to xBestIndex.
unsafe fn question_of(vtab: &Vtab, info: *mut sqlite3_index_info) -> Question {
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
    for (n, constraint) in constraints.iter().enumerate() {
        let Some(mut op) = op_of(constraint.op).filter(|_| constraint.usable != 0) else { continue };
        // SAFETY: by contract, for a constraint with this number.
        let (collation, is_in, literal) = unsafe {
            let mut operand = std::ptr::null_mut();
            let known = (vtab.api.vtab_rhs_value)(info, n as c_int, &raw mut operand);
            (
                (vtab.api.vtab_collation)(info, n as c_int),
                (vtab.api.vtab_in)(info, n as c_int, -1) != 0,
                known == code::OK && !operand.is_null(),
            )
        };
        // SAFETY: SQLite answers null or NUL-terminated text.
        let collation = (!collation.is_null()).then(|| unsafe { CStr::from_ptr(collation) }.to_bytes());
        let binary = match op {
            Op::Like => vtab.has_own_function("like"),
            Op::Glob => vtab.has_own_function("glob"),
            _ => collation.is_none_or(|collation| collation.eq_ignore_ascii_case(b"BINARY")),
        };
        if op == Op::Eq && is_in {
            op = Op::In;
        }
        let column = usize::try_from(constraint.iColumn).ok();
        question.constraints.push((n, Constraint { column, op, binary, literal }));
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
        for (n, (place, wanted)) in answer.used.iter().zip(&answer.plan.arguments).enumerate() {
            // SQLite checks every constraint again, and applies LIMIT and OFFSET itself.
            (*(*info).aConstraintUsage.add(*place)).argvIndex = n as c_int + 1;
            if wanted.op == Op::In {
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

pub(super) unsafe extern "C" fn open(_vtab: *mut sqlite3_vtab, cursor: *mut *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        let base = sqlite3_vtab_cursor { pVtab: std::ptr::null_mut() };
        let made = Box::into_raw(Box::new(VtabCursor { base, cursor: None }));
        // SAFETY: SQLite passes a place for the cursor.
        unsafe { cursor.write(made.cast()) };
        code::OK
    })
}

pub(super) unsafe extern "C" fn close(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor that `open` made, for the last time.
        drop(unsafe { Box::from_raw(cursor.cast::<VtabCursor>()) });
        code::OK
    })
}

pub(super) unsafe extern "C" fn filter(
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
        failures::goes_on(vtab.db);
        let begin = || {
            // SAFETY: SQLite passes the text of the plan, and `count` values.
            let (text, values) = unsafe {
                let text = if text.is_null() { c"" } else { CStr::from_ptr(text) };
                (text.to_string_lossy(), arguments(count, values))
            };
            let columns = vtab.table.definition.columns.len();
            let plan = Plan::parse(number, &text, columns)
                .ok_or_else(|| Error::from(Cause::Internal(format!("the plan {number} {text}"))))?;
            let given = plan.arguments.iter().zip(values).map(|(wanted, value)| {
                // SAFETY: the values are this callback's.
                unsafe {
                    let bound = (vtab.api.value_frombind)(*value) != 0;
                    let is_in = wanted.op == Op::In;
                    let values = if is_in { read_in(vtab.api, *value) } else { vec![read(vtab.api, *value)] };
                    Argument { values, bound }
                }
            });
            let given: Vec<Argument> = given.collect();
            let explicit = vtab.in_transaction();
            if !explicit {
                vtab.table.session.forget_reads();
            }
            vtab.table.session.reopen()?;
            cursor.cursor = None;
            cursor.cursor = Some(Cursor::new(vtab.table.clone(), plan, &given, explicit)?);
            Ok(())
        };
        // SAFETY: SQLite is running a callback of the table.
        let begun = unsafe { vtab.interruptible(begin) };
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

pub(super) unsafe extern "C" fn next(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (vtab, cursor) = unsafe { cursor_of(cursor) };
        // SAFETY: SQLite is running a callback of the table.
        let moved = unsafe { vtab.interruptible(|| cursor.cursor.as_mut().map_or(Ok(()), Cursor::next)) };
        // SAFETY: the cursor belongs to this table.
        unsafe { outcome(cursor.base.pVtab, moved, During::Read) }
    })
}

pub(super) unsafe extern "C" fn eof(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (_, cursor) = unsafe { cursor_of(cursor) };
        cursor.cursor.as_ref().and_then(Cursor::rowid).is_none().into()
    })
}

pub(super) unsafe extern "C" fn column(
    cursor: *mut sqlite3_vtab_cursor,
    context: *mut sqlite3_context,
    n: c_int,
) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (vtab, cursor) = unsafe { cursor_of(cursor) };
        let generated = usize::try_from(n).ok().and_then(|n| vtab.table.definition.columns.get(n));
        // SAFETY: SQLite passes the context of the call.
        if generated.is_some_and(|column| column.generated) && unsafe { (vtab.api.vtab_nochange)(context) } != 0 {
            // Without a result, xUpdate learns that the statement does not set the column.
            return code::OK;
        }
        let base = cursor.base.pVtab;
        let value = match (&mut cursor.cursor, usize::try_from(n)) {
            // SAFETY: SQLite is running a callback of the table.
            (Some(cursor), Ok(n)) => unsafe { vtab.interruptible(|| cursor.value(n)) },
            _ => Ok(None),
        };
        let answered = value.map(|value| {
            // SAFETY: SQLite passes the context of the call.
            unsafe { answer(vtab.api, context, value.unwrap_or(&Value::Null)) };
        });
        // SAFETY: the cursor belongs to this table.
        unsafe { outcome(base, answered, During::Read) }
    })
}

pub(super) unsafe extern "C" fn rowid(cursor: *mut sqlite3_vtab_cursor, place: *mut i64) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a cursor of ours.
        let (_, cursor) = unsafe { cursor_of(cursor) };
        let Some(rowid) = cursor.cursor.as_ref().and_then(Cursor::rowid) else { return code::ERROR };
        // SAFETY: SQLite passes a place for the answer.
        unsafe { place.write(rowid) };
        code::OK
    })
}
