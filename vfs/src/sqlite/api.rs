//! SQLite's functions as a table of pointers: those that are linked in, or those of the host that
//! loaded the extension. A process can have both, so each VFS has its own table.

use std::ffi::{c_char, c_int, c_void};

use rusqlite::ffi::{
    self, sqlite3, sqlite3_context, sqlite3_index_info, sqlite3_module, sqlite3_mutex, sqlite3_stmt, sqlite3_value,
    sqlite3_vfs,
};

use crate::model::error::{Cause, Result};
use crate::process::sync::Mutex;
use crate::sqlite::interrupt::flag::{IsInterrupted, Place};

/// The oldest SQLite that has all of the functions: 3.38.
const OLDEST: c_int = 3_038_000;

/// A function that `sqlite3_auto_extension` calls for each new connection.
pub(crate) type EntryPoint = unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const c_void) -> c_int;
/// `SQLITE_TRANSIENT`: makes SQLite copy a value.
pub(crate) fn transient() -> Option<Destructor> {
    // SAFETY: SQLite defines this value of a destructor; it is compared, never called.
    Some(unsafe { std::mem::transmute::<isize, Destructor>(-1) })
}

/// A scalar SQL function.
pub(crate) type ScalarFunction = unsafe extern "C" fn(*mut sqlite3_context, c_int, *mut *mut sqlite3_value);
/// Frees a value that was passed to SQLite.
pub(crate) type Destructor = unsafe extern "C" fn(*mut c_void);

/// Declares the table: for each function its slot in `sqlite3_api_routines`, its name and its
/// type. Slots are counted from 0. SQLite only ever appends to that structure (`sqlite3ext.h`),
/// so a slot is the same in every version that has it. A function that is newer than [`OLDEST`]
/// has the version that introduced it, and is `None` in older ones.
macro_rules! functions {
    (
        $($slot:literal $field:ident = $linked:expr, $type:ty;)*
        $(since $version:literal: $new_slot:literal $new:ident = $new_linked:expr, $new_type:ty;)*
    ) => {
        /// The functions used here, each as <https://sqlite.org/c3ref/funclist.html> has it.
        pub(crate) struct Api {
            $(pub $field: $type,)*
            $(pub $new: Option<$new_type>,)*
            pub interrupted_at: Place,
        }

        impl Api {
            /// The functions of the SQLite that this crate is linked with.
            pub(crate) fn linked() -> &'static Api {
                static LINKED: Api = Api::new_linked();
                &LINKED
            }

            pub(crate) const fn new_linked() -> Api {
                Api {
                    $($field: $linked,)*
                    $($new: {
                        // A SQLite that is not part of this crate may be older.
                        #[cfg(feature = "bundled")]
                        let linked: Option<$new_type> = Some($new_linked);
                        #[cfg(not(feature = "bundled"))]
                        let linked = None;
                        linked
                    },)*
                    interrupted_at: Place::unknown(),
                }
            }

            /// # Safety
            /// `routines` is a `sqlite3_api_routines` of this version, which has all of the slots.
            unsafe fn read(routines: *const *const c_void, version: c_int) -> Result<Api> {
                $(
                    // SAFETY: by contract the slot exists.
                    let pointer = unsafe { *routines.add($slot) };
                    if pointer.is_null() {
                        let name = stringify!($field);
                        return Err(Cause::Host(format!("this SQLite was built without sqlite3_{name}")).into());
                    }
                    // SAFETY: by contract the slot holds a function of this type.
                    let $field = unsafe { std::mem::transmute::<*const c_void, $type>(pointer) };
                )*
                $(
                    // SAFETY: the slot exists from this version on, and is null or holds a function of this type.
                    let $new = (version >= $version).then(|| unsafe {
                        std::mem::transmute::<*const c_void, Option<$new_type>>(*routines.add($new_slot))
                    });
                )*
                Ok(Api { $($field,)* $($new: $new.flatten(),)* interrupted_at: Place::unknown() })
            }
        }
    };
}

