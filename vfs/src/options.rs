//! Opening from Rust, with typed options.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::admin::Admin;
use crate::config;
use crate::config::{Config, Consistency, Setting};
use crate::model::error::{Cause, Error, Result};

/// How to open a database that lives in Redis.
///
/// What is not set here comes from the environment, then from the defaults; see
/// [`crate::SETTINGS`].
#[derive(Debug, Clone)]
pub struct Options {
    name: String,
    parameters: Vec<(&'static str, String)>,
    read_only: bool,
    create: bool,
}

impl Options {
    /// Options for the database of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Options { name: name.into(), parameters: Vec::new(), read_only: false, create: true }
    }

    fn set(mut self, setting: &Setting, value: impl ToString) -> Self {
        self.parameters.retain(|(name, _)| *name != setting.parameter);
        self.parameters.push((setting.parameter, value.to_string()));
        self
    }

    /// The server: `redis://`, `rediss://`, `unix://`, `sentinel://` or `redis+cluster://`.
    #[must_use]
    pub fn server(self, url: impl Into<String>) -> Self {
        self.set(&config::SERVER, url.into())
    }

    /// A replica of the server, for reads. Each call adds one. `auto` stands for all that the primary has.
    #[must_use]
    pub fn replica(mut self, url: impl Into<String>) -> Self {
        self.parameters.push((config::REPLICA.parameter, url.into()));
        self
    }

    /// Where the password is, for servers whose address has none: `file:/path` or `env:NAME`. It is read for each
    /// connection.
    #[must_use]
    pub fn credentials(self, place: impl Into<String>) -> Self {
        self.set(&config::CREDENTIALS, place.into())
    }

    /// With TLS: files with the client's certificate and its key (PEM).
    #[must_use]
    pub fn tls_identity(self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.set(&config::TLS_CERT, certificate.into()).set(&config::TLS_KEY, key.into())
    }

    /// With TLS: file with the certificates of the authorities that are trusted, in place of the system's (PEM).
    #[must_use]
    pub fn tls_authorities(self, file: impl Into<String>) -> Self {
        self.set(&config::TLS_CA, file.into())
    }

    /// With TLS: the name that the server's certificate must have, in place of the host in the address.
    #[must_use]
    pub fn tls_name(self, name: impl Into<String>) -> Self {
        self.set(&config::TLS_NAME, name.into())
    }

    /// How new what is read must be.
    #[must_use]
    pub fn consistency(self, consistency: Consistency) -> Self {
        self.set(&config::CONSISTENCY, consistency)
    }

    /// How long a replica that lags is waited for.
    #[must_use]
    pub fn catch_up(self, time: Duration) -> Self {
        self.set(&config::CATCH_UP, time.as_millis())
    }

