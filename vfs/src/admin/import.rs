//! An import: pages are gathered in a key of their own, which becomes the database in one step.

use std::sync::Arc;

use redis::{Value, cmd};

use crate::admin::{Admin, count, snapshot_command};
use crate::model::error::{Cause, Error, Result};
use crate::model::log_entry::{Commit, Undo};
use crate::model::page::PageNo;
use crate::model::version::{CommitId, FORMAT, Snapshot};
use crate::store::redis::base::RedisStore;
use crate::store::redis::commit::{AboutHistory, LogMark, metadata};
use crate::store::redis::keys;
use crate::store::redis::keys::Keys;
use crate::store::redis::replies;
use crate::store::redis::stage::Stage;
use crate::store::redis::undo_stream::KeptUndo;
use crate::store::redis::writer::in_time;
use crate::store::redis::writer::in_time::{Attempt, Attempts};
use crate::store::redis::writer::{answer, is_done, is_open_to, opened, unknown};
use crate::wire::link::Link;
use crate::wire::reply::checked;
use crate::wire::reply::{array, bad_reply};
use crate::wire::request::Request;
use crate::wire::server::Server;

/// Pages that an import gathers before it sends them.
const BATCH: usize = 64;

/// What is imported, and whether it may replace a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Bytes of a page: a power of two from 512 to 65,536.
    pub page_size: u32,
    /// How many pages will come.
    pub page_count: u32,
    /// Replace a database of this name.
    pub overwrite: bool,
}

impl ImportOptions {
    /// So many pages of so many bytes, for a new database.
    pub fn new(page_size: u32, page_count: u32) -> Self {
        ImportOptions { page_size, page_count, overwrite: false }
    }

    /// Whether to replace a database of this name.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }
}

/// An import on its way. Dropped before [`Import::finish`], it leaves nothing behind.
pub struct Import<'a> {
    admin: &'a Admin,
    target: Target,
    stage: Stage,
    batch: Vec<Vec<u8>>,
}

/// What is to be made.
pub(super) struct Target {
    pub server: Arc<Server>,
    pub name: String,
    pub keys: Keys,
    pub page_size: u32,
    pub page_count: u32,
    pub overwrite: bool,
}

impl<'a> Import<'a> {
    pub(super) fn new(admin: &'a Admin, target: Target, stage: Stage) -> Self {
        Import { admin, target, stage, batch: Vec::new() }
    }
}

impl Import<'_> {
    /// Adds the next page; the first is page 1.
    ///
    /// # Errors
    /// A page of another size or one too many; the server fails.
    pub fn page(&mut self, mut page: Vec<u8>) -> Result<()> {
        let number = self.stage.pages + self.batch.len() as u32 + 1;
        if page.len() != self.target.page_size as usize || number > self.target.page_count {
            let reason = format!("page {number} of {} has {} bytes", self.target.page_count, page.len());
            return self.admin.at(&self.target.name, Err(Cause::Unsupported(reason).into()));
        }
        if number == 1 {
            // "The file format write and read version": 2 is WAL, which there is none of here.
            page[18..20].fill(1);
        }
        self.batch.push(page);
        if self.batch.len() == BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let sent = self.send_batch();
        self.admin.at(&self.target.name, sent)
    }

    fn send_batch(&mut self) -> Result<()> {
        let pages =
            PageNo::range(self.stage.pages + 1, self.target.page_count).zip(self.batch.iter().map(Vec::as_slice));
        self.stage.add(pages)?;
        self.batch.clear();
        Ok(())
    }

    /// Puts the database in its place, in one step. Returns its version.
    ///
    /// # Errors
    /// Pages are missing; someone made or changed a database of this name meanwhile; or the reply was lost, and it
    /// can't be told whether the database is in its place.
    pub fn finish(mut self) -> Result<u64> {
        let outcome = self.send_batch().and_then(|()| self.publish());
        // An attempt that may still arrive needs them; its watch would notice if they were gone.
        self.stage.published = match &outcome {
            Ok(_) => true,
            Err(error) => matches!(error.cause, Cause::OutcomeUnknown { .. }),
        };
        self.admin.at(&self.target.name, outcome)
    }

    fn publish(&self) -> Result<u64> {
        let (came, wanted) = (self.stage.pages, self.target.page_count);
        if came != wanted {
            return Err(Cause::Unsupported(format!("{came} of {wanted} pages came")).into());
        }
        let config = &self.admin.config;
        let store = RedisStore::new(self.target.server.clone(), config, keys::database_name(&self.target.name)?);
        let id = CommitId::draw()?;
        let mut publishing = Publishing { target: &self.target, stage: &self.stage, store, id, last: None };
        in_time::commit(&mut publishing, config.patience())?;
        Ok(publishing.commit().snapshot.version.0)
    }
}

/// The step that makes the gathered pages the database.
struct Publishing<'a> {
    target: &'a Target,
    stage: &'a Stage,
    store: RedisStore,
    id: CommitId,
    /// The versions that the last attempt was to replace, and to make.
    last: Option<(Snapshot, Snapshot)>,
}

