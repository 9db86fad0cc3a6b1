//! SQLite's result codes, and the one place that chooses them.

use super::Cause;

/// The operation of SQLite that failed. SQLite has different codes for one cause, by operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum During {
    Open,
    Read,
    Write,
    Lock,
    Unlock,
    Commit,
    /// The end of a commit, after SQLite has deleted its rollback journal. The code must be an I/O error: only after
    /// one does SQLite drop its page cache.
    CommitPhaseTwo,
    Size,
    Delete,
    Access,
    Control,
}

/// SQLite's result codes used here, as in <https://sqlite.org/rescode.html>.
pub(crate) mod code {
    use std::ffi::c_int;

    pub const OK: c_int = 0;
    pub const ERROR: c_int = 1;
    pub const INTERNAL: c_int = 2;
    pub const PERM: c_int = 3;
    pub const BUSY: c_int = 5;
    pub const READONLY: c_int = 8;
    pub const INTERRUPT: c_int = 9;
    pub const IOERR: c_int = 10;
    pub const CORRUPT: c_int = 11;
    pub const NOTFOUND: c_int = 12;
    pub const FULL: c_int = 13;
    pub const CANTOPEN: c_int = 14;
    pub const CONSTRAINT: c_int = 19;
    pub const MISMATCH: c_int = 20;
    pub const AUTH: c_int = 23;
    pub const IOERR_READ: c_int = IOERR | (1 << 8);
    pub const IOERR_SHORT_READ: c_int = IOERR | (2 << 8);
    pub const IOERR_WRITE: c_int = IOERR | (3 << 8);
    pub const IOERR_FSYNC: c_int = IOERR | (4 << 8);
    pub const IOERR_FSTAT: c_int = IOERR | (7 << 8);
    pub const IOERR_UNLOCK: c_int = IOERR | (8 << 8);
    pub const IOERR_DELETE: c_int = IOERR | (10 << 8);
    pub const IOERR_ACCESS: c_int = IOERR | (13 << 8);
    pub const IOERR_LOCK: c_int = IOERR | (15 << 8);
    pub const CONSTRAINT_PRIMARYKEY: c_int = CONSTRAINT | (6 << 8);
    pub const CONSTRAINT_UNIQUE: c_int = CONSTRAINT | (8 << 8);
    pub const CONSTRAINT_ROWID: c_int = CONSTRAINT | (10 << 8);
    pub const BUSY_SNAPSHOT: c_int = BUSY | (2 << 8);
}

/// The SQLite result code of a failure. The only function that decides this.
///
/// `SQLITE_BUSY` (5) is never the answer to a commit: SQLite would keep the transaction
/// open without writing its pages again.
pub(crate) fn sqlite_code(cause: &Cause, during: During) -> std::ffi::c_int {
    if during == During::CommitPhaseTwo {
        return match sqlite_code(cause, During::Commit) {
            code if [code::IOERR, code::FULL].contains(&(code & 0xff)) => code,
            _ => code::IOERR_WRITE,
        };
    }
    match cause {
        Cause::BadName { .. }
        | Cause::BadSetting { .. }
        | Cause::UnknownParameter { .. }
        | Cause::Missing
        | Cause::Exists
        | Cause::ImportOvertaken
        | Cause::Eviction(_)
        | Cause::ServerTooOld(_)
        | Cause::ForeignKey { .. }
        | Cause::UnknownFormat(_)
        | Cause::UnfitReplica { .. }
        | Cause::Unsupported(_) => code::CANTOPEN,
        Cause::Unreachable(_)
        | Cause::NoConnectionLeft(_)
        | Cause::IsReplica(_)
        | Cause::ConnectionLost(_)
        | Cause::NoReply
        | Cause::BadReply(_) => match during {
            During::Open => code::CANTOPEN,
            other => io_code(other),
        },
        Cause::Server(_) | Cause::MissingCommand(_) | Cause::Journal { full: false, .. } => match during {
            During::Open => code::CANTOPEN,
            other => io_code(other),
        },
        Cause::Interrupted => code::INTERRUPT,
        Cause::Authentication(_) => code::AUTH,
        Cause::Permission(_) => code::PERM,
        Cause::ReadOnly | Cause::ReadOnlyServer(_) => code::READONLY,
        Cause::ServerFull(_) | Cause::Journal { full: true, .. } => code::FULL,
        Cause::Damaged(_) => code::CORRUPT,
        // Not a BUSY code: a busy handler would retry, and the application would never see the error.
        Cause::SessionLost { .. } => io_code(during),
        Cause::Behind { .. } => code::BUSY,
        Cause::Loading(_) | Cause::Moving(_) | Cause::TooFewReplicas(_) | Cause::Busy(_) => match during {
            During::Commit => code::BUSY_SNAPSHOT,
            _ => code::BUSY,
        },
        Cause::Stale { .. } | Cause::SnapshotGone { .. } => code::BUSY_SNAPSHOT,
        Cause::OutcomeUnknown { .. }
        | Cause::NotReplicated { .. }
        | Cause::HalfCommitted { .. }
        | Cause::NotTakenBack(_)
        | Cause::RowsUnknown(_) => code::IOERR_FSYNC,
        // SQLite's page cache holds the parent's writes, and SQLite drops it only after an I/O error.
        Cause::Forked => match during {
            During::Lock => code::BUSY_SNAPSHOT,
            other => io_code(other),
        },
        Cause::ExclusiveLost { .. } => io_code(during),
        Cause::Conflict(_) => code::BUSY_SNAPSHOT,
        Cause::Declaration(_) => code::ERROR,
        Cause::Constraint { code, .. } => *code,
        Cause::NoRowid(_) => code::FULL,
        Cause::NoSuchPage(_) => io_code(during),
        Cause::Host(_) => code::ERROR,
        Cause::Internal(_) => code::INTERNAL,
    }
}

fn io_code(during: During) -> std::ffi::c_int {
    match during {
        During::Open => code::CANTOPEN,
        During::Read => code::IOERR_READ,
        During::Write | During::Commit | During::CommitPhaseTwo => code::IOERR_WRITE,
        During::Lock => code::IOERR_LOCK,
        During::Unlock => code::IOERR_UNLOCK,
        During::Size => code::IOERR_FSTAT,
        During::Delete => code::IOERR_DELETE,
        During::Access => code::IOERR_ACCESS,
        During::Control => code::IOERR,
    }
}