functions! {
    3 bind_double = ffi::sqlite3_bind_double,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int, f64) -> c_int;
    5 bind_int64 = ffi::sqlite3_bind_int64,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int, i64) -> c_int;
    6 bind_null = ffi::sqlite3_bind_null,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> c_int;
    16 close = ffi::sqlite3_close,
        unsafe extern "C" fn(*mut sqlite3) -> c_int;
    19 column_blob = ffi::sqlite3_column_blob,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> *const c_void;
    20 column_bytes = ffi::sqlite3_column_bytes,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> c_int;
    22 column_count = ffi::sqlite3_column_count,
        unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int;
    27 column_double = ffi::sqlite3_column_double,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> f64;
    29 column_int64 = ffi::sqlite3_column_int64,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> i64;
    36 column_text = ffi::sqlite3_column_text,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> *const u8;
    38 column_type = ffi::sqlite3_column_type,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int) -> c_int;
    50 declare_vtab = ffi::sqlite3_declare_vtab,
        unsafe extern "C" fn(*mut sqlite3, *const c_char) -> c_int;
    53 errmsg = ffi::sqlite3_errmsg,
        unsafe extern "C" fn(*mut sqlite3) -> *const c_char;
    57 finalize = ffi::sqlite3_finalize,
        unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int;
    58 free = ffi::sqlite3_free,
        unsafe extern "C" fn(*mut c_void);
    60 get_autocommit = ffi::sqlite3_get_autocommit,
        unsafe extern "C" fn(*mut sqlite3) -> c_int;
    64 interrupt = ffi::sqlite3_interrupt,
        unsafe extern "C" fn(*mut sqlite3);
    77 reset = ffi::sqlite3_reset,
        unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int;
    79 result_double = ffi::sqlite3_result_double,
        unsafe extern "C" fn(*mut sqlite3_context, f64);
    80 result_error = ffi::sqlite3_result_error,
        unsafe extern "C" fn(*mut sqlite3_context, *const c_char, c_int);
    83 result_int64 = ffi::sqlite3_result_int64,
        unsafe extern "C" fn(*mut sqlite3_context, i64);
    84 result_null = ffi::sqlite3_result_null,
        unsafe extern "C" fn(*mut sqlite3_context);
    85 result_text = ffi::sqlite3_result_text,
        unsafe extern "C" fn(*mut sqlite3_context, *const c_char, c_int, Option<Destructor>);
    94 step = ffi::sqlite3_step,
        unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int;
    101 user_data = ffi::sqlite3_user_data,
        unsafe extern "C" fn(*mut sqlite3_context) -> *mut c_void;
    102 value_blob = ffi::sqlite3_value_blob,
        unsafe extern "C" fn(*mut sqlite3_value) -> *const c_void;
    103 value_bytes = ffi::sqlite3_value_bytes,
        unsafe extern "C" fn(*mut sqlite3_value) -> c_int;
    105 value_double = ffi::sqlite3_value_double,
        unsafe extern "C" fn(*mut sqlite3_value) -> f64;
    107 value_int64 = ffi::sqlite3_value_int64,
        unsafe extern "C" fn(*mut sqlite3_value) -> i64;
    109 value_text = ffi::sqlite3_value_text,
        unsafe extern "C" fn(*mut sqlite3_value) -> *const u8;
    113 value_type = ffi::sqlite3_value_type,
        unsafe extern "C" fn(*mut sqlite3_value) -> c_int;
    116 prepare_v2 = ffi::sqlite3_prepare_v2,
        unsafe extern "C" fn(*mut sqlite3, *const c_char, c_int, *mut *mut sqlite3_stmt, *mut *const c_char) -> c_int;
    118 clear_bindings = ffi::sqlite3_clear_bindings,
        unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int;
    119 create_module_v2 = ffi::sqlite3_create_module_v2,
        unsafe extern "C" fn(*mut sqlite3, *const c_char, *const sqlite3_module, *mut c_void, Option<Destructor>) -> c_int;
    127 file_control = ffi::sqlite3_file_control,
        unsafe extern "C" fn(*mut sqlite3, *const c_char, c_int, *mut c_void) -> c_int;
    130 mutex_alloc = ffi::sqlite3_mutex_alloc,
        unsafe extern "C" fn(c_int) -> *mut sqlite3_mutex;
    133 mutex_leave = ffi::sqlite3_mutex_leave,
        unsafe extern "C" fn(*mut sqlite3_mutex);
    134 mutex_try = ffi::sqlite3_mutex_try,
        unsafe extern "C" fn(*mut sqlite3_mutex) -> c_int;
    135 open_v2 = ffi::sqlite3_open_v2,
        unsafe extern "C" fn(*const c_char, *mut *mut sqlite3, c_int, *const c_char) -> c_int;
    141 vfs_find = ffi::sqlite3_vfs_find,
        unsafe extern "C" fn(*const c_char) -> *mut sqlite3_vfs;
    142 vfs_register = ffi::sqlite3_vfs_register,
        unsafe extern "C" fn(*mut sqlite3_vfs, c_int) -> c_int;
    146 result_error_code = ffi::sqlite3_result_error_code,
        unsafe extern "C" fn(*mut sqlite3_context, c_int);
    152 next_stmt = ffi::sqlite3_next_stmt,
        unsafe extern "C" fn(*mut sqlite3, *mut sqlite3_stmt) -> *mut sqlite3_stmt;
    153 sql = ffi::sqlite3_sql,
        unsafe extern "C" fn(*mut sqlite3_stmt) -> *const c_char;
    162 create_function_v2 = ffi::sqlite3_create_function_v2,
        unsafe extern "C" fn(
            *mut sqlite3,
            *const c_char,
            c_int,
            c_int,
            *mut c_void,
            Option<ScalarFunction>,
            Option<ScalarFunction>,
            Option<unsafe extern "C" fn(*mut sqlite3_context)>,
            Option<Destructor>,
        ) -> c_int;
    166 extended_errcode = ffi::sqlite3_extended_errcode,
        unsafe extern "C" fn(*mut sqlite3) -> c_int;
    167 log = ffi::sqlite3_log,
        unsafe extern "C" fn(c_int, *const c_char, ...);
    177 vtab_config = ffi::sqlite3_vtab_config,
        unsafe extern "C" fn(*mut sqlite3, c_int, ...) -> c_int;
    178 vtab_on_conflict = ffi::sqlite3_vtab_on_conflict,
        unsafe extern "C" fn(*mut sqlite3) -> c_int;
    184 stmt_busy = ffi::sqlite3_stmt_busy,
        unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int;
    185 stmt_readonly = ffi::sqlite3_stmt_readonly,
        unsafe extern "C" fn(*mut sqlite3_stmt) -> c_int;
    192 auto_extension = auto_extension_linked,
        unsafe extern "C" fn(Option<EntryPoint>) -> c_int;
    193 bind_blob64 = ffi::sqlite3_bind_blob64,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int, *const c_void, u64, Option<Destructor>) -> c_int;
    194 bind_text64 = ffi::sqlite3_bind_text64,
        unsafe extern "C" fn(*mut sqlite3_stmt, c_int, *const c_char, u64, Option<Destructor>, u8) -> c_int;
    197 malloc64 = ffi::sqlite3_malloc64,
        unsafe extern "C" fn(u64) -> *mut c_void;
    198 msize = ffi::sqlite3_msize,
        unsafe extern "C" fn(*mut c_void) -> u64;
    201 result_blob64 = ffi::sqlite3_result_blob64,
        unsafe extern "C" fn(*mut sqlite3_context, *const c_void, u64, Option<Destructor>);
    202 result_text64 = ffi::sqlite3_result_text64,
        unsafe extern "C" fn(*mut sqlite3_context, *const c_char, u64, Option<Destructor>, u8);
    222 vtab_nochange = ffi::sqlite3_vtab_nochange,
        unsafe extern "C" fn(*mut sqlite3_context) -> c_int;
    223 value_nochange = ffi::sqlite3_value_nochange,
        unsafe extern "C" fn(*mut sqlite3_value) -> c_int;
    224 vtab_collation = ffi::sqlite3_vtab_collation,
        unsafe extern "C" fn(*mut sqlite3_index_info, c_int) -> *const c_char;
    242 value_frombind = ffi::sqlite3_value_frombind,
        unsafe extern "C" fn(*mut sqlite3_value) -> c_int;
    245 uri_key = ffi::sqlite3_uri_key,
        unsafe extern "C" fn(*const c_char, c_int) -> *const c_char;
    247 filename_journal = ffi::sqlite3_filename_journal,
        unsafe extern "C" fn(*const c_char) -> *const c_char;
    252 txn_state = ffi::sqlite3_txn_state,
        unsafe extern "C" fn(*mut sqlite3, *const c_char) -> c_int;
    257 vtab_rhs_value = ffi::sqlite3_vtab_rhs_value,
        unsafe extern "C" fn(*mut sqlite3_index_info, c_int, *mut *mut sqlite3_value) -> c_int;
    259 vtab_in = ffi::sqlite3_vtab_in,
        unsafe extern "C" fn(*mut sqlite3_index_info, c_int, c_int) -> c_int;
    260 vtab_in_first = ffi::sqlite3_vtab_in_first,
        unsafe extern "C" fn(*mut sqlite3_value, *mut *mut sqlite3_value) -> c_int;
    261 vtab_in_next = ffi::sqlite3_vtab_in_next,
        unsafe extern "C" fn(*mut sqlite3_value, *mut *mut sqlite3_value) -> c_int;
    since 3_039_000: 264 db_name = ffi::sqlite3_db_name,
        unsafe extern "C" fn(*mut sqlite3, c_int) -> *const c_char;
    since 3_041_000: 266 is_interrupted = ffi::sqlite3_is_interrupted,
        IsInterrupted;
}

