//! Rollback journals and super-journals. None of them reaches Redis: a commit is atomic there, so
//! no journal is ever hot. They live in memory and go on in a temporary file when they grow.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use tempfile::SpooledTempFile;

use crate::model::error::{Cause, Error, Result};
use crate::process::PerProcess;
use crate::process::generation::{Generation, generation};
use crate::process::sync::{Mutex, MutexGuard};
use crate::transaction::group::Group;

/// Bytes of a super-journal: some hundred names of files.
const LARGEST_SUPER_JOURNAL: u64 = 4 << 20;

mod names;
pub(crate) use crate::transaction::journal::names::{JOURNAL_NAMES, Notes};

/// Bytes of a journal kept in memory.
const IN_MEMORY: usize = 4 << 20;

/// An open journal.
pub(crate) struct Journal {
    content: Arc<Mutex<SpooledTempFile>>,
    /// Set for a super-journal: its name.
    super_name: Option<String>,
    /// For the database whose rollback journal it is, where that is known.
    notes: Option<Arc<Notes>>,
    /// The process that made it. A child that was forked shares the temporary file, and the
    /// position in it, with its parent.
    generation: Generation,
}

/// What the failure of a temporary file means.
pub(crate) fn cause(error: &io::Error) -> Cause {
    Cause::Journal { message: error.to_string(), full: is_full(error) }
}

/// Whether there is no room left: on the disk, or within what the user or the process may have.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn empty() -> Arc<Mutex<SpooledTempFile>> {
    Arc::new(Mutex::new(SpooledTempFile::new(IN_MEMORY)))
}

impl Journal {
    pub(crate) fn new() -> Self {
        Journal { content: empty(), super_name: None, notes: None, generation: generation() }
    }

    /// One that tells its database what happens to it.
    pub(crate) fn telling(notes: Option<Arc<Notes>>) -> Self {
        Journal { notes, ..Journal::new() }
    }

    /// Leaves a failure for its database. Returns it with the database named.
    pub(crate) fn failed(&self, error: Error) -> Error {
        self.notes.as_ref().map_or(error.clone(), |notes| notes.failed(error))
    }

    /// The content, unless it is in a file that is the parent's.
    fn content(&self) -> Result<MutexGuard<'_, SpooledTempFile>> {
        let content = self.content.lock();
        if content.is_rolled() && self.generation != generation() {
            return Err(Cause::Forked.into());
        }
        Ok(content)
    }

    /// Fills the buffer; bytes past the end are zero. Returns how many were there.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut content = self.content()?;
        let mut read = || {
            content.seek(SeekFrom::Start(offset))?;
            let mut done = 0;
            while done < buffer.len() {
                match content.read(&mut buffer[done..]) {
                    Ok(0) => break,
                    Ok(length) => done += length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buffer[done..].fill(0);
            Ok(done)
        };
        read().map_err(|error: io::Error| cause(&error).into())
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut content = self.content()?;
        let mut write = || {
            content.seek(SeekFrom::Start(offset))?;
            content.write_all(data)
        };
        write().map_err(|error| cause(&error))?;
        drop(content);
        if let Some(notes) = &self.notes {
            notes.set_written();
        }
        self.super_name.as_ref().map_or(Ok(()), |name| self.show_to_files(name))
    }

    /// A super-journal names the journals of all databases that take part, each with a NUL behind it. If one
    /// of them is a file (its name begins with `/`, ours never do), that file's pager looks for the
    /// super-journal on disk before it rolls back, where SQLite's relative name for it leads to the working
    /// directory. It takes an empty file for none.
    fn show_to_files(&self, name: &str) -> Result<()> {
        let size = self.size()?;
        if size > LARGEST_SUPER_JOURNAL {
            return Err(Cause::Internal(format!("a super-journal of {size} bytes")).into());
        }
        let mut journal = vec![0; size as usize];
        self.read(0, &mut journal)?;
        if !journal.split(|byte| *byte == 0).any(|name| name.starts_with(b"/")) {
            return Ok(());
        }
        std::fs::write(name, journal).map_err(|error| {
            let message = format!(
                "a transaction over a database in Redis and a file needs {name} in the working directory: {error}"
            );
            Cause::Journal { message, full: is_full(&error) }.into()
        })
    }

    pub(crate) fn truncate(&self, size: u64) -> Result<()> {
        self.content()?.set_len(size).map_err(|error| cause(&error).into())
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.content()?.seek(SeekFrom::End(0)).map_err(|error| cause(&error).into())
    }
}

/// Those of this process.
pub(crate) static SUPER_JOURNALS: PerProcess<SuperJournals> = PerProcess::new();

/// The super-journals of transactions whose main database is in Redis, by name.
#[derive(Default)]
pub(crate) struct SuperJournals(Mutex<HashMap<String, SuperJournal>>);

struct SuperJournal {
    content: Arc<Mutex<SpooledTempFile>>,
    /// What is committed when SQLite deletes it.
    group: Option<Arc<Group>>,
}

impl SuperJournals {
    pub(crate) fn open(&self, name: &str, create: bool) -> Option<Journal> {
        let mut journals = self.0.lock();
        if create {
            let new = || SuperJournal { content: empty(), group: None };
            journals.entry(name.to_owned()).or_insert_with(new);
        }
        let content = journals.get(name)?.content.clone();
        Some(Journal { content, super_name: Some(name.to_owned()), notes: None, generation: generation() })
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }

    /// The group that the deletion of a super-journal commits: this one, unless it has one already. `None`
    /// where the super-journal is a file.
    pub(crate) fn bind(&self, name: &str, group: &Arc<Group>) -> Option<Arc<Group>> {
        let mut journals = self.0.lock();
        Some(journals.get_mut(name)?.group.get_or_insert_with(|| group.clone()).clone())
    }

    /// What its deletion commits.
    pub(crate) fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.0.lock().get(name)?.group.clone()
    }

    pub(crate) fn delete(&self, name: &str) {
        self.0.lock().remove(name);
        // Only there when a file took part; see `show_to_files`.
        if let Err(error) = std::fs::remove_file(name)
            && error.kind() != io::ErrorKind::NotFound
        {
            crate::process::log::log(&format!("removing the super-journal {name}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_reads_back_what_was_written() {
        let journal = Journal::new();
        journal.write(10, b"abc").unwrap();
        let mut buffer = [9; 8];
        assert_eq!(journal.read(8, &mut buffer).unwrap(), 5);
        assert_eq!(&buffer, b"\0\0abc\0\0\0");
        journal.truncate(11).unwrap();
        assert_eq!(journal.size().unwrap(), 11);
        assert_eq!(journal.read(20, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn a_large_journal_goes_to_a_file() {
        let journal = Journal::new();
        let block = vec![5; 1 << 20];
        for n in 0..6 {
            journal.write(n << 20, &block).unwrap();
        }
        assert!(journal.content.lock().is_rolled());
        let mut buffer = [0; 4];
        assert_eq!(journal.read((5 << 20) + 7, &mut buffer).unwrap(), 4);
        assert_eq!(buffer, [5; 4]);
    }

    #[test]
    fn a_super_journal_is_found_by_name_until_deleted() {
        let journals = SuperJournals::default();
        assert!(journals.open("shop-mj000000900", false).is_none());
        journals.open("shop-mj000000900", true).unwrap().write(0, b"shop-journal\0").unwrap();
        let again = journals.open("shop-mj000000900", false).unwrap();
        assert_eq!(again.size().unwrap(), 13);
        journals.delete("shop-mj000000900");
        assert!(!journals.exists("shop-mj000000900"));
    }
}
