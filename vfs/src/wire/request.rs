//! Commands encoded in RESP, for one exchange.

use redis::Cmd;

use crate::model::page_encoding::Packed;

/// The largest buffer that is kept for the next request: enough for most commits.
const LITTLE: usize = 64 << 10;

/// See the [module](self).
#[derive(Clone, Default)]
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    /// The end of each command in `bytes`.
    pub(crate) ends: Vec<usize>,
}

impl Request {
    /// An empty request with room for a few commands.
    pub(crate) fn with_room() -> Self {
        Request { bytes: Vec::with_capacity(2 << 10), ends: Vec::with_capacity(16) }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Empties the request. Keeps its buffer up to [`LITTLE`] bytes.
    pub(crate) fn emptied(mut self) -> Self {
        if self.bytes.capacity() > LITTLE {
            return Request::default();
        }
        self.clear();
        self
    }

    /// The number of commands.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The number of bytes.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn push(&mut self, command: &Cmd) {
        command.write_packed_command(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Begins a command of `words` words. The caller adds exactly that many.
    pub(crate) fn begin(&mut self, words: usize) -> Words<'_> {
        write_length(&mut self.bytes, b'*', words);
        Words { request: self, left: words }
    }

    pub(crate) fn push_numbered(&mut self, command: &Numbered, number: i64) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number);
        self.bytes.extend_from_slice(&command.before);
        write_length(&mut self.bytes, b'$', command.key.len() + digits.len());
        self.bytes.extend_from_slice(&command.key);
        self.bytes.extend_from_slice(digits.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes.extend_from_slice(&command.after);
        self.ends.push(self.bytes.len());
    }

    /// Adds the commands of another request.
    pub(crate) fn append(&mut self, other: &Request) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| start + end));
    }

    pub(crate) fn push_packed(&mut self, command: &[u8]) {
        self.bytes.extend_from_slice(command);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn one(command: &Cmd) -> Self {
        let mut request = Request::default();
        request.push(command);
        request
    }

    pub(crate) fn command(&self, n: usize) -> &[u8] {
        let start = if n == 0 { 0 } else { self.ends[n - 1] };
        &self.bytes[start..self.ends[n]]
    }

    /// The words of command `n`.
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

/// A command that is being added word by word, so each word is copied only once.
pub(crate) struct Words<'a> {
    request: &'a mut Request,
    left: usize,
}

impl Words<'_> {
    pub(crate) fn word(&mut self, word: impl AsRef<[u8]>) -> &mut Self {
        self.left -= 1;
        write_argument(&mut self.request.bytes, word.as_ref());
        self
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.word(itoa::Buffer::new().format(number))
    }

    pub(crate) fn page(&mut self, page: &Packed<'_>) -> &mut Self {
        self.left -= 1;
        let bytes = &mut self.request.bytes;
        write_length(bytes, b'$', page.len());
        page.write_to(bytes);
        bytes.extend_from_slice(b"\r\n");
        self
    }
}

impl Drop for Words<'_> {
    fn drop(&mut self) {
        debug_assert_eq!(self.left, 0, "words of a command are missing");
        self.request.ends.push(self.request.bytes.len());
    }
}

/// Splits the first line off.
fn line_of<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    let line = &rest[..end];
    *rest = &rest[end + 2..];
    Some(line)
}

/// An encoded command that is always the same but for a number at the end of its key.
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
        let mut before = Vec::new();
        write_length(&mut before, b'*', count);
        write_argument(&mut before, command.as_bytes());
        Numbered { before, key, after }
    }
}

fn write_length(packed: &mut Vec<u8>, kind: u8, length: usize) {
    packed.push(kind);
    packed.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    packed.extend_from_slice(b"\r\n");
}

fn write_argument(packed: &mut Vec<u8>, argument: &[u8]) {
    write_length(packed, b'$', argument.len());
    packed.extend_from_slice(argument);
    packed.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::page_encoding::pack;

    #[test]
    fn commands_are_encoded_as_by_the_library() {
        let page = [&[7; 100][..], &[0; 300], &[9; 112]].concat();
        let packed = pack(&page, false);
        let mut request = Request::default();
        request.begin(5).word("HSET").word("").number(0).number(u64::MAX).page(&packed);
        let mut expected = redis::cmd("HSET");
        expected.arg("").arg(0).arg(u64::MAX).arg(packed.to_vec());
        assert_eq!(request.bytes, expected.get_packed_command());
        assert_eq!(request.words(0).count(), 5);
    }

    #[test]
    fn numbered_commands_are_encoded_as_by_the_library() {
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
