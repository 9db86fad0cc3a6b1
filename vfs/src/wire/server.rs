//! A server and the connections to it: made when needed, kept for the next who needs one. Where
//! it is, [`Route`] knows; when it is another one than before, older connections are given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use redis::{Value, cmd};

use crate::config::Config;
use crate::model::error::{Cause, Result};
use crate::process::sync::Mutex;
use crate::sqlite::interrupt;
use crate::wire::info::{check_policy, check_version, info};
use crate::wire::link::{Kept, Link};
use crate::wire::pool::Pool;
use crate::wire::request::Request;
use crate::wire::route::Route;
use crate::wire::script::Scripts;

/// What has gone over the wire, counted since the process began to use the database.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(super) round_trips: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
}

/// Counts of what has gone over the wire to the server of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stats {
    /// Times that a reply was waited for.
    pub round_trips: u64,
    /// Commands sent; those of a transaction count singly.
    pub commands: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
}

impl Traffic {
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            round_trips: self.round_trips.load(Relaxed),
            commands: self.commands.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
        }
    }
}

/// Times that one exchange is repeated elsewhere: servers change over one after the other.
const REPETITIONS: u32 = 5;
/// Between the first of them; the others have longer pauses.
const PAUSE: Duration = Duration::from_millis(5);

/// A server, shared by all databases of the process that live there. In a Cluster, the node that
/// has a slot, shared by those of the slot.
pub(crate) struct Server {
    pub(super) route: Route,
    /// Which server it is.
    place: String,
    allow_eviction: bool,
    /// Of the whole process.
    pub(super) pool: Arc<Pool>,
    pub(super) traffic: Traffic,
    scripts: Scripts,
    /// Generation of the route that was found to be fit.
    checked: Mutex<Option<u64>>,
}

impl Server {
    /// The server that has the slot of `key`, which matters in a Cluster only.
    pub(crate) fn new(config: &Config, key: &str, pool: &Arc<Pool>) -> Self {
        Server {
            route: Route::new(config, key, pool),
            place: config.server.key(),
            allow_eviction: config.allow_eviction,
            pool: pool.clone(),
            traffic: Traffic::default(),
            scripts: Scripts::default(),
            checked: Mutex::default(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.traffic.stats()
    }

    /// The way to it.
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// Databases of equal place can be in one transaction; `None` where each has its own, as in a Cluster.
    pub(crate) fn transaction_place(&self) -> Option<String> {
        (!self.route.is_cluster()).then(|| self.place.clone())
    }

    /// The scripts that it has.
    pub(crate) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// A connection from the idle ones, or a new one.
    pub(crate) fn link(&self) -> Result<Link<'_>> {
        self.route.confirm();
        if let Some(pooled) = self.route.pooled()
            && let Some(idle) = self.pool.take(&pooled)
        {
            return Ok(Link::of(self, idle, pooled));
        }
        let (idle, pooled) = self.route.connect(true)?;
        Ok(Link::of(self, idle, pooled))
    }

    fn fresh_link(&self) -> Result<Link<'_>> {
        let (idle, pooled) = self.route.connect(false)?;
        Ok(Link::of(self, idle, pooled))
    }

    /// Sends commands that may be sent twice, and returns their replies, one for each. A
    /// connection that turns out to have been closed while idle is replaced, and servers that have
    /// changed over are followed.
    pub(crate) fn ask(&self, request: &Request) -> Result<Vec<Value>> {
        let mut link = self.link()?;
        for n in 0..REPETITIONS {
            let last = link.fresh && !self.route.follows();
            match link.ask(request) {
                Ok(replies) => {
                    if let Some(replies) = self.redirected(request, replies)? {
                        return Ok(replies);
                    }
                }
                Err(error) if last || !self.is_elsewhere(&error.cause) => return Err(error),
                Err(_) => {}
            }
            // A connection that was idle is replaced at once.
            interrupt::sleep(PAUSE * n * n)?;
            link = self.fresh_link()?;
        }
        link.exchange(request)
    }

    /// Sends what [`Server::ask`] would send; the replies are to be had by [`Server::replies`].
    pub(crate) fn ask_ahead(&self, request: Request) -> Asked {
        let mut kept = None;
        if let Ok(mut link) = self.link()
            && link.send(&request).is_ok()
        {
            kept = link.detach();
        }
        Asked { request, kept }
    }