/// Slot of `sqlite3_libversion_number`, which is as old as the structure.
const LIBVERSION_NUMBER: usize = 67;

/// `sqlite3_auto_extension` as declared for [`Api`].
unsafe extern "C" fn auto_extension_linked(entry_point: Option<EntryPoint>) -> c_int {
    // SAFETY: the last parameter of an entry point is `*const sqlite3_api_routines` there and
    // `*const c_void` here, which is the same to C.
    unsafe {
        ffi::sqlite3_auto_extension(std::mem::transmute::<
            Option<EntryPoint>,
            Option<unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const ffi::sqlite3_api_routines) -> c_int>,
        >(entry_point))
    }
}

impl Api {
    /// The functions of the host that loads the extension. Calls with the same table return the same `Api`.
    ///
    /// # Errors
    /// The host's SQLite is too old, or leaves one of the functions out.
    ///
    /// # Safety
    /// `routines` is the `sqlite3_api_routines` that SQLite passes to an extension's entry point;
    /// it stays valid for as long as the process runs.
    pub(crate) unsafe fn of_host(routines: *const c_void) -> Result<&'static Api> {
        static KNOWN: Mutex<Vec<(usize, &'static Api)>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock();
        if let Some((_, api)) = known.iter().find(|(address, _)| *address == routines as usize) {
            return Ok(api);
        }
        if routines.is_null() {
            return Err(Cause::Host("this SQLite does not load extensions".into()).into());
        }
        // SAFETY: by contract the slot holds this function, which takes nothing.
        let version = unsafe {
            let pointer = *routines.cast::<*const c_void>().add(LIBVERSION_NUMBER);
            std::mem::transmute::<*const c_void, unsafe extern "C" fn() -> c_int>(pointer)()
        };
        if version < OLDEST {
            let (major, minor) = (version / 1_000_000, version / 1000 % 1000);
            return Err(Cause::Host(format!(
                "sqlite-redis needs SQLite 3.38 or later, this program has {major}.{minor}"
            ))
            .into());
        }
        // SAFETY: by contract, and the version was checked.
        let api = Box::leak(Box::new(unsafe { Api::read(routines.cast(), version)? }));
        known.push((routines as usize, api));
        Ok(api)
    }

