//! A server and the connections to it: made when needed, kept for the next who needs one. Where
//! it is, [`Route`] knows; when it is another one than before, older connections are given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis::{RedisError, ServerError, Value, cmd};

use crate::config::Config;
use crate::model::error::{Cause, Error, Result};
use crate::model::secret::hide_secrets;
use crate::process::sync::Mutex;
use crate::sqlite::interrupt;
use crate::wire::connection::Wire;
use crate::wire::pool::{Idle, Pool};
use crate::wire::reply::{bad_reply, text};
use crate::wire::request::Request;
use crate::wire::route::Route;
use crate::wire::script::Scripts;

/// A connection that was silent for longer may have been forgotten on its way, without a word to either side.
const SURELY_OPEN: Duration = Duration::from_secs(1);
/// How long a primary at a fixed address is trusted to be one still.
const ROLE_KNOWN: Duration = Duration::from_secs(10);

/// What has gone over the wire, counted since the process began to use the database.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    round_trips: AtomicU64,
    commands: AtomicU64,
    bytes_sent: AtomicU64,
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

/// How late a server may be with the end of a wait before it is nudged, and how often that is done.
const NUDGE: Duration = Duration::from_millis(2);
const NUDGES: u32 = 5;

/// Times that one exchange is repeated elsewhere: servers change over one after the other.
const REPETITIONS: u32 = 5;
/// Between the first of them; the others have longer pauses.
const PAUSE: Duration = Duration::from_millis(5);

/// A server, shared by all databases of the process that live there. In a Cluster, the node that
/// has a slot, shared by those of the slot.
pub(crate) struct Server {
    route: Route,
    /// Which server it is.
    place: String,
    allow_eviction: bool,
    /// Of the whole process.
    pool: Arc<Pool>,
    traffic: Traffic,
    scripts: Scripts,
    /// Generation of the route that was found to be fit.
    checked: Mutex<Option<u64>>,
}

/// A connection that was taken out of a link, the generation of the route that it was made by, and what stands
/// in the pool for its server.
pub(crate) struct Kept {
    idle: Idle,
    generation: u64,
    pooled: Arc<str>,
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
fn redirection(reply: &Value) -> Option<(&'static str, &str)> {
    let Value::ServerError(error) = reply else { return None };
    let kind = ["MOVED", "ASK"].into_iter().find(|kind| *kind == error.code())?;
    Some((kind, error.details()?.split(' ').nth(1)?))
}

/// The text that `INFO` answered; nothing where that may not be asked.
pub(crate) fn info(reply: Option<Value>) -> Result<Option<String>> {
    match reply.map(checked) {
        Some(Ok(value)) => Ok(text(&value)),
        Some(Err(error)) if error.cause.is_refusal() => Ok(None),
        Some(Err(error)) => Err(error),
        None => Ok(None),
    }
}

/// One field of what `INFO` answered.
pub(crate) fn info_field<'a>(info: Option<&'a str>, field: &str) -> Option<&'a str> {
    info?.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
}

fn check_version(info: Option<&str>) -> Result<()> {
    let Some(version) = info_field(info, "redis_version") else { return Ok(()) };
    if version_of(version) < (6, 2) {
        return Err(Cause::ServerTooOld(version.to_owned()).into());
    }
    Ok(())
}

