//! Splits a connection's bytes into whole commands and replies.

use std::io::{self, Read};

/// A stream that is read frame by frame.
pub(crate) struct Side<S> {
    pub(crate) stream: S,
    buffer: Vec<u8>,
}

impl<S: Read> Side<S> {
    pub(crate) fn new(stream: S) -> Self {
        Side { stream, buffer: Vec::new() }
    }

    /// The next command or reply; `None` at the end of the stream.
    pub(crate) fn frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = frame_length(&self.buffer) {
                return Ok(Some(self.buffer.drain(..length).collect()));
            }
            let mut more = [0; 65536];
            match self.stream.read(&mut more)? {
                0 => return Ok(None),
                length => self.buffer.extend_from_slice(&more[..length]),
            }
        }
    }

    /// Reads and discards the rest of the stream.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.stream, &mut io::sink()).map(drop)
    }
}

/// Length of the first command or reply in bytes; `None` if it is incomplete.
/// See <https://redis.io/docs/latest/develop/reference/protocol-spec/>.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&bytes[1..end - 2]).ok()?.parse::<i64>().ok();
    match bytes[0] {
        b'$' => match usize::try_from(number()?) {
            Ok(length) => Some(end + length + 2).filter(|&whole| whole <= bytes.len()),
            Err(_) => Some(end),
        },
        b'*' => {
            let mut at = end;
            for _ in 0..number()?.max(0) {
                at += frame_length(&bytes[at..])?;
            }
            Some(at)
        }
        _ => Some(end),
    }
}

/// The arguments of a command, if none contains a line end.
pub(crate) fn words(command: &[u8]) -> Vec<String> {
    let lines = String::from_utf8_lossy(command);
    lines.split("\r\n").skip(2).step_by(2).map(str::to_owned).collect()
}

/// The name of a command.
pub(crate) fn command_name(command: &[u8]) -> String {
    let name = command.split(|&byte| byte == b'\n').nth(2).unwrap_or_default();
    String::from_utf8_lossy(name).trim_end().to_uppercase()
}
