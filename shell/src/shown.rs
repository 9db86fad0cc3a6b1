//! Text on its way to people: without secrets, and without characters that a terminal obeys.
//!
//! Names, errors and results hold what somebody has stored. An escape sequence among them must not
//! reach the terminal, and a password in an address must not reach a log.

use std::borrow::Cow;

use sqlite_redis::hide_secrets;

/// A message: secrets hidden, control characters escaped. Line ends and tabs stay.
pub fn message(text: &str) -> String {
    escaped(&hide_secrets(text), |c| matches!(c, '\n' | '\t')).into_owned()
}

/// A name or value on one line: every control character escaped.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// JSON with the control characters escaped that JSON itself allows in strings.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if commands_terminal(c) && !matches!(c, '\n' | '\t') {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Output for a terminal: control characters escaped, but for tabs and line ends (LF, CR LF).
pub fn for_terminal(bytes: &[u8]) -> Cow<'_, [u8]> {
    let plain = |b: &u8| matches!(b, b'\n' | b'\t' | b' '..=b'~');
    if bytes.iter().all(plain) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let lines = chunk.valid().split_inclusive("\r\n");
        for line in lines {
            let (text, end) = line.strip_suffix("\r\n").map_or((line, ""), |text| (text, "\r\n"));
            out.extend_from_slice(escaped(text, |c| matches!(c, '\n' | '\t')).as_bytes());
            out.extend_from_slice(end.as_bytes());
        }
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
    Cow::Owned(out)
}

/// Whether a terminal may take it as a command, or as a change of direction that hides what follows.
pub fn commands_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let special = |c: char| commands_terminal(c) && !keep(c);
    if !text.contains(special) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if special(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("a\u{1b}]0;x\u{7}\nb\u{9b}é漢"), "a\\u{1b}]0;x\\u{7}\\nb\\u{9b}é漢");
        assert_eq!(one_line("abc\u{202e}d"), "abc\\u{202e}d");
        assert_eq!(message("a\tb\n\u{1b}c"), "a\tb\n\\u{1b}c");
        assert_eq!(message("at redis://me:pw@h\u{1b}"), "at redis://…@h\\u{1b}");
        assert_eq!(json("{\"a\": \"\u{9b}\u{7f}é\"}\n"), "{\"a\": \"\\u009b\\u007fé\"}\n");
        assert_eq!(&*for_terminal(b"a\r\nb\rc\x1b[2J\xff\tx\n"), b"a\r\nb\\rc\\u{1b}[2J\\xff\tx\n");
        assert_eq!(&*for_terminal("│ é │\n".as_bytes()), "│ é │\n".as_bytes());
    }
}
