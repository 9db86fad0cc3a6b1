//! Commits of several databases that one server carries out in one transaction: all of them or none.
//!
//! ```text
//! WATCH   all hashes, and the pages staged for them
//! HMGET   the metadata of each: is it the version that the commit was made from?
//! MULTI
//! HSET …  what each commit sends by itself
//! EXEC
//! ```

use std::sync::Arc;

use redis::{Value, cmd};

use crate::config::Wait;
use crate::model::error::{Cause, Error, Result};
use crate::model::log_entry::Commit;
use crate::process::fault;
use crate::process::fault::Point;
use crate::store::Writer;
use crate::store::data::{After, Ending};
use crate::store::redis::base::ask_version;
use crate::store::redis::commit::{AboutHistory, LogMark};
use crate::store::redis::stage::Stage;
use crate::store::redis::writer;
use crate::store::redis::writer::RedisWriter;
use crate::store::redis::writer::in_time;
use crate::store::redis::writer::in_time::{Attempt, Attempts};
use crate::store::redis::{replies, wait};
use crate::wire::link::{Kept, Sending};
use crate::wire::reply::checked;
use crate::wire::reply::{array, bad_reply};
use crate::wire::request::Request;
use crate::wire::server::Server;

/// The commit of one database.
pub(crate) struct Part<'a> {
    /// For messages.
    pub place: &'a Arc<str>,
    pub writer: &'a mut dyn Writer,
    pub commit: Commit<'a>,
    pub stage: Option<Stage>,
    pub wait: Wait,
}

/// What became of the commits of a [`Bundle`].
pub(crate) enum Published {
    /// All are done.
    Done,
    /// All are done, but not on as many replicas as they should be.
    NotReplicated(Error),
    /// None is.
    Refused(Error),
    /// All or none are.
    Unknown(Error),
}

impl Published {
    fn failed(error: Error) -> Self {
        match error.cause {
            Cause::NotReplicated { .. } => Published::NotReplicated(error),
            Cause::OutcomeUnknown { .. } => Published::Unknown(error),
            _ => Published::Refused(error),
        }
    }
}

/// The commits that one server gets. See the [module](self).
pub(crate) enum Bundle<'a> {
    /// One database, which commits as it does by itself.
    One(Part<'a>),
    Joint(Joint<'a>),
}

impl<'a> Bundle<'a> {
    /// `proven` tells that [`Bundle::prove`] is to be called: other servers take part too.
    pub(crate) fn new(mut parts: Vec<Part<'a>>, proven: bool) -> Result<Self> {
        if parts.len() == 1 && (!proven || parts[0].writer.as_redis().is_none()) {
            return Ok(Bundle::One(parts.remove(0)));
        }
        let members = parts.into_iter().map(Joined::new).collect::<Result<Vec<_>>>()?;
        let Some(first) = members.first() else { return Err(Cause::Internal("no database commits".into()).into()) };
        Ok(Bundle::Joint(Joint { server: first.writer.server.clone(), members, kept: None, queued: false }))
    }

    /// Asks the server all that it could refuse, short of publishing.
    pub(crate) fn prove(&mut self) -> Result<()> {
        match self {
            Bundle::One(_) => Ok(()),
            Bundle::Joint(joint) => joint.prove(),
        }
    }

    /// Publishes all of the commits or none. The leases are kept.
    pub(crate) fn publish(&mut self) -> Published {
        match self {
            Bundle::One(part) => {
                let ending = Ending { lease: After::Keep, wait: part.wait };
                match part.writer.commit(&part.commit, part.stage.take(), ending) {
                    Ok(_) => Published::Done,
                    Err(error) => Published::failed(error.at(part.place)),
                }
            }
            Bundle::Joint(joint) => joint.publish(),
        }
    }
}

/// Commits in one transaction of one server.
pub(crate) struct Joint<'a> {
    server: Arc<Server>,
    members: Vec<Joined<'a>>,
    /// The connection that watches the hashes and has the transaction open.
    kept: Option<Kept>,
    /// All commands of the transaction were accepted.
    queued: bool,
}

struct Joined<'a> {
    place: &'a Arc<str>,
    writer: &'a mut RedisWriter,
    commit: Commit<'a>,
    wait: Wait,
    log_mark: LogMark,
    /// Commands that it has in the transaction.
    commands: usize,
    about_history: AboutHistory,
}

impl<'a> Joined<'a> {
    fn new(part: Part<'a>) -> Result<Self> {
        let Part { place, writer, commit, stage, wait } = part;
        let writer = writer.as_redis().ok_or_else(|| Cause::Internal("this store commits one by one".into()))?;
        writer.stage = stage;
        Ok(Joined {
            place,
            writer,
            commit,
            wait,
            log_mark: LogMark::default(),
            commands: 0,
            about_history: AboutHistory::default(),
        })
    }

