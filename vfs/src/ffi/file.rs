//! `sqlite3_io_methods`: the callbacks of an open file.

use std::ffi::{CStr, c_char, c_int, c_void};

use rusqlite::ffi::{self, sqlite3, sqlite3_file, sqlite3_int64, sqlite3_io_methods};

use crate::ffi::activity::{files_that_write, may_have_read, running, writes};
use crate::ffi::integrity::end_check;
use crate::ffi::{failures, guard, report_on};
use crate::file::{Answer, File, Level};
use crate::model::error::{Cause, During, Error, Result, code};
use crate::sqlite::api::Api;
use crate::sqlite::interrupt;
use crate::transaction::journal::Journal;

/// The file control that [`crate::last_error`] asks with; its argument is `*mut LastError`.
/// SQLite leaves the numbers from 100 on to applications.
pub(crate) const FCNTL_LAST_ERROR: c_int = 0x5244_4953;

/// A process may have this library twice, as a crate and as an extension, and only one of them has registered
/// the VFS. The other must not be given an answer in a form that may not be its own.
static THIS_LIBRARY: u8 = 0;

/// The argument of [`FCNTL_LAST_ERROR`].
#[repr(C)]
pub(crate) struct LastError {
    library: *const u8,
    pub answer: Option<Error>,
}

impl LastError {
    pub(crate) fn question() -> Self {
        LastError { library: &raw const THIS_LIBRARY, answer: None }
    }
}

/// What SQLite allocates `szOsFile` bytes for. `base` comes first, as SQLite's contract wants.
#[repr(C)]
pub(crate) struct OsFile {
    base: sqlite3_file,
    /// Owned; freed by `xClose`.
    open: *mut Open,
}

/// An open file, and the SQLite that has it open.
pub(crate) struct Open {
    kind: Kind,
    api: &'static Api,
    /// Where SQLite has the connection that uses this file at the time; null until it has told.
    connection: *const *mut sqlite3,
}

pub(crate) enum Kind {
    Database(Box<File>),
    Journal(Journal),
}

impl Open {
    /// Puts an open file where SQLite wants it.
    ///
    /// # Safety
    /// `file` points to `szOsFile` bytes, which nobody else uses.
    pub(crate) unsafe fn place(file: *mut sqlite3_file, kind: Kind, api: &'static Api) {
        let open = Box::into_raw(Box::new(Open { kind, api, connection: std::ptr::null() }));
        // SAFETY: by contract; `szOsFile` is at least the size of `OsFile`.
        unsafe { file.cast::<OsFile>().write(OsFile { base: sqlite3_file { pMethods: &METHODS }, open }) };
    }

    /// The open database in this file.
    ///
    /// # Safety
    /// [`Open::place`] has filled `file` with a database, and nobody else uses it.
    #[cfg(test)]
    pub(super) unsafe fn database_at<'a>(file: *mut sqlite3_file) -> &'a mut File {
        // SAFETY: by contract.
        match unsafe { &mut (*(*file.cast::<OsFile>()).open).kind } {
            Kind::Database(file) => file,
            Kind::Journal(_) => panic!("a journal"),
        }
    }

    /// Runs a method. What only reads or takes a lock ends with `sqlite3_interrupt`. After any other failure than an I/O
    /// error, SQLite goes on to trust what it has written or is taking back.
    ///
    /// # Safety
    /// SQLite is running a method of this file.
    unsafe fn run<T>(&mut self, during: During, body: impl FnOnce(&mut Open) -> T) -> T {
        let (api, db) = (self.api, self.db());
        let may_end = matches!(during, During::Read | During::Lock | During::Size | During::Control);
        let method = || if may_end { body(self) } else { interrupt::never(|| body(self)) };
        // SAFETY: by contract.
        unsafe { interrupt::on_connection(api, db, method) }
    }

