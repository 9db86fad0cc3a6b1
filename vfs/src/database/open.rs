//! The databases of this process.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::config::Config;
use crate::database::Database;
use crate::process::PerProcess;
use crate::process::sync::Mutex;
use crate::store::redis::keys::Keys;
use crate::wire::servers::server;

/// Databases whose caches stay warm while nobody has them open.
const WARM: NonZeroUsize = NonZeroUsize::new(16).unwrap();

static DATABASES: PerProcess<Databases> = PerProcess::new();

struct Databases(Mutex<LruCache<String, Arc<Database>>>);

impl Default for Databases {
    fn default() -> Self {
        Databases(Mutex::new(LruCache::new(WARM)))
    }
}

/// The database of this name with these settings. The first to open it sets its cache size.
pub(crate) fn database(config: &Config, name: &str) -> Arc<Database> {
    let key = format!("{} {name:?}", config.identity());
    let ours = DATABASES.get();
    let mut databases = ours.0.lock();
    databases
        .get_or_insert(key, || {
            let server = server(config, &Keys::new(&config.prefix, name).hash);
            Arc::new(Database::new(server, config, name))
        })
        .clone()
}
