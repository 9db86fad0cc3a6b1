//! What can go wrong. [`sqlite_code`] turns it into SQLite's result codes.

use std::fmt;
use std::sync::Arc;

use crate::model::error::printable::Printable;
use crate::model::page::PageNo;
use crate::model::secret::hide_secrets;
use crate::model::version::{CommitId, Version};

mod codes;
mod printable;

pub(crate) use codes::{During, code, sqlite_code};

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: what happened, and to which database on which server.
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
    /// The same failure, with the database and server named unless they are already.
    pub(crate) fn at(mut self, place: &Arc<str>) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }
}

/// What happened. Each variant says in its message what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A database name that no key can be made of.
    #[error("`{name}` can't be a database name: {reason}")]
    BadName {
        /// The name as given.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A setting whose value does not parse, or does not make sense.
    #[error("{setting}={value}: {reason}")]
    BadSetting {
        /// The URI parameter or environment variable.
        setting: String,
        /// Its value.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// URI parameters that nothing here reads.
    #[error("unknown URI parameter {parameter}; known are: {known}")]
    UnknownParameter {
        /// Its name as given.
        parameter: String,
        /// The parameters that there are.
        known: String,
    },
    /// SQLite itself can't be used as it is.
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
    /// The server wants another user or password.
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
    /// No reply came in time. What was asked may have been done.
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
    /// The server has fewer replicas than it is told to have before it takes writes.
    #[error(
        "the server takes no writes ({0}); nothing was written; try again when its replicas are back, \
         or, after a failover, when this client has learnt of the new primary"
    )]
    TooFewReplicas(String),
    /// A write was sent to a replica.
    #[error("the server is a read-only replica ({0}); write to its primary")]
    ReadOnlyServer(String),
    /// A write through a connection that has no right to.
    #[error("the database was opened read-only")]
    ReadOnly,
    /// The server is at its memory limit.
    #[error(
        "the server is out of memory ({0}); nothing was written; raise its maxmemory, or make room: what frees pages of a \
         database is done all the same (DELETE of many rows, DROP TABLE, VACUUM up to stage_bytes), and databases can be removed"
    )]
    ServerFull(String),
    /// The server could drop pages on its own.
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
    #[error("the server's reply makes no sense: {0}")]
    BadReply(String),
    /// The database does not exist, and was not to be made.
    #[error("no such database; open it with mode=rwc to make it, or list what is there with `sqlite-redis ls`")]
    Missing,
    /// The database exists, and was not to be replaced.
    #[error("there is a database of this name already; choose another name, or ask to overwrite it")]
    Exists,
    /// Someone committed to the database, or removed pages of the import, before it was complete.
    #[error("the database was changed while it was being imported; nothing was replaced, run the import again")]
    ImportOvertaken,
    /// A key of the database holds something else.
    #[error("the key `{key}` holds {found}, not {expected}; this is not a database of sqlite-redis")]
    ForeignKey {
        /// The key.
        key: String,
        /// The Redis type found.
        found: String,
        /// The Redis type it should have.
        expected: &'static str,
    },
    /// What the hash holds is not a database.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// Written in a format that this version does not know.
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
    /// Someone else committed although SQLite believes that it has the database for itself.
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
        /// Why its pages can't be had.
        reason: String,
    },
    /// The primary does not have what this session has seen: a failover lost it, or the database was
    /// removed. Said once; then the session goes on with what there is.
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
    /// A version that was waited for did not come in time.
    #[error(
        "{server} has version {found}, and version {wanted} did not arrive there in time; try again, or read from the primary"
    )]
    Behind {
        /// Where it was waited for.
        server: String,
        /// The version waited for.
        wanted: Version,
        /// The version it has.
        found: Version,
    },
    /// A server that was named as a replica is not one of the primary.
    #[error("the replica {server} can't serve this database: {reason}")]
    UnfitReplica {
        /// Its address.
        server: String,
        /// What it is instead.
        reason: String,
    },
    /// The reply to a commit was lost, and what became of it can't be told.
    #[error(
        "it is unknown whether version {version} (commit {commit}) was written: {reason}; \
         look for its effects before running the transaction again"
    )]
    OutcomeUnknown {
        /// The version that the commit would have made.
        version: Version,
        /// Its random id, as in the hash field `commit` and in the log.
        commit: CommitId,
        /// Why it can't be told.
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
    /// A commit is done, but not on as many replicas as it should be.
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
    /// The temporary file of a transaction failed: of its rollback journal, or of what it has written.
    #[error("a temporary file of the transaction, for its rollback journal or what it has written: {message}")]
    Journal {
        /// The operating system's message.
        message: String,
        /// Whether the disk is full.
        full: bool,
    },
    /// SQLite asked for something that a database in Redis does not have.
    #[error("{0}")]
    Unsupported(String),
    /// A page that SQLite asked for is not one.
    #[error("page {0} is out of range")]
    NoSuchPage(PageNo),
    /// Arguments of the virtual table or of its functions that make no sense.
    #[error("{0}")]
    Declaration(String),
    /// A row that a constraint of its virtual table forbids, or what SQLite says about it.
    #[error("{message}")]
    Constraint {
        /// SQLite's result code.
        code: i32,
        /// SQLite's words.
        message: String,
    },
    /// Another client changed what a transaction on virtual tables read or wrote.
    #[error("{0} was changed by another client; nothing was written; roll back and run the transaction again")]
    Conflict(String),
    /// A commit of virtual tables was in Redis already when SQLite rolled back, and is not taken back as a whole.
    #[error("the transaction was rolled back, but {0}; look at these rows before running it again")]
    NotTakenBack(String),
    /// The reply to a commit of virtual tables was lost, and what became of it can't be told.
    #[error("it is unknown whether the transaction was written: {0}")]
    RowsUnknown(String),
    /// No rowid is left.
    #[error("no rowid is left: the counter `{0}` is at its end")]
    NoRowid(String),
    /// A bug here.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

/// What has happened to a database since the snapshot of a transaction.
fn overtaken(snapshot: Version, found: Version) -> String {
    if found == Version(0) {
        return format!("the database was removed or renamed after this transaction's snapshot, version {snapshot}");
    }
    format!("version {found} was committed after this transaction's snapshot, version {snapshot}")
}

impl Cause {
    /// What failed, without the sentence that nothing was written: for messages about a transaction of which a part was.
    pub(crate) fn reason(&self) -> String {
        match self {
            Cause::ServerFull(reply) => format!("the server is out of memory ({reply})"),
            Cause::TooFewReplicas(reply) => format!("the server takes no writes ({reply})"),
            Cause::Moving(reply) => format!("the database has moved or is about to ({reply})"),
            Cause::Conflict(what) => format!("{what} was changed by another client"),
            other => other.to_string(),
        }
    }

    /// Whether a command is refused whatever its arguments are.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Cause::Permission(_) | Cause::MissingCommand(_))
    }

    /// Whether the server could not be asked, or is not ready to answer.
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
