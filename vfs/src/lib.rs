//! SQLite databases that live in Redis.
//!
//! A SQLite VFS named `redis` keeps each page of a database as one field of a Redis hash, so any
//! number of processes on any number of machines share one ordinary SQLite database: real schema,
//! real indexes, snapshot reads, atomic commits. Redis replication replicates it, Sentinel fails it
//! over.
//!
//! ```no_run
#![doc = include_str!("../examples/shop.rs")]
//! ```
//!
//! The same database opens from any SQLite host through the loadable extension that this crate
//! also builds, as `file:shop?vfs=redis&redis=redis://localhost:6379`.
//!
//! # Where to find what
//!
//! The modules in the order in which a page passes through them:
//!
//! 1. `ffi`: SQLite's function table, the callbacks of VFS and files, the extension's entry points
//! 2. `vfs`: which names are databases in Redis; `config`: every setting; `options`: the Rust API
//! 3. `file`: SQLite's reads, locks, writes and syncs become a transaction; `journal`: what
//!    SQLite takes for its rollback journal
//! 4. `session`: which version a connection is to read, and from which server; `freshness`: how old
//!    that is; `follower`: learns of commits without being asked
//! 5. `txn`: one transaction as a state; `writes`: what it has written; `gathered`: what of it is
//!    committed; `prepared`, `group`: commits of one and of several databases; `header`: what page 1 says
//!    of the rest; `reader`: its snapshot; `history`: the commits since then
//! 6. `cache`: the pages that this process knows; `undo`, `delta`: how pages are put back to what they were
//! 7. `database`, `source` and `process`: what connections share; `lease`: the right to write;
//!    `line`: waiting for it
//! 8. `store`: the conversation with Redis; `fault`: where tests interfere with it; `admin`: whole databases
//! 9. `vtab`: the second mode, `CREATE VIRTUAL TABLE ... USING redis(...)`: rows as hashes
//! 10. `error`: everything that can go wrong, and SQLite's code for it; `secret`: what no message may show; `sync`: locks that a fork leaves in order

mod ffi;
mod vfs;
mod config;
mod options;
mod file;
mod journal;
mod session;
mod freshness;
mod follower;
mod txn;
mod prepared;
mod group;
mod writes;
mod gathered;
mod header;
mod reader;
mod history;
mod cache;
mod undo;
mod delta;
mod database;
mod source;
mod replicas;
mod process;
mod lease;
mod line;
mod store;
mod fault;
mod sync;
mod vtab;
pub mod admin;
mod error;
mod secret;
#[cfg(test)]
mod docs;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use config::{Consistency, PROCESS_SETTINGS, Range, SETTINGS, Setting};
pub use error::{Cause, Error, Result};
pub use ffi::connection::last_error;
pub use ffi::{forget_last_failure, last_failure};
pub use options::Options;
pub use secret::hide_secrets;
pub use store::server::Stats;
pub use store::{CommitId, PageNo, Version};

/// Registers the VFS `redis` with the SQLite that is linked into this program, and what else
/// every connection opened from now on gets. Doing it again changes nothing.
///
/// # Errors
/// SQLite refuses.
pub fn register() -> Result<()> {
    ffi::extension::register_linked()
}