    /// What was sent before, and the replies. When they don't come, it is asked again.
    pub(crate) fn replies(&self, asked: Asked) -> Result<(Request, Vec<Value>)> {
        let Asked { request, kept } = asked;
        let replies = match kept {
            Some(kept) => self.awaited(&request, kept),
            None => self.ask(&request),
        };
        replies.map(|replies| (request, replies))
    }

    fn awaited(&self, request: &Request, kept: Kept) -> Result<Vec<Value>> {
        let mut link = self.attach(kept);
        match link.receive(request.ends.len()) {
            Ok(replies) => match self.redirected(request, replies)? {
                Some(replies) => Ok(replies),
                None => self.ask(request),
            },
            Err(error) if self.is_elsewhere(&error.cause) => self.ask(request),
            Err(error) => Err(error),
        }
    }

    /// Whether the same may be had from another connection right now.
    pub(crate) fn is_elsewhere(&self, cause: &Cause) -> bool {
        match cause {
            Cause::ConnectionLost(_) => true,
            Cause::Moving(_) => self.route.follows(),
            // A server that hangs is asked again only if it is another one now.
            Cause::NoReply => {
                let before = self.route.generation();
                self.route.confirm();
                self.route.generation() != before
            }
            _ => false,
        }
    }

    /// The replies, among them those that a Cluster has elsewhere; none when all of it is.
    fn redirected(&self, request: &Request, mut replies: Vec<Value>) -> Result<Option<Vec<Value>>> {
        if !self.route.follows() {
            return Ok(Some(replies));
        }
        for (n, reply) in replies.iter_mut().enumerate() {
            match redirection(reply) {
                Some(("MOVED", _)) => return Ok(None),
                Some((_, place)) => *reply = self.ask_at(place, request.command(n))?,
                None => {}
            }
        }
        Ok(Some(replies))
    }

    /// Follows an `ASK`: the slot is on its way to another node, and this key is there already.
    fn ask_at(&self, place: &str, command: &[u8]) -> Result<Value> {
        let (idle, pooled) = self.route.connect_to(place)?;
        let mut link = Link::of(self, idle, pooled);
        let mut request = Request::one(&cmd("ASKING"));
        request.push_packed(command);
        let mut replies = link.exchange(&request)?;
        link.close();
        Ok(replies.pop().unwrap_or_default())
    }

    /// To be called when the server, although it answers, may not be the primary any more.
    pub(crate) fn doubt(&self) {
        self.route.doubt();
    }

    /// Links to all nodes of a Cluster; otherwise one to the server.
    pub(crate) fn nodes(&self) -> Result<Vec<Link<'_>>> {
        Ok(self.route.all()?.into_iter().map(|(idle, pooled)| Link::of(self, idle, pooled)).collect())
    }

    /// Refuses servers that can't keep rows safely, as [`Server::ask_checked`] does.
    pub(crate) fn check(&self) -> Result<()> {
        if *self.checked.lock() == Some(self.route.generation()) {
            return Ok(());
        }
        self.ask_checked(&Request::default()).map(|_| ())
    }

    /// The same as [`Server::ask`], but refuses servers that can't keep a database safely. What that takes
    /// is asked once for each server, in the same trip.
    pub(crate) fn ask_checked(&self, request: &Request) -> Result<Vec<Value>> {
        if *self.checked.lock() == Some(self.route.generation()) {
            return self.ask(request);
        }
        let mut first = Request::default();
        first.push(cmd("INFO").arg("server"));
        first.push(cmd("INFO").arg("memory"));
        first.append(request);
        let mut replies = self.ask(&first)?.into_iter();
        let server = info(replies.next())?;
        let memory = info(replies.next())?;
        check_version(server.as_deref())?;
        if !self.allow_eviction {
            check_policy(memory.as_deref())?;
        }
        *self.checked.lock() = Some(self.route.generation());
        Ok(replies.collect())
    }
}

/// Kind and place of a redirection, as in `-MOVED 3999 127.0.0.1:6381`.
pub(super) fn redirection(reply: &Value) -> Option<(&'static str, &str)> {
    let Value::ServerError(error) = reply else { return None };
    let kind = ["MOVED", "ASK"].into_iter().find(|kind| *kind == error.code())?;
    Some((kind, error.details()?.split(' ').nth(1)?))
}

/// Commands that were sent, on the connection that the replies will come from, if there is one. It
/// is closed when nobody waits for them.
pub(crate) struct Asked {
    request: Request,
    kept: Option<Kept>,
}

impl Asked {
    /// As if it had not been sent.
    pub(crate) fn unsent(self) -> Self {
        Asked { kept: None, ..self }
    }
}
