//! A server and the connections to it: made when needed, kept for the next who needs one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use redis::{Cmd, Connection, ErrorKind, RedisError, ServerError, ServerErrorKind, Value};

use crate::config::Config;
use crate::error::{Cause, Result};
use crate::store::protocol::text;

/// Connections kept open while nobody uses them.
const IDLE_CONNECTIONS: usize = 16;

/// What has gone over the wire, counted since the process began to use the database.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    round_trips: AtomicU64,
    commands: AtomicU64,
    bytes_sent: AtomicU64,
}

/// Counts of what has gone over the wire to the server of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
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

/// A server, shared by all databases of the process that live there.
pub(crate) struct Server {
    client: redis::Client,
    config: Config,
    idle: Mutex<Vec<Connection>>,
    traffic: Traffic,
    checked: Mutex<bool>,
}

impl Server {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        // Where several crates of the process bring a provider, rustls wants to be told which.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            redis::Client::open(config.server.clone()).map_err(|error| Cause::Unreachable(error.to_string()))?;
        Ok(Server {
            client,
            config: config.clone(),
            idle: Mutex::default(),
            traffic: Traffic::default(),
            checked: Mutex::new(false),
        })
    }

    pub(crate) fn stats(&self) -> Stats {
        self.traffic.stats()
    }

    /// A connection from the idle ones, or a new one.
    pub(crate) fn link(&self) -> Result<Link<'_>> {
        match self.idle.lock().pop() {
            Some(connection) => Ok(Link { server: self, connection: Some(connection), fresh: false }),
            None => self.fresh_link(),
        }
    }

    fn fresh_link(&self) -> Result<Link<'_>> {
        let connect = || {
            let connection = self.client.get_connection_with_timeout(self.config.connect_timeout)?;
            connection.set_read_timeout(Some(self.config.timeout))?;
            connection.set_write_timeout(Some(self.config.timeout))?;
            Ok(connection)
        };
        let connection = connect().map_err(connect_cause)?;
        Ok(Link { server: self, connection: Some(connection), fresh: true })
    }

    /// Sends commands that may be sent twice, and returns their replies, one for each. A
    /// connection that turns out to have been closed while idle is replaced once.
    pub(crate) fn ask(&self, request: &Request) -> Result<Vec<Value>> {
        let mut link = self.link()?;
        let error = match link.exchange(request) {
            Ok(replies) => return Ok(replies),
            Err(error) => error,
        };
        if link.fresh || !matches!(error.cause, Cause::ConnectionLost(_)) {
            return Err(error);
        }
        self.fresh_link()?.exchange(request)
    }

    /// Refuses servers that can't keep a database safely. Asks once for each server.
    pub(crate) fn check(&self) -> Result<()> {
        let mut checked = self.checked.lock();
        if *checked {
            return Ok(());
        }
        let mut request = Request::default();
        request.push(redis::cmd("INFO").arg("server"));
        request.push(redis::cmd("INFO").arg("memory"));
        let mut replies = self.ask(&request)?.into_iter();
        let server = info(replies.next())?;
        let memory = info(replies.next())?;
        check_version(server.as_deref())?;
        if !self.config.allow_eviction {
            check_policy(memory.as_deref())?;
        }
        *checked = true;
        Ok(())
    }
}

/// The text that `INFO` answered; nothing when access rules forbid to ask.
fn info(reply: Option<Value>) -> Result<Option<String>> {
    match reply.map(checked) {
        Some(Ok(value)) => Ok(text(&value)),
        Some(Err(error)) if matches!(error.cause, Cause::Permission(_)) => Ok(None),
        Some(Err(error)) => Err(error),
        None => Ok(None),
    }
}

fn info_field<'a>(info: Option<&'a str>, field: &str) -> Option<&'a str> {
    info?.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
}

fn check_version(info: Option<&str>) -> Result<()> {
    let Some(version) = info_field(info, "redis_version") else { return Ok(()) };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if (major, minor) < (6, 2) {
        return Err(Cause::ServerTooOld(version.to_owned()).into());
    }
    Ok(())
}

/// Policies `allkeys-*` may drop any key. The `volatile-*` ones only drop keys with a time to
/// live: of ours that is the lease, whose loss the commit notices.
fn check_policy(info: Option<&str>) -> Result<()> {
    match info_field(info, "maxmemory_policy") {
        Some(policy) if policy.starts_with("allkeys") => Err(Cause::Eviction(policy.to_owned()).into()),
        _ => Ok(()),
    }
}

/// Commands packed for one exchange.
#[derive(Default)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    commands: usize,
}

impl Request {
    pub(crate) fn push(&mut self, command: &Cmd) {
        command.write_packed_command(&mut self.bytes);
        self.commands += 1;
    }

