//! What one connection has seen, and from where its next snapshot is taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Consistency;
use crate::database::Database;
use crate::lease::{Lease, Owner};
use crate::model::error::{Cause, Result};
use crate::model::version::{Snapshot, Version};
use crate::reading::cache::Epoch;
use crate::reading::follower::Following;
use crate::reading::read_server::Source;
use crate::reading::reader::Reader;
use crate::sqlite::interrupt;

/// For how long a follower that has gone silent is believed in a session. (The bound of
/// `bounded` is for that what it is for the rest.)
const SILENCE: Duration = Duration::from_secs(1);
/// Between two looks at a replica that lags: first, and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// See the [module](self).
pub(crate) struct Session {
    consistency: Consistency,
    /// How long a replica that lags is waited for.
    catch_up: Duration,
    replicas: Vec<Arc<Source>>,
    /// The replica that is tried first, so that connections spread over them.
    first: usize,
    /// The newest that this connection has read or written.
    seen: Option<(Snapshot, Epoch)>,
    /// The next snapshot must be the primary's.
    newest_next: bool,
    following: Option<Following>,
    /// What `PRAGMA redis_snapshot` tells.
    last: Option<Told>,
}

/// A snapshot, and by whom it was told.
#[derive(Clone)]
struct Told {
    at: (Snapshot, Epoch),
    source: Arc<Source>,
}

impl Session {
    pub(crate) fn new(consistency: Consistency, catch_up: Duration, replicas: Vec<Arc<Source>>) -> Self {
        let first = usize::from(rand::random::<u16>());
        let (seen, newest_next, following, last) = (None, false, None, None);
        Session { consistency, catch_up, replicas, first, seen, newest_next, following, last }
    }

    pub(crate) fn set_replicas(&mut self, replicas: Vec<Arc<Source>>) {
        self.replicas = replicas;
    }

    pub(crate) fn consistency(&self) -> Consistency {
        self.consistency
    }

    pub(crate) fn set_consistency(&mut self, consistency: Consistency) {
        self.consistency = consistency;
        self.following = None;
    }

    /// This connection has read this snapshot, or written it.
    pub(crate) fn saw(&mut self, snapshot: Snapshot, epoch: Epoch) {
        self.seen = Some((snapshot, epoch));
    }

    /// The next snapshot is asked of the primary: after a failure, whose cause may be that what is
    /// known here is old, or that it is not known what became of a commit.
    pub(crate) fn want_newest(&mut self) {
        self.newest_next = true;
    }

    /// In a forked child: goes on from what the parent's session has seen, where histories are counted
    /// anew, and forgets the rest, which the parent's threads may have locked.
    pub(crate) fn inherit(&mut self, parents: Session) {
        self.set_consistency(parents.consistency);
        self.seen = parents.seen.map(|(snapshot, _)| (snapshot, Epoch::NONE));
        self.newest_next = parents.newest_next;
        std::mem::forget(parents);
    }

    /// Takes a snapshot to read.
    pub(crate) fn begin(&mut self, database: &Arc<Database>) -> Result<Reader> {
        let told = self.choose(database)?;
        Ok(self.reader(told))
    }

    /// Takes the primary's newest snapshot and the write lease, for a transaction that will write. Stands in
    /// line for the lease as long as there is `patience`.
    pub(crate) fn begin_to_write(
        &mut self,
        database: &Database,
        owner: Owner,
        patience: Duration,
    ) -> Result<(Lease, Reader)> {
        let (lease, snapshot, epoch) = database.newest_to_write(owner, patience)?;
        match self.accept(database, (snapshot, epoch)) {
            Ok(told) => {
                self.newest_next = false;
                Ok((lease, self.reader(told)))
            }
            Err(error) => Err(lease.release_after(error)),
        }
    }

    fn reader(&mut self, told: Told) -> Reader {
        let (snapshot, epoch) = told.at;
        self.seen = Some(told.at);
        let replica = if told.source.is_primary { self.ready().next().cloned() } else { Some(told.source.clone()) };
        self.last = Some(told);
        Reader::new(snapshot, epoch).through(replica)
    }

    fn choose(&mut self, database: &Arc<Database>) -> Result<Told> {
        if std::mem::take(&mut self.newest_next) {
            match self.newest(database) {
                // A primary that is away does not keep others from serving.
                Err(error) if error.cause.is_absence() => {}
                outcome => return outcome,
            }
        }
        let told = match self.consistency {
            Consistency::Strong => None,
            Consistency::Bounded(bound) => {
                self.follow(database, &database.primary.clone(), bound);
                database.fresh(bound).map(|at| Told { at, source: database.primary.clone() })
            }
            Consistency::Session => self.followed(database).map_or_else(|| self.caught_up(database), Some),
            Consistency::Snapshot => self.of_a_replica(database),
        };
        match told {
            Some(told) => Ok(told),
            None => self.newest(database),
        }
    }

    /// The newest version that the primary has.
    fn newest(&mut self, database: &Database) -> Result<Told> {
        let at = database.newest(self.seen)?;
        self.accept(database, at)
    }

