//! The state of a session: the open database, the target of results, and their format.

use std::rc::Rc;

use anyhow::Result;
use rusqlite::Connection;

use crate::database::{Causes, Location, Server};
use crate::output::{Settings, Sink};
use crate::signals;

/// The state that statements and dot commands work on.
pub struct Shell {
    /// The open database. Shared with completion while a line is edited.
    pub db: Rc<Connection>,
    /// The name of the open database.
    pub location: Location,
    /// The server of databases in Redis.
    pub server: Server,
    /// The format of results.
    pub settings: Settings,
    /// The target of results.
    pub out: Sink,
    /// Whether `out` returns to stdout after the next command (`.once`).
    pub once: bool,
    /// `.open` opens read-only.
    pub readonly: bool,
    /// Stop at the first error.
    pub bail: bool,
    /// Print each command before it runs.
    pub echo: bool,
    /// Print how long statements take.
    pub timer: bool,
    /// Print how many rows statements changed.
    pub changes: bool,
    /// The session is interactive.
    pub interactive: bool,
    /// The depth of nested `.read`.
    pub depth: usize,
    /// The failures in Redis that were already shown.
    pub causes: Causes,
}

/// An error that has already been printed.
#[derive(Debug)]
pub struct AlreadyReported;

impl std::fmt::Display for AlreadyReported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("reported above")
    }
}

impl std::error::Error for AlreadyReported {}

/// Whether the session continues after a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It continues.
    Continue,
    /// `.quit`: the current file ends, or the session if input is no file.
    Quit,
    /// The session ends with this exit code.
    Exit(i32),
    /// It reads this file, or the output of `|program`, and then the next command.
    Read(String),
}

impl Shell {
    /// Opens the database.
    pub fn new(
        server: Server,
        location: Location,
        settings: Settings,
        readonly: bool,
        interactive: bool,
    ) -> Result<Self> {
        let db = server.open(&location, readonly)?;
        signals::interrupt_with(&db);
        Ok(Shell {
            db: Rc::new(db),
            location,
            server,
            settings,
            out: Sink::stdout(),
            once: false,
            readonly,
            bail: false,
            echo: false,
            timer: false,
            changes: false,
            interactive,
            depth: 0,
            causes: Causes::default(),
        })
    }

    /// Opens another database. The old one stays open if that fails.
    pub fn open(&mut self, location: Location, readonly: bool) -> Result<()> {
        let db = self.server.open(&location, readonly)?;
        signals::interrupt_with(&db);
        self.db = Rc::new(db);
        self.location = location;
        Ok(())
    }

    /// Changes the target of results, after flushing the old one.
    pub fn redirect(&mut self, sink: Sink) -> Result<()> {
        self.once = false;
        match std::mem::replace(&mut self.out, sink).close() {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}
