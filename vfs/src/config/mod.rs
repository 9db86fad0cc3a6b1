//! Settings: from URI parameters, the environment and defaults to one [`Config`].

use std::time::Duration;

use crate::model::error::{Cause, Result};
use crate::model::secret::shown_address;

mod access;
pub(crate) mod address;
mod consistency;
pub(crate) mod credentials;
pub(crate) mod endpoint;
mod range;
mod settings;

use crate::config::access::Access;
pub(crate) use crate::config::address::Address;
pub use crate::config::consistency::Consistency;
pub use crate::config::range::Range;
pub(crate) use crate::config::settings::*;
pub use crate::config::settings::{PROCESS_SETTINGS, SETTINGS, Setting};

/// URI parameters of SQLite itself. SQLite passes them to the VFS too.
const SQLITE_PARAMETERS: &[&str] = &["vfs", "mode", "cache", "psow", "modeof"];
/// First character of parameters of drivers, which don't remove them from the URI:
/// `_busy_timeout` of Go's mattn/go-sqlite3, `_pragma` of modernc.org/sqlite.
const DRIVER_PARAMETERS: char = '_';
/// SQLite's parameters that a shared database can't honour.
const REFUSED_PARAMETERS: &[&str] = &["nolock", "immutable"];

/// The error for an unknown URI parameter.
pub(crate) fn unknown_parameter(parameter: &str) -> Cause {
    let names: Vec<_> = SETTINGS.iter().map(|setting| setting.parameter).collect();
    Cause::UnknownParameter { parameter: parameter.to_owned(), known: names.join(", ") }
}

/// The replicas that must confirm a commit before it succeeds (`WAIT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Number of replicas that must have the commit.
    pub replicas: u32,
    /// Whether they and the primary must have it on disk (`WAITAOF`).
    pub disk: bool,
    /// Time limit.
    pub time: Duration,
}

impl Wait {
    /// Waits for no replica.
    pub(crate) const NONE: Wait = Wait { replicas: 0, disk: false, time: Duration::from_secs(1) };
}

/// The replicas for reads.
#[derive(Debug, Clone)]
pub(crate) enum Replicas {
    /// These replicas; none if empty.
    Named(Vec<Address>),
    /// All replicas of the primary.
    Auto,
}

/// The settings of one database, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) server: Address,
    /// Whether the server may be a replica: the user named it as one, or only reads from it.
    pub(crate) any_role: bool,
    pub(crate) replicas: Replicas,
    pub consistency: Consistency,
    /// How long a read waits for a lagging replica.
    pub catch_up: Duration,
    /// Start of every key.
    pub prefix: String,
    /// Bytes of page cache.
    pub cache_size: u64,
    /// Life of the write lease without renewal.
    pub lease: Duration,
    /// How long the write lease is kept for the next transaction.
    pub linger: Duration,
    /// Time limit for connecting.
    pub connect_timeout: Duration,
    /// Time limit for one reply.
    pub timeout: Duration,
    /// How long to wait for the next primary in a failover.
    pub failover: Duration,
    /// Commits kept in the log.
    pub log_commits: u64,
    /// Bytes of reverse deltas kept in the log.
    pub log_bytes: u64,
    /// Larger commits are staged.
    pub stage_bytes: u64,
    pub(crate) wait: Wait,
    /// Compresses pages (Zstandard) if that makes them shorter.
    pub compress: bool,
    pub read_only: bool,
    /// Opens also on servers that may evict pages.
    pub allow_eviction: bool,
}