impl Publishing<'_> {
    /// What the last attempt was to commit.
    fn commit(&self) -> Commit<'static> {
        let (base, snapshot) = self.last.unwrap_or_default();
        Commit { base, snapshot, pages: Vec::new(), undo: &Undo::Barrier, shrinks: false }
    }

    /// One round trip: watches database and pages, and opens the transaction. Returns what is to be replaced.
    fn watch(&self, link: &mut Link<'_>) -> Result<Snapshot> {
        let (keys, staging) = (&self.target.keys, &self.stage.key);
        let mut request = Request::one(cmd("WATCH").arg(&keys.hash).arg(staging));
        request.push(&snapshot_command(keys));
        request.push(cmd("EXISTS").arg(&keys.hash));
        request.push(cmd("HLEN").arg(staging));
        // A server that refuses this one would take what follows command by command.
        request.push(&cmd("MULTI"));
        let mut replies = link.exchange(&request)?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        checked(next())?;
        let snapshot = checked(next())?;
        if count(&checked(next())?) > 0 && !self.target.overwrite {
            return Err(Cause::Exists.into());
        }
        self.stage.check(next())?;
        opened(next())?;
        // A damaged database may be replaced too.
        let fields = array("HMGET", snapshot)?;
        Ok(replies::snapshot(&fields).map_or(Snapshot::EMPTY, |(at, _)| at))
    }

    /// One round trip: the pages become the database.
    fn execute(&self, link: &mut Link<'_>) -> Result<Attempt<()>> {
        let (keys, staging, commit) = (&self.target.keys, &self.stage.key, self.commit());
        let log_mark = LogMark { begins: commit.snapshot.version.0, bytes: 0 };
        let mut sending = link.sending();
        let request = sending.piece();
        request.push(cmd("HSET").arg(staging).arg(metadata(&Snapshot::EMPTY, &commit.snapshot, FORMAT, log_mark)));
        request.push(cmd("PERSIST").arg(staging));
        request.push(cmd("UNLINK").arg(&keys.hash).arg(&keys.log).arg(&keys.undo).arg(&keys.staged));
        request.push(cmd("RENAME").arg(staging).arg(&keys.hash));
        self.store.xadd(&commit, KeptUndo::NONE, request);
        let commands = sending.count();
        // Without the command that renames them, the pages would be lost.
        if let Err(error) = sending.queue() {
            let is_closed = link.is_replaced();
            return Attempt::not_done(error, is_closed);
        }
        let mut sending = link.sending();
        sending.piece().push(&cmd("EXEC"));
        let mut replies = match sending.finish() {
            Ok(replies) => replies,
            Err(unanswered) => return Ok(unanswered.into()),
        };
        match replies.pop().unwrap_or_default() {
            Value::Array(results) if results.len() == commands => {
                self.store.check_results(&commit, AboutHistory::ENTRY, results)?;
                Ok(Attempt::Done(()))
            }
            Value::Nil => Err(self.overtaken()),
            refused @ Value::ServerError(_) => Attempt::refused([refused].into_iter(), link.is_replaced()),
            other => Ok(Attempt::Lost(bad_reply("EXEC", &other).to_string())),
        }
    }

    /// Why `EXEC` was refused.
    fn overtaken(&self) -> Error {
        let exists = self.target.server.ask(&Request::one(cmd("EXISTS").arg(&self.target.keys.hash)));
        let exists = exists.ok().and_then(|mut replies| replies.pop()).is_some_and(|reply| count(&reply) > 0);
        if exists && !self.target.overwrite { Cause::Exists.into() } else { Cause::ImportOvertaken.into() }
    }
}

impl Attempts for Publishing<'_> {
    type Done = ();

    fn attempt(&mut self) -> Result<Attempt<()>> {
        let server = &self.target.server;
        let mut link = server.link()?;
        let watched = match self.watch(&mut link) {
            // The idle connection had died; nothing was done.
            Err(error) if server.is_elsewhere(&error.cause) => {
                link = server.link()?;
                self.watch(&mut link)
            }
            outcome => outcome,
        };
        let outcome = watched.and_then(|base| {
            // Readers of what was there before must see that the version is another one.
            let (version, &Target { page_size, page_count, .. }) = (base.version.next(), self.target);
            self.last = Some((base, Snapshot { version, commit: self.id, page_size, page_count }));
            self.execute(&mut link)
        });
        // Unless it came to the end of this, the connection is no use to others.
        if !matches!(outcome, Ok(Attempt::Done(()))) {
            link.close();
        }
        outcome
    }

    fn resolve(&mut self) -> Result<bool> {
        let commit = self.commit();
        let mut replies = self.target.server.ask(&self.store.question(&commit))?.into_iter();
        let (now, logged) = answer(&mut replies)?;
        if is_done(&commit, &now, &logged) {
            return Ok(true);
        }
        is_open_to(&commit, &now, &logged).map(|()| false)
    }

    fn unknown(&self, reason: String) -> Error {
        unknown(&self.commit(), reason)
    }
}
