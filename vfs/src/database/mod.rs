//! A database as this process knows it: its store, its cache, its limits. Shared by all
//! connections of the process to the same database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, Wait};
use crate::database::replicas::Replicas;
use crate::lease::{Lease, Lingering, Owner, Renewer};
use crate::model::error::{Cause, Result};
use crate::model::page::PageNo;
use crate::model::version::{Snapshot, Version};
use crate::process::generation::{Generation, generation};
use crate::process::sync::Mutex;
use crate::reading::cache::{Admission, Cache, Epoch, Recognised};
use crate::reading::follower::Listener;
use crate::reading::freshness::Freshness;
use crate::reading::read_server::Source;
use crate::reading::reader::{PageSource, Reader};
use crate::store::redis::Opened;
use crate::store::redis::base::RedisStore;
use crate::store::redis::commit::most_undo;
use crate::store::{Bid, Fetched, Heard, News, Store, token};
use crate::wire::server::{Server, Stats};

pub(crate) mod busy_sleep;
pub(crate) mod open;
pub(crate) mod replicas;
pub(crate) mod session;

/// See the [module](self).
pub(crate) struct Database {
    /// For messages: ``database `shop` on redis://localhost:6379``.
    pub place: Arc<str>,
    pub primary: Arc<Source>,
    pub replicas: Replicas,
    pub cache: Cache,
    pub freshness: Freshness,
    /// Pages that others had changed when that was last looked at.
    hot: Mutex<Vec<PageNo>>,
    /// Bytes of one transaction that are kept in memory.
    pub stage_bytes: u64,
    /// Bytes of undo data that one commit may have.
    pub undo_bytes: u64,
    lease_life: Duration,
    lingering: Arc<Lingering>,
    /// How long a lease lingers there.
    linger: Duration,
    /// Of this database alone, so that a server that hangs holds up nobody else's lease.
    renewer: Arc<Renewer>,
    server: Option<Arc<Server>>,
    redis: Option<RedisStore>,
    /// The process that this belongs to; a forked child makes its own.
    pub generation: Generation,
}

impl Database {
    pub(crate) fn new(server: Arc<Server>, config: &Config, name: &str) -> Self {
        let redis = RedisStore::new(server.clone(), config, name);
        Database {
            place: place(config, name),
            primary: Arc::new(Source::new(config.server_name(), Arc::new(redis.clone()), true)),
            replicas: Replicas::default(),
            cache: Cache::new(config.cache_size),
            freshness: Freshness::default(),
            hot: Mutex::default(),
            stage_bytes: config.stage_bytes,
            undo_bytes: most_undo(config.log_bytes),
            lease_life: config.lease,
            lingering: Arc::default(),
            linger: config.linger,
            renewer: Arc::default(),
            server: Some(server),
            redis: Some(redis),
            generation: generation(),
        }
    }

