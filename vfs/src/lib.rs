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
//! 4. `txn`: one transaction as a state; `writes`: what it has written; `header`: what page 1 says
//!    of the rest; `reader`: its snapshot
//! 5. `cache`: the pages that this process knows; `delta`: how pages are put back to what they were
//! 6. `database` and `process`: what connections share; `lease`: the right to write
//! 7. `store`: the conversation with Redis; `fault`: where tests interfere with it; `admin`: whole databases
//! 8. `error`: everything that can go wrong, and SQLite's code for it

mod ffi;
mod vfs;
mod config;
mod options;
mod file;
mod journal;
mod txn;
mod writes;
mod header;
mod reader;
mod cache;
mod delta;
mod database;
mod process;
mod lease;
mod store;
mod fault;
pub mod admin;
mod error;
#[cfg(test)]
mod docs;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use config::{PROCESS_SETTINGS, SETTINGS, Setting};
pub use error::{Cause, Error, Result};
pub use ffi::connection::last_error;
pub use ffi::{forget_last_failure, last_failure};
pub use options::Options;
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
