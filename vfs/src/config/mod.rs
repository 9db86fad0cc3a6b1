//! Every setting, once: its URI parameter, its environment variable, its default, its meaning.
//!
//! `docs/configuration.md` shows this table; a test compares the two.

use std::time::Duration;

use crate::model::error::{Cause, Result};
use crate::model::secret::shown_address;

mod access;
pub(crate) mod address;
mod consistency;
pub(crate) mod credentials;
pub(crate) mod endpoint;
mod range;

use crate::config::access::Access;
pub(crate) use crate::config::address::Address;
pub use crate::config::consistency::Consistency;
pub use crate::config::range::Range;

/// One setting as users see it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Setting {
    /// URI parameter, as in `file:shop?vfs=redis&lease_ms=2000`.
    pub parameter: &'static str,
    /// Environment variable that gives the default.
    pub environment: &'static str,
    /// Value when neither is there.
    pub default: &'static str,
    /// The numbers that it may be; `None` if it is no number.
    pub range: Option<Range>,
    /// What it means.
    pub meaning: &'static str,
}

macro_rules! settings {
    ($($name:ident = $parameter:literal, $environment:literal, $default:literal $(in $range:expr)?, $meaning:literal;)*) => {
        $(pub(crate) const $name: Setting = Setting {
            parameter: $parameter,
            environment: $environment,
            default: $default,
            range: settings!(@range $($range)?),
            meaning: $meaning,
        };)*
        /// Every setting that a URI parameter or an environment variable can give.
        pub const SETTINGS: &[Setting] = &[$($name),*];
    };
    (@range) => { None };
    (@range $range:expr) => { Some($range) };
}