    fn stage_key(&self) -> Option<&str> {
        self.writer.stage.as_ref().map(|stage| stage.key.as_str())
    }

    /// Takes in the replies to what [`watching`](crate::store::redis::base::watching) asks of one hash.
    fn watched(&mut self, replies: &mut impl Iterator<Item = Value>) -> Result<()> {
        let mut next = || checked(replies.next().unwrap_or_default());
        let (metadata, staged) = (next(), self.writer.stage.as_ref().map(|_| next()));
        let mut metadata = array("HMGET", metadata?)?;
        self.log_mark = metadata.pop().map(|mark| LogMark::parse(&mark)).unwrap_or_default();
        if let (Some(stage), Some(staged)) = (&self.writer.stage, staged) {
            stage.check(staged?)?;
        }
        let (found, staged) = replies::snapshot(&metadata)?;
        let base = &self.commit.base;
        if found.identity() != base.identity() || staged {
            return Err(Cause::Stale { snapshot: base.version, found: found.version }.into());
        }
        Ok(())
    }
}

/// What was answered to the `WAIT` of each member that waits for replicas.
type Waited = Vec<Option<Result<Value>>>;

impl Joint<'_> {
    fn prove(&mut self) -> Result<()> {
        self.watch()?;
        self.queue()
    }

    /// One round trip: sends all commits, which the server queues.
    fn queue(&mut self) -> Result<()> {
        let mut link = self.server.attach(self.kept.take().ok_or_else(closed)?);
        let mut sending = link.sending();
        for member in &mut self.members {
            member.send(&mut sending);
        }
        if let Err(error) = sending.queue() {
            // The transaction ends with the connection.
            link.close();
            return Err(error.at(self.members[0].place));
        }
        self.kept = link.detach();
        self.queued = true;
        Ok(())
    }

    /// One round trip: watches all hashes, compares their versions, opens the transaction.
    fn watch(&mut self) -> Result<()> {
        fault::at(Point::BeforeLease)?;
        let mut watch = cmd("WATCH");
        let mut request = Request::default();
        for member in &self.members {
            watch.arg(&member.writer.store.keys.hash).arg(member.stage_key());
        }
        request.push(&watch);
        for member in &self.members {
            ask_version(&mut request, &member.writer.store.keys.hash, member.stage_key());
        }
        request.push(&cmd("MULTI"));
        let mut link = self.server.link()?;
        let replies = match link.exchange(&request) {
            // The idle connection had died; nothing was done.
            Err(error) if self.server.is_elsewhere(&error.cause) => {
                link = self.server.link()?;
                link.exchange(&request)
            }
            outcome => outcome,
        };
        let mut replies = replies?.into_iter();
        let watched = checked(replies.next().unwrap_or_default());
        let mut found = Ok(());
        for member in &mut self.members {
            found = found.and(member.watched(&mut replies).map_err(|error| error.at(member.place)));
        }
        let opened = writer::opened(replies.next().unwrap_or_default());
        if let Err(error) = watched.and(opened).and(found) {
            link.close();
            return Err(error);
        }
        self.kept = link.detach();
        Ok(())
    }

    fn try_once(&mut self) -> Result<Attempt<Waited>> {
        if self.kept.is_none() {
            self.queued = false;
            self.watch()?;
        }
        fault::at(Point::BeforeExec)?;
        // Without the command that renames staged pages, they would be lost.
        if !self.queued
            && self.members.iter().any(|member| member.writer.stage.is_some())
            && let Err(error) = self.queue()
        {
            return Attempt::not_done(error, false);
        }
        let mut link = self.server.attach(self.kept.take().ok_or_else(closed)?);
        if link.is_replaced() {
            return Err(Cause::Moving("its server has been replaced".into()).into());
        }
        let mut sending = link.sending();
        if !self.queued {
            for member in &mut self.members {
                member.send(&mut sending);
            }
        }
        let before = if self.queued { 0 } else { self.members.iter().map(|member| member.commands).sum() };
        let request = sending.piece();
        request.push(&cmd("EXEC"));
        for member in &self.members {
            wait::commands(member.wait).iter().for_each(|command| request.push(command));
        }
        let replies = sending.finish();
        let is_closed = link.is_replaced();
        link.close();
        let mut replies = match replies {
            Ok(replies) => match fault::at(Point::AfterExec) {
                Ok(()) => replies.into_iter(),
                Err(error) => return Ok(Attempt::Lost(error.cause.to_string())),
            },
            Err(unanswered) => return Ok(unanswered.into()),
        };
        let queued: Vec<Value> = replies.by_ref().take(before).collect();
        let commands: usize = self.members.iter().map(|member| member.commands).sum();
        match replies.next().unwrap_or_default() {
            Value::Nil => Err(self.overtaken()),
            Value::Array(results) if results.len() == commands => {
                let mut results = results.into_iter();
                for member in &self.members {
                    let own = results.by_ref().take(member.commands).collect();
                    let checked = member.writer.store.check_results(&member.commit, member.about_history, own);
                    checked.map_err(|error| error.at(member.place))?;
                }
                Ok(Attempt::Done(self.waited(replies)))
            }
            refused @ Value::ServerError(_) => {
                let refused = Attempt::refused(queued.into_iter().chain([refused]), is_closed);
                refused.map_err(|error| error.at(self.members[0].place))
            }
            other => Ok(Attempt::Lost(bad_reply("EXEC", &other).to_string())),
        }
    }

    fn waited(&self, mut replies: impl Iterator<Item = Value>) -> Waited {
        let answer = |member: &Joined<'_>| replies.by_ref().take(wait::commands(member.wait).len()).last();
        self.members.iter().map(answer).map(|reply| reply.map(checked)).collect()
    }

    /// Why `EXEC` was refused: which of the hashes was changed since it was watched.
    fn overtaken(&self) -> Error {
        for member in &self.members {
            let (base, store) = (&member.commit.base, &member.writer.store);
            if let Ok(now) = store.newest()
                && now.identity() != base.identity()
            {
                return Error::from(Cause::Stale { snapshot: base.version, found: now.version }).at(member.place);
            }
        }
        let base = &self.members[0].commit.base;
        Error::from(Cause::Stale { snapshot: base.version, found: base.version.next() }).at(self.members[0].place)
    }

    /// Finds out what became of an attempt whose reply was lost: `true`, all are done; `false`, none is, and
    /// all can be tried again.
    fn look_up(&self) -> Result<bool> {
        fault::at(Point::BeforeResolve)?;
        let mut request = Request::default();
        for member in &self.members {
            request.append(&member.writer.store.question(&member.commit));
        }
        let mut replies = self.server.ask(&request)?.into_iter();
        let mut answers = Vec::new();
        for member in &self.members {
            answers.push((member, writer::answer(&mut replies)?));
        }
        // They are one transaction: where one is done, all are.
        if answers.iter().any(|(member, (now, logged))| writer::is_done(&member.commit, now, logged)) {
            return Ok(true);
        }
        for (member, (now, logged)) in answers {
            writer::is_open_to(&member.commit, &now, &logged).map_err(|error| error.at(member.place))?;
        }
        Ok(false)
    }

    fn wait_again(&self) -> Result<Waited> {
        for member in &self.members {
            member.writer.wait_again(&member.commit, member.wait).map_err(|error| error.at(member.place))?;
        }
        Ok(Vec::new())
    }

    fn publish(&mut self) -> Published {
        let patience = self.members[0].writer.store.patience;
        let outcome = in_time::commit(self, patience).and_then(|done| done.map_or_else(|| self.wait_again(), Ok));
        let unknown = matches!(&outcome, Err(error) if matches!(error.cause, Cause::OutcomeUnknown { .. }));
        let done =
            outcome.is_ok() || matches!(&outcome, Err(error) if matches!(error.cause, Cause::NotReplicated { .. }));
        for member in &mut self.members {
            if done {
                member.writer.settle(&member.commit, true);
            } else if let Some(mut stage) = member.writer.stage.take() {
                // An attempt that may still arrive needs them; its watch would notice if they were gone.
                stage.published = unknown;
            }
        }
        let waited = match outcome {
            Ok(waited) => waited,
            Err(error) => return Published::failed(error),
        };
        for (member, reply) in self.members.iter().zip(waited) {
            if let Err(error) = member.writer.check_wait(&member.commit, member.wait, reply) {
                return Published::NotReplicated(error.at(member.place));
            }
        }
        Published::Done
    }
}

impl Attempts for Joint<'_> {
    type Done = Waited;

    fn attempt(&mut self) -> Result<Attempt<Waited>> {
        self.try_once()
    }

    fn resolve(&mut self) -> Result<bool> {
        self.look_up()
    }

    fn unknown(&self, reason: String) -> Error {
        let first = &self.members[0];
        writer::unknown(&first.commit, reason).at(first.place)
    }
}

impl Joined<'_> {
    /// Adds what this commit has in the transaction.
    fn send(&mut self, sending: &mut Sending<'_, '_>) {
        let before = sending.count();
        self.about_history =
            self.writer.store.transaction(&self.commit, self.log_mark, self.writer.stage.as_ref(), sending);
        self.commands = sending.count() - before;
    }
}

fn closed() -> Error {
    Cause::ConnectionLost("it is closed".into()).into()
}
