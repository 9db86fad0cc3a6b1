//! Makes text safe to show: hides secrets, and escapes characters that control a terminal.
//!
//! Names, errors and results contain what others have stored. An escape sequence in them must not reach the terminal,
//! and a password in an address must not reach a log.

use std::borrow::Cow;

use sqlite_redis::hide_secrets;

/// A message: secrets hidden, control characters escaped except line ends and tabs.
pub fn message(text: &str) -> String {
    escaped(&hide_secrets(text), |c| matches!(c, '\n' | '\t')).into_owned()
}

/// A name or value on one line: all control characters escaped.
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

/// Output for a terminal: control characters escaped except tabs and line ends (LF, CR LF).
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

/// Whether the terminal would obey the character, or hide text by changing its direction.
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
