//! One connection to a server: sends bytes, parses replies.
//!
//! The client library's parser is incremental, and takes longer for a reply than the server does. A scan of small
//! rows spends most of its time in the parser, so this is our own. Error replies are still parsed by the library.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use redis::{ConnectionLike, RedisError, RedisResult, Role, Value, cmd, from_redis_value, parse_redis_value};

use crate::config::endpoint::{Endpoint, Place};
use crate::model::secret::hide_secrets;
use crate::wire::dial::{dial, left};
use crate::wire::pace::time_for;
use crate::wire::socket::Socket;

/// Bytes requested from the socket by one read.
const BUFFER: usize = 64 << 10;
/// The longest line without a length prefix, such as an error with its reason.
const LONGEST_LINE: usize = 1 << 20;
/// Memory allocated because a reply announces a length. More is allocated only as bytes arrive.
const ON_TRUST: usize = 1 << 20;
/// The deepest nesting of arrays.
const DEEPEST: usize = 100;
/// The most memory that one reply may take: its bytes and its values.
const LARGEST: usize = 2 << 30;
/// The same limit before the login has succeeded.
const LARGEST_AT_LOGIN: usize = 16 << 20;

/// A socket, and the bytes received over it that are not parsed yet.
pub(crate) struct Wire {
    socket: Socket,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    db: i64,
    open: bool,
    /// Timeout for the first byte of a reply, and for each further one.
    patience: Duration,
    /// The most memory that one reply may take, in bytes.
    largest: usize,
    reply: Progress,
    /// Deadline for connecting and logging in.
    deadline: Option<Instant>,
    /// When the last bytes arrived.
    heard: Instant,
    /// The connection has been in the pool.
    pub(crate) is_used: bool,
    /// When the server was last asked for its role (`ROLE`).
    pub(crate) role_asked: Instant,
}

/// Commands that a login adds to `AUTH` and `SELECT`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hello {
    /// Ask for the server's role.
    pub(crate) role: bool,
    /// Send `READONLY`, which lets a replica in a Cluster answer reads.
    pub(crate) readonly: bool,
}

/// Progress of the reply that is being received.
#[derive(Default)]
struct Progress {
    /// When the first read for it began.
    since: Option<Instant>,
    bytes: usize,
    items: usize,
}

impl Wire {
    /// Connects and logs in before the deadline. Later replies time out after `reply`. Also returns the server's
    /// role, if it was asked for and access rules allow `ROLE`.
    pub(crate) fn connect(
        endpoint: &Endpoint,
        password: Option<&str>,
        hello: Hello,
        deadline: Instant,
        reply: Duration,
    ) -> RedisResult<(Wire, Option<Role>)> {
        let mut wire = Wire::new(dial(endpoint, deadline, reply)?, reply, LARGEST_AT_LOGIN);
        wire.deadline = Some(deadline);
        wire.socket.set_timeout(left(deadline)?)?;
        let role = wire.log_in(endpoint, password, hello).map_err(|error| wire.explained(endpoint, error))?;
        (wire.deadline, wire.largest) = (None, LARGEST);
        wire.socket.set_timeout(reply)?;
        Ok((wire, role))
    }

    fn new(socket: Socket, patience: Duration, largest: usize) -> Self {
        Wire {
            socket,
            buffer: Vec::new(),
            at: 0,
            end: 0,
            db: 0,
            open: true,
            patience,
            largest,
            reply: Progress::default(),
            deadline: None,
            heard: Instant::now(),
            is_used: false,
            role_asked: Instant::now(),
        }
    }

    /// A connection that needs no login, for tests.
    #[cfg(test)]
    pub(crate) fn over(socket: Socket) -> Wire {
        Wire::new(socket, Duration::from_secs(60), LARGEST)
    }

    /// When the last bytes arrived.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// Logs in with the commands that the client library would send, in one round trip.
    fn log_in(&mut self, endpoint: &Endpoint, password: Option<&str>, hello: Hello) -> RedisResult<Option<Role>> {
        let mut commands = Vec::new();
        if let Some(password) = password {
            commands.push(cmd("AUTH").arg(endpoint.user.as_deref()).arg(password).to_owned());
        }
        if endpoint.db != 0 {
            commands.push(cmd("SELECT").arg(endpoint.db).to_owned());
        }
        commands.extend(hello.readonly.then(|| cmd("READONLY")));
        commands.extend(hello.role.then(|| cmd("ROLE")));
        for (what, name) in [("LIB-NAME", "sqlite-redis"), ("LIB-VER", env!("CARGO_PKG_VERSION"))] {
            commands.push(cmd("CLIENT").arg("SETINFO").arg(what).arg(name).to_owned());
        }
        let mut replies = self.converse(&commands)?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        if password.is_some() {
            next().extract_error().map_err(|error| {
                // A server that does not know `AUTH` repeats its arguments, the password among them.
                let kind = redis::ErrorKind::AuthenticationFailed;
                RedisError::from((kind, "Password authentication failed", hide_secrets(&error.to_string())))
            })?;
        }
        if endpoint.db != 0 {
            next().extract_error()?;
            self.db = endpoint.db;
        }
        if hello.readonly {
            next().extract_error()?;
        }
        // The remaining replies are to `CLIENT SETINFO`. Servers before 7.2 do not have it, and access rules may
        // forbid it.
        if hello.role { role(next()) } else { Ok(None) }
    }