    /// What the primary has said, unless this session has seen what is not in it.
    fn accept(&mut self, database: &Database, at: (Snapshot, Epoch)) -> Result<Told> {
        if self.consistency == Consistency::Session
            && let Some(seen) = self.seen.replace(at)
            && !is_later(database, seen, at)?
        {
            return Err(Cause::SessionLost { seen: seen.0.version, found: at.0.version }.into());
        }
        Ok(Told { at, source: database.primary.clone() })
    }

    /// The version of the newest commit, for `PRAGMA redis_version`.
    pub(crate) fn newest_version(&mut self, database: &Database) -> Result<Version> {
        let told = self.newest(database)?;
        self.seen = Some(told.at);
        Ok(told.at.0.version)
    }

    /// The replicas that are worth a try, in the order in which this connection tries them.
    fn ready(&self) -> impl Iterator<Item = &Arc<Source>> {
        let (before, from) = self.replicas.split_at(self.first % self.replicas.len().max(1));
        from.iter().chain(before).filter(|replica| replica.is_ready())
    }

    /// What a replica has, whatever that is.
    fn of_a_replica(&self, database: &Database) -> Option<Told> {
        for replica in self.ready() {
            match database.of_replica(replica, self.seen) {
                Ok(Some(at)) => return Some(Told { at, source: replica.clone() }),
                Ok(None) => replica.rest("it has another history than the primary, or none"),
                Err(error) if matches!(error.cause, Cause::Interrupted) => return None,
                Err(error) => replica.failed(&error),
            }
        }
        None
    }

    /// What a replica has, when that is as new as what this connection has seen. One that lags is
    /// waited for.
    fn caught_up(&self, database: &Database) -> Option<Told> {
        let deadline = Instant::now() + self.catch_up;
        let mut pause = LOOKS.0;
        loop {
            let told = self.of_a_replica(database)?;
            match self.seen {
                Some((seen, epoch)) if epoch != told.at.1 && seen != Snapshot::EMPTY => return None,
                Some((seen, _)) if told.at.0.version < seen.version => {}
                _ => return Some(told),
            }
            if Instant::now() + pause > deadline {
                told.source.rest("it lags");
                return None;
            }
            interrupt::sleep(pause).ok()?;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    /// The newest that is known here, when the server of this session is being followed.
    fn followed(&mut self, database: &Arc<Database>) -> Option<Told> {
        let source = self.ready().next().unwrap_or(&database.primary).clone();
        self.follow(database, &source, SILENCE);
        let live = self.following.as_ref().is_some_and(Following::is_live);
        let at = database.known();
        let seen = self.seen.is_some_and(|(seen, epoch)| epoch == at.1 && seen.version <= at.0.version);
        (live && seen).then_some(Told { at, source })
    }

    fn follow(&mut self, database: &Arc<Database>, source: &Arc<Source>, bound: Duration) {
        if !self.following.as_ref().is_some_and(|following| following.is(source, bound)) {
            self.following = Some(Following::begin(database, source, bound));
        }
    }

    /// Waits until the server that this connection reads from has a version.
    pub(crate) fn wait_for(&mut self, database: &Arc<Database>, wanted: Version) -> Result<Version> {
        let deadline = Instant::now() + self.catch_up;
        let mut pause = LOOKS.0;
        loop {
            let told = match self.consistency {
                Consistency::Session | Consistency::Snapshot => self.of_a_replica(database),
                Consistency::Strong | Consistency::Bounded(_) => None,
            };
            let told = told.map_or_else(|| self.newest(database), Ok)?;
            let (at, server) = (told.at, told.source.name.clone());
            if at.0.version >= wanted {
                self.seen = Some(at);
                return Ok(at.0.version);
            }
            if Instant::now() + pause > deadline {
                return Err(Cause::Behind { server, wanted, found: at.0.version }.into());
            }
            interrupt::sleep(pause)?;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    /// Version, level, server and age of the last snapshot, in words.
    pub(crate) fn describe(&self, database: &Database) -> String {
        let Some(Told { at: (snapshot, epoch), source }) = &self.last else { return String::new() };
        let as_of = database.freshness.as_of(*epoch, snapshot.version);
        let age = as_of.map_or("unknown".to_owned(), |instant| instant.elapsed().as_millis().to_string());
        let Snapshot { version, commit, .. } = snapshot;
        let (consistency, server) = (self.consistency, &source.name);
        format!("version={version} commit={commit} age_ms={age} consistency={consistency} server={server}")
    }
}

/// Whether the primary's snapshot is the one that was seen, or came after it. Where its log does
/// not reach back, a larger number is taken for later.
fn is_later(database: &Database, seen: (Snapshot, Epoch), now: (Snapshot, Epoch)) -> Result<bool> {
    let ((seen, seen_in), (now, now_in)) = (seen, now);
    if now.identity() == seen.identity() || seen == Snapshot::EMPTY {
        return Ok(true);
    }
    if now.version <= seen.version {
        return Ok(false);
    }
    Ok(seen_in == now_in || database.primary_had(&seen)?.unwrap_or(true))
}
