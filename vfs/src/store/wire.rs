//! A connection to a server, below everything else: bytes out, replies in.
//!
//! Plain streams are read here. The client library's own parser, which can stop at any byte, takes
//! longer for a reply than the server does, and scans of small rows are little else. What is rare
//! is left to the library: TLS, RESP3, and what error replies mean.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, ConnectionLike, ProtocolVersion, RedisConnectionInfo,
    RedisError, RedisResult, Value, cmd, parse_redis_value,
};

use crate::store::socket::Socket;

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
/// Bytes a second that a server sends at least, while it answers.
const SLOWEST: f64 = 8192.0;

/// See the [module](self).
pub(crate) enum Wire {
    Plain(Box<Plain>),
    Library(Box<Connection>),
}

/// A stream without TLS, and what has come over it and was not looked at yet.
pub(crate) struct Plain {
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
    /// Connects and logs in, within `patience`.
    pub(crate) fn connect(info: &ConnectionInfo, patience: Duration) -> RedisResult<Wire> {
        let redis = info.redis_settings();
        let socket = match info.addr() {
            _ if !matches!(redis.protocol(), ProtocolVersion::RESP2) => return library(info, patience),
            ConnectionAddr::Unix(path) => Socket::unix(path)?,
            ConnectionAddr::Tcp(host, port) => Socket::tcp(host, *port, patience)?,
            _ => return library(info, patience),
        };
        socket.set_timeout(patience)?;
        let mut plain = Plain::new(socket, patience, LARGEST);
        plain.log_in(redis)?;
        Ok(Wire::Plain(Box::new(plain)))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> RedisResult<()> {
        match self {
            Wire::Plain(plain) => plain.send(bytes),
            Wire::Library(connection) => connection.send_packed_command(bytes),
        }
    }

    /// The next reply.
    pub(crate) fn receive(&mut self) -> RedisResult<Value> {
        match self {
            Wire::Plain(plain) => plain.receive(),
            Wire::Library(connection) => connection.recv_response(),
        }
    }

    /// How long to wait for the server to take or give some bytes.
    pub(crate) fn set_timeout(&mut self, time: Duration) -> RedisResult<()> {
        match self {
            Wire::Plain(plain) => {
                plain.patience = time;
                Ok(plain.socket.set_timeout(time)?)
            }
            Wire::Library(connection) => {
                connection.set_read_timeout(Some(time))?;
                connection.set_write_timeout(Some(time))
            }
        }
    }
}

fn library(info: &ConnectionInfo, patience: Duration) -> RedisResult<Wire> {
    Ok(Wire::Library(Box::new(Client::open(info.clone())?.get_connection_with_timeout(patience)?)))
}

impl Plain {
    fn new(socket: Socket, patience: Duration, largest: usize) -> Self {
        let (buffer, reply) = (Vec::new(), Progress::default());
        Plain { socket, buffer, at: 0, end: 0, db: 0, open: true, patience, largest, reply }
    }