    /// Sends commands and returns their replies. A server that refuses the connection sends one error reply that
    /// answers no command, and closes the connection.
    fn converse(&mut self, commands: &[redis::Cmd]) -> RedisResult<Vec<Value>> {
        let mut packed = Vec::new();
        commands.iter().for_each(|command| command.write_packed_command(&mut packed));
        let sent = self.send(&packed);
        let mut replies = Vec::with_capacity(commands.len());
        while replies.len() < commands.len() {
            match (self.receive(), replies.pop()) {
                (Ok(reply), before) => replies.extend(before.into_iter().chain([reply])),
                (Err(_), Some(Value::ServerError(refused))) if replies.is_empty() => return Err(refused.into()),
                (Err(error), _) => return sent.and(Err(error)),
            }
        }
        Ok(replies)
    }

    /// Adds a hint to an error if the server probably speaks TLS and this connection does not.
    fn explained(&self, endpoint: &Endpoint, error: RedisError) -> RedisError {
        let hint = "the server may speak TLS there: then the address begins with rediss://";
        let is_tcp = endpoint.tls.is_none() && matches!(endpoint.place, Place::Tcp { .. });
        match &self.buffer[self.at..self.end] {
            // The first bytes of a TLS alert record.
            [0x15, 0x03, ..] => RedisError::from(io::Error::other(format!("the answer is TLS; {hint}"))),
            [] if is_tcp && self.reply.bytes == 0 && !error.is_timeout() && error.is_io_error() => RedisError::from(
                io::Error::other(format!("the server closed the connection at once ({error}); {hint}")),
            ),
            _ => error,
        }
    }