    /// The code of an outcome; a failure is told to all who may ask for it.
    fn code(&mut self, outcome: Result<c_int>, during: During) -> c_int {
        let error = match outcome {
            Ok(code) => return code,
            Err(error) => error,
        };
        let error = match &mut self.kind {
            Kind::Database(file) => {
                let error = error.at(file.place());
                file.failed(&error);
                error
            }
            Kind::Journal(journal) => journal.failed(error),
        };
        if during == During::Read && matches!(self.kind, Kind::Database(_)) {
            // SAFETY: SQLite is reading for the connection, so that is in use by this thread.
            unsafe { end_check(self.api, self.db(), running(self.api, self.connection), &error) };
        }
        report_on(self.db(), &error, during)
    }

    /// The connection that uses this file at the time; null until it is known.
    fn db(&self) -> *mut sqlite3 {
        // SAFETY: SQLite has told this place, and keeps it for as long as the file is open.
        if self.connection.is_null() { std::ptr::null_mut() } else { unsafe { *self.connection } }
    }
}

/// Runs a callback on an open file.
///
/// # Safety
/// `file` is one that [`Open::place`] has filled and `xClose` has not had yet, and SQLite calls
/// its methods one at a time.
unsafe fn with(file: *mut sqlite3_file, during: During, body: impl FnOnce(&mut Open) -> Result<c_int>) -> c_int {
    guard(|| {
        // SAFETY: by contract.
        let open = unsafe { &mut *(*file.cast::<OsFile>()).open };
        // SAFETY: SQLite calls this for the connection that it has told of, if it has.
        let outcome = unsafe { open.run(during, body) };
        open.code(outcome, during)
    })
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Version 1 has no shared memory: SQLite refuses WAL mode by itself.
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    guard(|| {
        let os_file = file.cast::<OsFile>();
        // SAFETY: SQLite closes a file once; `open` came out of a box in `Open::place`.
        let mut open = unsafe { Box::from_raw((*os_file).open) };
        // SAFETY: as above. Without methods, SQLite takes the file for closed.
        unsafe { (*os_file).base.pMethods = std::ptr::null() };
        let outcome = match &mut open.kind {
            Kind::Database(file) => file.close(),
            Kind::Journal(_) => Ok(()),
        };
        if let (Err(error), Kind::Database(file)) = (outcome, &open.kind) {
            crate::process::log::log(&error.at(file.place()).to_string());
        }
        code::OK
    })
}

unsafe extern "C" fn read(file: *mut sqlite3_file, buffer: *mut c_void, amount: c_int, offset: sqlite3_int64) -> c_int {
    let body = |open: &mut Open| {
        let (amount, offset) = span(amount, offset)?;
        // SAFETY: SQLite passes a buffer of `amount` bytes, which it does not use meanwhile. They
        // may be uninitialised, so they are set before they are borrowed as bytes.
        let buffer = unsafe {
            buffer.cast::<u8>().write_bytes(0, amount);
            std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount)
        };
        let whole = match &mut open.kind {
            Kind::Database(file) => file.read(offset, buffer)?,
            Kind::Journal(journal) => journal.read(offset, buffer)? == amount,
        };
        // "If xRead() returns SQLITE_IOERR_SHORT_READ it must also fill in the unread portions
        // of the buffer with zeros."
        Ok(if whole { code::OK } else { code::IOERR_SHORT_READ })
    };
    // SAFETY: SQLite calls this with a file that it has open.
    unsafe { with(file, During::Read, body) }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    data: *const c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    let body = |open: &mut Open| {
        let (amount, offset) = span(amount, offset)?;
        // SAFETY: SQLite passes `amount` bytes.
        let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), amount) };
        match &mut open.kind {
            Kind::Database(file) => file.write(offset, data)?,
            Kind::Journal(journal) => journal.write(offset, data)?,
        }
        Ok(code::OK)
    };
    // SAFETY: SQLite calls this with a file that it has open.
    unsafe { with(file, During::Write, body) }
}

