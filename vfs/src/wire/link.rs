//! A connection in use: its exchanges, and its return to the pool.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redis::{RedisError, Value, cmd};

use crate::model::error::{Cause, Error, Result};
use crate::model::secret::hide_secrets;
use crate::sqlite::interrupt;
use crate::wire::connection::Wire;
use crate::wire::pool::Idle;
use crate::wire::reply::{bad_reply, checked, message, text};
use crate::wire::request::Request;
use crate::wire::server::{Server, redirection};

/// After a longer silence, a load balancer or firewall may have dropped the connection without telling either side.
const SURELY_OPEN: Duration = Duration::from_secs(1);

/// How long the role of a server at a fixed address is trusted before it is asked for again.
const ROLE_KNOWN: Duration = Duration::from_secs(10);

/// How long a blocking command may overrun its timeout before it is nudged, and how often it is nudged.
const NUDGE: Duration = Duration::from_millis(2);
const NUDGES: u32 = 5;

/// A connection taken out of its link, with the generation of the route that made it and its server's key in the
/// pool.
pub(crate) struct Kept {
    idle: Idle,
    generation: u64,
    pooled: Arc<str>,
}

/// Bytes of one piece of [`Sending`].
const PIECE: usize = 1 << 20;

/// Commands that are sent in pieces while later ones are still being built. So a large transaction is not in memory
/// twice, and the server works on its first part meanwhile.
pub(crate) struct Sending<'link, 'server> {
    link: &'link mut Link<'server>,
    piece: Request,
    sent: Result<()>,
    commands: usize,
}

impl Sending<'_, '_> {
    /// The request to add the next command to.
    pub(crate) fn piece(&mut self) -> &mut Request {
        if self.piece.bytes.len() >= PIECE {
            self.flush();
        }
        &mut self.piece
    }

    /// The number of commands so far.
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

    /// Sends the rest and returns all replies, including errors such as `READONLY` and `MOVED`.
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
        // Such an error is among the replies as well, and the caller decides what it means for the commit.
        let _ = self.link.heed(&replies);
        Ok(replies)
    }
}

impl Sending<'_, '_> {
    /// Sends the rest of a transaction, and checks that the server has queued every command. A proxy may refuse a
    /// command without the server knowing, and `EXEC` would succeed without it.
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

/// Why a request has no replies.
pub(crate) struct Unanswered {
    pub error: Error,
    /// The last piece was sent, so the server may have executed the last command.
    pub may_be_done: bool,
}

/// A connection in use. When dropped, it returns to the pool, unless an exchange on it failed or it watches a key.
pub(crate) struct Link<'a> {
    server: &'a Server,
    kept: Option<Kept>,
    pub(super) fresh: bool,
    /// When the last bytes arrived, if the silence since then is longer than [`SURELY_OPEN`].
    silent_since: Option<Instant>,
}

impl<'server> Link<'server> {
    pub(super) fn of(server: &'server Server, idle: Idle, pooled: Arc<str>) -> Self {
        Link::from(server, Some(Kept { idle, generation: server.route.generation(), pooled }))
    }

    fn from(server: &'server Server, kept: Option<Kept>) -> Self {
        let fresh = kept.as_ref().is_some_and(|kept| !kept.idle.wire.is_used);
        let heard = kept.as_ref().map(|kept| kept.idle.wire.heard());
        let silent_since = heard.filter(|heard| heard.elapsed() > SURELY_OPEN);
        Link { server, kept, fresh, silent_since }
    }

    /// Like [`Link::exchange`], and from time to time asks for the server's role in the same round trip. Closes the
    /// connection if the server is no longer a primary.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Vec<Value>> {
        let asked = self.kept.as_ref().map(|kept| kept.idle.wire.role_asked);
        if !self.server.route.must_be_primary() || asked.is_none_or(|asked| asked.elapsed() < ROLE_KNOWN) {
            return self.exchange(request);
        }
        let mut longer = request.clone();
        longer.push(&cmd("ROLE"));
        let mut replies = self.exchange(&longer)?;
        // Where access rules forbid `ROLE`, the server is trusted to be the primary that the address names.
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

    /// Sends commands and returns their replies, error replies included. Any failure closes the connection.
    pub(crate) fn exchange(&mut self, request: &Request) -> Result<Vec<Value>> {
        self.send(request)?;
        self.receive(request.ends.len())
    }

    /// Begins to send commands piece by piece.
    pub(crate) fn sending(&mut self) -> Sending<'_, 'server> {
        let piece = self.kept.as_mut().map(|kept| std::mem::take(&mut kept.idle.room)).unwrap_or_default();
        Sending { link: self, piece, sent: Ok(()), commands: 0 }
    }

    /// Sends commands without waiting for the replies.
    pub(crate) fn send(&mut self, request: &Request) -> Result<()> {
        if let Err(interrupted) = interrupt::check() {
            // Replies to earlier commands may still be on their way.
            self.close();
            return Err(interrupted);
        }
        let bytes = request.bytes.as_slice();
        self.server.traffic.bytes_sent.fetch_add(bytes.len() as u64, Relaxed);
        self.converse(|connection| connection.send(bytes))
    }

    /// Receives the replies to commands that were sent.
    pub(crate) fn receive(&mut self, commands: usize) -> Result<Vec<Value>> {
        let replies = self.receive_all(commands)?;
        self.heed(&replies)?;
        Ok(replies)
    }

    /// Receives the replies to some commands. Those after the `first` may block on the server for up to `time`. If the
    /// server overruns that, `nudge` is called: it sends a command on another connection. An idle server ends blocked
    /// commands ten times a second, and after each command.
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

    /// Counts a round trip.
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
                // The reply is still to come; the connection and the server are fine.
                self.close();
                return interrupted;
            }
            self.give_up();
            match self.silent_since {
                // The connection may have been dropped while idle. A new one may work at once.
                Some(since) if error.is_timeout() && since == heard => {
                    Cause::ConnectionLost("no reply came on a connection that had been idle".into()).into()
                }
                _ if error.is_timeout() => Cause::NoReply.into(),
                _ => Cause::ConnectionLost(hide_secrets(&error.to_string())).into(),
            }
        })
    }

    /// Closes the connection, and the idle ones to the same server, which are most likely broken too.
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

    /// Handles error replies which say that this is no longer the right server.
    fn heed(&mut self, replies: &[Value]) -> Result<()> {
        for reply in replies {
            let Value::ServerError(error) = reply else { continue };
            match error.code() {
                // The primary was made a replica, or the name now leads to another server.
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

    /// Whether the connection was closed because its server has been replaced.
    pub(crate) fn is_replaced(&self) -> bool {
        self.kept.is_none()
    }

    /// Closes the connection instead of keeping it.
    pub(crate) fn close(&mut self) {
        self.kept = None;
    }

    /// Takes the connection out of the link, so that it can outlive the borrow of the server.
    pub(crate) fn detach(mut self) -> Option<Kept> {
        self.kept.take()
    }
}

fn receive(connection: &mut Wire, commands: usize) -> Result<Vec<Value>, RedisError> {
    (0..commands).map(|_| connection.receive()).collect()
}

impl Server {
    /// Makes a link of a connection taken out by [`Link::detach`]. Closes the connection if its server has been
    /// replaced.
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
