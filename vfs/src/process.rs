//! What one process shares: servers and databases. A forked child starts over.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use lru::LruCache;
use rand::TryRng;
use rand::rngs::SysRng;

use crate::config::{Address, Config};
use crate::database::Database;
use crate::error::{Cause, Result};
use crate::ffi::failures::Failures;
use crate::ffi::fork;
use crate::group::Participants;
use crate::journal::{JournalNames, SuperJournals};
use crate::store::keys::Keys;
use crate::store::pool::Pool;
use crate::store::server::Server;
use crate::sync::Mutex;
use crate::vtab::keys::Keys as TableKeys;
use crate::vtab::table::Known;

/// Servers that are remembered. One that is forgotten while a database uses it stays with that; all share the
/// idle connections.
const SERVERS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Databases whose caches stay warm while nobody has them open.
const WARM_DATABASES: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Virtual tables that are remembered although no connection has them.
const MOST_TABLES: usize = 1024;

/// 64 bits that nobody else draws. They are the system's own: a generator in the memory of the
/// process would go on with the same numbers in a forked child.
pub(crate) fn unique() -> Result<u64> {
    SysRng.try_next_u64().map_err(|error| Cause::Host(format!("the system gives no random numbers: {error}")).into())
}

static CURRENT: ArcSwapOption<Process> = ArcSwapOption::const_empty();

/// See the [module](self).
pub(crate) struct Process {
    generation: fork::Generation,
    servers: Mutex<LruCache<String, Arc<Server>>>,
    pool: Arc<Pool>,
    databases: Mutex<LruCache<String, Arc<Database>>>,
    pub super_journals: SuperJournals,
    pub journal_names: JournalNames,
    pub participants: Participants,
    pub failures: Failures,
    /// What is known about virtual tables, by server and keys.
    known: Mutex<HashMap<String, Arc<Mutex<Known>>>>,
}

impl Process {
    fn new() -> Self {
        Process {
            generation: fork::generation(),
            servers: Mutex::new(LruCache::new(SERVERS)),
            pool: Arc::default(),
            databases: Mutex::new(LruCache::new(WARM_DATABASES)),
            super_journals: SuperJournals::default(),
            journal_names: JournalNames::default(),
            participants: Participants::default(),
            failures: Failures::default(),
            known: Mutex::default(),
        }
    }

    /// This process's own.
    pub(crate) fn current() -> Arc<Process> {
        let current = CURRENT.load_full();
        if let Some(process) = current.as_ref().filter(|process| process.generation == fork::generation()) {
            return process.clone();
        }
        let fresh = Arc::new(Process::new());
        CURRENT.compare_and_swap(&current, Some(fresh));
        if let Some(parents) = current {
            // Its locks may be held by threads that only the parent has, and its sockets are the
            // parent's: it must not be touched, so it is not freed either.
            std::mem::forget(parents);
        }
        Process::current()
    }

    /// The database of this name with these settings. The first to open it sets its cache size.
    pub(crate) fn database(&self, config: &Config, name: &str) -> Arc<Database> {
        let server_key = config.server_key();
        let key = format!(
            "{server_key} {:?} {name:?} {:?}",
            config.prefix,
            (
                config.lease,
                config.linger,
                config.log_commits,
                config.log_bytes,
                config.stage_bytes,
                config.compress,
                config.allow_eviction
            )
        );
        let mut databases = self.databases.lock();
        if let Some(database) = databases.get(&key) {
            return database.clone();
        }
        let server = self.server(config, &Keys::new(&config.prefix, name).hash);
        let database = Arc::new(Database::new(server, config, name));
        databases.put(key, database.clone());
        database
    }

    /// What is known about the virtual table with these keys.
    pub(crate) fn known(&self, config: &Config, keys: &TableKeys) -> Arc<Mutex<Known>> {
        let mut known = self.known.lock();
        if known.len() >= MOST_TABLES {
            known.retain(|_, table| Arc::strong_count(table) > 1);
        }
        known.entry(format!("{} {}", config.server_key(), keys.base())).or_default().clone()
    }

    /// The server with these settings that has the slot of `key`, which matters in a Cluster only.
    pub(crate) fn server(&self, config: &Config, key: &str) -> Arc<Server> {
        let slot_of = if let Address::Cluster(_) = config.server { key } else { "" };
        let settings = format!("{} {} {slot_of}", config.server_key(), config.allow_eviction);
        let mut servers = self.servers.lock();
        servers.get_or_insert(settings, || Arc::new(Server::new(config, key, &self.pool))).clone()
    }
}
