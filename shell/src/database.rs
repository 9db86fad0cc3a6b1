//! Opens databases, in Redis and elsewhere. Only this module and [`crate::admin`] use the crate `sqlite-redis`.

use std::io::IsTerminal;

use anyhow::Result;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use sqlite_redis::admin::Admin;
use sqlite_redis::{Options, hide_secrets};

use crate::args::ServerArgs;
use crate::server;

/// The meaning of a name on the command line or after `.open`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A database in memory.
    Memory,
    /// A `file:` URI, passed to SQLite as it is.
    Uri(String),
    /// A database in Redis.
    Redis(String),
}

impl Location {
    /// Parses a name as users write it.
    pub fn parse(name: &str) -> Self {
        match name {
            "" | ":memory:" => Location::Memory,
            uri if uri.starts_with("file:") => Location::Uri(uri.to_owned()),
            name => Location::Redis(name.to_owned()),
        }
    }

    /// The name for messages and prompts.
    pub fn name(&self) -> &str {
        match self {
            Location::Memory => ":memory:",
            Location::Uri(name) | Location::Redis(name) => name,
        }
    }
}

/// Whether opening this name or running this text may use Redis.
fn mentions_redis(text: &str) -> bool {
    let marker = b"vfs=redis";
    text.as_bytes().windows(marker.len()).any(|w| w.eq_ignore_ascii_case(marker))
}

/// The server of databases in Redis: the one that was named, or the private one.
pub struct Server {
    /// `None` only if the private server would be used and the user has no home directory.
    url: Option<String>,
    prefix: Option<String>,
    private: bool,
    /// Whether to say where the data is: somebody reads the output.
    talkative: bool,
}

impl Server {
    /// Decides which server to use, without connecting. Names without parameters (`ATTACH 'other'`) must lead to the
    /// same server, so its address is also put into the environment. Call this before any thread starts.
    pub fn choose(args: &ServerArgs, talkative: bool) -> Self {
        let given = args.redis.clone().filter(|url| !url.is_empty());
        let private = given.is_none();
        // Commands that need no Redis work without a home directory.
        let url = given.or_else(|| server::url().ok());
        if let Some(url) = &url {
            crate::ffi::set_variable("SQLITE_REDIS_URL", url);
        }
        if let Some(prefix) = &args.prefix {
            crate::ffi::set_variable("SQLITE_REDIS_PREFIX", prefix);
        }
        Server { url, prefix: args.prefix.clone(), private, talkative }
    }

    /// Starts the private server if it is needed and not running.
    pub fn ensure(&self) -> Result<()> {
        if !self.private {
            return Ok(());
        }
        let joined = server::join()?;
        if joined.first && (joined.started || self.talkative) {
            note!("Private Redis in {} (unix socket; use --redis URL for another)", joined.directory);
        }
        Ok(())
    }

    /// The same if `sql` may attach a database in Redis.
    pub fn ensure_for(&self, sql: &str) -> Result<()> {
        if mentions_redis(sql) { self.ensure() } else { Ok(()) }
    }

    /// Opens a database with the defaults of the `sqlite3` program.
    pub fn open(&self, location: &Location, readonly: bool) -> Result<Connection> {
        let db = match location {
            Location::Memory if readonly => open_uri(":memory:", readonly)?,
            Location::Memory => Connection::open_in_memory()?,
            Location::Uri(uri) => {
                self.ensure_for(uri)?;
                open_uri(uri, readonly)?
            }
            Location::Redis(name) => {
                self.ensure()?;
                self.options(name).read_only(readonly).open()?
            }
        };
        // The bundled SQLite turns foreign keys on, stock SQLite has them off.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        Ok(db)
    }

    /// The interface that lists, imports and removes databases.
    pub fn admin(&self) -> Result<Admin> {
        self.ensure()?;
        Ok(Admin::connect(&self.options(""))?)
    }

    fn options(&self, name: &str) -> Options {
        let mut options = Options::new(name);
        if let Some(url) = &self.url {
            options = options.server(url);
        }
        if let Some(prefix) = &self.prefix {
            options = options.prefix(prefix);
        }
        options
    }

    /// The address of the named server, without user and password; empty for the private server, which was announced.
    pub fn given(&self) -> Option<String> {
        let admin = Admin::connect(&self.options("")).ok().filter(|_| !self.private)?;
        Some(admin.server_name())
    }