    pub(crate) fn one(command: &Cmd) -> Self {
        let mut request = Request::default();
        request.push(command);
        request
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
    pub(crate) fn push(&mut self, command: &Cmd) {
        self.piece.push(command);
        if self.piece.bytes.len() >= PIECE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.sent.is_ok() {
            self.sent = self.link.send(&self.piece.bytes);
        }
        self.commands += std::mem::take(&mut self.piece.commands);
        self.piece.bytes.clear();
    }

    /// The replies to all of them.
    pub(crate) fn finish(mut self) -> Result<Vec<Value>> {
        self.flush();
        self.sent?;
        self.link.receive(self.commands)
    }
}

/// A connection in somebody's hands. It goes back to the idle ones when dropped, unless an
/// exchange on it failed or it watches a key.
pub(crate) struct Link<'a> {
    server: &'a Server,
    connection: Option<Connection>,
    fresh: bool,
}

impl<'server> Link<'server> {
    /// Sends commands and returns their replies, errors of the server among them. Any failure of
    /// the connection ends it.
    pub(crate) fn exchange(&mut self, request: &Request) -> Result<Vec<Value>> {
        self.send(&request.bytes)?;
        self.receive(request.commands)
    }

    /// Begins to send commands that are too many to be put together first.
    pub(crate) fn sending(&mut self) -> Sending<'_, 'server> {
        Sending { link: self, piece: Request::default(), sent: Ok(()), commands: 0 }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.server.traffic.bytes_sent.fetch_add(bytes.len() as u64, Relaxed);
        self.converse(|connection| connection.send_packed_command(bytes))
    }

    fn receive(&mut self, commands: usize) -> Result<Vec<Value>> {
        let traffic = &self.server.traffic;
        traffic.round_trips.fetch_add(1, Relaxed);
        traffic.commands.fetch_add(commands as u64, Relaxed);
        self.converse(|connection| (0..commands).map(|_| connection.recv_response()).collect())
    }

    fn converse<T>(&mut self, part: impl FnOnce(&mut Connection) -> Result<T, RedisError>) -> Result<T> {
        let Some(connection) = &mut self.connection else {
            return Err(Cause::ConnectionLost("it is closed".into()).into());
        };
        part(connection).map_err(|error| {
            self.connection = None;
            if !self.fresh {
                // What broke it has most likely broken those that were idle as long.
                self.server.idle.lock().clear();
            }
            if error.is_timeout() { Cause::NoReply } else { Cause::ConnectionLost(error.to_string()) }.into()
        })
    }

    /// Closes the connection instead of keeping it.
    pub(crate) fn close(&mut self) {
        self.connection = None;
    }

    /// Takes the connection out, to be kept for longer than the server is borrowed.
    pub(crate) fn detach(mut self) -> Option<Connection> {
        self.connection.take()
    }
}

impl Server {
    /// The opposite of [`Link::detach`].
    pub(crate) fn attach(&self, connection: Connection) -> Link<'_> {
        Link { server: self, connection: Some(connection), fresh: false }
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let mut idle = self.server.idle.lock();
            if idle.len() < IDLE_CONNECTIONS {
                idle.push(connection);
            }
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

/// What an error reply of the server means.
pub(crate) fn server_cause(error: &ServerError) -> Cause {
    let message = match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    };
    match error.kind() {
        Some(ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain | ServerErrorKind::MasterDown) => {
            Cause::Loading(message)
        }
        Some(ServerErrorKind::ReadOnly) => Cause::ReadOnlyServer(message),
        Some(ServerErrorKind::NoPerm) => Cause::Permission(message),
        Some(
            ServerErrorKind::ResponseError
            | ServerErrorKind::ExecAbort
            | ServerErrorKind::NoScript
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::CrossSlot
            | ServerErrorKind::NotBusy
            | ServerErrorKind::NoSub,
        ) => Cause::Server(message),
        Some(_) | None => match error.code() {
            "OOM" => Cause::ServerFull(message),
            "NOAUTH" | "WRONGPASS" => Cause::Authentication(message),
            "WRONGTYPE" => Cause::Damaged(format!("its key holds something else ({message})")),
            _ => Cause::Server(message),
        },
    }
}

/// Why no connection came about.
fn connect_cause(error: RedisError) -> Cause {
    // What the system says of a timeout, "resource temporarily unavailable", is no help.
    let message = if error.is_timeout() { "no reply in time".to_owned() } else { error.to_string() };
    match error.kind() {
        ErrorKind::AuthenticationFailed => Cause::Authentication(message),
        ErrorKind::Server(ServerErrorKind::BusyLoading) => Cause::Loading(message),
        ErrorKind::Server(ServerErrorKind::NoPerm) => Cause::Permission(message),
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => Cause::Authentication(message),
            _ => Cause::Unreachable(message),
        },
    }
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
    fn old_servers_are_refused() {
        for (version, ok) in [("6.0.16", false), ("5.0.0", false), ("6.2.0", true), ("7.0.15", true), ("8.4", true)] {
            assert_eq!(check_version(Some(&format!("redis_version:{version}\r\n"))).is_ok(), ok, "{version}");
        }
    }
}
