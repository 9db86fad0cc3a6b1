//! What a process remembers about virtual tables, shared by its connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::process::PerProcess;
use crate::process::sync::Mutex;
use crate::vtab::layout::keys::Keys;

/// Maximum number of tables to remember without a connection that uses them.
const MOST_TABLES: usize = 1024;

/// The known tables, by server and key prefix.
#[derive(Default)]
struct KnownTables(Mutex<HashMap<String, Arc<Mutex<Known>>>>);

static KNOWN: PerProcess<KnownTables> = PerProcess::new();

/// The shared record of the virtual table with these keys.
pub(crate) fn known(config: &Config, keys: &Keys) -> Arc<Mutex<Known>> {
    let ours = KNOWN.get();
    let mut known = ours.0.lock();
    if known.len() >= MOST_TABLES {
        known.retain(|_, table| Arc::strong_count(table) > 1);
    }
    known.entry(format!("{} {}", config.server_key(), keys.base())).or_default().clone()
}

/// The last known state of a table, for the query planner and for guessing the next rowid.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub indices: Vec<String>,
    pub rows: u64,
    /// Distinct values of indexed columns.
    pub distinct: HashMap<String, u64>,
    /// When `distinct` was read.
    pub counted: Option<Instant>,
    /// The rowid counter.
    pub counter: Option<i64>,
    /// The last value of the table's hold that meant it was free.
    pub hold: Option<Vec<u8>>,
}
