//! Which rollback journal belongs to which open database.
//!
//! SQLite keeps the name of a database and that of its journal in one piece of memory, and opens both files
//! with pointers into it. So the address of the name tells whose journal it is. Nothing is read at that address:
//! another VFS above this one may open journals by names of its own, with something else around them. Such a
//! journal belongs to no database here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::model::error::Error;
use crate::process::PerProcess;
use crate::process::sync::Mutex;

/// What a rollback journal tells its database.
pub(crate) struct Notes {
    /// For messages.
    place: Arc<str>,
    /// SQLite has written to it in this transaction.
    written: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Notes {
    pub(crate) fn new(place: Arc<str>) -> Arc<Self> {
        Arc::new(Notes { place, written: AtomicBool::new(false), failure: Mutex::default() })
    }

    /// A transaction begins.
    pub(crate) fn reset(&self) {
        self.written.store(false, Relaxed);
    }

    pub(crate) fn set_written(&self) {
        self.written.store(true, Relaxed);
    }

    pub(crate) fn is_written(&self) -> bool {
        self.written.load(Relaxed)
    }

    /// Leaves a failure of the journal for its database. Returns it with the database named.
    pub(crate) fn failed(&self, error: Error) -> Error {
        let error = error.at(&self.place);
        *self.failure.lock() = Some(error.clone());
        error
    }

    /// The failure since the last call.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().take()
    }
}

/// Those of this process.
pub(crate) static JOURNAL_NAMES: PerProcess<JournalNames> = PerProcess::new();

/// The open databases, by the addresses of their journals' names.
#[derive(Default)]
pub(crate) struct JournalNames(Mutex<HashMap<usize, Arc<Notes>>>);

impl JournalNames {
    pub(crate) fn enter(&self, address: usize, notes: &Arc<Notes>) {
        self.0.lock().insert(address, notes.clone());
    }

    /// Removes a database that is closed; the address may be another's by now.
    pub(crate) fn leave(&self, address: usize, notes: &Arc<Notes>) {
        let mut names = self.0.lock();
        if names.get(&address).is_some_and(|known| Arc::ptr_eq(known, notes)) {
            names.remove(&address);
        }
    }

    /// The database whose journal has its name at this address.
    pub(crate) fn at(&self, address: usize) -> Option<Arc<Notes>> {
        self.0.lock().get(&address).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_known_by_the_address_of_its_name_while_its_database_is_open() {
        let (names, one, two) = (JournalNames::default(), Notes::new("one".into()), Notes::new("two".into()));
        names.enter(0x1000, &one);
        assert!(names.at(0x1000).is_some_and(|found| Arc::ptr_eq(&found, &one)));
        assert!(names.at(0x1001).is_none());
        names.enter(0x1000, &two);
        names.leave(0x1000, &one);
        assert!(names.at(0x1000).is_some_and(|found| Arc::ptr_eq(&found, &two)), "it was another's already");
        names.leave(0x1000, &two);
        assert!(names.at(0x1000).is_none());
    }
}
