//! Every setting, once: its URI parameter, its environment variable, its default, its meaning.
//!
//! `docs/configuration.md` shows this table; a test compares the two.

use crate::config::range::Range;

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

/// Replicas that a commit may wait for, in the URI and the pragma.
pub(crate) const REPLICAS: Range = Range::up_to(1000);
