//! Opening a database: the server and its keys are looked at.
//!
//! A server that is busy (it loads its data, or runs a script) does not fail the open, since SQLite calls no busy
//! handler for that: it is looked at when the first transaction begins.

use std::sync::Arc;

use crate::database::Database;
use crate::file::{Address, File};
use crate::model::error::{Cause, During, Error, Result, code, sqlite_code};
use crate::model::version::Snapshot;
use crate::reading::reader::Reader;
use crate::transaction::Txn;

/// A database that was not looked at yet.
pub(super) struct Unopened {
    /// There may be none.
    create: bool,
}

impl File {
    /// Opens a database; `create` allows that there is none.
    pub(crate) fn open(address: Address, read_only: bool, create: bool) -> Result<File> {
        let database = crate::database::open::database(&address.config, &address.name);
        let mut file = File::on(database, read_only || address.config.read_only);
        file.wait = address.config.wait;
        file.address = Some(address);
        file.unopened = Some(Unopened { create });
        match file.finish_opening() {
            Err(error) if is_busy(&error) => Ok(file),
            Err(error) => Err(error.at(&file.database.place)),
            Ok(()) => Ok(file),
        }
    }

    /// Looks at the server and the keys of the database, unless that was done.
    pub(super) fn finish_opening(&mut self) -> Result<()> {
        let (Some(Unopened { create }), Some(address)) = (&self.unopened, &mut self.address) else { return Ok(()) };
        let opened = open(&mut self.database, address, self.read_only)?;
        if opened.snapshot == Snapshot::EMPTY && !create {
            return Err(Cause::Missing.into());
        }
        self.database.check_wait(self.wait)?;
        self.session = address.session(&self.database)?;
        self.session.saw(opened.snapshot, opened.epoch);
        self.opened = Some(opened);
        self.unopened = None;
        Ok(())
    }

    /// SQLite reads the header once before it takes any lock, to learn the page size. While the server is busy it is
    /// shown an empty file: it looks again when it has a lock.
    pub(super) fn read_unlocked(&mut self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        let reader = match self.one_off() {
            Err(error) if self.unopened.is_some() && is_busy(&error) => {
                buffer.fill(0);
                return Ok(false);
            }
            reader => reader?,
        };
        let size = reader.snapshot.bytes();
        let mut txn = Txn::Reading(reader);
        txn.read(&self.database, offset, buffer)?;
        Ok(offset + buffer.len() as u64 <= size)
    }

    fn one_off(&mut self) -> Result<Reader> {
        self.finish_opening()?;
        match self.opened.take() {
            Some(reader) => Ok(reader),
            None => self.begin(),
        }
    }
}

/// Opens the database. A read-only one may be a replica's.
fn open(database: &mut Arc<Database>, address: &mut Address, read_only: bool) -> Result<Reader> {
    match database.open(read_only) {
        Err(error) if read_only && matches!(error.cause, Cause::IsReplica(_)) => {
            address.config = address.config.clone().with_any_role();
            *database = crate::database::open::database(&address.config, &address.name);
            database.open(read_only)
        }
        opened => opened,
    }
}

/// Whether the server will answer later.
fn is_busy(error: &Error) -> bool {
    sqlite_code(&error.cause, During::Open) == code::BUSY
}
