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
//! # Modules
//!
//! Each module is a room. A room imports only rooms below it in this table.
//!
//! | Room | Contents |
//! | --- | --- |
//! | `options` | the Rust API |
//! | `ffi` | calls from SQLite: the VFS, its files, the virtual table, SQL functions, the extension's entry points |
//! | `file` | one open database: reads, writes, locks and syncs become a transaction; rollback journals; pragmas |
//! | `transaction` | one transaction: its states, its write set, its changed pages; commits of one and of several databases |
//! | [`admin`] | whole databases: list, describe, remove, import |
//! | `database` | state that the connections of a process share, and the version that each of them reads |
//! | `reading` | pages of one version: the page cache, rolling back, following the log |
//! | `vtab` | the second mode, `CREATE VIRTUAL TABLE ... USING redis(...)`: rows as hashes |
//! | `lease` | the write lease and its renewal |
//! | `store` | pages and commits as Redis commands |
//! | `wire` | the way to a server: routes, connections, requests, replies |
//! | `sqlite` | calls down into SQLite |
//! | `process` | per-process state, which a forked child starts afresh |
//! | `config` | every setting |
//! | `model` | versions, pages, log entries, errors |

// Unsafe code is allowed only in `ffi`, which SQLite calls, and in `sqlite`, which calls SQLite.
#![deny(unsafe_code)]

mod options;
#[allow(unsafe_code)]
mod ffi;
mod file;
mod transaction;
pub mod admin;
mod database;
mod reading;
mod vtab;
mod lease;
mod store;
mod wire;
#[allow(unsafe_code)]
mod sqlite;
mod process;
mod config;
mod model;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod rooms;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use rusqlite;

pub use crate::config::{Consistency, PROCESS_SETTINGS, Range, SETTINGS, Setting};
pub use crate::ffi::connection::last_error;
pub use crate::ffi::{forget_last_failure, last_failure};
pub use crate::model::error::{Cause, Error, Result};
pub use crate::model::page::PageNo;
pub use crate::model::secret::hide_secrets;
pub use crate::model::version::{CommitId, Version};
pub use crate::options::Options;

/// Registers the VFS `redis` with the SQLite that is linked into this program. Connections opened afterwards also get
/// the virtual table module and the SQL functions. A second call has no effect.
///
/// [`Options::open`] calls it. Call it yourself before `rusqlite::Connection::open` with a URI:
///
/// ```no_run
/// sqlite_redis::register()?;
/// let shop = rusqlite::Connection::open("file:shop?vfs=redis&redis=redis://localhost:6379")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// SQLite refuses the registration.
pub fn register() -> Result<()> {
    crate::ffi::extension::register_linked()
}