settings! {
    SERVER = "redis", "SQLITE_REDIS_URL", "redis://127.0.0.1:6379",
        "server: `redis://[user:password@]host[:port][/db]`, `rediss://` (TLS), `unix:///path[?db=N&user=U&pass=P]`, \
         `sentinel://[user:password@]service@host:port,host:port[/db]`, `redis+cluster://[user:password@]host:port,host:port`";
    REPLICA = "replica", "SQLITE_REDIS_REPLICA", "none",
        "a replica of that server for reads, as a URL; repeat it for more (several in the variable: with spaces between); `auto`: all that the primary has";
    CREDENTIALS = "credentials", "SQLITE_REDIS_CREDENTIALS", "none",
        "where the password is, for servers whose address has none: `file:/path` or `env:NAME`; it is read for each connection, so it can be changed while a process runs";
    TLS_CERT = "tls_cert", "SQLITE_REDIS_TLS_CERT", "none",
        "with TLS: file with the client's certificate, and those of its authorities (PEM); see [TLS](#tls)";
    TLS_KEY = "tls_key", "SQLITE_REDIS_TLS_KEY", "none",
        "with TLS: file with the key of `tls_cert` (PEM)";
    TLS_CA = "tls_ca", "SQLITE_REDIS_TLS_CA", "none",
        "with TLS: file with the certificates of the authorities that are trusted, in place of the system's (PEM)";
    TLS_NAME = "tls_name", "SQLITE_REDIS_TLS_NAME", "none",
        "with TLS: the name that the server's certificate must have, in place of the host in the address";
    CONSISTENCY = "consistency", "SQLITE_REDIS_CONSISTENCY", "strong",
        "how new what is read must be: `strong`, `session`, `bounded=<milliseconds>`, `snapshot`; see [replication](replication.md)";
    CATCH_UP = "catch_up_ms", "SQLITE_REDIS_CATCH_UP_MS", "1000" in Range::milliseconds_from(1),
        "how long a replica that lags is waited for in `session`, and by `PRAGMA redis_wait_version`, milliseconds";
    PREFIX = "prefix", "SQLITE_REDIS_PREFIX", "sqlite",
        "start of every key of the database";
    CACHE_SIZE = "cache_size", "SQLITE_REDIS_CACHE_SIZE", "64M" in Range::BYTES,
        "page cache of this process for this database, bytes (k, M, G)";
    LEASE = "lease_ms", "SQLITE_REDIS_LEASE_MS", "5000" in Range::milliseconds_from(100),
        "life of the write lease without renewal, milliseconds: how long a writer that died blocks others";
    LINGER = "linger_ms", "SQLITE_REDIS_LINGER_MS", "0" in Range::milliseconds_from(0),
        "how long the write lease is kept for the next transaction where one follows the other, milliseconds; 0: it is given back with each commit";
    CONNECT_TIMEOUT = "connect_ms", "SQLITE_REDIS_CONNECT_MS", "5000" in Range::milliseconds_from(1),
        "time for making a connection, milliseconds";
    TIMEOUT = "timeout_ms", "SQLITE_REDIS_TIMEOUT_MS", "10000" in Range::milliseconds_from(1),
        "time for one reply, and for finding out what became of a commit whose reply was lost, milliseconds";
    FAILOVER = "failover_ms", "SQLITE_REDIS_FAILOVER_MS", "15000" in Range::milliseconds_from(1),
        "with `sentinel://` and `redis+cluster://`: how long the next primary is waited for, milliseconds";
    LOG_COMMITS = "log_commits", "SQLITE_REDIS_LOG_COMMITS", "10000" in Range::up_to(1_000_000_000),
        "commits kept in the log: how far behind a reader may stay";
    LOG_BYTES = "log_bytes", "SQLITE_REDIS_LOG_BYTES", "64M" in Range::BYTES,
        "reverse deltas kept in the log, bytes (k, M, G); the older half is dropped when they are more";
    STAGE_BYTES = "stage_bytes", "SQLITE_REDIS_STAGE_BYTES", "32M" in Range::BYTES,
        "a commit of more bytes goes to a key of its own first, so that other clients of the server don't wait for it; what an open transaction has written beyond that is kept in a temporary file (k, M, G)";
    WAIT = "wait", "SQLITE_REDIS_WAIT", "0" in REPLICAS,
        "replicas that must have a commit before it is reported as done";
    WAIT_TIME = "wait_ms", "SQLITE_REDIS_WAIT_MS", "1000" in Range::milliseconds_from(1),
        "time that `wait` and `wait_disk` give the servers, milliseconds, less than `timeout_ms`";
    WAIT_DISK = "wait_disk", "SQLITE_REDIS_WAIT_DISK", "0",
        "1: the primary, and as many replicas as `wait` says, must have a commit on disk before it is reported as done (Redis 7.2 with `appendonly yes`)";
    COMPRESS = "compress", "SQLITE_REDIS_COMPRESS", "0",
        "1 stores pages that are written compressed (Zstandard) where that is shorter; with 0 only their longest run of zeros is left out; what is stored is read with any setting";
    READ_ONLY = "readonly", "SQLITE_REDIS_READONLY", "0",
        "1 opens without the right to write, as `mode=ro` does";
    ALLOW_EVICTION = "allow_eviction", "SQLITE_REDIS_ALLOW_EVICTION", "0",
        "1 opens also where the server's maxmemory-policy may drop pages";
}

/// Settings of the process, which no URI can give.
pub const PROCESS_SETTINGS: &[Setting] = &[DEFAULT_VFS];

/// Makes `redis` the default VFS when the extension is loaded.
pub(crate) const DEFAULT_VFS: Setting = Setting {
    parameter: "",
    environment: "SQLITE_REDIS_DEFAULT_VFS",
    default: "0",
    range: None,
    meaning: "1 makes `redis` the default VFS when the extension is loaded, for hosts without URI file names",
};

/// URI parameters that belong to SQLite itself, which hands them over all the same.
const SQLITE_PARAMETERS: &[&str] = &["vfs", "mode", "cache", "psow", "modeof"];
/// Start of the parameters that drivers take for themselves and leave in the name all the same,
/// such as `_busy_timeout` of Go's mattn/go-sqlite3 or `_pragma` of modernc.org/sqlite.
const DRIVER_PARAMETERS: char = '_';
/// Those of SQLite that a shared database can't honour.
const REFUSED_PARAMETERS: &[&str] = &["nolock", "immutable"];

/// The failure for a URI parameter that nothing here reads.
pub(crate) fn unknown_parameter(parameter: &str) -> Cause {
    let names: Vec<_> = SETTINGS.iter().map(|setting| setting.parameter).collect();
    Cause::UnknownParameter { parameter: parameter.to_owned(), known: names.join(", ") }
}

/// Replicas that a commit may wait for, in the URI and the pragma.
pub(crate) const REPLICAS: Range = Range::up_to(1000);

