//! The errors of this crate. [`sqlite_code`] maps them to SQLite's result codes.

use std::fmt;
use std::sync::Arc;

use crate::model::error::printable::Printable;
use crate::model::page::PageNo;
use crate::model::secret::hide_secrets;
use crate::model::version::{CommitId, Version};

mod codes;
mod printable;

pub(crate) use codes::{During, code, sqlite_code};

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: its cause, and the database and server that it concerns.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", Printable(&hide_secrets(&format!("{}{cause}", Prefix(place)))))]
pub struct Error {
    /// The database and server concerned, such as ``database `shop` on redis://localhost:6379``.
    pub place: Option<Arc<str>>,
    /// What happened.
    #[source]
    pub cause: Cause,
}

struct Prefix<'a>(&'a Option<Arc<str>>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => write!(f, "{place}: "),
            None => Ok(()),
        }
    }
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Self {
        Error { place: None, cause }
    }
}

impl Error {
    /// Adds the database and server, unless the error names them already.
    pub(crate) fn at(mut self, place: &Arc<str>) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }
}

/// The cause of an [`Error`]. The message of each variant says what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The database name is invalid: no Redis key can be made from it.
    #[error("`{name}` can't be a database name: {reason}")]
    BadName {
        /// The name as given.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A setting has an invalid value.
    #[error("{setting}={value}: {reason}")]
    BadSetting {
        /// The URI parameter or environment variable.
        setting: String,
        /// Its value.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// A URI parameter is unknown.
    #[error("unknown URI parameter {parameter}; known are: {known}")]
    UnknownParameter {
        /// Its name as given.
        parameter: String,
        /// All known parameters.
        known: String,
    },
    /// The host's SQLite or operating system refuses something, or is too old.
    #[error("{0}")]
    Host(String),
    /// No connection to the server could be made.
    #[error("can't connect: {0}; is the server running, and is its address right?")]
    Unreachable(String),
    /// The server takes no more clients.
    #[error("the server has no connection left ({0}); raise its maxclients, or close connections to it")]
    NoConnectionLeft(String),
    /// A fixed address leads to a replica.
    #[error(
        "the server is a replica of {0}, and what it has may be old; name its primary, and the replica with replica=, \
         or open with mode=ro to read what the replica has"
    )]
    IsReplica(String),
    /// The server refuses the user or the password.
    #[error("the server refuses the user or password: {0}")]
    Authentication(String),
    /// The server's access rules forbid a command.
    #[error(
        "the server's access rules forbid this: {0}; sqlite-redis needs the commands listed in docs/configuration.md"
    )]
    Permission(String),
    /// The server, or a proxy, does not have a command.
    #[error(
        "the server, or a proxy, does not have a command or has renamed it: {0}; sqlite-redis needs the commands listed in \
         docs/configuration.md"
    )]
    MissingCommand(String),
    /// A connection broke.
    #[error("the connection was lost: {0}")]
    ConnectionLost(String),
    /// No reply came in time. The server may have carried out the command all the same.
    #[error("no reply in time; the server hangs or is busy, or timeout_ms is too short for it")]
    NoReply,
    /// The application called `sqlite3_interrupt`.
    #[error("interrupted while waiting for the server")]
    Interrupted,
    /// The server is loading its data set.
    #[error("the server is still loading its data ({0}); try again")]
    Loading(String),
    /// The database is on its way from one server to another, or the Cluster has none for it yet.
    #[error("the database has moved or is about to ({0}); nothing was done, so roll back and try again")]
    Moving(String),
    /// The server has fewer replicas than its `min-replicas-to-write`.
    #[error(
        "the server takes no writes ({0}); nothing was written; try again when its replicas are back, \
         or, after a failover, when this client has learnt of the new primary"
    )]
    TooFewReplicas(String),
    /// A write was sent to a replica.
    #[error("the server is a read-only replica ({0}); write to its primary")]
    ReadOnlyServer(String),
    /// A write on a connection that was opened read-only.
    #[error("the database was opened read-only")]
    ReadOnly,
    /// The server is at its memory limit.
    #[error(
        "the server is out of memory ({0}); nothing was written; raise its maxmemory, or make room: what frees pages of a \
         database is done all the same (DELETE of many rows, DROP TABLE, VACUUM up to stage_bytes), and databases can be removed"
    )]
    ServerFull(String),
    /// The server's `maxmemory-policy` may evict pages.
    #[error(
        "the server's maxmemory-policy is `{0}`, which may drop pages of a database; \
         set it to noeviction (or open with allow_eviction=1 and risk it)"
    )]
    Eviction(String),
    /// The server is too old.
    #[error("the server is version {0}; sqlite-redis needs Redis 6.2 or later, or Valkey")]
    ServerTooOld(String),
    /// The server refused a command for another reason.
    #[error("the server answered: {0}")]
    Server(String),
    /// A reply that the protocol does not allow here.
    #[error("the server's reply is not what the protocol allows: {0}")]
    BadReply(String),
    /// The database does not exist, and the options don't allow to create it.
    #[error("no such database; open it with mode=rwc to make it, or list what is there with `sqlite-redis ls`")]
    Missing,
    /// The database exists, and the options don't allow to replace it.
    #[error("there is a database of this name already; choose another name, or ask to overwrite it")]
    Exists,
    /// Someone committed to the database, or removed pages of the import, before it was complete.
    #[error("the database was changed while it was being imported; nothing was replaced, run the import again")]
    ImportOvertaken,
    /// A key of the database has another Redis type than expected.
    #[error("the key `{key}` holds {found}, not {expected}; this is not a database of sqlite-redis")]
    ForeignKey {
        /// The key.
        key: String,
        /// The Redis type found.
        found: String,
        /// The Redis type it should have.
        expected: &'static str,
    },
    /// The stored database is not valid.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// The database has a format that this release can't read.
    #[error("the database has format {0}, this version reads format {known}; use a newer sqlite-redis", known = crate::model::version::FORMAT)]
    UnknownFormat(String),
    /// Another client holds the write lease.
    #[error("another client is writing (lease held by {0}); set a busy_timeout to wait for it")]
    Busy(String),
    /// Someone else committed since this transaction's snapshot.
    #[error("{}; roll back and run it again", overtaken(*snapshot, *found))]
    Stale {
        /// The version this transaction reads.
        snapshot: Version,
        /// The version the server has.
        found: Version,
    },
    /// Another client committed although SQLite holds an exclusive lock on the database.
    #[error(
        "version {found} was committed while this connection had locking_mode=EXCLUSIVE and version {snapshot}: \
         its lease had run out; run the transaction again"
    )]
    ExclusiveLost {
        /// The version this connection knew.
        snapshot: Version,
        /// The version the server has.
        found: Version,
    },
    /// The snapshot can't be read any more.
    #[error("version {snapshot} can't be read any more ({reason}); begin a new transaction")]
    SnapshotGone {
        /// The version this transaction reads.
        snapshot: Version,
        /// Why its pages can't be read.
        reason: String,
    },
    /// The primary lacks a version that this session has seen: a failover lost it, or the database was removed.
    /// Reported once; after that, the session reads the primary's version.
    #[error(
        "this session has seen version {seen}, which the primary does not have any more: it is at version {found}; \
         a failover may have lost commits; from now on the session reads what the primary has"
    )]
    SessionLost {
        /// The newest version that this connection has read or written.
        seen: Version,
        /// The version the primary has.
        found: Version,
    },
    /// A server did not reach the wanted version in time.
    #[error(
        "{server} has version {found}, and version {wanted} did not arrive there in time; try again, or read from the primary"
    )]
    Behind {
        /// The server that lags.
        server: String,
        /// The version that the reader needs.
        wanted: Version,
        /// The version it has.
        found: Version,
    },
    /// A server that was named as a replica does not replicate the primary.
    #[error("the replica {server} can't serve this database: {reason}")]
    UnfitReplica {
        /// Its address.
        server: String,
        /// What it is instead.
        reason: String,
    },
    /// The reply to a commit was lost, and its outcome can't be determined.
    #[error(
        "it is unknown whether version {version} (commit {commit}) was written: {reason}; \
         look for its effects before running the transaction again"
    )]
    OutcomeUnknown {
        /// The version that the commit would have made.
        version: Version,
        /// Its random id, as in the hash field `commit` and in the log.
        commit: CommitId,
        /// Why the outcome can't be determined.
        reason: String,
    },
    /// A transaction over several databases was refused, and this one keeps its part of it.
    #[error(
        "this database has committed its part of a transaction, as version {version}, that another database refused, \
         and it could not be taken back: {reason}; look at both before running the transaction again"
    )]
    HalfCommitted {
        /// The version that it has committed.
        version: Version,
        /// Why it could not be taken back.
        reason: String,
    },
    /// A commit is done, but too few replicas have it (see `wait`).
    #[error(
        "version {version} is written and stands on the primary, but {reason}; \
         a failover now could lose it, so don't run the transaction again without looking for its effects"
    )]
    NotReplicated {
        /// The version that the commit made.
        version: Version,
        /// How many replicas have it, and how many should.
        reason: String,
    },
    /// A write transaction was open when the process forked.
    #[error("the process forked inside this write transaction; only the parent can commit it")]
    Forked,
    /// A temporary file of a transaction failed: its rollback journal, or its spilled write set.
    #[error("a temporary file of the transaction, for its rollback journal or what it has written: {message}")]
    Journal {
        /// The operating system's message.
        message: String,
        /// Whether the disk is full.
        full: bool,
    },
    /// SQLite asked for a feature that a database in Redis does not have.
    #[error("{0}")]
    Unsupported(String),
    /// SQLite asked for a page outside of the database.
    #[error("page {0} is out of range")]
    NoSuchPage(PageNo),
    /// The arguments of the virtual table or of an SQL function are invalid.
    #[error("{0}")]
    Declaration(String),
    /// A row violates a constraint of its virtual table, or SQLite refuses it otherwise.
    #[error("{message}")]
    Constraint {
        /// SQLite's result code.
        code: i32,
        /// SQLite's message.
        message: String,
    },
    /// Another client changed rows that a transaction on virtual tables read or wrote.
    #[error("{0} was changed by another client; nothing was written; roll back and run the transaction again")]
    Conflict(String),
    /// A commit of virtual tables was in Redis already when SQLite rolled back, and is not taken back as a whole.
    #[error("the transaction was rolled back, but {0}; look at these rows before running it again")]
    NotTakenBack(String),
    /// The reply to a commit of virtual tables was lost, and its outcome can't be determined.
    #[error("it is unknown whether the transaction was written: {0}")]
    RowsUnknown(String),
    /// No rowid is left.
    #[error("no rowid is left: the counter `{0}` is at its end")]
    NoRowid(String),
    /// A bug in this crate.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

