//! Text on its way to people: without secrets, and without characters that a terminal obeys.
//!
//! Names, errors and results hold what somebody has stored. An escape sequence among them must not
//! reach the terminal, and a password in an address must not reach a log.

use std::borrow::Cow;

/// What stands for a secret.
const HIDDEN: &str = "***";

/// A message: secrets hidden, control characters escaped. Line ends and tabs stay.
pub fn message(text: &str) -> String {
    escaped(&without_secrets(text), |c| matches!(c, '\n' | '\t')).into_owned()
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

/// The text with the user and password of every address replaced, and the values of parameters
/// that are passwords.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let ends = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`');
    let mut out = String::new();
    let mut hidden = false;
    for word in text.split_inclusive(ends) {
        let mut shown = 0;
        for (start, end) in secrets(word) {
            if start < shown || end == shown || &word[start..end] == HIDDEN {
                continue;
            }
            out.push_str(&word[shown..start]);
            out.push_str(HIDDEN);
            shown = end;
            hidden = true;
        }
        out.push_str(&word[shown..]);
    }
    if hidden { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

/// Where secrets of a word begin and end, in order; they may overlap. A word ends where white space or a quote is.
fn secrets(word: &str) -> Vec<(usize, usize)> {
    if !word.contains(['/', '%', '=']) {
        return Vec::new();
    }
    // The same length as the word: only ASCII changes.
    let lower = word.to_ascii_lowercase();
    let ends_of = |mark: &'static str| lower.match_indices(mark).map(|(at, mark)| at + mark.len());
    // The user and password of an address: up to the last `@`, since a password may hold any other character.
    let user_end = lower.rfind('@').max(lower.rfind("%40"));
    let users = ["://", "%3a%2f%2f"].into_iter().flat_map(ends_of);
    let users = users.filter_map(|start| Some((start, user_end.filter(|end| *end >= start)?)));
    let separators: Vec<usize> = lower.match_indices(['&', '#']).map(|(at, _)| at).collect();
    let escaped: Vec<usize> = lower.match_indices("%26").map(|(at, _)| at).collect();
    let next = |places: &[usize], start: usize| places.get(places.partition_point(|at| *at < start)).copied();
    let whole = word.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`')).len();
    let parameters = ["password=", "password%3d"].into_iter().flat_map(ends_of).filter_map(|start| {
        let end = next(&separators, start).or_else(|| next(&escaped, start)).unwrap_or(whole);
        (end > start).then_some((start, end))
    });
    let mut all: Vec<(usize, usize)> = users.chain(parameters).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("a\u{1b}]0;x\u{7}\nb\u{9b}é漢"), "a\\u{1b}]0;x\\u{7}\\nb\\u{9b}é漢");
        assert_eq!(one_line("abc\u{202e}d"), "abc\\u{202e}d");
        assert_eq!(message("a\tb\n\u{1b}c"), "a\tb\n\\u{1b}c");
        assert_eq!(json("{\"a\": \"\u{9b}\u{7f}é\"}\n"), "{\"a\": \"\\u009b\\u007fé\"}\n");
        assert_eq!(&*for_terminal(b"a\r\nb\rc\x1b[2J\xff\tx\n"), b"a\r\nb\\rc\\u{1b}[2J\\xff\tx\n");
        assert_eq!(&*for_terminal("│ é │\n".as_bytes()), "│ é │\n".as_bytes());
    }

    #[test]
    fn long_texts_take_no_longer_than_they_are_long() {
        let begun = std::time::Instant::now();
        for part in ["://", "://a@", "password=", "password=a%26", "password=a&", "%3a%2f%2f%40", "a "] {
            let text = part.repeat(200_000);
            assert_eq!(without_secrets(&without_secrets(&text)), without_secrets(&text), "{part}");
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        for (text, expected) in [
            ("no secret: redis://host:1", "no secret: redis://host:1"),
            ("x redis://me:pa:ss@h/0 y", "x redis://***@h/0 y"),
            ("redis://:p@s/w?x@h and rediss://u:q@h", "redis://***@h and rediss://***@h"),
            (
                "file:shop?vfs=redis&redis=redis://:pw@h&cache_size=3",
                "file:shop?vfs=redis&redis=redis://***@h&cache_size=3",
            ),
            ("file:a?redis=redis%3A%2F%2Fu%3Apw%40h", "file:a?redis=redis%3A%2F%2F***%40h"),
            ("'redis://u:p@h' someone@example.org", "'redis://***@h' someone@example.org"),
            (
                "sentinel://u:p@s@a:1?sentinel_user=u&sentinel_password=pw&x=1",
                "sentinel://***@a:1?sentinel_user=u&sentinel_password=***&x=1",
            ),
            ("sentinel://s@a:1?sentinel_password=pw", "sentinel://***@a:1?sentinel_password=***"),
        ] {
            assert_eq!(without_secrets(text), expected);
            assert_eq!(without_secrets(expected), expected, "hidden twice");
        }
    }
}
