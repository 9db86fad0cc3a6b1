//! What one process shares: servers, databases, the lease thread. A forked child starts over.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use lru::LruCache;
use parking_lot::Mutex;

use crate::config::Config;
use crate::database::Database;
use crate::error::Result;
use crate::ffi::fork;
use crate::journal::SuperJournals;
use crate::lease::Renewer;
use crate::store::server::Server;

/// Databases whose caches stay warm while nobody has them open.
const WARM_DATABASES: NonZeroUsize = NonZeroUsize::new(16).unwrap();

static CURRENT: ArcSwapOption<Process> = ArcSwapOption::const_empty();

/// See the [module](self).
pub(crate) struct Process {
    generation: fork::Generation,
    servers: Mutex<HashMap<String, Arc<Server>>>,
    databases: Mutex<LruCache<String, Arc<Database>>>,
    renewer: Arc<Renewer>,
    pub super_journals: SuperJournals,
}

impl Process {
    fn new() -> Self {
        Process {
            generation: fork::generation(),
            servers: Mutex::default(),
            databases: Mutex::new(LruCache::new(WARM_DATABASES)),
            renewer: Arc::default(),
            super_journals: SuperJournals::default(),
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
    pub(crate) fn database(&self, config: &Config, name: &str) -> Result<Arc<Database>> {
        let server_key = config.server_key();
        let key = format!(
            "{server_key} {:?} {name:?} {:?}",
            config.prefix,
            (config.lease, config.log_commits, config.log_bytes, config.allow_eviction)
        );
        let mut databases = self.databases.lock();
        if let Some(database) = databases.get(&key) {
            return Ok(database.clone());
        }
        let server = self.server(config)?;
        let database = Arc::new(Database::new(server, self.renewer.clone(), config, name));
        databases.put(key, database.clone());
        Ok(database)
    }

    /// The server with these settings.
    pub(crate) fn server(&self, config: &Config) -> Result<Arc<Server>> {
        let key = format!("{} {}", config.server_key(), config.allow_eviction);
        let mut servers = self.servers.lock();
        if let Some(server) = servers.get(&key) {
            return Ok(server.clone());
        }
        let server = Arc::new(Server::new(config)?);
        servers.insert(key, server.clone());
        Ok(server)
    }
}