/// The first two numbers of a version.
pub(crate) fn version_of(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Policies `allkeys-*` may drop any key. The `volatile-*` ones only drop keys with a time to
/// live: of ours that is the lease, whose loss the commit notices.
fn check_policy(info: Option<&str>) -> Result<()> {
    match info_field(info, "maxmemory_policy") {
        Some(policy) if policy.starts_with("allkeys") => Err(Cause::Eviction(policy.to_owned()).into()),
        _ => Ok(()),
    }
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

/// Bytes of a piece of [`Sending`].
const PIECE: usize = 1 << 20;

/// Commands on their way: sent in pieces while they are put together, so that a large transaction
/// is not in memory twice and the server works on the first while the last is made.
pub(crate) struct Sending<'link, 'server> {
    link: &'link mut Link<'server>,
    piece: Request,
    sent: Result<()>,
    commands: usize,
}

impl Sending<'_, '_> {
    /// Where the next command goes.
    pub(crate) fn piece(&mut self) -> &mut Request {
        if self.piece.bytes.len() >= PIECE {
            self.flush();
        }
        &mut self.piece
    }

    /// Commands so far.
    pub(crate) fn count(&self) -> usize {
        self.commands + self.piece.ends.len()
    }

    fn flush(&mut self) {
        if self.sent.is_ok() {
            self.sent = self.link.send(&self.piece);
        }
        self.commands += self.piece.ends.len();
        self.piece.clear();
    }

    /// The replies to all of them, also those that say that this is not the server any more.
    pub(crate) fn finish(mut self) -> Result<Vec<Value>, Unanswered> {
        let may_be_done = self.sent.is_ok();
        self.flush();
        let replies = self.sent.and_then(|()| {
            if let Some(kept) = &mut self.link.kept {
                kept.idle.room = self.piece.emptied();
            }
            self.link.receive_all(self.commands)
        });
        let replies = replies.map_err(|error| Unanswered { error, may_be_done })?;
        // What it says is among the replies, and the caller knows better what comes of it.
        let _ = self.link.heed(&replies);
        Ok(replies)
    }
}

impl Sending<'_, '_> {
    /// Sends the rest of a transaction, and checks that the server has queued all of it. A proxy may refuse a command
    /// that the server then does not miss at `EXEC`.
    pub(crate) fn queue(self) -> Result<()> {
        for reply in self.finish().map_err(|unanswered| unanswered.error)? {
            match checked(reply)? {
                Value::SimpleString(queued) if queued == "QUEUED" => {}
                other => return Err(bad_reply("a command of a transaction", &other).into()),
            }
        }
        Ok(())
    }
}

/// Why there are no replies to what was sent.
pub(crate) struct Unanswered {
    pub error: Error,
    /// The last piece, and with it the last command, may have reached the server.
    pub may_be_done: bool,
}

/// A connection in somebody's hands. It goes back to the idle ones when dropped, unless an
/// exchange on it failed or it watches a key.
pub(crate) struct Link<'a> {
    server: &'a Server,
    kept: Option<Kept>,
    fresh: bool,
    /// When something last came, where that is so long ago that it may have been forgotten.
    silent_since: Option<Instant>,
}

impl<'server> Link<'server> {
    fn of(server: &'server Server, idle: Idle, pooled: Arc<str>) -> Self {
        Link::from(server, Some(Kept { idle, generation: server.route.generation(), pooled }))
    }

    fn from(server: &'server Server, kept: Option<Kept>) -> Self {
        let fresh = kept.as_ref().is_some_and(|kept| !kept.idle.wire.is_used);
        let heard = kept.as_ref().map(|kept| kept.idle.wire.heard());
        let silent_since = heard.filter(|heard| heard.elapsed() > SURELY_OPEN);
        Link { server, kept, fresh, silent_since }
    }

    /// The same as [`Link::exchange`]. From time to time it asks for the server's role in the same trip, and gives
    /// the connection up if that is no primary any more.
    fn ask(&mut self, request: &Request) -> Result<Vec<Value>> {
        let asked = self.kept.as_ref().map(|kept| kept.idle.wire.role_asked);
        if !self.server.route.must_be_primary() || asked.is_none_or(|asked| asked.elapsed() < ROLE_KNOWN) {
            return self.exchange(request);
        }
        let mut longer = request.clone();
        longer.push(&cmd("ROLE"));
        let mut replies = self.exchange(&longer)?;
        // Where access rules forbid to ask, it is taken for what it was named as.
        if let Some(Value::Array(role)) = replies.pop()
            && role.first().and_then(text).is_some_and(|role| role == "slave")
        {
            self.give_up();
            return Err(Cause::ConnectionLost("the server has been made a replica".into()).into());
        }
        if let Some(kept) = &mut self.kept {
            kept.idle.wire.role_asked = Instant::now();
        }
        Ok(replies)
    }

    /// Sends commands and returns their replies, errors of the server among them. Any failure of
    /// the connection ends it.
    pub(crate) fn exchange(&mut self, request: &Request) -> Result<Vec<Value>> {
        self.send(request)?;
        self.receive(request.ends.len())
    }

    /// Begins to send commands that are too many to be put together first.
    pub(crate) fn sending(&mut self) -> Sending<'_, 'server> {
        let piece = self.kept.as_mut().map(|kept| std::mem::take(&mut kept.idle.room)).unwrap_or_default();
        Sending { link: self, piece, sent: Ok(()), commands: 0 }
    }

    /// Sends commands, whose replies are still to be received.
    pub(crate) fn send(&mut self, request: &Request) -> Result<()> {
        if let Err(interrupted) = interrupt::check() {
            // Replies to what was sent before may be still to come.
            self.close();
            return Err(interrupted);
        }
        let bytes = request.bytes.as_slice();
        self.server.traffic.bytes_sent.fetch_add(bytes.len() as u64, Relaxed);
        self.converse(|connection| connection.send(bytes))
    }

    /// The replies to commands that were sent.
    pub(crate) fn receive(&mut self, commands: usize) -> Result<Vec<Value>> {
        let replies = self.receive_all(commands)?;
        self.heed(&replies)?;
        Ok(replies)
    }

    /// The same. The server is to hold up all but the `first` for no longer than `time`; if it does, it is
    /// nudged a few times.
    pub(crate) fn receive_held_up(
        &mut self,
        commands: usize,
        first: usize,
        time: Duration,
        nudge: impl Fn(),
    ) -> Result<Vec<Value>> {
        let mut replies = self.converse(|connection| receive(connection, first))?;
        let mut waited = time + NUDGE;
        for _ in 0..NUDGES {
            if self.converse(|connection| connection.comes_within(waited))? {
                break;
            }
            nudge();
            waited = NUDGE;
        }
        self.count(commands);
        replies.extend(self.converse(|connection| receive(connection, commands - first))?);
        self.heed(&replies)?;
        Ok(replies)
    }

    fn receive_all(&mut self, commands: usize) -> Result<Vec<Value>> {
        self.count(commands);
        self.converse(|connection| receive(connection, commands))
    }

    /// A round trip.
    fn count(&self, commands: usize) {
        let traffic = &self.server.traffic;
        traffic.round_trips.fetch_add(1, Relaxed);
        traffic.commands.fetch_add(commands as u64, Relaxed);
    }

    fn converse<T>(&mut self, part: impl FnOnce(&mut Wire) -> Result<T, RedisError>) -> Result<T> {
        let Some(kept) = &mut self.kept else {
            return Err(Cause::ConnectionLost("it is closed".into()).into());
        };
        let (outcome, heard) = (part(&mut kept.idle.wire), kept.idle.wire.heard());
        outcome.map_err(|error| {
            if let Err(interrupted) = interrupt::check() {
                // Its reply is still to come. Nothing is wrong with the server.
                self.close();
                return interrupted;
            }
            self.give_up();
            match self.silent_since {
                // Another connection may work at once.
                Some(since) if error.is_timeout() && since == heard => {
                    Cause::ConnectionLost("no reply came on a connection that had been idle".into()).into()
                }
                _ if error.is_timeout() => Cause::NoReply.into(),
                _ => Cause::ConnectionLost(hide_secrets(&error.to_string())).into(),
            }
        })
    }

    /// Closes the connection, and those that most likely broke with it.
    fn give_up(&mut self) {
        let kept = self.kept.take();
        let follows = self.server.route.follows();
        if let Some(kept) = kept.filter(|_| !self.fresh || follows) {
            self.server.pool.clear(&kept.pooled);
        }
        if follows {
            self.server.route.lose();
        }
        self.server.route.doubt();
    }

    /// Notices replies that say that this is not the server any more.
    fn heed(&mut self, replies: &[Value]) -> Result<()> {
        for reply in replies {
            let Value::ServerError(error) = reply else { continue };
            match error.code() {
                // A primary that was made a replica, or a name that leads elsewhere now.
                "READONLY" if !self.fresh || self.server.route.follows() => {
                    self.give_up();
                    return Err(Cause::ConnectionLost("the server has been made a replica".into()).into());
                }
                "MOVED" if self.server.route.is_fixed() => {
                    return Err(Cause::Unsupported(format!(
                        "this node of a Cluster does not have it ({}); name the Cluster, as redis+cluster://host:port",
                        message(error)
                    ))
                    .into());
                }
                "MOVED" => {
                    if let Some((_, place)) = redirection(reply) {
                        self.server.route.redirected(place);
                    }
                    self.give_up();
                }
                "CLUSTERDOWN" | "MASTERDOWN" | "LOADING" | "NOREPLICAS" => self.give_up(),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether its server has been replaced by another since the connection was made.
    pub(crate) fn is_replaced(&self) -> bool {
        self.kept.is_none()
    }

    /// Closes the connection instead of keeping it.
    pub(crate) fn close(&mut self) {
        self.kept = None;
    }

    /// Takes the connection out, to be kept for longer than the server is borrowed.
    pub(crate) fn detach(mut self) -> Option<Kept> {
        self.kept.take()
    }
}

fn receive(connection: &mut Wire, commands: usize) -> Result<Vec<Value>, RedisError> {
    (0..commands).map(|_| connection.receive()).collect()
}

impl Server {
    /// The opposite of [`Link::detach`]. A connection to a server that has been replaced meanwhile
    /// is closed.
    pub(crate) fn attach(&self, kept: Kept) -> Link<'_> {
        self.route.confirm();
        let mut link = Link::from(self, Some(kept).filter(|kept| kept.generation == self.route.generation()));
        link.fresh = false;
        link
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take()
            && kept.generation == self.server.route.generation()
        {
            self.server.pool.put(&kept.pooled, kept.idle);
        }
    }
}

/// An error among the replies, as a failure.
pub(crate) fn checked(reply: Value) -> Result<Value> {
    match reply {
        Value::ServerError(error) => Err(server_cause(&error).into()),
        value => Ok(value),
    }
}

fn message(error: &ServerError) -> String {
    match error.details() {
        Some(details) => hide_secrets(&format!("{} {details}", error.code())),
        None => error.code().to_owned(),
    }
}

/// What servers say when a script does what its user may not, for which there is no code.
const IN_SCRIPTS: [&str; 2] = ["user executing the script can't run", "ACL failure in script"];

/// What an error reply of the server means.
pub(crate) fn server_cause(error: &ServerError) -> Cause {
    let message = message(error);
    // `EXECABORT Transaction discarded because of: READONLY ...`
    let aborted = message.split_once("because of: ").filter(|_| error.code() == "EXECABORT");
    let code = aborted.and_then(|(_, why)| why.split(' ').next()).unwrap_or(error.code());
    match code {
        "LOADING" | "MASTERDOWN" | "BUSY" => Cause::Loading(message),
        "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" => Cause::Moving(message),
        "NOREPLICAS" => Cause::TooFewReplicas(message),
        "READONLY" => Cause::ReadOnlyServer(message),
        "NOPERM" => Cause::Permission(message),
        "OOM" => Cause::ServerFull(message),
        "NOAUTH" | "WRONGPASS" => Cause::Authentication(message),
        "WRONGTYPE" => Cause::Damaged(format!("its key holds something else ({message})")),
        _ if IN_SCRIPTS.iter().any(|said| message.contains(said)) => Cause::Permission(message),
        _ if error.details().is_some_and(is_unknown_command) => Cause::MissingCommand(message),
        _ => Cause::Server(message),
    }
}

/// Whether servers and proxies say this of a command that they don't have.
fn is_unknown_command(details: &str) -> bool {
    let details = details.to_ascii_lowercase();
    ["unknown command", "unsupported command"].iter().any(|said| details.starts_with(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_that_can_drop_pages_are_refused() {
        for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random"] {
            assert!(check_policy(Some(&format!("x:1\r\nmaxmemory_policy:{policy}\r\n"))).is_err());
        }
        for policy in ["noeviction", "volatile-lru", "volatile-ttl"] {
            assert!(check_policy(Some(&format!("maxmemory_policy:{policy}\r\n"))).is_ok());
        }
        assert!(check_policy(None).is_ok(), "not allowed to ask");
    }

    #[test]
    fn what_a_script_may_not_do_is_a_matter_of_access_rules_on_every_server() {
        for said in [
            // Redis 7.0; Valkey 8.0, also when the script passes it on.
            "-ERR The user executing the script can't run this command or subcommand\r\n",
            "-NOPERM ACL failure in script: User some has no permissions to run the 'sdiff' command\r\n",
            "-ERR ACL failure in script: User some has no permissions to run the 'sdiff' command\r\n",
        ] {
            let error = checked(redis::parse_redis_value(said.as_bytes()).unwrap()).unwrap_err();
            assert!(matches!(error.cause, Cause::Permission(_)), "{said}");
        }
    }

    #[test]
    fn old_servers_are_refused() {
        for (version, ok) in [("6.0.16", false), ("5.0.0", false), ("6.2.0", true), ("7.0.15", true), ("8.4", true)] {
            assert_eq!(check_version(Some(&format!("redis_version:{version}\r\n"))).is_ok(), ok, "{version}");
        }
    }
}