/// What a commit waits for before it is reported as done (`WAIT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Replicas that must have it.
    pub replicas: u32,
    /// Whether they and the primary must have it on disk (`WAITAOF`).
    pub disk: bool,
    /// How long they are waited for.
    pub time: Duration,
}

impl Wait {
    /// For none.
    pub(crate) const NONE: Wait = Wait { replicas: 0, disk: false, time: Duration::from_secs(1) };
}

/// Which replicas are read from.
#[derive(Debug, Clone)]
pub(crate) enum Replicas {
    /// These, or none.
    Named(Vec<Address>),
    /// All that the primary has.
    Auto,
}

/// The settings of one database, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the server is.
    pub(crate) server: Address,
    /// Whether that may be a replica: it was named as one, or is only read.
    pub(crate) any_role: bool,
    /// Its replicas, for reads.
    pub(crate) replicas: Replicas,
    /// How new what is read must be.
    pub consistency: Consistency,
    /// How long a replica that lags is waited for.
    pub catch_up: Duration,
    /// Start of every key.
    pub prefix: String,
    /// Bytes of page cache.
    pub cache_size: u64,
    /// Life of the write lease without renewal.
    pub lease: Duration,
    /// How long the write lease is kept for the next transaction.
    pub linger: Duration,
    /// Time for making a connection.
    pub connect_timeout: Duration,
    /// Time for one reply.
    pub timeout: Duration,
    /// How long the next primary is waited for.
    pub failover: Duration,
    /// Commits kept in the log.
    pub log_commits: u64,
    /// Bytes of reverse deltas kept in the log.
    pub log_bytes: u64,
    /// Bytes from which on a commit is staged.
    pub stage_bytes: u64,
    /// What a commit waits for.
    pub(crate) wait: Wait,
    /// Store pages compressed (Zstandard) where that is shorter.
    pub compress: bool,
    /// No writes from here.
    pub read_only: bool,
    /// Open in spite of a policy that may drop pages.
    pub allow_eviction: bool,
}

