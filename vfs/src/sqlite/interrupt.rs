//! Ends the waits of a callback soon after `sqlite3_interrupt` (<https://sqlite.org/c3ref/interrupt.html>).
//!
//! SQLite checks for an interrupt between two steps of a statement, but a waiting callback must check itself. So
//! callbacks declare their connection ([`on_connection`]), every wait is divided into slices ([`sleep`], [`wait_for`],
//! [`lock`]), and each exchange with a server begins with a [`check`].
//!
//! Work that must not end early runs in [`never`]: a commit, whose outcome must be known, and the release of a lease.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rusqlite::ffi::sqlite3;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::model::error::{Cause, Result};
use crate::process::sync::{Mutex, MutexGuard};
use crate::sqlite::api::Api;

/// The longest wait without a check.
const SLICE: Duration = Duration::from_millis(20);

/// The connection whose callback is running.
#[derive(Clone, Copy)]
struct Caller {
    api: &'static Api,
    db: *mut sqlite3,
}

impl Caller {
    fn is_interrupted(&self) -> bool {
        // SAFETY: by the contract of `on_connection`.
        unsafe { flag::is_interrupted(self.api, self.db) }
    }
}

thread_local! {
    static CALLER: Cell<Option<Caller>> = const { Cell::new(None) };
    /// Interrupts are ignored.
    static NEVER: Cell<bool> = const { Cell::new(false) };
}

/// Restores the previous value when dropped, even after a panic.
struct Restored<T: Copy + 'static>(&'static std::thread::LocalKey<Cell<T>>, T);

impl<T: Copy + 'static> Drop for Restored<T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Runs the body of a callback. `db` is null if the connection is unknown.
///
/// # Safety
/// SQLite is running a callback for this connection on this thread, and `api` is its SQLite.
pub(crate) unsafe fn on_connection<T>(api: &'static Api, db: *mut sqlite3, body: impl FnOnce() -> T) -> T {
    let caller = (!db.is_null()).then_some(Caller { api, db });
    let _caller = Restored(&CALLER, CALLER.replace(caller));
    let _never = Restored(&NEVER, NEVER.replace(false));
    body()
}

/// Runs `body` and ignores interrupts meanwhile.
pub(crate) fn never<T>(body: impl FnOnce() -> T) -> T {
    let _never = Restored(&NEVER, NEVER.replace(true));
    body()
}

/// The connection whose interrupt ends the current work, if interrupts are not ignored.
fn heeded() -> Option<Caller> {
    CALLER.get().filter(|_| !NEVER.get())
}

/// Whether the connection was interrupted, even inside [`never`].
pub(crate) fn is_pending() -> bool {
    CALLER.get().is_some_and(|caller| caller.is_interrupted())
}

/// Fails if the connection was interrupted.
///
/// # Errors
/// [`Cause::Interrupted`].
pub(crate) fn check() -> Result<()> {
    match heeded() {
        Some(caller) if caller.is_interrupted() => Err(Cause::Interrupted.into()),
        _ => Ok(()),
    }
}

/// [`check`] for I/O functions. The caller that converts the I/O error calls [`check`] again to recognise an interrupt.
pub(crate) fn check_io() -> io::Result<()> {
    check().map_err(io::Error::other)
}

/// How long to wait until the next check, if `left` remains.
pub(crate) fn slice(left: Duration) -> Duration {
    if heeded().is_some() { left.min(SLICE) } else { left }
}

/// Sleeps for `time`, unless interrupted.
///
/// # Errors
/// [`Cause::Interrupted`].
pub(crate) fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(slice(left));
    }
}

/// Locks a mutex that another thread may hold while it waits for a server.
///
/// # Errors
/// [`Cause::Interrupted`].
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    while heeded().is_some() {
        match mutex.try_lock() {
            Some(guard) => return Ok(guard),
            None => sleep(Duration::from_millis(1))?,
        }
    }
    Ok(mutex.lock())
}

/// Waits until a socket is ready.
///
/// # Errors
/// [`ErrorKind::TimedOut`] after `time`, or an interrupt.
pub(crate) fn wait_for(socket: impl AsFd, ready: PollFlags, time: Duration) -> io::Result<()> {
    let end = Instant::now() + time;
    loop {
        check_io()?;
        let left = end.saturating_duration_since(Instant::now());
        if is_ready(socket.as_fd(), ready, slice(left))? {
            return Ok(());
        }
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

fn is_ready(socket: BorrowedFd<'_>, ready: PollFlags, time: Duration) -> io::Result<bool> {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    match poll(&mut [PollFd::from_borrowed_fd(socket, ready)], Some(&time)) {
        Err(Errno::INTR) => Ok(false),
        outcome => Ok(outcome? > 0),
    }
}

/// Whether an interrupt would end a wait now, so that waits must be divided into slices.
pub(crate) fn can_come() -> bool {
    heeded().is_some()
}

pub(crate) mod flag;
