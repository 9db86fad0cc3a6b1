//! What a process remembers of virtual tables, for all its connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::process::PerProcess;
use crate::process::sync::Mutex;
use crate::vtab::layout::keys::Keys;

/// Virtual tables that are remembered although no connection has them.
const MOST_TABLES: usize = 1024;

/// What this process knows about virtual tables, by server and keys.
#[derive(Default)]
struct KnownTables(Mutex<HashMap<String, Arc<Mutex<Known>>>>);

static KNOWN: PerProcess<KnownTables> = PerProcess::new();

/// What is known about the virtual table with these keys.
pub(crate) fn known(config: &Config, keys: &Keys) -> Arc<Mutex<Known>> {
    let ours = KNOWN.get();
    let mut known = ours.0.lock();
    if known.len() >= MOST_TABLES {
        known.retain(|_, table| Arc::strong_count(table) > 1);
    }
    known.entry(format!("{} {}", config.server_key(), keys.base())).or_default().clone()
}

/// What a process last heard about a table: for the planner, and to guess the next rowid.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub indices: Vec<String>,
    pub rows: u64,
    /// Distinct values of indexed columns.
    pub distinct: HashMap<String, u64>,
    /// When `distinct` was asked for.
    pub counted: Option<Instant>,
    /// The rowid counter.
    pub counter: Option<i64>,
    /// What the table's hold said when it was free.
    pub hold: Option<Vec<u8>>,
}
