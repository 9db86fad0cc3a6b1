//! The reasons of failures, for whoever asks after one: by connection, and of databases that did not open.
//!
//! A failure of a connection is told until the connection uses a database in Redis or a virtual table again: there, and
//! on connections that use none. One of no connection is told on any of them, whatever thread asks, until its thread opens
//! a database, or somebody that one. Of two, the later is what the application has just seen.

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
    /// The last failure of a file was one of this VFS.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

static FAILURES: PerProcess<Failures> = PerProcess::new();

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Failures(Mutex<State>);

#[derive(Default)]
struct State {
    /// Failures so far.
    count: u64,
    /// By connection, with its number; of all connections that have used Redis.
    of: HashMap<usize, Option<Failure>>,
    /// Of no connection.
    elsewhere: Option<(Failure, ThreadId)>,
}

/// A failure and its number.
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

/// Takes note of a failure; of no connection, if that is null.
pub(super) fn note(db: *mut sqlite3, error: &Error) {
    IS_OURS.set(true);
    // The application knows, or is to be told what went before.
    if matches!(error.cause, Cause::Interrupted) {
        return;
    }
    LAST_FAILURE.set(Some(error.clone()));
    FAILURES.get().note(db as usize, error);
}

/// The connection begins to use a database in Redis or a virtual table.
pub(super) fn goes_on(db: *mut sqlite3) {
    FAILURES.get().goes_on(db as usize);
}

/// The connection is closed.
pub(super) fn closed(db: *mut sqlite3) {
    FAILURES.get().closed(db as usize);
}

/// A database was opened.
pub(super) fn opened(place: &Arc<str>) {
    FAILURES.get().opened(place);
}

/// What the application that asks on this connection has just seen fail.
pub(super) fn last(db: *mut sqlite3) -> Option<Error> {
    FAILURES.get().last(db as usize)
}

/// SQLite uses a file of another VFS.
pub(super) fn is_for_another_vfs() {
    IS_OURS.set(false);
}

/// Whether the last failure of a file on this thread was one of this VFS: then the system has no error to tell.
pub(super) fn is_ours() -> bool {
    IS_OURS.get()
}

/// The newest failure on this thread, whichever connection it belongs to; also of those that
/// could not be opened.
pub fn last_failure() -> Option<Error> {
    LAST_FAILURE.with_borrow(Clone::clone)
}

/// Forgets the newest failure on this thread, so that a later one can be told from it.
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
