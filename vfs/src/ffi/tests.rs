//! The callbacks as SQLite sees them: raw pointers into memory that is not clean.

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::Arc;

use rusqlite::ffi::{self, sqlite3_file, sqlite3_vfs};

use crate::database::Database;
use crate::ffi::file::{Kind, Open};
use crate::file::File;
use crate::model::error::{Cause, code};
use crate::sqlite::api::Api;
use crate::store::memory::MemoryStore;
use crate::transaction::journal::Journal;

/// Memory for a file, as SQLite may hand it over: full of something else.
struct Room {
    bytes: Vec<u64>,
}

impl Room {
    fn new() -> Self {
        // SAFETY: a registered VFS is valid.
        let size = unsafe { (*vfs()).szOsFile } as usize;
        Room { bytes: vec![0xdead_beef_dead_beef; size.div_ceil(8)] }
    }

    fn file(&mut self) -> *mut sqlite3_file {
        self.bytes.as_mut_ptr().cast()
    }
}

fn vfs() -> *mut sqlite3_vfs {
    crate::register().unwrap();
    // SAFETY: the name is NUL-terminated.
    let vfs = unsafe { (Api::linked().vfs_find)(c"redis".as_ptr()) };
    assert!(!vfs.is_null());
    vfs
}

/// Calls a method of the VFS or of a file.
macro_rules! call {
    ($on:expr, $method:ident $(, $argument:expr)*) => {
        // SAFETY: these tests pass what SQLite would.
        unsafe { ((*$on).$method.unwrap())($on $(, $argument)*) }
    };
}

macro_rules! call_file {
    ($file:expr, $method:ident $(, $argument:expr)*) => {
        // SAFETY: these tests pass what SQLite would.
        unsafe { ((*(*$file).pMethods).$method.unwrap())($file $(, $argument)*) }
    };
}

fn open(room: &mut Room, name: Option<&str>, flags: c_int) -> (c_int, c_int) {
    // SQLite puts four NULs behind a name without parameters.
    let name = name.map(|name| CString::new(name).unwrap().into_bytes_with_nul()).map(|mut name| {
        name.extend([0; 4]);
        let mut with_head = vec![0u8; 4];
        with_head.extend(name);
        with_head
    });
    let pointer = name.as_ref().map_or(std::ptr::null(), |name| name[4..].as_ptr().cast::<c_char>());
    let mut granted = 0x5a5a;
    let result = call!(vfs(), xOpen, pointer, room.file(), flags, &raw mut granted);
    // Journals don't keep their name.
    (result, granted)
}

fn read(file: *mut sqlite3_file, amount: usize, offset: i64) -> (c_int, Vec<u8>) {
    let mut buffer = vec![0x77u8; amount];
    let result = call_file!(file, xRead, buffer.as_mut_ptr().cast::<c_void>(), amount as c_int, offset);
    (result, buffer)
}

#[test]
fn a_journal_is_a_file_like_any_other() {
    let mut room = Room::new();
    // SAFETY: the room has `szOsFile` bytes.
    unsafe { Open::place(room.file(), Kind::Journal(Journal::new()), Api::linked()) };
    let file = room.file();
    assert_eq!(call_file!(file, xWrite, b"abc".as_ptr().cast(), 3, 5), code::OK);
    assert_eq!(read(file, 3, 5), (code::OK, b"abc".to_vec()));
    assert_eq!(read(file, 4, 6), (code::IOERR_SHORT_READ, b"bc\0\0".to_vec()), "the rest is zeroed");
    assert_eq!(read(file, 2, 100), (code::IOERR_SHORT_READ, vec![0, 0]));
    let mut size = -1;
    assert_eq!(call_file!(file, xFileSize, &raw mut size), code::OK);
    assert_eq!(size, 8);
    assert_eq!(call_file!(file, xTruncate, 6), code::OK);
    assert_eq!(call_file!(file, xSync, ffi::SQLITE_SYNC_NORMAL), code::OK);
    assert_eq!(call_file!(file, xFileControl, ffi::SQLITE_FCNTL_SYNC, std::ptr::null_mut()), code::NOTFOUND);
    assert_eq!(call_file!(file, xClose), code::OK);
    // SAFETY: the room is still there.
    assert!(unsafe { (*file).pMethods }.is_null());
}

#[test]
fn a_journal_by_a_name_that_sqlite_did_not_make_is_no_databases() {
    vfs();
    let mut room = Room::new();
    let flags = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
    assert_eq!(open(&mut room, Some("shop-journal"), flags).0, code::OK);
    let file = room.file();
    assert_eq!(call_file!(file, xWrite, b"abc".as_ptr().cast(), 3, 5), code::OK);
    // No file can be that large.
    assert_eq!(call_file!(file, xWrite, b"abc".as_ptr().cast(), 3, i64::MAX - 8), code::IOERR_WRITE);
    assert_eq!(call_file!(file, xClose), code::OK);
}

