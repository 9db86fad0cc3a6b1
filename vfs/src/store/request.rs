//! Commands packed for one exchange.

use std::io::Write;

use redis::Cmd;

/// See the [module](self).
#[derive(Clone, Default)]
pub(crate) struct Request {
    pub(super) bytes: Vec<u8>,
    /// Where each of them ends.
    pub(super) ends: Vec<usize>,
}

impl Request {
    /// One that has room for a small commit.
    pub(super) fn with_room() -> Self {
        Request { bytes: Vec::with_capacity(16 << 10), ends: Vec::with_capacity(16) }
    }

    pub(crate) fn push(&mut self, command: &Cmd) {
        command.write_packed_command(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn push_numbered(&mut self, command: &Numbered, number: i64) {
        let mut digits = Vec::with_capacity(20);
        // Writing to memory can't fail.
        let _ = write!(digits, "{number}");
        self.bytes.extend_from_slice(&command.before);
        let _ = write!(self.bytes, "${}\r\n", command.key.len() + digits.len());
        self.bytes.extend_from_slice(&command.key);
        self.bytes.extend_from_slice(&digits);
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes.extend_from_slice(&command.after);
        self.ends.push(self.bytes.len());
    }

    /// Adds all commands of another.
    pub(crate) fn append(&mut self, other: &Request) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| start + end));
    }

    pub(super) fn push_packed(&mut self, command: &[u8]) {
        self.bytes.extend_from_slice(command);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn one(command: &Cmd) -> Self {
        let mut request = Request::default();
        request.push(command);
        request
    }

    pub(super) fn command(&self, n: usize) -> &[u8] {
        let start = if n == 0 { 0 } else { self.ends[n - 1] };
        &self.bytes[start..self.ends[n]]
    }

    /// The words of one command.
    pub(crate) fn words(&self, n: usize) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.command(n);
        line_of(&mut rest);
        std::iter::from_fn(move || {
            let length: usize = std::str::from_utf8(line_of(&mut rest)?.strip_prefix(b"$")?).ok()?.parse().ok()?;
            let word = rest.get(..length)?;
            rest = rest.get(length + 2..)?;
            Some(word)
        })
    }
}

/// Takes a line off.
fn line_of<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    let line = &rest[..end];
    *rest = &rest[end + 2..];
    Some(line)
}

/// A key with a number at its end, in a command that is otherwise always the same, packed.
pub(crate) struct Numbered {
    before: Vec<u8>,
    key: Vec<u8>,
    after: Vec<u8>,
}

impl Numbered {
    /// `command KEY{number} arguments...`
    pub(crate) fn new<'a>(command: &str, key: Vec<u8>, arguments: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut after, mut count) = (Vec::new(), 2);
        for argument in arguments {
            count += 1;
            write_argument(&mut after, argument);
        }
        let mut before = format!("*{count}\r\n").into_bytes();
        write_argument(&mut before, command.as_bytes());
        Numbered { before, key, after }
    }
}

fn write_argument(packed: &mut Vec<u8>, argument: &[u8]) {
    packed.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
    packed.extend_from_slice(argument);
    packed.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_commands_are_packed_like_others() {
        let command = Numbered::new("HMGET", b"t:".to_vec(), [b"a".as_slice(), b"\0types"].into_iter());
        for number in [0, 7, -12, i64::MAX, i64::MIN] {
            let mut request = Request::default();
            request.push_numbered(&command, number);
            let expected = redis::cmd("HMGET").arg(format!("t:{number}")).arg("a").arg("\0types").get_packed_command();
            assert_eq!(request.bytes, expected);
            assert_eq!(request.words(0).nth(1), Some(format!("t:{number}").as_bytes()));
            assert_eq!(request.words(0).count(), 4);
        }
    }
}