    /// Sets the timeout for sending and receiving.
    pub(crate) fn set_timeout(&mut self, time: Duration) -> RedisResult<()> {
        self.patience = time;
        Ok(self.socket.set_timeout(time)?)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> RedisResult<()> {
        let sent = self.socket.write_all(bytes);
        self.open &= sent.is_ok();
        Ok(sent?)
    }

    /// Waits this long for the next reply to begin. Returns whether it did.
    pub(crate) fn comes_within(&mut self, time: Duration) -> RedisResult<bool> {
        if self.at < self.end {
            return Ok(true);
        }
        self.reply = Progress::default();
        self.socket.set_timeout(time.max(Duration::from_millis(1)))?;
        let come = self.read_more();
        self.socket.set_timeout(self.patience)?;
        match come {
            Err(error) if error.is_timeout() => Ok(false),
            come => {
                self.open &= come.is_ok();
                come.map(|()| true)
            }
        }
    }

    /// Receives one reply.
    pub(crate) fn receive(&mut self) -> RedisResult<Value> {
        self.reply = Progress::default();
        let reply = self.value(0);
        self.open &= reply.is_ok();
        reply
    }

    fn value(&mut self, depth: usize) -> RedisResult<Value> {
        self.reply.items += 1;
        let line = self.line()?;
        let Some((kind, rest)) = line.split_first() else { return Err(garbled("an empty line")) };
        match kind {
            b'$' => match number(rest)? {
                -1 => Ok(Value::Nil),
                length => Ok(Value::BulkString(self.bytes(length)?)),
            },
            b'*' => match number(rest)? {
                -1 => Ok(Value::Nil),
                _ if depth == DEEPEST => Err(garbled("arrays within arrays")),
                length => {
                    let length = usize::try_from(length).map_err(|_| garbled("a negative length"))?;
                    let mut items = Vec::with_capacity(length.min(ON_TRUST / size_of::<Value>()));
                    for _ in 0..length {
                        items.push(self.value(depth + 1)?);
                    }
                    Ok(Value::Array(items))
                }
            },
            b':' => Ok(Value::Int(number(rest)?)),
            b'+' => match rest {
                b"OK" => Ok(Value::Okay),
                _ => match String::from_utf8(rest.to_vec()) {
                    Ok(text) => Ok(Value::SimpleString(text)),
                    Err(_) => Err(garbled("a status that is no text")),
                },
            },
            b'-' => parse_redis_value(&[line, b"\r\n"].concat()),
            _ => Err(garbled("an unknown kind of reply")),
        }
    }

    /// The next line, without its line end.
    fn line(&mut self) -> RedisResult<&[u8]> {
        let mut searched = 0;
        loop {
            let waiting = &self.buffer[self.at..self.end];
            if let Some(n) = waiting[searched..].iter().position(|byte| *byte == b'\n') {
                let (start, end) = (self.at, self.at + searched + n);
                self.at = end + 1;
                return self.buffer[start..end].strip_suffix(b"\r").ok_or_else(|| garbled("a line without an end"));
            }
            searched = waiting.len();
            if searched > LONGEST_LINE {
                return Err(garbled("a line without an end"));
            }
            self.read_more()?;
        }
    }

    /// A value of `length` bytes and the line end behind it.
    fn bytes(&mut self, length: i64) -> RedisResult<Vec<u8>> {
        let length = usize::try_from(length).map_err(|_| garbled("a negative length"))?;
        let mut come = length.min(self.end - self.at);
        let mut bytes = Vec::with_capacity(length.min(ON_TRUST));
        bytes.extend_from_slice(&self.buffer[self.at..self.at + come]);
        self.at += come;
        while come < length {
            if come == bytes.len() {
                bytes.resize(length.min(come + come.max(ON_TRUST)), 0);
            }
            come += self.read(&mut bytes[come..])?;
        }
        while self.end - self.at < 2 {
            self.read_more()?;
        }
        if self.buffer[self.at..self.at + 2] != *b"\r\n" {
            return Err(garbled("a value of another length"));
        }
        self.at += 2;
        Ok(bytes)
    }

    /// Reads more bytes into the buffer.
    fn read_more(&mut self) -> RedisResult<()> {
        self.buffer.copy_within(self.at..self.end, 0);
        (self.at, self.end) = (0, self.end - self.at);
        if self.buffer.len() < self.end + BUFFER / 2 {
            self.buffer.resize(self.end + BUFFER, 0);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.read(&mut buffer[self.end..]);
        self.buffer = buffer;
        self.end += read?;
        Ok(())
    }

    /// Reads some bytes, at least one. Times out if the whole reply arrives too slowly, and fails if it takes too
    /// much memory.
    fn read(&mut self, buffer: &mut [u8]) -> RedisResult<usize> {
        let since = *self.reply.since.get_or_insert_with(Instant::now);
        if let Some(deadline) = self.deadline {
            self.socket.set_timeout(left(deadline)?)?;
        }
        let count = self.socket.read(buffer)?;
        if count == 0 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        self.heard = Instant::now();
        self.reply.bytes += count;
        if since.elapsed() > time_for(self.patience, self.reply.bytes) {
            return Err(io::Error::from(ErrorKind::TimedOut).into());
        }
        if self.reply.bytes + self.reply.items * size_of::<Value>() > self.largest {
            return Err(garbled("it takes more memory than any should"));
        }
        Ok(count)
    }
}

fn number(digits: &[u8]) -> RedisResult<i64> {
    // Fast path: most numbers are lengths of a few digits.
    if (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) {
        return Ok(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')));
    }
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| garbled("no number where one belongs"))
}

fn garbled(what: &str) -> RedisError {
    RedisError::from((redis::ErrorKind::Parse, "the reply makes no sense", what.to_owned()))
}

/// Parses the reply to `ROLE`. Returns `None` where the command is forbidden or missing.
fn role(reply: Value) -> RedisResult<Option<Role>> {
    match reply {
        Value::ServerError(error) if error.code() == "NOPERM" || error.code() == "ERR" => Ok(None),
        reply => Ok(Some(from_redis_value(reply.extract_error()?)?)),
    }
}

/// Lets `Cmd::query` run on this connection.
impl ConnectionLike for Wire {
    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        self.send(command)?;
        self.receive()
    }

    fn req_packed_commands(&mut self, commands: &[u8], offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        self.send(commands)?;
        for _ in 0..offset {
            self.receive()?;
        }
        (0..count).map(|_| self.receive()).collect()
    }

    fn get_db(&self) -> i64 {
        self.db
    }

    fn check_connection(&mut self) -> bool {
        cmd("PING").query::<String>(self).is_ok()
    }

    fn is_open(&self) -> bool {
        self.open
    }
}

/// For the fuzz target: all replies in `data`, each with the bytes it was parsed from.
#[cfg(feature = "fuzzing")]
pub(crate) fn replies(data: &[u8]) -> Vec<(&[u8], Value)> {
    let recorded = Socket::of(io::Cursor::new(data.to_vec()));
    let mut wire = Wire::new(recorded, Duration::from_secs(60), LARGEST);
    let (mut replies, mut start, mut come) = (Vec::new(), 0, 0);
    while let Ok(value) = wire.receive() {
        come += wire.reply.bytes;
        let end = come - (wire.end - wire.at);
        replies.push((&data[start..end], value));
        start = end;
    }
    replies
}

#[cfg(test)]
mod tests;
