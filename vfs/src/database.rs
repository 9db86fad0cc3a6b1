//! A database as this process knows it: its store, its cache, its limits. Shared by all
//! connections of the process to the same database.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Admission, Cache, Epoch};
use crate::config::Config;
use crate::error::Result;
use crate::ffi::fork;
use crate::lease::{Lease, Renewer};
use crate::reader::Reader;
use crate::store::redis::RedisStore;
use crate::store::server::{Server, Stats};
use crate::store::{Fetched, PageNo, Snapshot, Store};

/// See the [module](self).
pub(crate) struct Database {
    /// For messages: ``database `shop` on redis://localhost:6379``.
    pub place: Arc<str>,
    pub store: Arc<dyn Store>,
    pub cache: Cache,
    lease_life: Duration,
    renewer: Arc<Renewer>,
    server: Option<Arc<Server>>,
    redis: Option<RedisStore>,
    /// The process that this belongs to; a forked child makes its own.
    pub generation: fork::Generation,
}

impl Database {
    pub(crate) fn new(server: Arc<Server>, renewer: Arc<Renewer>, config: &Config, name: &str) -> Self {
        let redis = RedisStore::new(server.clone(), config, name);
        Database {
            place: place(config, name),
            store: Arc::new(redis.clone()),
            cache: Cache::new(config.cache_size),
            lease_life: config.lease,
            renewer,
            server: Some(server),
            redis: Some(redis),
            generation: fork::generation(),
        }
    }

    /// A database on any store.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn on(store: Arc<dyn Store>, cache_size: u64) -> Arc<Self> {
        Arc::new(Database {
            place: "database `test` in memory".into(),
            store,
            cache: Cache::new(cache_size),
            lease_life: Duration::from_secs(5),
            renewer: Arc::default(),
            server: None,
            redis: None,
            generation: fork::generation(),
        })
    }

    /// Refuses servers and keys that can't serve; reads the current snapshot.
    pub(crate) fn open(&self) -> Result<Reader> {
        let fetched = match &self.redis {
            Some(redis) => redis.open(&[PageNo::FIRST])?,
            None => self.store.fetch(&[PageNo::FIRST])?,
        };
        let (snapshot, epoch) = self.adopt(fetched)?;
        Ok(Reader::new(snapshot, epoch))
    }

    /// The current snapshot, and leave to use the cache for it. One round trip while nobody else
    /// writes; page 1 comes along when the one of the `last` snapshot is not cached.
    pub(crate) fn snapshot(&self, last: Option<(&Snapshot, Epoch)>) -> Result<(Snapshot, Epoch)> {
        let cached = last.is_some_and(|(snapshot, epoch)| self.cache.has(PageNo::FIRST, snapshot.version, epoch));
        let wanted: &[PageNo] = if cached { &[] } else { &[PageNo::FIRST] };
        self.adopt(self.store.fetch(wanted)?)
    }

    /// The snapshot of a reply that was asked for page 1 or for no page.
    fn adopt(&self, mut fetched: Fetched) -> Result<(Snapshot, Epoch)> {
        let snapshot = fetched.at;
        let epoch = self.admit(&snapshot)?;
        if let Some(page) = fetched.pages.pop().flatten() {
            self.cache.insert(epoch, snapshot.version, &[snapshot], [(PageNo::FIRST, page)]);
        }
        Ok((snapshot, epoch))
    }

    fn admit(&self, snapshot: &Snapshot) -> Result<Epoch> {
        match self.cache.admit(snapshot) {
            Admission::Admitted(epoch) => Ok(epoch),
            Admission::NeedsHistory { after } if snapshot.version.0 - after.0 > FAR_BEHIND => {
                Ok(self.cache.admit_with(snapshot, &[]))
            }
            Admission::NeedsHistory { after } => {
                let entries = match self.store.history(after, snapshot.version) {
                    Ok(entries) => entries,
                    Err(error) if matches!(error.cause, crate::Cause::BadReply(_) | crate::Cause::Damaged(_)) => {
                        // The log is only history: without it the cache starts anew.
                        crate::ffi::log(&format!("{}: the log is no use: {error}", self.place));
                        Vec::new()
                    }
                    Err(error) => return Err(error),
                };
                Ok(self.cache.admit_with(snapshot, &entries))
            }
        }
    }

    /// Takes the write lease; with it comes the version that the server has now.
    pub(crate) fn lease(&self) -> Result<(Lease, Snapshot)> {
        Lease::take(&self.store, self.lease_life, &self.renewer)
    }

    /// What has gone over the wire to its server.
    pub(crate) fn stats(&self) -> Stats {
        self.server.as_ref().map(|server| server.stats()).unwrap_or_default()
    }
}

/// Versions after which reading the log costs more than filling the cache again.
const FAR_BEHIND: u64 = 4096;

/// How messages name a database.
pub(crate) fn place(config: &Config, name: &str) -> Arc<str> {
    format!("database `{name}` on {}", config.server_name()).into()
}
