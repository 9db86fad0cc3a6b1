//! The servers of this process.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::config::{Address, Config};
use crate::process::PerProcess;
use crate::process::sync::Mutex;
use crate::wire::pool::Pool;
use crate::wire::server::Server;

/// The most servers to remember. A forgotten server lives on with the databases that use it. All servers share one
/// pool.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(64).unwrap();

static SERVERS: PerProcess<Servers> = PerProcess::new();

struct Servers {
    servers: Mutex<LruCache<String, Arc<Server>>>,
    pool: Arc<Pool>,
}

impl Default for Servers {
    fn default() -> Self {
        Servers { servers: Mutex::new(LruCache::new(REMEMBERED)), pool: Arc::default() }
    }
}

/// The server for these settings. In a Cluster: the node that has the slot of `key`.
pub(crate) fn server(config: &Config, key: &str) -> Arc<Server> {
    let slot_of = if let Address::Cluster(_) = config.server { key } else { "" };
    let settings = format!("{} {} {slot_of}", config.server_key(), config.allow_eviction);
    let ours = SERVERS.get();
    let mut servers = ours.servers.lock();
    servers.get_or_insert(settings, || Arc::new(Server::new(config, key, &ours.pool))).clone()
}