    /// A database on any store.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn on(store: Arc<dyn Store>, cache_size: u64) -> Arc<Self> {
        Arc::new(Database {
            place: "database `test` in memory".into(),
            primary: Arc::new(Source::new("memory".to_owned(), store, true)),
            replicas: Replicas::default(),
            cache: Cache::new(cache_size),
            freshness: Freshness::default(),
            hot: Mutex::default(),
            stage_bytes: u64::MAX,
            undo_bytes: u64::MAX,
            lease_life: Duration::from_secs(5),
            lingering: Arc::default(),
            linger: Duration::ZERO,
            renewer: Arc::default(),
            server: None,
            redis: None,
            generation: generation(),
        })
    }

    /// The server that has the primary; none in tests without servers.
    pub(crate) fn server(&self) -> Option<&Server> {
        self.server.as_deref()
    }

    /// Refuses to wait for what the server can't tell of.
    pub(crate) fn check_wait(&self, wait: Wait) -> Result<()> {
        self.server().map_or(Ok(()), |server| crate::store::redis::wait::check_server(server, wait))
    }

    /// Where readers get pages.
    pub(crate) fn pages(&self) -> PageSource<'_> {
        PageSource { cache: &self.cache, store: self.store() }
    }

    /// Where the primary's pages are, and its lease.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.primary.store
    }

    /// Refuses servers and keys that can't serve; reads the current snapshot. A database that is opened to write
    /// is made to stay.
    pub(crate) fn open(&self, read_only: bool) -> Result<Reader> {
        let asked = Instant::now();
        let last = if self.cache.head().0 == Snapshot::EMPTY { OPENING } else { 1 };
        let likely: Vec<PageNo> = PageNo::range(2, last).collect();
        let Opened { fetched, others, expires } = match &self.redis {
            Some(redis) => redis.open(&[PageNo::FIRST], &likely)?,
            None => Opened { fetched: self.store().fetch(&[PageNo::FIRST])?, others: None, expires: None },
        };
        let (snapshot, epoch) = self.adopt(asked, fetched)?;
        if let Some(others) = others {
            let pages = likely.into_iter().zip(others.pages).filter_map(|(page, bytes)| Some((page, bytes?)));
            self.cache.insert(epoch, others.at.version, &[others.at], pages);
        }
        if let (Some(expires), Some(redis)) = (expires, &self.redis) {
            self.persist(redis, expires, read_only);
        }
        Ok(Reader::new(snapshot, epoch))
    }

    /// Somebody has set a time to live, after which the server would remove the database.
    fn persist(&self, redis: &RedisStore, expires: Duration, read_only: bool) {
        let (place, left) = (&self.place, expires.as_secs_f64());
        let persisted = if read_only { None } else { Some(redis.persist()) };
        let said = match persisted {
            None => format!("it ends in {left} s, by its time to live; PERSIST on its hash keeps it"),
            Some(Ok(())) => format!("its time to live of {left} s is removed, or it would have ended then"),
            Some(Err(error)) => format!("it ends in {left} s, by its time to live, which can't be removed: {error}"),
        };
        crate::process::log::log(&format!("{place}: {said}"));
    }

    /// The primary's snapshot, and leave to use the cache for it. One round trip while nobody else
    /// writes; page 1 comes along when the one of the `last` snapshot is not cached.
    pub(crate) fn newest(&self, last: Option<(Snapshot, Epoch)>) -> Result<(Snapshot, Epoch)> {
        let asked = Instant::now();
        self.adopt(asked, self.store().fetch(self.wanted(last))?)
    }

    /// The same with the write lease, in one round trip, or in none if the last transaction has left
    /// it, for a transaction that will write. While another holds it, this stands in line for as long as there
    /// is `patience`.
    pub(crate) fn newest_to_write(&self, owner: Owner, patience: Duration) -> Result<(Lease, Snapshot, Epoch)> {
        let Some((lease, snapshot)) = self.left(owner) else { return self.newest_with_lease(patience) };
        match self.admit(&snapshot) {
            Ok(epoch) => Ok((lease, snapshot, epoch)),
            Err(error) => Err(lease.release_after(error)),
        }
    }

    fn newest_with_lease(&self, patience: Duration) -> Result<(Lease, Snapshot, Epoch)> {
        let asked = Instant::now();
        let hot = self.hot.lock().clone();
        let (lease, snapshot, news) = self.take_lease(patience, &hot)?;
        match self.admit_with(&snapshot, hot, news) {
            Ok(epoch) => {
                self.freshness.said(epoch, asked, &snapshot);
                Ok((lease, snapshot, epoch))
            }
            Err(error) => Err(lease.release_after(error)),
        }
    }

    /// Stands in line for the write lease, and holds it for a connection that will ask for it.
    pub(crate) fn stand_in_line(&self, owner: Owner, patience: Duration) -> Result<()> {
        let (lease, snapshot, _) = self.newest_with_lease(patience)?;
        self.hold(lease, snapshot, owner);
        Ok(())
    }

    /// Holds the lease, which is at this version, for a connection that will most likely ask for it.
    pub(crate) fn hold(&self, lease: Lease, snapshot: Snapshot, owner: Owner) {
        self.lingering.hold(lease, snapshot, owner);
    }

    /// A connection does not need the lease that is held for it.
    pub(crate) fn give_up(&self, owner: Owner) {
        self.lingering.give_up(owner);
    }

    fn wanted(&self, last: Option<(Snapshot, Epoch)>) -> &'static [PageNo] {
        let cached = last.is_some_and(|(snapshot, epoch)| self.cache.has(PageNo::FIRST, snapshot.version, epoch));
        if cached { &[] } else { &[PageNo::FIRST] }
    }

    /// The snapshot of the primary's reply to a question after page 1 or after no page.
    fn adopt(&self, asked: Instant, fetched: Fetched) -> Result<(Snapshot, Epoch)> {
        self.mind_removal(asked, &fetched.at);
        let epoch = self.admit(&fetched.at)?;
        self.freshness.said(epoch, asked, &fetched.at);
        Ok(self.keep(epoch, fetched))
    }

    /// What the primary answered may be that there is no database any more.
    fn mind_removal(&self, asked: Instant, snapshot: &Snapshot) {
        if *snapshot == Snapshot::EMPTY {
            self.cache.removed(asked);
        }
    }

    fn keep(&self, epoch: Epoch, mut fetched: Fetched) -> (Snapshot, Epoch) {
        let snapshot = fetched.at;
        if let Some(page) = fetched.pages.pop().flatten() {
            self.cache.insert(epoch, snapshot.version, &[snapshot], [(PageNo::FIRST, page)]);
        }
        (snapshot, epoch)
    }

    fn admit(&self, snapshot: &Snapshot) -> Result<Epoch> {
        let hot = self.hot.lock().clone();
        self.admit_with(snapshot, hot, None)
    }

    /// The same, when something may have been told already, of `hot` pages too.
    fn admit_with(&self, snapshot: &Snapshot, hot: Vec<PageNo>, news: Option<News>) -> Result<Epoch> {
        match self.cache.admit(snapshot) {
            Admission::Admitted(epoch) => Ok(epoch),
            Admission::NeedsHistory { after } => {
                let News { entries, fetched } = match news.and_then(|news| told(news, after, snapshot.version)) {
                    Some(news) => news,
                    None => self.history(self.store(), after, snapshot.version, &hot)?,
                };
                let (epoch, dropped) = self.cache.admit_with(snapshot, &entries);
                if let Some(fetched) = fetched.filter(|fetched| fetched.at == *snapshot) {
                    let cached = |page| self.cache.has(page, snapshot.version, epoch);
                    let pages = hot.into_iter().zip(fetched.pages).filter(|(page, _)| !cached(*page));
                    let pages = pages.filter_map(|(page, bytes)| Some((page, bytes?)));
                    self.cache.insert(epoch, snapshot.version, &[*snapshot], pages.collect::<Vec<_>>());
                }
                self.refresh(snapshot, epoch, dropped);
                Ok(epoch)
            }
        }
    }

    /// Fetches pages anew that others have changed: page 1, which is read next, and in the same round
    /// trip what is likely to be read too. Those that were among them the last time have come with the log.
    fn refresh(&self, snapshot: &Snapshot, epoch: Epoch, mut changed: Vec<PageNo>) {
        changed.retain(|page| snapshot.has(*page));
        changed.truncate(REFRESHED);
        *self.hot.lock() = changed.clone();
        changed.retain(|page| !self.cache.has(*page, snapshot.version, epoch));
        if changed.is_empty() {
            return;
        }
        if let Err(error) = Reader::new(*snapshot, epoch).pages(self.pages(), &changed) {
            // Whoever needs such a page is told.
            crate::process::log::log(&format!("{}: fetching changed pages: {error}", self.place));
        }
    }

    /// The log between two versions, and pages in the same trip; nothing where it is no use or more than
    /// is worth reading.
    fn history(&self, store: &dyn Store, after: Version, through: Version, pages: &[PageNo]) -> Result<News> {
        if through.0 - after.0 > FAR_BEHIND {
            return Ok(News::default());
        }
        match store.news(after, through, pages) {
            Err(error) if matches!(error.cause, Cause::BadReply(_) | Cause::Damaged(_)) => {
                // The log is only history: without it the cache starts anew.
                crate::process::log::log(&format!("{}: the log is no use: {error}", self.place));
                Ok(News::default())
            }
            outcome => outcome,
        }
    }

    /// A replica's snapshot; `None` when the server is no replica any more, or its snapshot is not
    /// of the primary's history as far as that is known.
    pub(crate) fn of_replica(
        &self,
        replica: &Source,
        last: Option<(Snapshot, Epoch)>,
    ) -> Result<Option<(Snapshot, Epoch)>> {
        let Some(fetched) = replica.store.fetch_as_replica(self.wanted(last))? else { return Ok(None) };
        let epoch = self.recognise(replica, &fetched.at)?;
        Ok(epoch.map(|epoch| self.keep(epoch, fetched)))
    }

    fn recognise(&self, replica: &Source, snapshot: &Snapshot) -> Result<Option<Epoch>> {
        // The database may still be on its way there.
        if *snapshot == Snapshot::EMPTY {
            return Ok(None);
        }
        match self.cache.recognise(snapshot) {
            Recognised::Known(epoch) => Ok(Some(epoch)),
            Recognised::Newer { head } => {
                let News { entries, .. } = self.history(&*replica.store, head, snapshot.version, &[])?;
                Ok(self.cache.follow(snapshot, &entries))
            }
            Recognised::Unknown(epoch) => match self.primary_had(snapshot)? {
                Some(true) => Ok(self.cache.remember(snapshot, epoch)),
                Some(false) | None => Ok(None),
            },
        }
    }

    /// Whether the primary once had this snapshot, as the commit after it tells; `None` when its
    /// log does not reach back.
    pub(crate) fn primary_had(&self, snapshot: &Snapshot) -> Result<Option<bool>> {
        let next = self.history(self.store(), snapshot.version, snapshot.version.next(), &[])?;
        Ok(next.entries.first().map(|entry| entry.base == snapshot.commit))
    }

    /// The newest snapshot known here: what came last, unless the primary has gone back since.
    pub(crate) fn known(&self) -> (Snapshot, Epoch) {
        let (head, epoch, since) = self.cache.head();
        (self.freshness.went_back(epoch, head.version, since).unwrap_or(head), epoch)
    }

    /// The same, when nothing is missing in it that is older than the bound.
    pub(crate) fn fresh(&self, bound: Duration) -> Option<(Snapshot, Epoch)> {
        let (snapshot, epoch) = self.known();
        let as_of = self.freshness.as_of(epoch, snapshot.version)?;
        (as_of.elapsed() < bound).then_some((snapshot, epoch))
    }

    /// The write lease; with it comes the version that the server has now.
    pub(crate) fn lease(&self, owner: Owner) -> Result<(Lease, Snapshot)> {
        if let Some(left) = self.left(owner) {
            return Ok(left);
        }
        let (lease, snapshot, _) = self.take_lease(Duration::ZERO, &[])?;
        Ok((lease, snapshot))
    }

    /// Takes the write lease. Stands in line for as long as there is `patience`; then comes with it what
    /// others have committed, `pages` among it.
    fn take_lease(&self, patience: Duration, pages: &[PageNo]) -> Result<(Lease, Snapshot, Option<News>)> {
        // Where one transaction follows the other, the next will most likely come.
        let linger = if self.lingering.is_busy(self.linger) { self.linger } else { Duration::ZERO };
        let known = self.cache.head().0.version;
        let patience = if patience < WORTH_WAITING { Duration::ZERO } else { patience };
        let bid = Bid { token: &token()?, life: self.lease_life, patience, known, pages };
        Lease::take(&self.primary.store, bid, &self.renewer, linger)
    }

    /// The write lease that the last transaction has left, or that is held for this connection, and the
    /// version that it is at.
    fn left(&self, owner: Owner) -> Option<(Lease, Snapshot)> {
        let (lease, snapshot) = self.lingering.take(owner)?;
        if self.cache.head().0 == snapshot {
            return Some((lease, snapshot));
        }
        // It was lost, and another has committed.
        if let Err(error) = lease.release() {
            crate::process::log::log(&format!("{}: giving back a lost lease: {error}", self.place));
        }
        None
    }

    /// Keeps the lease, which is at this version, for the next transaction.
    pub(crate) fn leave(&self, lease: Lease, snapshot: Snapshot) {
        self.lingering.keep(lease, snapshot);
    }

    /// Takes note of a transaction that has ended, and has given the lease back.
    pub(crate) fn ended(&self) {
        self.lingering.ended();
    }

    /// A connection is closed: gives back a lease that was kept for the next transaction, and ends what runs for
    /// leases unless others have some.
    pub(crate) fn close(&self) {
        self.lingering.end();
        self.renewer.rest();
    }

    /// What has gone over the wire to its server.
    pub(crate) fn stats(&self) -> Stats {
        self.server.as_ref().map(|server| server.stats()).unwrap_or_default()
    }
}