    /// Adds the database's name and the server to an error.
    pub fn missing(&self, name: &str) -> anyhow::Error {
        anyhow::anyhow!("there is no database {name} in this Redis; `sqlite-redis ls` lists all")
    }
}

fn open_uri(uri: &str, readonly: bool) -> Result<Connection> {
    let mut flags = OpenFlags::default();
    if readonly {
        flags.remove(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE);
        flags.insert(OpenFlags::SQLITE_OPEN_READ_ONLY);
    }
    sqlite_redis::forget_last_failure();
    Connection::open_with_flags(uri, flags).map_err(|error| {
        // SQLite's own message only says that the database can't be opened.
        let reason = match sqlite_redis::last_failure() {
            Some(failure) => failure.to_string(),
            // The message already has the name, which rusqlite adds again.
            None => message(&error).replace(&format!(": {uri}"), ""),
        };
        anyhow::anyhow!("unable to open database \"{}\": {reason}", hide_secrets(uri))
    })
}

/// Registers the VFS `redis` in this process.
pub fn register() -> Result<()> {
    Ok(sqlite_redis::register()?)
}

/// Finds the failure in Redis behind a SQL error.
///
/// The library remembers only its newest failure, even if SQLite recovered from it by waiting. So it counts only if
/// it happened while the failing command ran, or if it was shown before for the same result code.
#[derive(Default)]
pub struct Causes {
    before: Option<String>,
    told: Option<(String, i32)>,
}

impl Causes {
    /// Remembers the newest failure before a command.
    pub fn mark(&mut self) {
        self.before = newest();
    }

    /// The failure in Redis behind the command's result code.
    pub fn behind(&mut self, code: i32) -> Option<String> {
        // These codes are errors of the statement itself.
        if matches!(code, ffi::SQLITE_CONSTRAINT | ffi::SQLITE_INTERRUPT | ffi::SQLITE_MISMATCH) {
            return None;
        }
        let cause = newest()?;
        let again = self.told.as_ref().is_some_and(|(text, earlier)| *text == cause && *earlier == code);
        if self.before.as_ref() == Some(&cause) && !again {
            return None;
        }
        self.told = Some((cause.clone(), code));
        Some(cause)
    }
}

fn newest() -> Option<String> {
    sqlite_redis::last_failure().map(|error| error.to_string())
}

/// Whether input and output are a terminal.
pub fn on_a_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// SQLite's primary result code of an error.
pub fn code(error: &rusqlite::Error) -> i32 {
    error.sqlite_error().map_or(ffi::SQLITE_ERROR, |error| error.extended_code & 0xff)
}

/// SQLite's message, without what rusqlite adds.
pub fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        rusqlite::Error::NulError(_) => "a NUL byte in the text".to_owned(),
        other => other.to_string(),
    }
}

/// The text of an error and of its causes.
pub fn describe(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for part in error.chain() {
        match part.downcast_ref::<rusqlite::Error>() {
            // Causes below a SQLite error are only result codes, which its message already includes.
            Some(error) => {
                parts.push(self::message(error));
                break;
            }
            None => parts.push(part.to_string()),
        }
    }
    // Skips a cause whose text the outer error repeats.
    let mut told: Vec<String> = Vec::new();
    for part in parts {
        if !told.iter().any(|earlier| earlier.contains(&part)) {
            told.push(part);
        }
    }
    crate::shown::message(&told.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_redis_unless_they_say_otherwise() {
        assert_eq!(Location::parse("shop"), Location::Redis("shop".to_owned()));
        assert_eq!(Location::parse(":memory:"), Location::Memory);
        assert_eq!(Location::parse("file:x?vfs=redis"), Location::Uri("file:x?vfs=redis".to_owned()));
        assert!(mentions_redis("ATTACH 'file:x?VFS=Redis' AS x"));
        assert!(!mentions_redis("select 1"));
    }

    #[test]
    fn foreign_keys_are_off_as_in_stock_sqlite() {
        let db = Connection::open_in_memory().unwrap();
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false).unwrap();
        assert_eq!(db.query_row("PRAGMA foreign_keys", [], |r| r.get::<_, i64>(0)), Ok(0));
    }
}
