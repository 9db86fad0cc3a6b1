//! `sqlite3_vfs`: its registration, and the callbacks that take file names.
//!
//! Everything but databases in Redis is delegated to the VFS that was the default when this one was
//! registered: temporary files, sorters, loading of extensions, time and randomness.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::time::Duration;

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_vfs};

use crate::config::unknown_parameter;
use crate::database::busy_sleep;
use crate::ffi::file::{Kind, Open, OsFile};
use crate::ffi::{LOG, failures, guard, report};
use crate::file::name;
use crate::file::name::Named;
use crate::model::error::{Cause, During, Error, Result, code};
use crate::process::sync::Mutex;
use crate::sqlite::api::Api;
use crate::sqlite::fork;

/// A registered VFS with what its callbacks need; `sqlite3_vfs.pAppData` points to it.
struct Registered {
    vfs: sqlite3_vfs,
    api: &'static Api,
    /// The VFS to which everything else is delegated.
    default: *mut sqlite3_vfs,
}

/// Registers the VFS with one SQLite, unless it is already.
pub(crate) fn register(api: &'static Api, make_default: bool) -> Result<()> {
    static REGISTERING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = REGISTERING.lock();
    fork::watch();
    LOG.get_or_init(|| api);
    crate::process::log::set_sink(crate::ffi::log_as);
    let name = CString::new(name::NAME).unwrap_or_default();
    // SAFETY: the name is NUL-terminated.
    let found = unsafe { (api.vfs_find)(name.as_ptr()) };
    let vfs = if found.is_null() { new_vfs(api, name)? } else { found };
    // SAFETY: a VFS that was found is registered, the new one is never freed. Registering one
    // again only changes which is the default.
    let registered = unsafe { (api.vfs_register)(vfs, make_default.into()) };
    if registered != code::OK {
        return Err(Cause::Host(format!("SQLite refuses the VFS: code {registered}")).into());
    }
    Ok(())
}

fn new_vfs(api: &'static Api, name: CString) -> Result<*mut sqlite3_vfs> {
    // SAFETY: null asks for the default VFS.
    let default = unsafe { (api.vfs_find)(std::ptr::null()) };
    if default.is_null() {
        return Err(Cause::Host("this SQLite has no default VFS".into()).into());
    }
    // SAFETY: it is registered, so it is valid.
    let default_size = unsafe { (*default).szOsFile };
    let own_size = c_int::try_from(size_of::<OsFile>()).unwrap_or(c_int::MAX);
    fork::share(api);
    let registered = Box::leak(Box::new(Registered {
        vfs: sqlite3_vfs {
            // 2: with xCurrentTimeInt64.
            iVersion: 2,
            szOsFile: own_size.max(default_size),
            mxPathname: name::MAX_PATH as c_int,
            pNext: std::ptr::null_mut(),
            // Leaked, because the VFS stays registered for as long as the process runs.
            zName: name.into_raw(),
            pAppData: std::ptr::null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: Some(dl_open),
            xDlError: Some(dl_error),
            xDlSym: Some(dl_sym),
            xDlClose: Some(dl_close),
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: Some(get_last_error),
            xCurrentTimeInt64: Some(current_time_int64),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        },
        api,
        default,
    }));
    registered.vfs.pAppData = std::ptr::from_mut(registered).cast();
    Ok(&raw mut registered.vfs)
}

/// # Safety
/// `vfs` is the one that SQLite passes to a callback of a VFS made by [`new_vfs`].
unsafe fn registered<'a>(vfs: *mut sqlite3_vfs) -> &'a Registered {
    // SAFETY: its `pAppData` was set to a `Registered` that is never freed.
    unsafe { &*(*vfs).pAppData.cast::<Registered>() }
}

/// A name that SQLite passes.
///
/// # Safety
/// `name` is null or NUL-terminated, and valid for as long as the result is used.
unsafe fn name_of<'a>(name: *const c_char) -> Result<Option<&'a str>> {
    if name.is_null() {
        return Ok(None);
    }
    // SAFETY: by contract.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_str().map(Some).map_err(|_| {
        let name = name.to_string_lossy().chars().take(80).collect();
        Cause::BadName { name, reason: "it is not UTF-8" }.into()
    })
}

fn outcome(result: Result<c_int>, during: During) -> c_int {
    result.unwrap_or_else(|error| report(&error, during))
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    guard(|| {
        // "xOpen must set sqlite3_file.pMethods […] to NULL if it fails and SQLite is not to call
        // xClose."
        // SAFETY: SQLite passes room for a file.
        unsafe { (*file).pMethods = std::ptr::null() };
        // SAFETY: SQLite passes the VFS that this callback belongs to.
        let registered = unsafe { registered(vfs) };
        // SAFETY: SQLite passes null or a name that stays valid until xClose.
        let opened = unsafe { name_of(name) }.and_then(|text| {
            // SAFETY: as above.
            unsafe { open_kind(registered, name, text, flags) }
        });
        match opened {
            // SAFETY: SQLite passes room for `szOsFile` bytes.
            Ok(Some((kind, given))) => unsafe {
                Open::place(file, kind, registered.api);
                if !out_flags.is_null() {
                    out_flags.write(given);
                }
                code::OK
            },
            Ok(None) => {
                failures::is_for_another_vfs();
                // SAFETY: the default VFS gets what SQLite would have passed to it. Room for a
                // file is enough for both, see `szOsFile`.
                match unsafe { (*registered.default).xOpen } {
                    // SAFETY: as above.
                    Some(open) => unsafe { open(registered.default, name, file, flags, out_flags) },
                    None => code::CANTOPEN,
                }
            }
            Err(error) => report(&error, During::Open),
        }
    })
}