    /// Copies a text into memory that SQLite will free. Null if there is no memory.
    pub(crate) fn allocated(&self, text: &str) -> *mut c_char {
        let bytes = text.as_bytes();
        // SAFETY: `sqlite3_malloc64` returns null or as many bytes as asked for.
        let copy = unsafe { (self.malloc64)(bytes.len() as u64 + 1) }.cast::<u8>();
        if !copy.is_null() {
            // SAFETY: there is room for the bytes and the NUL, and nobody else has it yet.
            unsafe {
                copy.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                copy.add(bytes.len()).write(0);
            }
        }
        copy.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_host_is_refused_with_its_version() {
        extern "C" fn old() -> c_int {
            3_034_001
        }
        let mut routines = vec![std::ptr::null::<c_void>(); 300];
        routines[LIBVERSION_NUMBER] = old as extern "C" fn() -> c_int as *const c_void;
        // SAFETY: only the version is called, and it is there.
        let error = unsafe { Api::of_host(routines.as_ptr().cast()) }.err().unwrap().to_string();
        assert!(error.contains("3.38") && error.contains("3.34"), "{error}");
    }

    #[test]
    fn a_host_that_lacks_a_function_is_refused() {
        extern "C" fn new() -> c_int {
            3_045_000
        }
        let mut routines = vec![std::ptr::null::<c_void>(); 300];
        routines[LIBVERSION_NUMBER] = new as extern "C" fn() -> c_int as *const c_void;
        // SAFETY: only the version is called, and it is there.
        assert!(unsafe { Api::of_host(routines.as_ptr().cast()) }.is_err());
    }
}
