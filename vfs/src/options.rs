//! Opening a database from Rust, with typed options.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::admin::Admin;
use crate::config;
use crate::config::{Config, Consistency, Setting};
use crate::model::error::{Cause, Error, Result};

/// Options to open a database that lives in Redis.
///
/// An option that is not set comes from its environment variable, or else is the default; see
/// [`crate::SETTINGS`].
///
/// ```no_run
/// use std::time::Duration;
/// use sqlite_redis::{Consistency, Options};
///
/// let shop = Options::new("shop")
///     .server("redis://localhost:6379")
///     .replica("auto")
///     .consistency(Consistency::Session)
///     .timeout(Duration::from_secs(5))
///     .open()?;
/// # Ok::<(), sqlite_redis::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    name: String,
    parameters: Vec<(&'static str, String)>,
    read_only: bool,
    create: bool,
}

impl Options {
    /// Starts with the defaults, for the database `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Options { name: name.into(), parameters: Vec::new(), read_only: false, create: true }
    }

    fn set(mut self, setting: &Setting, value: impl ToString) -> Self {
        self.parameters.retain(|(name, _)| *name != setting.parameter);
        self.parameters.push((setting.parameter, value.to_string()));
        self
    }

    /// Sets the server's URL: `redis://`, `rediss://`, `unix://`, `sentinel://` or `redis+cluster://`.
    #[must_use]
    pub fn server(self, url: impl Into<String>) -> Self {
        self.set(&config::SERVER, url.into())
    }

    /// Adds a replica of the server, for reads. `auto` stands for all replicas of the primary.
    #[must_use]
    pub fn replica(mut self, url: impl Into<String>) -> Self {
        self.parameters.push((config::REPLICA.parameter, url.into()));
        self
    }

    /// Names the place of the password, for servers whose URL has none: `file:/path` or `env:NAME`. The password is
    /// read for each new connection.
    #[must_use]
    pub fn credentials(self, place: impl Into<String>) -> Self {
        self.set(&config::CREDENTIALS, place.into())
    }

    /// Sets the files with the client's certificate and its key, for TLS (PEM).
    #[must_use]
    pub fn tls_identity(self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.set(&config::TLS_CERT, certificate.into()).set(&config::TLS_KEY, key.into())
    }

    /// Sets the file with the trusted certificate authorities, for TLS (PEM). They replace the system's.
    #[must_use]
    pub fn tls_authorities(self, file: impl Into<String>) -> Self {
        self.set(&config::TLS_CA, file.into())
    }

    /// Sets the name that the server's certificate must have, for TLS. Default: the host in the URL.
    #[must_use]
    pub fn tls_name(self, name: impl Into<String>) -> Self {
        self.set(&config::TLS_NAME, name.into())
    }

    /// Sets how recent the version must be that a transaction reads.
    #[must_use]
    pub fn consistency(self, consistency: Consistency) -> Self {
        self.set(&config::CONSISTENCY, consistency)
    }

    /// Sets how long a read waits for a lagging replica.
    #[must_use]
    pub fn catch_up(self, time: Duration) -> Self {
        self.set(&config::CATCH_UP, time.as_millis())
    }

    /// Sets the start of every key.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        self.set(&config::PREFIX, prefix.into())
    }

    /// Sets the size of the page cache in bytes. All connections of this process to the database share it.
    #[must_use]
    pub fn cache_size(self, bytes: u64) -> Self {
        self.set(&config::CACHE_SIZE, bytes)
    }

    /// Sets how long the write lease lives without renewal.
    #[must_use]
    pub fn lease(self, life: Duration) -> Self {
        self.set(&config::LEASE, life.as_millis())
    }

    /// Sets how long the write lease is kept after a commit for the next transaction. Zero releases it with each
    /// commit.
    #[must_use]
    pub fn linger(self, time: Duration) -> Self {
        self.set(&config::LINGER, time.as_millis())
    }

    /// Sets the time limit for connecting to a server.
    #[must_use]
    pub fn connect_timeout(self, time: Duration) -> Self {
        self.set(&config::CONNECT_TIMEOUT, time.as_millis())
    }

    /// Sets the time limit for one reply.
    #[must_use]
    pub fn timeout(self, time: Duration) -> Self {
        self.set(&config::TIMEOUT, time.as_millis())
    }

    /// Sets how long to wait for the next primary in a failover.
    #[must_use]
    pub fn failover(self, time: Duration) -> Self {
        self.set(&config::FAILOVER, time.as_millis())
    }

    /// Sets the number of commits that the log keeps.
    #[must_use]
    pub fn log_commits(self, commits: u64) -> Self {
        self.set(&config::LOG_COMMITS, commits)
    }

    /// Sets how many bytes of reverse deltas the log keeps.
    #[must_use]
    pub fn log_bytes(self, bytes: u64) -> Self {
        self.set(&config::LOG_BYTES, bytes)
    }

    /// Sets the size in bytes above which a commit is staged: its pages are sent to a separate key first, in pieces,
    /// so that other clients of the server don't wait for it. An open transaction keeps pages beyond this size in a
    /// temporary file.
    #[must_use]
    pub fn stage_bytes(self, bytes: u64) -> Self {
        self.set(&config::STAGE_BYTES, bytes)
    }

    /// Sets how many replicas must have a commit before it succeeds, and how long to wait for them. If too few have it
    /// in time, the commit fails with [`Cause::NotReplicated`], but stays on the primary.
    #[must_use]
    pub fn wait(self, replicas: u32, time: Duration) -> Self {
        self.set(&config::WAIT, replicas).set(&config::WAIT_TIME, time.as_millis())
    }

    /// Compresses written pages (Zstandard) if that makes them shorter. Otherwise only the longest run of zeros of a
    /// page is left out.
    #[must_use]
    pub fn compress(self, compress: bool) -> Self {
        self.set(&config::COMPRESS, u8::from(compress))
    }

    /// Requires that the primary, and as many replicas as set with [`Options::wait`], have a commit on disk before it
    /// succeeds. Needs Redis 7.2 with `appendonly yes`.
    #[must_use]
    pub fn wait_disk(self, disk: bool) -> Self {
        self.set(&config::WAIT_DISK, u8::from(disk))
    }

    /// Opens the database even if the server's `maxmemory-policy` may evict pages.
    #[must_use]
    pub fn allow_eviction(self, allow: bool) -> Self {
        self.set(&config::ALLOW_EVICTION, u8::from(allow))
    }

    /// Opens the database read-only (`mode=ro`).
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets whether to create a missing database (`mode=rwc`, the default) or to fail (`mode=rw`).
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Returns these options as a URI file name, for `ATTACH` or for any SQLite with the extension loaded.
    pub fn uri(&self) -> String {
        let mode = match (self.read_only, self.create) {
            (true, _) => "ro",
            (false, true) => "rwc",
            (false, false) => "rw",
        };
        // After `file:`, two slashes would begin an authority. Leading slashes are not part of a database's name.
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

    /// Opens a connection, and registers the VFS if that was not done before.
    ///
    /// # Errors
    /// The reason why the database can't be opened, such as an unreachable server or a wrong password.
    pub fn open(&self) -> Result<Connection> {
        crate::ffi::extension::register_linked()?;
        // Checked first, because SQLite cuts a URI at NUL and gives no reason.
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

/// Percent-encodes the characters that have a meaning in URI file names (<https://sqlite.org/uri.html>).
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
    /// Manages the databases on the server and under the prefix of these options. Their database name is ignored.
    ///
    /// # Errors
    /// A setting is invalid. No connection is made yet.
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
