//! The VFS `redis`: which names are databases in Redis, and which belong to the default VFS.

use crate::config::Config;
use crate::database::open;
use crate::file::{Address, File};
use crate::model::error::Result;
use crate::model::version::Snapshot;
use crate::store::redis::keys;
use crate::transaction::journal::{JOURNAL_NAMES, Journal, SUPER_JOURNALS};

/// The name under which it is registered, as in `file:shop?vfs=redis`.
pub(crate) const NAME: &str = "redis";

/// Longest name that SQLite may pass, in bytes: that of a database, and of the files beside it.
pub(crate) const MAX_PATH: usize = keys::MAX_NAME + 64;

/// What a file name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// A file of the default VFS: the journal of an attached database that is a file. Its names
    /// are absolute paths; from those of databases in Redis, [`full_name`] drops the `/`.
    Default,
    /// A journal, which only its own connection ever sees.
    Journal,
    /// A super-journal, which the pagers of all its databases look for.
    SuperJournal(&'a str),
    /// A database.
    Database(&'a str),
}

/// What a name that SQLite passes stands for.
pub(crate) fn named(name: &str) -> Named<'_> {
    if !keys::is_side_file(name) {
        Named::Database(name)
    } else if name.starts_with('/') {
        Named::Default
    } else if keys::is_super_journal(name) {
        Named::SuperJournal(name)
    } else {
        Named::Journal
    }
}

/// The name of a database as SQLite is to use it from now on.
pub(crate) fn full_name(name: &str) -> Result<&str> {
    keys::database_name(name)
}

/// Opens a database, with URI parameters as pairs of name and value.
pub(crate) fn open(name: &str, parameters: &[(String, String)], read_only: bool, create: bool) -> Result<File> {
    let name = keys::database_name(name)?.to_owned();
    let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let config = Config::from_parameters(pairs)?;
    File::open(Address { config, name }, read_only, create)
}

/// Opens a rollback journal whose name is at this address.
pub(crate) fn open_journal(address: usize) -> Journal {
    Journal::telling(JOURNAL_NAMES.get().at(address))
}

/// Opens a super-journal; `None` when it is not there and not to be made.
pub(crate) fn open_super_journal(name: &str, create: bool) -> Option<Journal> {
    SUPER_JOURNALS.get().open(name, create)
}

/// Whether a file is there. A journal never is: none is ever hot.
pub(crate) fn exists(named: &Named<'_>) -> Result<bool> {
    match named {
        Named::Journal | Named::Default => Ok(false),
        Named::SuperJournal(name) => Ok(SUPER_JOURNALS.get().exists(name)),
        Named::Database(name) => {
            let config = Config::from_parameters([])?;
            let database = open::database(&config, keys::database_name(name)?);
            Ok(database.store().fetch(&[])?.at != Snapshot::EMPTY)
        }
    }
}

/// Deletes a file. Deleting a super-journal for good (`synced`) commits the transaction: "Delete the
/// super-journal file. This commits the transaction." (`vdbeCommit`). If that fails, it stays: SQLite looks
/// for it before it rolls back.
pub(crate) fn delete(named: &Named<'_>, synced: bool) -> Result<()> {
    match named {
        Named::Journal | Named::Default => Ok(()),
        Named::SuperJournal(name) => {
            let super_journals = SUPER_JOURNALS.get();
            if synced && let Some(group) = super_journals.group(name) {
                group.publish()?;
            }
            super_journals.delete(name);
            Ok(())
        }
        Named::Database(name) => {
            let admin = crate::admin::Admin::with(Config::from_parameters([])?);
            admin.remove(name).map(|_| ())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_is() {
        assert_eq!(named("shop"), Named::Database("shop"));
        assert_eq!(named("shop-journal"), Named::Journal);
        assert_eq!(named("shop-wal"), Named::Journal);
        assert_eq!(named("shop-mj0123AB9CD"), Named::SuperJournal("shop-mj0123AB9CD"));
        assert_eq!(named("/tmp/x.db-journal"), Named::Default);
        assert_eq!(named("/tmp/x.db-mj0123AB9CD"), Named::Default);
    }
}
