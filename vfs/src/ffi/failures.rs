//! The last errors, which `redis_last_error()` returns.
//!
//! - An error of a connection is kept until the connection uses a database in Redis or a virtual table again. That
//!   connection returns it, and so do connections that use neither.
//! - An error without a connection, such as a failed open, is returned on every connection and thread. It is kept until
//!   the failing thread opens a database, or any thread opens the database that failed.
//! - If both exist, the later one is returned: it is the error that the application has just seen.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::ThreadId;

use rusqlite::ffi::sqlite3;

use crate::model::error::{Cause, Error};
use crate::process::PerProcess;
use crate::process::sync::Mutex;

thread_local! {
    static LAST_FAILURE: RefCell<Option<Error>> = const { RefCell::new(None) };
    /// Whether the thread's last file error came from this VFS.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

static FAILURES: PerProcess<Failures> = PerProcess::new();

/// The last errors of this process. See the [module](self).
#[derive(Default)]
pub(crate) struct Failures(Mutex<State>);

#[derive(Default)]
struct State {
    /// Number of errors so far.
    count: u64,
    /// The last error of each connection, for all connections that have used Redis.
    of: HashMap<usize, Option<Failure>>,
    /// The last error without a connection, and its thread.
    elsewhere: Option<(Failure, ThreadId)>,
}

/// An error, with its number in the order of all errors.
type Failure = (u64, Error);

impl Failures {
    fn note(&self, connection: usize, error: &Error) {
        let mut state = self.0.lock();
        state.count += 1;
        let number = state.count;
        let failure = (number, error.clone());
        if connection == 0 {
            state.elsewhere = Some((failure, std::thread::current().id()));
        } else {
            state.of.insert(connection, Some(failure));
        }
    }

    fn last(&self, connection: usize) -> Option<Error> {
        let state = self.0.lock();
        let told = match state.of.get(&connection) {
            Some(own) => own.as_ref(),
            None => state.of.values().flatten().max_by_key(|(number, _)| *number),
        };
        let elsewhere = state.elsewhere.as_ref().map(|(failure, _)| failure);
        let newest = told.into_iter().chain(elsewhere).max_by_key(|(number, _)| *number);
        newest.map(|(_, error)| error.clone())
    }

    fn goes_on(&self, connection: usize) {
        if connection != 0 {
            self.0.lock().of.insert(connection, None);
        }
    }

    fn closed(&self, connection: usize) {
        self.0.lock().of.remove(&connection);
    }

    fn opened(&self, place: &Arc<str>) {
        let mut state = self.0.lock();
        let is_over = |((_, error), thread): &mut (Failure, ThreadId)| {
            *thread == std::thread::current().id() || error.place.as_ref() == Some(place)
        };
        state.elsewhere.take_if(is_over);
    }
}

/// Records an error. `db` is null for an error without a connection.
pub(super) fn note(db: *mut sqlite3, error: &Error) {
    IS_OURS.set(true);
    // The application knows that it interrupted. An earlier error is more useful.
    if matches!(error.cause, Cause::Interrupted) {
        return;
    }
    LAST_FAILURE.set(Some(error.clone()));
    FAILURES.get().note(db as usize, error);
}

/// Drops the connection's error: it starts to use a database in Redis or a virtual table again.
pub(super) fn goes_on(db: *mut sqlite3) {
    FAILURES.get().goes_on(db as usize);
}

/// Forgets a closed connection.
pub(super) fn closed(db: *mut sqlite3) {
    FAILURES.get().closed(db as usize);
}

/// Drops the errors that the successful open of this database supersedes.
pub(super) fn opened(place: &Arc<str>) {
    FAILURES.get().opened(place);
}

/// The last error, as seen by the application on this connection.
pub(super) fn last(db: *mut sqlite3) -> Option<Error> {
    FAILURES.get().last(db as usize)
}

/// Notes that this thread uses a file of another VFS.
pub(super) fn is_for_another_vfs() {
    IS_OURS.set(false);
}

/// Whether this thread's last file error came from this VFS. Then the system's `errno` is unrelated.
pub(super) fn is_ours() -> bool {
    IS_OURS.get()
}

/// Returns the last error on this thread, of any connection, including errors of opening a database.
pub fn last_failure() -> Option<Error> {
    LAST_FAILURE.with_borrow(Clone::clone)
}

/// Forgets the last error on this thread, so that [`last_failure`] returns only later ones.
pub fn forget_last_failure() {
    LAST_FAILURE.set(None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::Cause;

    fn failure(place: &str) -> Error {
        Error::from(Cause::NoReply).at(&place.into())
    }

    #[test]
    fn what_failed_last_is_told_until_it_is_over() {
        let failures = Failures::default();
        let place = |connection| failures.last(connection).and_then(|error| error.place).map(|place| place.to_string());
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(place(1), None);
        failures.note(1, &failure("one"));
        failures.note(2, &failure("two"));
        failures.goes_on(3);
        assert_eq!((place(1), place(2), place(3), place(4)), (is("one"), is("two"), None, is("two")));
        failures.note(0, &failure("not opened"));
        assert_eq!((place(1), place(3)), (is("not opened"), is("not opened")));
        failures.note(1, &failure("one again"));
        assert_eq!((place(1), place(2)), (is("one again"), is("not opened")));
        std::thread::scope(|scope| scope.spawn(|| failures.opened(&"another".into())).join()).unwrap();
        assert_eq!(place(3), is("not opened"), "another thread has opened another database");
        std::thread::scope(|scope| scope.spawn(|| failures.opened(&"not opened".into())).join()).unwrap();
        assert_eq!((place(2), place(3)), (is("two"), None));
        failures.note(0, &failure("not opened"));
        failures.opened(&"another".into());
        assert_eq!(place(3), None, "the same thread has gone on");
        failures.goes_on(2);
        assert_eq!((place(2), place(4)), (None, is("one again")));
        failures.closed(1);
        assert_eq!((place(1), place(4)), (None, None));
    }
}
