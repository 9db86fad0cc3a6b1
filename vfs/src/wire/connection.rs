//! A connection to a server, below everything else: bytes out, replies in.
//!
//! The client library's own parser, which can stop at any byte, takes longer for a reply than the server does,
//! and scans of small rows are little else. What error replies mean is left to the library.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use redis::{ConnectionLike, RedisError, RedisResult, Role, Value, cmd, from_redis_value, parse_redis_value};

use crate::config::endpoint::{Endpoint, Place};
use crate::model::secret::hide_secrets;
use crate::wire::dial::{dial, left};
use crate::wire::pace::time_for;
use crate::wire::socket::Socket;

/// Bytes read at once.
const BUFFER: usize = 64 << 10;
/// The longest line that is no value: an error with its reason.
const LONGEST_LINE: usize = 1 << 20;
/// Memory taken on the word of a server; more when as much has come.
const ON_TRUST: usize = 1 << 20;
/// Arrays within arrays.
const DEEPEST: usize = 100;
/// Memory that one reply may take, values and items.
const LARGEST: usize = 2 << 30;
/// The same before a server has let the connection in.
const LARGEST_AT_LOGIN: usize = 16 << 20;

/// A stream, and what has come over it and was not looked at yet.
pub(crate) struct Wire {
    socket: Socket,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    db: i64,
    open: bool,
    /// How long to wait for the first byte of a reply, and for each further one.
    patience: Duration,
    /// Memory that one reply may take.
    largest: usize,
    reply: Progress,
    /// When the connection is to be made and logged in.
    deadline: Option<Instant>,
    /// When something last came.
    heard: Instant,
    /// It was idle since it was made.
    pub(crate) is_used: bool,
    /// When the server was last asked for its role.
    pub(crate) role_asked: Instant,
}

/// What a login sends beside user, password and database number.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hello {
    /// Ask the server for its role.
    pub(crate) role: bool,
    /// Read from a replica in a Cluster.
    pub(crate) readonly: bool,
}

/// How far a reply has come.
#[derive(Default)]
struct Progress {
    /// When it was first waited for.
    since: Option<Instant>,
    bytes: usize,
    items: usize,
}

impl Wire {
    /// Connects and logs in before the deadline. A reply will be waited for as long as `reply`. With the
    /// connection comes the role that the server says it has, if it was asked and may be.
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

    /// One that is logged in already, for tests.
    #[cfg(test)]
    pub(crate) fn over(socket: Socket) -> Wire {
        Wire::new(socket, Duration::from_secs(60), LARGEST)
    }

    /// When something last came.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// What the library's own connections say first, in one round trip.
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
                // A server that does not know the command repeats what it was given.
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
        // Servers before 7.2 don't know what is left, and users may not be allowed to.
        if hello.role { role(next()) } else { Ok(None) }
    }

    /// Sends commands and returns their replies. A server that refuses the connection says why in one reply
    /// that nobody has asked for, and closes it.
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

    /// Why it was in vain, where a server that speaks TLS was spoken to without.
    fn explained(&self, endpoint: &Endpoint, error: RedisError) -> RedisError {
        let hint = "the server may speak TLS there: then the address begins with rediss://";
        let is_tcp = endpoint.tls.is_none() && matches!(endpoint.place, Place::Tcp { .. });
        match &self.buffer[self.at..self.end] {
            // The beginning of an alert.
            [0x15, 0x03, ..] => RedisError::from(io::Error::other(format!("the answer is TLS; {hint}"))),
            [] if is_tcp && self.reply.bytes == 0 && !error.is_timeout() && error.is_io_error() => RedisError::from(
                io::Error::other(format!("the server closed the connection at once ({error}); {hint}")),
            ),
            _ => error,
        }
    }

    /// How long to wait for the server to take or give some bytes.
    pub(crate) fn set_timeout(&mut self, time: Duration) -> RedisResult<()> {
        self.patience = time;
        Ok(self.socket.set_timeout(time)?)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> RedisResult<()> {
        let sent = self.socket.write_all(bytes);
        self.open &= sent.is_ok();
        Ok(sent?)
    }

    /// Whether the next reply begins to come within this time.
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

    /// The next reply.
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

    /// The next line, without its end.
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

    /// The bytes of a value, behind which a line ends.
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

    /// Waits for more than there is.
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

    /// Waits for some bytes. A reply that comes too slowly counts as none, and so does one without end.
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
    // Most are lengths.
    if (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) {
        return Ok(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')));
    }
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| garbled("no number where one belongs"))
}

fn garbled(what: &str) -> RedisError {
    RedisError::from((redis::ErrorKind::Parse, "the reply makes no sense", what.to_owned()))
}

/// What `ROLE` was answered. Where it is forbidden or not there, nothing is known.
fn role(reply: Value) -> RedisResult<Option<Role>> {
    match reply {
        Value::ServerError(error) if error.code() == "NOPERM" || error.code() == "ERR" => Ok(None),
        reply => Ok(Some(from_redis_value(reply.extract_error()?)?)),
    }
}

/// So that a command can be asked with `query`.
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

/// For the fuzz target: the replies in some bytes, each with the bytes that it was read from.
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
