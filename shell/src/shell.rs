//! What a session works on: the open database, where results go, and how they look.

use std::rc::Rc;

use anyhow::Result;
use rusqlite::Connection;

use crate::database::{Causes, Location, Server};
use crate::output::{Settings, Sink};
use crate::signals;

/// Everything that statements and dot commands work on.
pub struct Shell {
    /// The open database. Shared with completion while a line is edited.
    pub db: Rc<Connection>,
    /// Which one that is.
    pub location: Location,
    /// Where databases in Redis come from.
    pub server: Server,
    /// How results look.
    pub settings: Settings,
    /// Where results go.
    pub out: Sink,
    /// Whether `out` goes back to stdout after the next command (`.once`).
    pub once: bool,
    /// Open read-only from now on.
    pub readonly: bool,
    /// Stop at the first error.
    pub bail: bool,
    /// Print what is run.
    pub echo: bool,
    /// Print how long statements take.
    pub timer: bool,
    /// Print how many rows statements changed.
    pub changes: bool,
    /// Somebody types.
    pub interactive: bool,
    /// How deep `.read` is nested.
    pub depth: usize,
    /// Which failures in Redis were told already.
    pub causes: Causes,
}

/// An error whose message is out already.
#[derive(Debug)]
pub struct AlreadyReported;

impl std::fmt::Display for AlreadyReported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("reported above")
    }
}

impl std::error::Error for AlreadyReported {}

/// Whether a session goes on after a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It ends, with this exit code if one was asked for.
    Exit(Option<i32>),
    /// It goes on with this file, or the output of `|program`, and then with the next command.
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

    /// Goes on with another database; the old one stays if that fails.
    pub fn open(&mut self, location: Location, readonly: bool) -> Result<()> {
        let db = self.server.open(&location, readonly)?;
        signals::interrupt_with(&db);
        self.db = Rc::new(db);
        self.location = location;
        Ok(())
    }

    /// Sends output elsewhere, after what is buffered was written out.
    pub fn redirect(&mut self, sink: Sink) -> Result<()> {
        self.once = false;
        match std::mem::replace(&mut self.out, sink).close() {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}