    /// Start of every key.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        self.set(&config::PREFIX, prefix.into())
    }

    /// Bytes of page cache, for all connections of this process to the database.
    #[must_use]
    pub fn cache_size(self, bytes: u64) -> Self {
        self.set(&config::CACHE_SIZE, bytes)
    }

    /// Life of the write lease without renewal.
    #[must_use]
    pub fn lease(self, life: Duration) -> Self {
        self.set(&config::LEASE, life.as_millis())
    }

    /// How long the write lease is kept for the next transaction where one follows the other; zero: it
    /// is given back with each commit.
    #[must_use]
    pub fn linger(self, time: Duration) -> Self {
        self.set(&config::LINGER, time.as_millis())
    }

    /// Time for making a connection.
    #[must_use]
    pub fn connect_timeout(self, time: Duration) -> Self {
        self.set(&config::CONNECT_TIMEOUT, time.as_millis())
    }

    /// Time for one reply.
    #[must_use]
    pub fn timeout(self, time: Duration) -> Self {
        self.set(&config::TIMEOUT, time.as_millis())
    }

    /// How long the next primary is waited for in a failover.
    #[must_use]
    pub fn failover(self, time: Duration) -> Self {
        self.set(&config::FAILOVER, time.as_millis())
    }

    /// Commits kept in the log.
    #[must_use]
    pub fn log_commits(self, commits: u64) -> Self {
        self.set(&config::LOG_COMMITS, commits)
    }

    /// Bytes of reverse deltas kept in the log.
    #[must_use]
    pub fn log_bytes(self, bytes: u64) -> Self {
        self.set(&config::LOG_BYTES, bytes)
    }

    /// Bytes from which on a commit goes to a key of its own first, so that other clients of the
    /// server don't wait for it, and what a transaction has written to a temporary file.
    #[must_use]
    pub fn stage_bytes(self, bytes: u64) -> Self {
        self.set(&config::STAGE_BYTES, bytes)
    }

    /// Replicas that must have a commit before it is reported as done, and how long to wait for
    /// them. Fewer in time: the commit fails with [`Cause::NotReplicated`], and stands.
    #[must_use]
    pub fn wait(self, replicas: u32, time: Duration) -> Self {
        self.set(&config::WAIT, replicas).set(&config::WAIT_TIME, time.as_millis())
    }

    /// Store the pages that are written compressed (Zstandard) where that is shorter. Without, only their
    /// longest run of zeros is left out.
    #[must_use]
    pub fn compress(self, compress: bool) -> Self {
        self.set(&config::COMPRESS, u8::from(compress))
    }

    /// Whether the primary, and as many replicas as [`Options::wait`] says, must have a commit on disk
    /// before it is reported as done. Needs Redis 7.2 with `appendonly yes`.
    #[must_use]
    pub fn wait_disk(self, disk: bool) -> Self {
        self.set(&config::WAIT_DISK, u8::from(disk))
    }

    /// Open also where the server's maxmemory-policy may drop pages.
    #[must_use]
    pub fn allow_eviction(self, allow: bool) -> Self {
        self.set(&config::ALLOW_EVICTION, u8::from(allow))
    }

    /// Without the right to write (`mode=ro`).
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether to make the database if there is none (`mode=rwc`, the default) or not (`mode=rw`).
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// These options as a file name for any SQLite that has the extension, `ATTACH` included.
    pub fn uri(&self) -> String {
        let mode = match (self.read_only, self.create) {
            (true, _) => "ro",
            (false, true) => "rwc",
            (false, false) => "rw",
        };
        // Two slashes would begin an authority; none of them is part of the name.
        let mut uri =
            format!("file:{}?vfs={}&mode={mode}", escaped(self.name.trim_start_matches('/')), crate::file::name::NAME);
        for (name, value) in &self.parameters {
            uri.push_str(&format!("&{name}={}", escaped(value)));
        }
        uri
    }

    pub(crate) fn config(&self) -> Result<Config> {
        Config::from_parameters(self.parameters.iter().map(|(name, value)| (*name, value.as_str())))
    }

    /// Opens a connection. Registers the VFS first if need be.
    ///
    /// # Errors
    /// The cause why it can't be opened, such as a server that is away or a wrong password.
    pub fn open(&self) -> Result<Connection> {
        crate::ffi::extension::register_linked()?;
        // Checked here first, because a URI can't carry NUL and SQLite would not say why.
        crate::store::redis::keys::database_name(&self.name)?;
        self.config()?;
        crate::ffi::forget_last_failure();
        let access = match (self.read_only, self.create) {
            (true, _) => OpenFlags::SQLITE_OPEN_READ_ONLY,
            (false, true) => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            (false, false) => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        let flags = access | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(self.uri(), flags)
            .map_err(|error| crate::ffi::last_failure().unwrap_or_else(|| Error::from(Cause::Host(error.to_string()))))
    }
}

/// Percent-encodes what has a meaning in URI file names (<https://sqlite.org/uri.html>).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | b'?' | b'#' | b'&' | b'=' | b'+' | b' ' | b'"' | b'\'' | 0..=31 | 127.. => {
                escaped.push_str(&format!("%{byte:02X}"));
            }
            _ => escaped.push(char::from(byte)),
        }
    }
    escaped
}

impl Admin {
    /// The server and prefix of these options; their database name does not matter.
    ///
    /// # Errors
    /// A setting that makes no sense. The server is not asked yet.
    pub fn connect(options: &Options) -> Result<Self> {
        Ok(Admin::with(options.config()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_carries_any_value() {
        let options = Options::new("a b?c").server("unix:///tmp/x.sock?db=1&pass=p%w").cache_size(1).cache_size(2);
        assert_eq!(
            options.uri(),
            "file:a%20b%3Fc?vfs=redis&mode=rwc&redis=unix:///tmp/x.sock%3Fdb%3D1%26pass%3Dp%25w&cache_size=2"
        );
        assert!(Options::new("//shop").uri().starts_with("file:shop?"));
        assert!(options.read_only(true).uri().contains("mode=ro"));
    }
}