impl Config {
    /// Reads the settings: from URI parameters (pairs of name and value), else the environment, else defaults.
    ///
    /// # Errors
    /// A parameter is unknown, or a value is invalid.
    pub fn from_parameters<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut given = Vec::new();
        for (name, value) in parameters {
            if REFUSED_PARAMETERS.contains(&name) {
                return Err(Cause::Unsupported(format!(
                    "the URI parameter {name} is not allowed, because other clients may change the database"
                ))
                .into());
            }
            if SETTINGS.iter().any(|setting| setting.parameter == name) {
                given.push((name, value));
            } else if !SQLITE_PARAMETERS.contains(&name) && !name.starts_with(DRIVER_PARAMETERS) {
                return Err(unknown_parameter(name).into());
            }
        }
        let value = |setting: &Setting| Value::of(setting, &given);
        let number = |setting: &Setting| value(setting).number(setting.range);
        let milliseconds = |setting: &Setting| number(setting).map(Duration::from_millis);
        let wait = Wait {
            replicas: number(&WAIT)? as u32,
            disk: value(&WAIT_DISK).boolean()?,
            time: milliseconds(&WAIT_TIME)?,
        };
        let timeout = milliseconds(&TIMEOUT)?;
        if (wait.replicas > 0 || wait.disk) && wait.time >= timeout {
            return value(&WAIT_TIME).bad(format!(
                "expected less than {} ({} ms)",
                TIMEOUT.parameter,
                timeout.as_millis()
            ));
        }
        let access = Access::of(&given)?;
        Ok(Config {
            server: access.server(value(&SERVER))?,
            any_role: false,
            replicas: access.replicas(Value::all_of(&REPLICA, &given))?,
            consistency: value(&CONSISTENCY).consistency()?,
            catch_up: milliseconds(&CATCH_UP)?,
            prefix: value(&PREFIX).prefix()?,
            cache_size: number(&CACHE_SIZE)?,
            lease: milliseconds(&LEASE)?,
            linger: milliseconds(&LINGER)?,
            connect_timeout: milliseconds(&CONNECT_TIMEOUT)?,
            timeout,
            failover: milliseconds(&FAILOVER)?,
            log_commits: number(&LOG_COMMITS)?,
            log_bytes: number(&LOG_BYTES)?,
            stage_bytes: number(&STAGE_BYTES)?,
            wait,
            compress: value(&COMPRESS).boolean()?,
            read_only: value(&READ_ONLY).boolean()?,
            allow_eviction: value(&ALLOW_EVICTION).boolean()?,
        })
    }

    /// Settings for the server of a virtual table. Its address comes from a schema, which is untrusted, so the
    /// credentials of the environment are sent only to the server that the environment names.
    pub(crate) fn of_table(url: &str) -> Result<Config> {
        let own = Value::of(&SERVER, &[]).server();
        let is_own = Address::parse(url).is_ok_and(|address| own.is_ok_and(|own| own.has_servers_of(&address)));
        let without = (CREDENTIALS.parameter, CREDENTIALS.default);
        let parameters = [(SERVER.parameter, url)].into_iter().chain((!is_own).then_some(without));
        let config = Config::from_parameters(parameters)?;
        // Without writes, a replica can serve the table too.
        Ok(if config.read_only { config.with_any_role() } else { config })
    }

    /// The same settings for a replica.
    pub(crate) fn of_replica(&self, replica: &Address) -> Config {
        let server = match (replica, &self.server) {
            (Address::Fixed(endpoint), Address::Cluster(_)) => Address::Replica(endpoint.clone()),
            _ => replica.clone(),
        };
        Config { server, ..self.clone() }.with_any_role()
    }

    /// The same settings, but the server may be a replica.
    pub(crate) fn with_any_role(self) -> Config {
        Config { any_role: true, ..self }
    }

    /// The server's address and database number, without user and password.
    pub fn server_name(&self) -> String {
        self.server.name()
    }

    /// A text that is equal for interchangeable connections to a server. It contains user and password: don't show it.
    pub(crate) fn server_key(&self) -> String {
        format!("{} {:?}", self.server.key(), (self.any_role, self.connect_timeout, self.timeout, self.failover))
    }

    /// A text that is equal for connections that can share a database of the same name, with its page cache and lease.
    /// It contains user and password: don't show it.
    pub(crate) fn identity(&self) -> String {
        let shared = (
            self.lease,
            self.linger,
            self.log_commits,
            self.log_bytes,
            self.stage_bytes,
            self.compress,
            self.allow_eviction,
        );
        format!("{} {:?} {shared:?}", self.server_key(), self.prefix)
    }

    /// How long to look for the outcome of a commit whose reply was lost.
    pub(crate) fn patience(&self) -> Duration {
        let failover = if self.server.follows() { self.failover } else { Duration::ZERO };
        self.timeout.max(self.lease) + failover
    }
}

/// The text of a setting, and the parameter or variable that it came from, for error messages.
struct Value {
    name: &'static str,
    text: String,
}

impl Value {
    fn of(setting: &Setting, given: &[(&str, &str)]) -> Value {
        if let Some((_, value)) = given.iter().rev().find(|(name, _)| *name == setting.parameter) {
            return Value { name: setting.parameter, text: (*value).to_owned() };
        }
        match std::env::var(setting.environment) {
            Ok(text) if !text.is_empty() => Value { name: setting.environment, text },
            _ => Value { name: setting.parameter, text: setting.default.to_owned() },
        }
    }

    /// All values of a setting that may be given more than once.
    fn all_of(setting: &Setting, given: &[(&str, &str)]) -> Vec<Value> {
        let several: Vec<_> = given.iter().filter(|(name, _)| *name == setting.parameter).collect();
        if several.is_empty() {
            let Value { name, text } = Value::of(setting, given);
            let texts = text.split_whitespace().filter(|text| *text != setting.default);
            return texts.map(|text| Value { name, text: text.to_owned() }).collect();
        }
        several.into_iter().map(|(_, text)| Value { name: setting.parameter, text: (*text).to_owned() }).collect()
    }

    fn bad<T>(self, reason: impl Into<String>) -> Result<T> {
        Err(Cause::BadSetting { setting: self.name.to_owned(), value: self.text, reason: reason.into() }.into())
    }

    fn consistency(self) -> Result<Consistency> {
        match Consistency::parse(&self.text) {
            Some(consistency) => Ok(consistency),
            None => self.bad(Consistency::EXPECTED),
        }
    }

    fn boolean(self) -> Result<bool> {
        match self.text.as_str() {
            "0" | "no" | "off" | "false" => Ok(false),
            "1" | "yes" | "on" | "true" => Ok(true),
            _ => self.bad("expected 0 or 1"),
        }
    }

    fn prefix(self) -> Result<String> {
        if self.text.is_empty() || self.text.contains(['{', '}', '\0']) {
            return self.bad("expected a text that is not empty and has no braces");
        }
        Ok(self.text)
    }

    fn server(self) -> Result<Address> {
        match Address::parse(&self.text) {
            Ok(address) => Ok(address),
            Err(expected) => {
                let text = shown_address(&self.text);
                Value { text, ..self }.bad(expected)
            }
        }
    }
}

/// Whether the environment asks for `redis` as the default VFS.
pub(crate) fn default_vfs_wanted() -> Result<bool> {
    Value::of(&DEFAULT_VFS, &[]).boolean()
}

#[cfg(test)]
mod tests;