    /// What the library's own connections say first, in one round trip.
    fn log_in(&mut self, redis: &RedisConnectionInfo) -> RedisResult<()> {
        let mut hello = Vec::new();
        if let Some(password) = redis.password() {
            cmd("AUTH").arg(redis.username()).arg(password).write_packed_command(&mut hello);
        }
        if redis.db() != 0 {
            cmd("SELECT").arg(redis.db()).write_packed_command(&mut hello);
        }
        let names = [("LIB-NAME", redis.lib_name()), ("LIB-VER", redis.lib_ver())];
        for (what, name) in names {
            cmd("CLIENT").arg("SETINFO").arg(what).arg(name.unwrap_or_default()).write_packed_command(&mut hello);
        }
        let asked = usize::from(redis.password().is_some()) + usize::from(redis.db() != 0);
        let mut replies = self.req_packed_commands(&hello, 0, asked + names.len())?.into_iter();
        let mut done = || replies.next().unwrap_or_default().extract_error();
        if redis.password().is_some() {
            done().map_err(|error| {
                let kind = redis::ErrorKind::AuthenticationFailed;
                RedisError::from((kind, "Password authentication failed", error.to_string()))
            })?;
        }
        if redis.db() != 0 {
            done()?;
            self.db = redis.db();
        }
        // Servers before 7.2 don't know what is left, and users may not be allowed to.
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> RedisResult<()> {
        let sent = self.socket.write_all(bytes);
        self.open &= sent.is_ok();
        Ok(sent?)
    }

    fn receive(&mut self) -> RedisResult<Value> {
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
        let count = self.socket.read(buffer)?;
        if count == 0 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        self.reply.bytes += count;
        if since.elapsed() > self.patience + Duration::from_secs_f64(self.reply.bytes as f64 / SLOWEST) {
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

/// So that a command can be asked with `query`.
impl ConnectionLike for Plain {
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

impl Wire {
    fn connection(&mut self) -> &mut dyn ConnectionLike {
        match self {
            Wire::Plain(plain) => &mut **plain,
            Wire::Library(connection) => &mut **connection,
        }
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        self.connection().req_packed_command(command)
    }

    fn req_packed_commands(&mut self, commands: &[u8], offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        self.connection().req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        match self {
            Wire::Plain(plain) => plain.get_db(),
            Wire::Library(connection) => connection.get_db(),
        }
    }

    fn check_connection(&mut self) -> bool {
        self.connection().check_connection()
    }

    fn is_open(&self) -> bool {
        match self {
            Wire::Plain(plain) => plain.is_open(),
            Wire::Library(connection) => connection.is_open(),
        }
    }
}

/// For the fuzz target: the replies in some bytes, each with the bytes that it was read from.
#[cfg(feature = "fuzzing")]
pub(crate) fn replies(data: &[u8]) -> Vec<(&[u8], Value)> {
    let recorded = Socket::of(io::Cursor::new(data.to_vec()));
    let mut plain = Plain::new(recorded, Duration::from_secs(60), LARGEST);
    let (mut replies, mut start, mut come) = (Vec::new(), 0, 0);
    while let Ok(value) = plain.receive() {
        come += plain.reply.bytes;
        let end = come - (plain.end - plain.at);
        replies.push((&data[start..end], value));
        start = end;
    }
    replies
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn plain(socket: UnixStream) -> Plain {
        Plain::new(Socket::of(socket), Duration::from_secs(60), LARGEST)
    }

    /// What comes of logging in where the server answers when all has been asked, and with this.
    fn logged_in(url: &str, replies: &str) -> RedisResult<i64> {
        let (here, mut there) = UnixStream::pair().unwrap();
        there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut asked = Vec::new();
                while !asked.windows(7).any(|word| word == b"LIB-VER") {
                    let mut more = [0; 1024];
                    let count = there.read(&mut more).unwrap();
                    asked.extend_from_slice(&more[..count]);
                }
                there.write_all(replies.as_bytes()).unwrap();
            });
            let mut plain = plain(here);
            plain.log_in(redis::IntoConnectionInfo::into_connection_info(url)?.redis_settings())?;
            Ok(plain.get_db())
        })
    }

    #[test]
    fn logging_in_is_one_round_trip() {
        let unknown = "-ERR unknown subcommand\r\n-NOPERM no\r\n";
        assert_eq!(logged_in("redis://host", unknown), Ok(0));
        assert_eq!(logged_in("redis://:pw@host", &format!("+OK\r\n{unknown}")), Ok(0));
        assert_eq!(logged_in("redis://ann:pw@host/3", &format!("+OK\r\n+OK\r\n{unknown}")), Ok(3));
        let wrong = logged_in("redis://ann:pw@host/3", &format!("-WRONGPASS no\r\n-NOAUTH log in\r\n{unknown}"));
        let wrong = wrong.unwrap_err();
        assert!(wrong.kind() == redis::ErrorKind::AuthenticationFailed && wrong.to_string().contains("WRONGPASS"));
        let none = logged_in("redis://host/99", &format!("-ERR DB index is out of range\r\n{unknown}"));
        assert!(none.unwrap_err().to_string().contains("out of range"));
    }

    /// What is read of some bytes that come in pieces.
    fn read(pieces: &[&[u8]]) -> (RedisResult<Value>, bool) {
        let (here, mut there) = UnixStream::pair().unwrap();
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let server = std::thread::spawn(move || pieces.iter().for_each(|piece| there.write_all(piece).unwrap_or(())));
        let mut plain = plain(here);
        let reply = plain.receive();
        let open = plain.open;
        // Nobody reads the rest.
        drop(plain);
        server.join().unwrap();
        (reply, open)
    }

    #[test]
    fn replies_are_those_that_the_library_reads() {
        let long = [format!("${}\r\n", 3 * BUFFER).as_bytes(), &vec![b'x'; 3 * BUFFER], b"\r\n"].concat();
        let replies: [&[u8]; 12] = [
            b"+OK\r\n",
            b"+PONG\r\n",
            b":-12\r\n",
            b"$-1\r\n",
            b"$0\r\n\r\n",
            b"$5\r\n\r\n\0\xff\n\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*3\r\n$1\r\na\r\n:7\r\n*2\r\n$-1\r\n+x\r\n",
            b"-WRONGTYPE it is none\r\n",
            b"*1\r\n-ERR no\r\n",
            &long,
        ];
        for reply in replies {
            let expected = parse_redis_value(reply).unwrap();
            assert_eq!(read(&[reply]).0.unwrap(), expected);
            for cut in [1, reply.len() / 2, reply.len() - 1] {
                let (start, end) = reply.split_at(cut);
                assert_eq!(read(&[start, end]), (Ok(expected.clone()), true));
            }
        }
    }

    /// What becomes of a reply whose last part comes again and again, some thousand times.
    fn endless(mut plain: Plain, mut there: UnixStream, begin: &[u8], again: &[u8], pause: Duration) -> RedisError {
        std::thread::scope(|scope| {
            scope.spawn(move || {
                there.write_all(begin).unwrap();
                for _ in 0..20_000 {
                    if there.write_all(again).is_err() {
                        return;
                    }
                    std::thread::sleep(pause);
                }
            });
            let error = plain.receive().unwrap_err();
            assert!(!plain.open);
            drop(plain);
            error
        })
    }

    #[test]
    fn a_reply_without_end_is_given_up() {
        for (begin, again) in [
            (&b"*9223372036854775807\r\n"[..], &b":1\r\n"[..]),
            (b"*9223372036854775807\r\n", b"$-1\r\n"),
            (b"$9223372036854775807\r\n", b"x"),
        ] {
            let (here, there) = UnixStream::pair().unwrap();
            let slow = Plain { patience: Duration::from_millis(20), ..plain(here) };
            let error = endless(slow, there, begin, again, Duration::from_millis(1));
            assert!(error.is_timeout(), "{error}");

            let (here, there) = UnixStream::pair().unwrap();
            let large = Plain { largest: 4 << 20, ..plain(here) };
            let error = endless(large, there, begin, &again.repeat(1 << 10), Duration::ZERO);
            assert!(error.to_string().contains("more memory"), "{error}");
        }
    }

    #[test]
    fn what_is_no_reply_ends_the_connection() {
        let deep = b"*1\r\n".repeat(DEEPEST + 1);
        let endless = vec![b'x'; 2 * LONGEST_LINE];
        let bad: [&[u8]; 12] = [
            b"",
            b"\r\n",
            b"?\r\n",
            b"+OK\n",
            b":\r\n",
            b":x\r\n",
            b"$-2\r\n",
            b"*-2\r\n",
            b"$2\r\nabc\r\n",
            b"$9223372036854775807\r\nab",
            &deep,
            &endless,
        ];
        for bytes in bad {
            let (reply, open) = read(&[bytes]);
            assert!(reply.is_err() && !open, "{:?}", &bytes[..bytes.len().min(40)]);
        }
        assert!(read(&[b"*9223372036854775807\r\n$1\r\na\r\n"]).0.is_err(), "memory is not taken on trust");
    }
}