impl Listener for Database {
    fn place(&self) -> &str {
        &self.place
    }

    fn head(&self) -> (Snapshot, Epoch, Instant) {
        self.cache.head()
    }

    /// Takes note of what a follower has heard; `false` when that does not prove that what is
    /// known here is what the server has.
    fn heard(&self, source: &Source, asked: Instant, heard: &Heard) -> Result<bool> {
        let at = &heard.at;
        if !source.is_primary {
            if heard.as_primary {
                return Ok(false);
            }
            let followed = *at != Snapshot::EMPTY && self.cache.follow(at, &heard.entries).is_some();
            let known = followed || self.recognise(source, at)?.is_some();
            // One that is behind may be so because of what the primary has lost.
            return Ok(known && at.version >= self.known().0.version);
        }
        self.mind_removal(asked, at);
        let followed = if heard.entries.is_empty() { None } else { self.cache.follow(at, &heard.entries) };
        let epoch = followed.map_or_else(|| self.admit(at), Ok)?;
        self.freshness.said(epoch, asked, at);
        Ok(true)
    }
}

/// What was told of the versions after one and through another, if that is all of them.
fn told(mut news: News, after: Version, through: Version) -> Option<News> {
    news.entries.retain(|entry| after < entry.version && entry.version <= through);
    (news.entries.len() as u64 == through.0 - after.0).then_some(news)
}

/// Whether a server answers with this that would answer a read. Whoever asks for the write lock is told why.
pub(crate) fn refuses_lease(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::Busy(_)
            | Cause::ReadOnlyServer(_)
            | Cause::Permission(_)
            | Cause::MissingCommand(_)
            | Cause::ServerFull(_)
            | Cause::Server(_)
    )
}

/// Less time in line is not worth its commands.
const WORTH_WAITING: Duration = Duration::from_millis(5);

/// The last of the pages that are fetched when nothing is known of a database. It is all of a small one, and
/// most tables and indexes begin there, because they were made first, or by `VACUUM`.
const OPENING: u32 = 16;

/// Changed pages that are fetched anew at once.
const REFRESHED: usize = 8;

/// Versions after which reading the log costs more than filling the cache again.
const FAR_BEHIND: u64 = 4096;

/// How messages name a database.
pub(crate) fn place(config: &Config, name: &str) -> Arc<str> {
    format!("database `{name}` on {}", config.server_name()).into()
}