/// The file to open, and the flags granted; `None` if the default VFS must open it.
///
/// # Safety
/// `name` is what SQLite passed to xOpen: URI parameters can be asked for it.
unsafe fn open_kind(
    registered: &Registered,
    name: *const c_char,
    text: Option<&str>,
    flags: c_int,
) -> Result<Option<(Kind, c_int)>> {
    let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
    let Some(text) = text else { return Ok(None) };
    if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        // SAFETY: by contract, and it is a main database.
        let parameters = unsafe { uri_parameters(registered.api, name)? };
        let read_only = flags & ffi::SQLITE_OPEN_READONLY != 0;
        let mut file = name::open(text, &parameters, read_only, create)?;
        failures::opened(file.place());
        // SAFETY: by contract, and it is a main database.
        file.journal_is_named(unsafe { (registered.api.filename_journal)(name) } as usize);
        let granted = if file.is_read_only() {
            (flags & !(ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE)) | ffi::SQLITE_OPEN_READONLY
        } else {
            flags
        };
        return Ok(Some((Kind::Database(Box::new(file)), granted)));
    }
    match name::named(text) {
        Named::SuperJournal(text) if flags & ffi::SQLITE_OPEN_SUPER_JOURNAL != 0 => {
            match name::open_super_journal(text, create) {
                Some(journal) => Ok(Some((Kind::Journal(journal), flags))),
                None => Err(Cause::Unsupported(format!("there is no super-journal {text}")).into()),
            }
        }
        Named::Journal if flags & ffi::SQLITE_OPEN_MAIN_JOURNAL != 0 => {
            Ok(Some((Kind::Journal(name::open_journal(name as usize)), flags)))
        }
        Named::Journal if flags & ffi::SQLITE_OPEN_WAL != 0 => {
            Err(Cause::Unsupported("a database in Redis has no WAL; snapshots already give what it gives".into())
                .into())
        }
        Named::Default | Named::Journal | Named::SuperJournal(_) | Named::Database(_) => Ok(None),
    }
}

/// The URI parameters of a database, as pairs of name and value.
///
/// # Safety
/// `name` is what SQLite passed to xOpen for a main database.
unsafe fn uri_parameters(api: &Api, name: *const c_char) -> Result<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    // SAFETY: by contract; returns null if there is none.
    let mut next = unsafe { (api.uri_key)(name, 0) };
    while !next.is_null() {
        // Read from here on: `sqlite3_uri_parameter` finds only the first of a name, and
        // `sqlite3_uri_key` goes through all before the one that it is asked for.
        // SAFETY: in a name, each key is followed by its value, both NUL-terminated, and the last value by
        // an empty key; that is the "special memory layout" that both are documented to need.
        let (key, value) = unsafe {
            let key = CStr::from_ptr(next);
            (key, CStr::from_ptr(next.add(key.count_bytes() + 1)))
        };
        if key.is_empty() {
            break;
        }
        // SAFETY: as above, another key is behind the value.
        next = unsafe { value.as_ptr().add(value.count_bytes() + 1) };
        match (key.to_str(), value.to_str()) {
            (Ok(key), Ok(value)) => parameters.push((key.to_owned(), value.to_owned())),
            _ => return Err(unknown_parameter(&key.to_string_lossy()).into()),
        }
    }
    Ok(parameters)
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes the VFS that this callback belongs to.
        let default = unsafe { registered(vfs) }.default;
        // SAFETY: SQLite passes a name.
        let named = match unsafe { name_of(name) } {
            Ok(text) => name::named(text.unwrap_or_default()),
            Err(error) => return report(&error, During::Delete),
        };
        if named == Named::Default {
            failures::is_for_another_vfs();
            // SAFETY: the default VFS gets what SQLite passed.
            return match unsafe { (*default).xDelete } {
                // SAFETY: as above.
                Some(delete) => unsafe { delete(default, name, sync_dir) },
                None => code::OK,
            };
        }
        let during = if matches!(named, Named::SuperJournal(_)) { During::Commit } else { During::Delete };
        outcome(name::delete(&named, sync_dir != 0).map(|()| code::OK), during)
    })
}