#[test]
fn a_journal_tells_its_database_what_failed() {
    vfs();
    let mut database_room = Room::new();
    let database = database(&mut database_room);
    let name = c"shop-journal";
    // SAFETY: `database` has just been placed there.
    unsafe { Open::database_at(database) }.journal_is_named(name.as_ptr() as usize);
    let mut room = Room::new();
    let flags = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
    let mut granted = 0;
    assert_eq!(call!(vfs(), xOpen, name.as_ptr(), room.file(), flags, &raw mut granted), code::OK);
    let journal = room.file();
    assert_eq!(call_file!(journal, xWrite, b"abc".as_ptr().cast(), 3, i64::MAX - 8), code::IOERR_WRITE);
    // SAFETY: as above.
    let error = unsafe { Open::database_at(database) }.last_error().cloned().unwrap();
    assert!(matches!(error.cause, Cause::Journal { .. }), "{error}");
    assert!(error.to_string().contains("`test`"), "{error}");
    // Either may be closed first.
    assert_eq!(call_file!(database, xClose), code::OK);
    assert_eq!(call_file!(journal, xWrite, b"abc".as_ptr().cast(), 3, i64::MAX - 8), code::IOERR_WRITE);
    assert_eq!(call_file!(journal, xClose), code::OK);
}

#[test]
fn a_failed_open_leaves_no_methods() {
    let main = ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
    for (name, flags) in [
        ("a{b", main),
        ("", main),
        ("shop-journal", main),
        ("shop-wal", ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_READWRITE),
        ("shop-mj012345901", ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_READONLY),
    ] {
        let mut room = Room::new();
        assert_eq!(open(&mut room, Some(name), flags).0, code::CANTOPEN, "{name}");
        // SAFETY: the room is still there.
        assert!(unsafe { (*room.file()).pMethods }.is_null(), "{name}");
        assert!(crate::ffi::last_failure().is_some());
    }
}

#[test]
fn a_temporary_file_goes_to_the_default_vfs() {
    let mut room = Room::new();
    let flags = ffi::SQLITE_OPEN_TEMP_DB
        | ffi::SQLITE_OPEN_READWRITE
        | ffi::SQLITE_OPEN_CREATE
        | ffi::SQLITE_OPEN_EXCLUSIVE
        | ffi::SQLITE_OPEN_DELETEONCLOSE;
    assert_eq!(open(&mut room, None, flags).0, code::OK);
    let file = room.file();
    assert_eq!(call_file!(file, xWrite, b"x".as_ptr().cast(), 1, 0), code::OK);
    assert_eq!(read(file, 1, 0), (code::OK, b"x".to_vec()));
    assert_eq!(call_file!(file, xClose), code::OK);
}

#[test]
fn a_full_name_fits_exactly_or_is_refused() {
    let name = CString::new("/a/b.db").unwrap();
    for (size, expected) in [(7, code::OK), (6, code::CANTOPEN), (0, code::CANTOPEN)] {
        let mut out = vec![0x7fu8; 16];
        let result = call!(vfs(), xFullPathname, name.as_ptr(), size, out.as_mut_ptr().cast::<c_char>());
        assert_eq!(result, expected, "room for {size}");
        let written = if expected == code::OK { &b"a/b.db\0"[..] } else { b"" };
        assert_eq!(&out[..written.len()], written);
        assert!(out[written.len()..].iter().all(|&byte| byte == 0x7f), "nothing past the end");
    }
    let mut out = vec![0u8; 2000];
    for bad in ["x".repeat(600), "a}".into(), String::new()] {
        let bad = CString::new(bad).unwrap();
        assert_eq!(call!(vfs(), xFullPathname, bad.as_ptr(), 2000, out.as_mut_ptr().cast::<c_char>()), code::CANTOPEN);
    }
    let latin1 = CString::new([0xe9u8]).unwrap();
    assert_eq!(call!(vfs(), xFullPathname, latin1.as_ptr(), 2000, out.as_mut_ptr().cast::<c_char>()), code::CANTOPEN);
}

#[test]
fn journals_are_never_found() {
    for name in [c"shop-journal", c"shop-wal", c"shop-mj012345901", c"/nowhere/x.db-journal"] {
        let mut found = -1;
        assert_eq!(call!(vfs(), xAccess, name.as_ptr(), ffi::SQLITE_ACCESS_EXISTS, &raw mut found), code::OK);
        assert_eq!(found, 0, "{name:?}");
    }
    assert_eq!(call!(vfs(), xDelete, c"shop-journal".as_ptr(), 0), code::OK);
}