/// A length and an offset as SQLite passes them.
fn span(amount: c_int, offset: sqlite3_int64) -> Result<(usize, u64)> {
    match (usize::try_from(amount), u64::try_from(offset)) {
        (Ok(amount), Ok(offset)) => Ok((amount, offset)),
        _ => Err(Cause::Internal(format!("{amount} bytes at {offset}")).into()),
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    let body = |open: &mut Open| {
        let (_, size) = span(0, size)?;
        match &mut open.kind {
            Kind::Database(file) => file.truncate(size)?,
            Kind::Journal(journal) => journal.truncate(size)?,
        }
        Ok(code::OK)
    };
    // SAFETY: SQLite calls this with a file that it has open.
    unsafe { with(file, During::Write, body) }
}

/// Nothing to do: a database is committed by `SQLITE_FCNTL_SYNC`, which comes also where this
/// does not (`synchronous=OFF`), and a journal is for this process only.
unsafe extern "C" fn sync(_file: *mut sqlite3_file, _flags: c_int) -> c_int {
    code::OK
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    let body = |open: &mut Open| {
        let bytes = match &mut open.kind {
            Kind::Database(file) => file.size()?,
            Kind::Journal(journal) => journal.size()?,
        };
        // SAFETY: SQLite passes a place for the answer.
        unsafe { size.write(bytes as sqlite3_int64) };
        Ok(code::OK)
    };
    // SAFETY: SQLite calls this with a file that it has open.
    unsafe { with(file, During::Size, body) }
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    let body = |open: &mut Open| {
        let level = known_level(level)?;
        // SAFETY: SQLite calls this for the connection, so that is in use by this thread.
        let writes = || unsafe { writes(open.api, open.connection) };
        let db = open.db();
        if let Kind::Database(file) = &mut open.kind {
            if file.level() == Level::None {
                failures::goes_on(db);
                file.expect(db as usize, writes());
            } else if file.is_overtaken() {
                // SAFETY: as above.
                if unsafe { may_have_read(open.api, open.connection) } {
                    file.goes_on_reading();
                }
            }
            file.lock(level)?;
        }
        Ok(code::OK)
    };
    // SAFETY: SQLite calls this with a file that it has open.
    unsafe { with(file, During::Lock, body) }
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    let body = |open: &mut Open| {
        if let Kind::Database(file) = &mut open.kind
            && let Err(error) = file.unlock(known_level(level)?)
        {
            // The lease ends by itself; SQLite can do nothing about it. It is not the failure that
            // a user asks for either: that is the one before, which led to this.
            crate::process::log::log(&error.at(file.place()).to_string());
        }
        Ok(code::OK)
    };
    // SAFETY: SQLite calls this with a file that it has open.
    unsafe { with(file, During::Unlock, body) }
}

fn known_level(level: c_int) -> Result<Level> {
    Level::from_int(level).ok_or_else(|| Cause::Internal(format!("lock level {level}")).into())
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, reserved: *mut c_int) -> c_int {
    let body = |open: &mut Open| {
        let held = match &mut open.kind {
            Kind::Database(file) => file.reserved()?,
            Kind::Journal(_) => false,
        };
        // SAFETY: SQLite passes a place for the answer.
        unsafe { reserved.write(held.into()) };
        Ok(code::OK)
    };
    // SAFETY: SQLite calls this with a file that it has open.
    unsafe { with(file, During::Lock, body) }
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    let during = match op {
        ffi::SQLITE_FCNTL_SYNC => During::Commit,
        ffi::SQLITE_FCNTL_COMMIT_PHASETWO => During::CommitPhaseTwo,
        _ => During::Control,
    };
    let body = |open: &mut Open| {
        if op == ffi::SQLITE_FCNTL_PDB {
            open.connection = argument.cast();
        }
        let db = open.db();
        let Open { kind, api, .. } = open;
        match kind {
            Kind::Database(database) if op == ffi::SQLITE_FCNTL_SYNC => {
                // SAFETY: "...the argument is a pointer to the name of the super-journal", or null.
                let name = (!argument.is_null()).then(|| unsafe { CStr::from_ptr(argument.cast()) }.to_string_lossy());
                // SAFETY: SQLite commits for this connection, so that is in use by this thread.
                let files = unsafe { files_that_write(api, db, file, &raw const METHODS) };
                database.sync(name.as_deref(), files).map(|()| code::OK)
            }
            // SAFETY: SQLite passes the argument that belongs to the operation.
            Kind::Database(database) => unsafe { control(database, api, op, argument) },
            Kind::Journal(_) => Ok(code::NOTFOUND),
        }
    };
    // SAFETY: SQLite calls this with a file that it has open.
    unsafe { with(file, during, body) }
}

/// The file controls of a database (<https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>).
///
/// # Safety
/// `argument` is what SQLite documents for `op`.
unsafe fn control(file: &mut File, api: &Api, op: c_int, argument: *mut c_void) -> Result<c_int> {
    match op {
        // Of a commit that is done an error here would say that it failed.
        ffi::SQLITE_FCNTL_COMMIT_PHASETWO => file.end_commit().map(|()| code::OK),
        ffi::SQLITE_FCNTL_LOCKSTATE => {
            // SAFETY: by contract, a place for a level.
            unsafe { argument.cast::<c_int>().write(file.level() as c_int) };
            Ok(code::OK)
        }
        ffi::SQLITE_FCNTL_VFSNAME => {
            // SAFETY: by contract, a place for a string that SQLite will free.
            unsafe { argument.cast::<*mut c_char>().write(api.allocated(crate::file::name::NAME)) };
            Ok(code::OK)
        }
        ffi::SQLITE_FCNTL_POWERSAFE_OVERWRITE => {
            // SAFETY: by contract, a number: negative asks, anything else wants to set.
            unsafe { argument.cast::<c_int>().write(1) };
            Ok(code::OK)
        }
        // SAFETY: by contract.
        ffi::SQLITE_FCNTL_PRAGMA => unsafe { pragma(file, api, argument.cast()) },
        FCNTL_LAST_ERROR => {
            // SAFETY: whoever uses this number passes null or a pointer to at least a pointer.
            let is_own = !argument.is_null() && unsafe { *argument.cast::<*const u8>() } == &raw const THIS_LIBRARY;
            if !is_own {
                return Ok(code::NOTFOUND);
            }
            // SAFETY: it begins with the address that only `LastError` of this library has.
            unsafe { (*argument.cast::<LastError>()).answer = file.last_error().cloned() };
            Ok(code::OK)
        }
        _ => Ok(code::NOTFOUND),
    }
}

/// `SQLITE_FCNTL_PRAGMA`: "an array of pointers to strings […] the second element is the name of
/// the pragma, the third its argument or NULL. The handler may set the first to text obtained
/// from `sqlite3_mprintf()`", the result or the error message.
///
/// # Safety
/// `strings` is that array.
unsafe fn pragma(file: &mut File, api: &Api, strings: *mut *mut c_char) -> Result<c_int> {
    // SAFETY: by contract there are three elements; the second is a string, the third may be null.
    let (name, value) = unsafe {
        let value = *strings.add(2);
        let value = if value.is_null() { None } else { Some(CStr::from_ptr(value)) };
        (CStr::from_ptr(*strings.add(1)), value)
    };
    let (Ok(name), Ok(value)) = (name.to_str(), value.map(CStr::to_str).transpose()) else {
        return Ok(code::NOTFOUND);
    };
    let answer = file.pragma(name, value);
    let text = match &answer {
        Ok(Answer::NotOurs) => return Ok(code::NOTFOUND),
        Ok(Answer::Text(text)) => text.clone(),
        Err(error) => error.clone().at(file.place()).to_string(),
    };
    // SAFETY: by contract the first element is a place for a string that SQLite will free.
    unsafe { strings.write(api.allocated(&text)) };
    answer.map(|_| code::OK)
}

/// Left small, so that SQLite's default page size stands.
unsafe extern "C" fn sector_size(_file: *mut sqlite3_file) -> c_int {
    512
}

/// A page is written whole or not at all, and writing one never harms another.
unsafe extern "C" fn device_characteristics(_file: *mut sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}