unsafe extern "C" fn access(vfs: *mut sqlite3_vfs, name: *const c_char, flags: c_int, result: *mut c_int) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes the VFS that this callback belongs to.
        let default = unsafe { registered(vfs) }.default;
        // SAFETY: SQLite passes a name.
        let named = match unsafe { name_of(name) } {
            Ok(text) => name::named(text.unwrap_or_default()),
            Err(error) => return report(&error, During::Access),
        };
        if named == Named::Default {
            failures::is_for_another_vfs();
            // SAFETY: the default VFS gets what SQLite passed.
            return match unsafe { (*default).xAccess } {
                // SAFETY: as above.
                Some(access) => unsafe { access(default, name, flags, result) },
                None => code::IOERR_ACCESS,
            };
        }
        let exists = name::exists(&named).map(|exists| {
            // SAFETY: SQLite passes a place for the answer.
            unsafe { result.write(exists.into()) };
            code::OK
        });
        outcome(exists, During::Access)
    })
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut sqlite3_vfs,
    name: *const c_char,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    guard(|| {
        // SAFETY: SQLite passes a name.
        let full = unsafe { name_of(name) }.and_then(|text| name::full_name(text.unwrap_or_default()));
        let copied = full.and_then(|full| {
            if full.len() >= usize::try_from(size).unwrap_or(0) {
                return Err(Error::from(Cause::BadName { name: full.to_owned(), reason: "it is too long" }));
            }
            // SAFETY: SQLite passes room for `size` bytes, which is more than the name has.
            unsafe {
                out.cast::<u8>().copy_from_nonoverlapping(full.as_ptr(), full.len());
                out.add(full.len()).write(0);
            }
            Ok(code::OK)
        });
        outcome(copied, During::Open)
    })
}

/// Delegates a call to the default VFS, with that VFS's own pointer as first argument.
macro_rules! delegate {
    ($vfs:expr, $method:ident, $missing:expr $(, $argument:expr)*) => {{
        // SAFETY: SQLite passes the VFS that this callback belongs to.
        let default = unsafe { registered($vfs) }.default;
        // SAFETY: the default VFS is registered, so it is valid, and gets what SQLite passed.
        match unsafe { (*default).$method } {
            // SAFETY: as above.
            Some(method) => unsafe { method(default $(, $argument)*) },
            None => $missing,
        }
    }};
}

unsafe extern "C" fn dl_open(vfs: *mut sqlite3_vfs, name: *const c_char) -> *mut c_void {
    delegate!(vfs, xDlOpen, std::ptr::null_mut(), name)
}

unsafe extern "C" fn dl_error(vfs: *mut sqlite3_vfs, size: c_int, message: *mut c_char) {
    delegate!(vfs, xDlError, (), size, message);
}

unsafe extern "C" fn dl_sym(
    vfs: *mut sqlite3_vfs,
    library: *mut c_void,
    symbol: *const c_char,
) -> Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char)> {
    delegate!(vfs, xDlSym, None, library, symbol)
}

unsafe extern "C" fn dl_close(vfs: *mut sqlite3_vfs, library: *mut c_void) {
    delegate!(vfs, xDlClose, (), library);
}

unsafe extern "C" fn randomness(vfs: *mut sqlite3_vfs, size: c_int, out: *mut c_char) -> c_int {
    delegate!(vfs, xRandomness, 0, size, out)
}

/// "The xSleep method causes the calling thread to sleep for at least the number of microseconds given", unless the
/// awaited lease arrives earlier.
unsafe extern "C" fn sleep(vfs: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    let mut left = microseconds;
    guard(|| {
        let time = busy_sleep::sleep(Duration::from_micros(u64::try_from(microseconds).unwrap_or(0)));
        left = c_int::try_from(time.as_micros()).unwrap_or(microseconds);
        code::OK
    });
    if left == 0 {
        return microseconds;
    }
    delegate!(vfs, xSleep, 0, left)
}

unsafe extern "C" fn current_time(vfs: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    delegate!(vfs, xCurrentTime, code::ERROR, out)
}

unsafe extern "C" fn current_time_int64(vfs: *mut sqlite3_vfs, out: *mut sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes the VFS that this callback belongs to.
    let default = unsafe { registered(vfs) }.default;
    // SAFETY: the default VFS is valid; only from version 2 on it has this method.
    if unsafe { (*default).iVersion } >= 2 {
        return delegate!(vfs, xCurrentTimeInt64, code::ERROR, out);
    }
    let mut days = 0.0f64;
    let outcome = delegate!(vfs, xCurrentTime, code::ERROR, &raw mut days);
    // SAFETY: SQLite passes a place for the answer: milliseconds of the Julian day.
    unsafe { out.write((days * 86_400_000.0) as sqlite3_int64) };
    outcome
}

/// The system's error code for the last file error. 0 for an error of this VFS, since `errno` may be unrelated to it.
unsafe extern "C" fn get_last_error(vfs: *mut sqlite3_vfs, size: c_int, message: *mut c_char) -> c_int {
    if failures::is_ours() {
        return 0;
    }
    delegate!(vfs, xGetLastError, 0, size, message)
}