#[test]
fn time_and_randomness_come_from_the_default_vfs() {
    let mut random = [0u8; 32];
    assert_eq!(call!(vfs(), xRandomness, 32, random.as_mut_ptr().cast::<c_char>()), 32);
    assert_ne!(random, [0; 32]);
    let mut now = 0;
    assert_eq!(call!(vfs(), xCurrentTimeInt64, &raw mut now), code::OK);
    // The Julian day of 2020 in milliseconds.
    assert!(now > 2_458_849 * 86_400_000);
    let mut days = 0.0;
    assert_eq!(call!(vfs(), xCurrentTime, &raw mut days), code::OK);
    assert!((days - now as f64 / 86_400_000.0).abs() < 1.0);
}

/// A database on the in-memory store, opened into poisoned memory.
fn database(room: &mut Room) -> *mut sqlite3_file {
    let store = Arc::new(MemoryStore::default());
    let file = File::on(Database::on(store, 1 << 20), false);
    // SAFETY: the room has `szOsFile` bytes.
    unsafe { Open::place(room.file(), Kind::Database(Box::new(file)), Api::linked()) };
    room.file()
}

#[test]
fn a_database_answers_its_file_controls() {
    let mut room = Room::new();
    vfs();
    let file = database(&mut room);
    let mut level: c_int = -1;
    let lockstate = |level: &mut c_int| {
        call_file!(file, xFileControl, ffi::SQLITE_FCNTL_LOCKSTATE, std::ptr::from_mut(level).cast::<c_void>())
    };
    assert_eq!((lockstate(&mut level), level), (code::OK, 0));
    assert_eq!(call_file!(file, xLock, ffi::SQLITE_LOCK_SHARED), code::OK);
    assert_eq!(call_file!(file, xLock, ffi::SQLITE_LOCK_RESERVED), code::OK);
    assert_eq!((lockstate(&mut level), level), (code::OK, 2));
    assert_eq!(call_file!(file, xLock, 99), code::INTERNAL);
    let mut reserved = -1;
    assert_eq!(call_file!(file, xCheckReservedLock, &raw mut reserved), code::OK);
    assert_eq!(reserved, 1);
    assert_eq!(call_file!(file, xUnlock, ffi::SQLITE_LOCK_NONE), code::OK);
    assert_eq!(read(file, 100, 0), (code::IOERR_SHORT_READ, vec![0; 100]));
    assert_eq!(call_file!(file, xFileControl, 12345, std::ptr::null_mut()), code::NOTFOUND);
    let mut name: *mut c_char = std::ptr::null_mut();
    assert_eq!(call_file!(file, xFileControl, ffi::SQLITE_FCNTL_VFSNAME, (&raw mut name).cast()), code::OK);
    // SAFETY: the answer is a string from SQLite's own allocator.
    unsafe {
        assert_eq!(std::ffi::CStr::from_ptr(name), c"redis");
        ffi::sqlite3_free(name.cast());
    }
    assert_eq!(call_file!(file, xClose), code::OK);
}

#[test]
fn spans_that_make_no_sense_are_refused() {
    let mut room = Room::new();
    vfs();
    let file = database(&mut room);
    let mut buffer = [0u8; 4];
    assert_eq!(call_file!(file, xRead, buffer.as_mut_ptr().cast(), -1, 0), code::INTERNAL);
    assert_eq!(call_file!(file, xRead, buffer.as_mut_ptr().cast(), 4, -8), code::INTERNAL);
    assert_eq!(call_file!(file, xTruncate, -1), code::INTERNAL);
    assert_eq!(call_file!(file, xClose), code::OK);
}

#[test]
fn a_write_without_a_lock_is_an_error_and_not_a_crash() {
    let mut room = Room::new();
    vfs();
    let file = database(&mut room);
    assert_ne!(call_file!(file, xWrite, b"abcd".as_ptr().cast(), 4, 0), code::OK);
    assert_ne!(call_file!(file, xTruncate, 0), code::OK);
    assert_eq!(call_file!(file, xClose), code::OK);
}

#[test]
fn a_panic_becomes_an_error_code() {
    assert_eq!(crate::ffi::guard(|| panic!("on purpose")), code::INTERNAL);
    assert!(crate::ffi::last_failure().unwrap().to_string().contains("on purpose"));
}

#[test]
fn a_failure_of_a_database_in_redis_has_no_error_of_the_system() {
    crate::register().unwrap();
    // This leaves an error that has nothing to do with it.
    std::fs::File::open("/nowhere/at/all").unwrap_err();
    let mut db = std::ptr::null_mut();
    let flags = ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_URI;
    // SAFETY: the name is NUL-terminated, and there is a place for the connection, which is closed once.
    let (opened, errno) = unsafe {
        let opened =
            ffi::sqlite3_open_v2(c"file:shop?vfs=redis&cashe_size=1".as_ptr(), &raw mut db, flags, std::ptr::null());
        let errno = ffi::sqlite3_system_errno(db);
        ffi::sqlite3_close(db);
        (opened, errno)
    };
    assert_eq!((opened, errno), (code::CANTOPEN, 0));
}