impl Config {
    /// Settings from URI parameters (pairs of name and value), then the environment, then defaults.
    ///
    /// # Errors
    /// A parameter that is not known, a value that does not parse.
    pub fn from_parameters<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut given = Vec::new();
        for (name, value) in parameters {
            if REFUSED_PARAMETERS.contains(&name) {
                return Err(Cause::Unsupported(format!(
                    "the URI parameter {name} is not for a database that others may change"
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

    /// Settings for the server of a virtual table. Its address stands in a schema, which may be anybody's, so the
    /// credentials of the environment are only for the server that the environment names.
    pub(crate) fn of_table(url: &str) -> Result<Config> {
        let own = Value::of(&SERVER, &[]).server();
        let is_own = Address::parse(url).is_ok_and(|address| own.is_ok_and(|own| own.has_servers_of(&address)));
        let without = (CREDENTIALS.parameter, CREDENTIALS.default);
        let parameters = [(SERVER.parameter, url)].into_iter().chain((!is_own).then_some(without));
        let config = Config::from_parameters(parameters)?;
        // Then nothing can be written there.
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

    /// What makes two connections to a server interchangeable: its URL, user and password included.
    pub(crate) fn server_key(&self) -> String {
        format!("{} {:?}", self.server.key(), (self.any_role, self.connect_timeout, self.timeout, self.failover))
    }

    /// What two connections must have in common to share a database of the same name: its page cache, its lease.
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

    /// How long it is looked for what became of a commit whose reply was lost.
    pub(crate) fn patience(&self) -> Duration {
        let failover = if self.server.follows() { self.failover } else { Duration::ZERO };
        self.timeout.max(self.lease) + failover
    }
}

/// A value on its way to be parsed, with the name to blame.
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

    /// Those of a setting that may be given more than once.
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
            return self.bad("expected some text without braces");
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
mod tests {
    use super::*;

    fn config(parameters: &[(&str, &str)]) -> Result<Config> {
        Config::from_parameters(parameters.iter().copied())
    }

    #[test]
    fn defaults_are_valid() {
        let config = config(&[("vfs", "redis"), ("mode", "rwc")]).unwrap();
        assert_eq!(config.prefix, "sqlite");
        assert_eq!(config.cache_size, 64 << 20);
        assert_eq!(config.lease, Duration::from_secs(5));
    }

    #[test]
    fn defaults_are_within_their_ranges() {
        for setting in SETTINGS {
            assert!(setting.range.is_none_or(|range| range.parse(setting.default).is_some()), "{}", setting.parameter);
        }
    }

    #[test]
    fn an_unknown_parameter_is_named() {
        let error = config(&[("cashe_size", "1")]).unwrap_err().to_string();
        assert!(error.contains("cashe_size") && error.contains("cache_size"), "{error}");
    }

    #[test]
    fn parameters_of_drivers_are_left_to_them() {
        assert!(config(&[("_busy_timeout", "5000"), ("_pragma", "foreign_keys(1)")]).is_ok());
    }

    #[test]
    fn parameters_that_would_break_sharing_are_refused() {
        assert!(config(&[("nolock", "1")]).is_err());
        assert!(config(&[("immutable", "1")]).is_err());
    }

    #[test]
    fn bad_values_are_refused() {
        for (name, value) in [
            ("cache_size", "many"),
            ("cache_size", "1048576G"),
            ("cache_size", "17179869183G"),
            ("lease_ms", "0"),
            ("lease_ms", "-5"),
            ("timeout_ms", ""),
            ("log_commits", "1.5"),
            ("wait", "-1"),
            ("wait", "all"),
            ("readonly", "maybe"),
            ("replica", "localhost:6379"),
            ("replica", ""),
            ("replica", "sentinel://shop@a:1"),
            ("consistency", "eventual"),
            ("consistency", "bounded"),
            ("catch_up_ms", "0"),
            ("prefix", "a{b"),
            ("prefix", ""),
            ("redis", "localhost:6379"),
            ("redis", "http://localhost"),
            ("redis", "redis://host:notaport"),
        ] {
            assert!(config(&[(name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn replicas_are_those_that_were_given() {
        let replicas = |parameters: &[(&str, &str)]| match config(parameters).unwrap().replicas {
            Replicas::Named(named) => named.iter().map(Address::name).collect::<Vec<_>>(),
            Replicas::Auto => vec!["auto".to_owned()],
        };
        assert!(replicas(&[]).is_empty());
        assert_eq!(
            replicas(&[("replica", "redis://a:1"), ("lease_ms", "100"), ("replica", "unix:///b?db=2")]),
            ["redis://a:1", "unix:///b?db=2"]
        );
        assert_eq!(replicas(&[("replica", "auto")]), ["auto"]);
        let error = config(&[("replica", "redis://u:secret@a"); 65]).unwrap_err().to_string();
        assert!(error.contains("64 at most") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn the_wait_for_replicas_ends_before_the_wait_for_the_reply() {
        assert!(config(&[("wait", "1"), ("wait_ms", "500"), ("timeout_ms", "501")]).is_ok());
        assert!(config(&[("wait", "1"), ("wait_ms", "500"), ("timeout_ms", "500")]).is_err());
        assert!(config(&[("wait_disk", "1"), ("timeout_ms", "500")]).is_err());
        assert!(config(&[("wait", "0"), ("timeout_ms", "500")]).is_ok());
    }

    #[test]
    fn no_message_shows_a_password() {
        for url in [
            "redis://me:secret@host:notaport",
            "me:secret@host:6379",
            "redis:/me:secret@host",
            "http://a@host?pass=secret",
            "http://me:secret@host//x",
            "me:secret//x@host",
            "redis://h?protocol=me:secret@x",
            "me:secret@host redis://x",
            "unix:///path?db=x&pass=a@secret",
            "sentinel://me:secret@a b@host:1",
            "sentinel://shop@host:1/x?sentinel_password=secret",
            "sentinel://shop@host:1/x?sentinel_password=a@secret",
            "redis+cluster://me:secret@host:1/2",
        ] {
            let error = config(&[("redis", url)]).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let config = config(&[("redis", "redis://me:secret@host:7000/3")]).unwrap();
        assert_eq!(config.server_name(), "redis://host:7000/3");
        let url = "sentinel://me:secret@shop@host:1/3?sentinel_password=secret";
        let config = Config::from_parameters([("redis", url)]).unwrap();
        assert_eq!(config.server_name(), "sentinel://shop@host:1/3");
        assert_eq!(config.server.passwords(), ["secret", "secret"]);
    }
}
