//! Replies as values that can be taken apart, spoilt and sent.

use rand::RngExt;
use rand::rngs::StdRng;

/// A reply (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A line: a simple string, an integer, an error, or garbage; with its first byte, without its end.
    Line(Vec<u8>),
    /// A string of bytes; nil without them.
    Bulk(Option<Vec<u8>>),
    /// An array; nil without items.
    Array(Option<Vec<Reply>>),
}

impl Reply {
    /// A line.
    pub fn line(text: impl Into<String>) -> Reply {
        Reply::Line(text.into().into_bytes())
    }

    /// A string of bytes.
    pub fn bulk(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply::Bulk(Some(bytes.into()))
    }

    /// An array.
    pub fn array(items: impl Into<Vec<Reply>>) -> Reply {
        Reply::Array(Some(items.into()))
    }

    /// Reads one that is all there; `None` when it is not.
    pub fn parse(bytes: &mut &[u8]) -> Option<Reply> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let line = &bytes[..end];
        *bytes = &bytes[end + 2..];
        let number = || std::str::from_utf8(&line[1..]).ok()?.parse::<i64>().ok();
        match line.first()? {
            b'$' => match usize::try_from(number()?) {
                Ok(length) => {
                    let content = bytes.get(..length)?.to_vec();
                    *bytes = bytes.get(length + 2..)?;
                    Some(Reply::bulk(content))
                }
                Err(_) => Some(Reply::Bulk(None)),
            },
            b'*' => match usize::try_from(number()?) {
                Ok(count) => (0..count).map(|_| Reply::parse(bytes)).collect::<Option<Vec<_>>>().map(Reply::array),
                Err(_) => Some(Reply::Array(None)),
            },
            _ => Some(Reply::Line(line.to_vec())),
        }
    }

    /// What goes over the wire.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Line(line) => {
                out.extend_from_slice(line);
                out.extend_from_slice(b"\r\n");
            }
            Reply::Bulk(None) => out.extend_from_slice(b"$-1\r\n"),
            Reply::Bulk(Some(bytes)) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Reply::Array(None) => out.extend_from_slice(b"*-1\r\n"),
            Reply::Array(Some(items)) => {
                out.extend_from_slice(format!("*{}\r\n", items.len()).as_bytes());
                for item in items {
                    item.encode(out);
                }
            }
        }
    }

    /// Any reply at all, well-formed.
    pub fn any(random: &mut StdRng, depth: u32) -> Reply {
        let some = |random: &mut StdRng, most| {
            let length = random.random_range(0..most);
            (0..length).map(|_| random.random()).collect::<Vec<u8>>()
        };
        match random.random_range(0..if depth == 0 { 7 } else { 9 }) {
            0 => Reply::Bulk(None),
            1 => Reply::Array(None),
            2 => Reply::line(format!(":{}", random.random::<i64>())),
            3 => Reply::line(
                ["+OK", "+QUEUED", "+", "+none", "+hash", "_", "#t", ",1.5", "(123"][random.random_range(0..9)],
            ),
            4 => Reply::line(ERRORS[random.random_range(0..ERRORS.len())]),
            5 => Reply::bulk(random.random_range(0..20u64).to_string()),
            6 => Reply::bulk(some(random, 600)),
            7 => {
                Reply::array((0..random.random_range(0..8)).map(|_| Reply::any(random, depth - 1)).collect::<Vec<_>>())
            }
            _ => {
                let item = Reply::any(random, depth - 1);
                (0..random.random_range(0..90)).fold(item, |inner, _| Reply::array([inner]))
            }
        }
    }
}

/// Errors of all sorts.
const ERRORS: &[&str] = &[
    "-ERR unknown",
    "-",
    "-LOADING Redis is loading the dataset in memory",
    "-OOM command not allowed when used memory > 'maxmemory'.",
    "-READONLY You can't write against a read only replica.",
    "-MASTERDOWN Link with MASTER is down",
    "-NOPERM this user has no permissions",
    "-NOAUTH Authentication required.",
    "-WRONGTYPE Operation against a key holding the wrong kind of value",
    "-MOVED 3999 127.0.0.1:1",
    "-EXECABORT Transaction discarded",
    "-TRYAGAIN x",
    "-NOSCRIPT x",
    "-BUSY Redis is busy running a script",
    "-\u{e9}\u{e9}",
];

/// Bytes that are no reply, or not all of one.
pub fn broken(random: &mut StdRng, reply: &Reply) -> Vec<u8> {
    let mut whole = Vec::new();
    reply.encode(&mut whole);
    match random.random_range(0..8) {
        0 => Vec::new(),
        1 => whole[..random.random_range(0..whole.len())].to_vec(),
        2 => b"$2147483647\r\nabc".to_vec(),
        3 => b"*2147483647\r\n:1\r\n".to_vec(),
        4 => b"*9223372036854775807\r\n*9223372036854775807\r\n%9223372036854775807\r\n".to_vec(),
        5 => (0..random.random_range(1..200)).map(|_| random.random()).collect(),
        6 => b"*1\r\n".repeat(200),
        _ => {
            let at = random.random_range(0..whole.len());
            whole[at] = random.random();
            whole
        }
    }
}
