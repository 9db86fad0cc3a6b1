//! A server and the connections to it. They come from the pool, or are made by the [`Route`], which knows where the
//! server is. When the server is replaced by another, older connections are closed.

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

/// Counters of the traffic to a server, since this process first used it.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(super) round_trips: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
}

/// A copy of these counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stats {
    /// How often the client waited for replies.
    pub round_trips: u64,
    /// Commands sent. Each command of a transaction counts.
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

/// How often one request is tried on further connections. Servers fail over one after the other.
const REPETITIONS: u32 = 5;
/// The first pause between two tries. Later pauses are longer.
const PAUSE: Duration = Duration::from_millis(5);

/// A server, shared by all databases of this process that live on it. In a Cluster: the node that has a slot, shared
/// by the databases in that slot.
pub(crate) struct Server {
    pub(super) route: Route,
    /// The server's identity: its address.
    place: String,
    allow_eviction: bool,
    /// The pool of the whole process.
    pub(super) pool: Arc<Pool>,
    pub(super) traffic: Traffic,
    scripts: Scripts,
    /// The generation of the route for which the server passed [`Server::check`].
    checked: Mutex<Option<u64>>,
}

impl Server {
    /// The server of a configuration. In a Cluster: the node that has the slot of `key`.
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

    /// The route to the server.
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// Databases with equal values can be committed in one transaction. `None` where each database needs its own, as
    /// in a Cluster.
    pub(crate) fn transaction_place(&self) -> Option<String> {
        (!self.route.is_cluster()).then(|| self.place.clone())
    }

    /// The scripts that the server is known to have.
    pub(crate) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// A connection from the pool, or a new one.
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

    /// Sends idempotent commands and returns one reply for each. Replaces a connection that was closed while idle,
    /// and follows failovers and redirections.
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
            // The first retry has no pause: the connection may only have been closed while idle.
            interrupt::sleep(PAUSE * n * n)?;
            link = self.fresh_link()?;
        }
        link.exchange(request)
    }

    /// Sends a request like [`Server::ask`], without waiting. [`Server::replies`] returns the replies.
    pub(crate) fn ask_ahead(&self, request: Request) -> Asked {
        let mut kept = None;
        if let Ok(mut link) = self.link()
            && link.send(&request).is_ok()
        {
            kept = link.detach();
        }
        Asked { request, kept }
    }

    /// The request that was sent, and its replies. It is sent again if the replies do not arrive.
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

    /// Whether another connection may answer right now.
    pub(crate) fn is_elsewhere(&self, cause: &Cause) -> bool {
        match cause {
            Cause::ConnectionLost(_) => true,
            Cause::Moving(_) => self.route.follows(),
            // A server that hangs is asked again only if another one has replaced it.
            Cause::NoReply => {
                let before = self.route.generation();
                self.route.confirm();
                self.route.generation() != before
            }
            _ => false,
        }
    }

    /// The replies, with redirected ones fetched from their node. `None` if the slot has moved and the whole request
    /// must be sent again.
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

    /// Follows an `ASK`: the slot is being moved to another node, which already has this key.
    fn ask_at(&self, place: &str, command: &[u8]) -> Result<Value> {
        let (idle, pooled) = self.route.connect_to(place)?;
        let mut link = Link::of(self, idle, pooled);
        let mut request = Request::one(&cmd("ASKING"));
        request.push_packed(command);
        let mut replies = link.exchange(&request)?;
        link.close();
        Ok(replies.pop().unwrap_or_default())
    }

    /// Notes that the server may no longer be the primary, although it answers.
    pub(crate) fn doubt(&self) {
        self.route.doubt();
    }

    /// Connections to all nodes of a Cluster; otherwise one to the server.
    pub(crate) fn nodes(&self) -> Result<Vec<Link<'_>>> {
        Ok(self.route.all()?.into_iter().map(|(idle, pooled)| Link::of(self, idle, pooled)).collect())
    }

    /// Fails if the server can't keep rows safely. See [`Server::ask_checked`].
    pub(crate) fn check(&self) -> Result<()> {
        if *self.checked.lock() == Some(self.route.generation()) {
            return Ok(());
        }
        self.ask_checked(&Request::default()).map(|_| ())
    }

    /// Like [`Server::ask`], but fails if the server can't keep a database safely. The check is part of the first
    /// request to each server, without a round trip of its own.
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

/// The kind and the node of a redirection, as in `-MOVED 3999 127.0.0.1:6381`.
pub(super) fn redirection(reply: &Value) -> Option<(&'static str, &str)> {
    let Value::ServerError(error) = reply else { return None };
    let kind = ["MOVED", "ASK"].into_iter().find(|kind| *kind == error.code())?;
    Some((kind, error.details()?.split(' ').nth(1)?))
}

/// A request that was sent, and the connection on which its replies will arrive, if it could be sent. Dropping it
/// closes that connection.
pub(crate) struct Asked {
    request: Request,
    kept: Option<Kept>,
}

impl Asked {
    /// The same request, to be sent again.
    pub(crate) fn unsent(self) -> Self {
        Asked { kept: None, ..self }
    }
}
