//! The table of all settings: URI parameter, environment variable, default and meaning.
//!
//! `docs/configuration.md` shows this table; a test compares the two.

use crate::config::range::Range;

/// A setting: its names, default, range and meaning.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Setting {
    /// The URI parameter, as in `file:shop?vfs=redis&lease_ms=2000`.
    pub parameter: &'static str,
    /// The environment variable, used if the URI has no such parameter.
    pub environment: &'static str,
    /// The value if neither is set.
    pub default: &'static str,
    /// The allowed numbers; `None` if the setting is not a number.
    pub range: Option<Range>,
    /// The meaning, as in `docs/configuration.md`.
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
        "URL of a replica of that server, for reads; repeat it for more (in the variable: separated by spaces); `auto`: all replicas of the primary";
    CREDENTIALS = "credentials", "SQLITE_REDIS_CREDENTIALS", "none",
        "place of the password, for servers whose address has none: `file:/path` or `env:NAME`; read for each connection, so it can be changed while a process runs";
    TLS_CERT = "tls_cert", "SQLITE_REDIS_TLS_CERT", "none",
        "with TLS: file with the client's certificate and those of its authorities (PEM); see [TLS](#tls)";
    TLS_KEY = "tls_key", "SQLITE_REDIS_TLS_KEY", "none",
        "with TLS: file with the key of `tls_cert` (PEM)";
    TLS_CA = "tls_ca", "SQLITE_REDIS_TLS_CA", "none",
        "with TLS: file with the trusted certificate authorities (PEM), which replace the system's";
    TLS_NAME = "tls_name", "SQLITE_REDIS_TLS_NAME", "none",
        "with TLS: name in the server's certificate, if it is not the host in the address";
    CONSISTENCY = "consistency", "SQLITE_REDIS_CONSISTENCY", "strong",
        "how recent the version must be that a transaction reads: `strong`, `session`, `bounded=<milliseconds>`, `snapshot`; see [replication](replication.md)";
    CATCH_UP = "catch_up_ms", "SQLITE_REDIS_CATCH_UP_MS", "1000" in Range::milliseconds_from(1),
        "how long `session` reads and `PRAGMA redis_wait_version` wait for a lagging replica, milliseconds";
    PREFIX = "prefix", "SQLITE_REDIS_PREFIX", "sqlite",
        "start of every key of the database";
    CACHE_SIZE = "cache_size", "SQLITE_REDIS_CACHE_SIZE", "64M" in Range::BYTES,
        "page cache of this process for this database, bytes (k, M, G)";
    LEASE = "lease_ms", "SQLITE_REDIS_LEASE_MS", "5000" in Range::milliseconds_from(100),
        "life of the write lease without renewal, milliseconds: how long a writer that died blocks others";
    LINGER = "linger_ms", "SQLITE_REDIS_LINGER_MS", "0" in Range::milliseconds_from(0),
        "how long the write lease is kept after a commit for the next transaction, milliseconds; 0: each commit releases it";
    CONNECT_TIMEOUT = "connect_ms", "SQLITE_REDIS_CONNECT_MS", "5000" in Range::milliseconds_from(1),
        "time limit for connecting, milliseconds";
    TIMEOUT = "timeout_ms", "SQLITE_REDIS_TIMEOUT_MS", "10000" in Range::milliseconds_from(1),
        "time limit for one reply, and for looking up the outcome of a commit whose reply was lost, milliseconds";
    FAILOVER = "failover_ms", "SQLITE_REDIS_FAILOVER_MS", "15000" in Range::milliseconds_from(1),
        "with `sentinel://` and `redis+cluster://`: how long to wait for the next primary in a failover, milliseconds";
    LOG_COMMITS = "log_commits", "SQLITE_REDIS_LOG_COMMITS", "10000" in Range::up_to(1_000_000_000),
        "commits kept in the log: how far behind a reader may stay";
    LOG_BYTES = "log_bytes", "SQLITE_REDIS_LOG_BYTES", "64M" in Range::BYTES,
        "reverse deltas kept in the log, bytes (k, M, G); above it, the older half is dropped";
    STAGE_BYTES = "stage_bytes", "SQLITE_REDIS_STAGE_BYTES", "32M" in Range::BYTES,
        "a larger commit is staged: its pages are first sent to a separate key, in pieces, so that other clients of the server don't wait for it; an open transaction keeps written pages beyond this size in a temporary file; bytes (k, M, G)";
    WAIT = "wait", "SQLITE_REDIS_WAIT", "0" in REPLICAS,
        "number of replicas that must have a commit before it succeeds";
    WAIT_TIME = "wait_ms", "SQLITE_REDIS_WAIT_MS", "1000" in Range::milliseconds_from(1),
        "time limit of `wait` and `wait_disk`, milliseconds; less than `timeout_ms`";
    WAIT_DISK = "wait_disk", "SQLITE_REDIS_WAIT_DISK", "0",
        "1: the primary and `wait` replicas must have a commit on disk before it succeeds (Redis 7.2 with `appendonly yes`)";
    COMPRESS = "compress", "SQLITE_REDIS_COMPRESS", "0",
        "1 compresses written pages (Zstandard) if that makes them shorter; 0 only leaves out their longest run of zeros; either setting reads all pages";
    READ_ONLY = "readonly", "SQLITE_REDIS_READONLY", "0",
        "1 opens read-only, as `mode=ro` does";
    ALLOW_EVICTION = "allow_eviction", "SQLITE_REDIS_ALLOW_EVICTION", "0",
        "1 opens even if the server's `maxmemory-policy` may evict pages";
}

/// Settings of the whole process, which only the environment can give.
pub const PROCESS_SETTINGS: &[Setting] = &[DEFAULT_VFS];

/// Makes `redis` the default VFS when the extension is loaded.
pub(crate) const DEFAULT_VFS: Setting = Setting {
    parameter: "",
    environment: "SQLITE_REDIS_DEFAULT_VFS",
    default: "0",
    range: None,
    meaning: "1 makes `redis` the default VFS when the extension is loaded, for hosts without URI file names",
};

/// Allowed numbers of replicas that a commit waits for, in the URI and the pragma.
pub(crate) const REPLICAS: Range = Range::up_to(1000);