/// Describes the change to a database since a transaction's snapshot.
fn overtaken(snapshot: Version, found: Version) -> String {
    if found == Version(0) {
        return format!("the database was removed or renamed after this transaction's snapshot, version {snapshot}");
    }
    format!("version {found} was committed after this transaction's snapshot, version {snapshot}")
}

impl Cause {
    /// The message without "nothing was written", for a transaction whose other part was written.
    pub(crate) fn reason(&self) -> String {
        match self {
            Cause::ServerFull(reply) => format!("the server is out of memory ({reply})"),
            Cause::TooFewReplicas(reply) => format!("the server takes no writes ({reply})"),
            Cause::Moving(reply) => format!("the database has moved or is about to ({reply})"),
            Cause::Conflict(what) => format!("{what} was changed by another client"),
            other => other.to_string(),
        }
    }

    /// Whether the server or a proxy refuses the command itself, with any arguments.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Cause::Permission(_) | Cause::MissingCommand(_))
    }

    /// Whether the server can't be reached or does not answer.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(
            self,
            Cause::Unreachable(_)
                | Cause::NoConnectionLeft(_)
                | Cause::ConnectionLost(_)
                | Cause::NoReply
                | Cause::Loading(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_never_answered_with_plain_busy() {
        let text = || "x".to_owned();
        let all = [Cause::Busy(text()), Cause::Loading(text()), Cause::Moving(text()), Cause::TooFewReplicas(text())];
        for cause in all.into_iter().chain([Cause::Forked]) {
            assert_ne!(sqlite_code(&cause, During::Commit), code::BUSY);
        }
    }

    #[test]
    fn a_message_names_database_and_server_once() {
        let place: Arc<str> = "database `shop` on redis://h:1".into();
        let error = Error::from(Cause::Missing).at(&place).at(&"other".into());
        assert!(error.to_string().starts_with("database `shop` on redis://h:1: no such database"));
    }
}
