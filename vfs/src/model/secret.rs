//! Keeps passwords out of all output: errors, log lines, messages of the shell.
//!
//! [`hide_secrets`] filters messages of a server when they arrive, and every error and log line before it is shown.
//! [`shown_address`] filters an address that does not parse: it guesses where a password may be.

use std::ops::Range;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// Replaces a secret.
const HIDDEN: &str = "…";
/// Maximum number of passwords that the process remembers. Beyond it, the oldest is forgotten.
const MOST: usize = 1024;
/// A shorter password is hidden only as a whole word; otherwise messages would lose letters.
const SHORT: usize = 4;
/// After these words, servers repeat the arguments of an unknown command.
const ECHO: &str = "args beginning with:";
/// A parameter whose name contains one of these has a secret value.
const SECRET_NAMES: [&str; 3] = ["pass", "pwd", "secret"];
/// A parameter with exactly this name has a secret value too. As a part, it would match `author`.
const SECRET_NAME: &str = "auth";

/// The passwords in use. A fork can't leave this locked: it is swapped, not locked.
static KNOWN: ArcSwapOption<Vec<Arc<str>>> = ArcSwapOption::const_empty();

/// Adds a password to those that [`hide_secrets`] removes.
pub(crate) fn know(password: &str) {
    if password.is_empty() || KNOWN.load().iter().any(|known| known.iter().any(|known| **known == *password)) {
        return;
    }
    KNOWN.rcu(|known| {
        let known = known.as_ref().map_or(&[][..], |known| known.as_slice());
        let mut all = known[known.len() - known.len().min(MOST - 1)..].to_vec();
        all.push(password.into());
        Some(Arc::new(all))
    });
}

/// Replaces passwords in a text: those in use by this process, those in URLs and after names such as `password=`, and
/// the arguments of commands that a server repeats.
///
/// ```
/// let text = sqlite_redis::hide_secrets("can't open redis://me:tulip@host");
/// assert!(!text.contains("tulip"));
/// ```
pub fn hide_secrets(text: &str) -> String {
    let mut text = match text.find(ECHO) {
        Some(at) => format!("{} {HIDDEN}", &text[..at + ECHO.len()]),
        None => text.to_owned(),
    };
    text = without_parameters(&without_users(&text));
    let known = KNOWN.load();
    let mut known: Vec<_> =
        known.iter().flat_map(|known| known.iter()).filter(|known| next_of(&text, known).is_some()).collect();
    // Longest first, because one password may be part of another.
    known.sort_by_key(|password| std::cmp::Reverse(password.len()));
    for password in known {
        text = without(&text, password);
    }
    text
}

fn without(text: &str, password: &str) -> String {
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(found) = next_of(rest, password) {
        let (before, behind) = (&rest[..found.start], &rest[found.end..]);
        let last = before.chars().next_back().or_else(|| shown.chars().next_back());
        let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let is_word = !is_part(last) && !is_part(behind.chars().next());
        shown.push_str(before);
        shown.push_str(if password.len() >= SHORT || is_word { HIDDEN } else { &rest[found] });
        rest = behind;
    }
    shown + rest
}

/// Finds the first occurrence of a password: as it is, percent-encoded as in a URL, or percent-encoded twice, as in a
/// URL in a URI file name.
fn next_of(text: &str, password: &str) -> Option<Range<usize>> {
    let all = text.as_bytes();
    let length_at = |start: usize| {
        let mut at = start;
        for &byte in password.as_bytes() {
            at += written_as(byte, &all[at..])?;
        }
        Some(at)
    };
    (0..all.len()).find_map(|start| length_at(start).map(|end| start..end))
}

/// Length of the encoding of `byte` at the start of the text; `None` if the text starts with another byte.
fn written_as(byte: u8, text: &[u8]) -> Option<usize> {
    let is_escaped = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()));
        digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) == Some(byte)
    };
    match text {
        [b'%', b'2', b'5', high, low, ..] if is_escaped(&[*high, *low]) => Some(5),
        [b'%', high, low, ..] if is_escaped(&[*high, *low]) => Some(3),
        [first, ..] if *first == byte => Some(1),
        _ => None,
    }
}

/// Hides `user:password` in URLs, also in percent-encoded URLs as in a URI file name. A user without a password is
/// shown: it may be the service name of a Sentinel URL.
fn without_users(text: &str) -> String {
    // The same length as the text: only ASCII changes.
    let lower = text.to_ascii_lowercase();
    let marks = lower.match_indices([':', '%']).filter_map(|(at, _)| {
        let mark = ["://", "%3a%2f%2f"].into_iter().find(|mark| lower[at..].starts_with(mark))?;
        Some((at + mark.len(), mark == "://"))
    });
    let (mut shown, mut done, mut word) = (String::with_capacity(text.len()), 0, Word::default());
    for (start, is_plain) in marks {
        if start < done {
            continue;
        }
        if start >= word.end {
            word = Word::at(&lower, start);
        }
        let (sign, escaped) = (word.sign.filter(|at| *at >= start), word.escaped.filter(|at| *at >= start));
        // In a URL that is not escaped, `%40` belongs to the password, unless it is all there is.
        let user = if is_plain { sign.or(escaped) } else { sign.max(escaped) };
        if let Some(at) = user.filter(|at| lower[start..*at].contains(':') || lower[start..*at].contains("%3a")) {
            shown.push_str(&text[done..start]);
            shown.push_str(HIDDEN);
            done = at;
        }
    }
    shown + &text[done..]
}

/// A possible URL: the text up to white space or a quote.
#[derive(Default)]
struct Word {
    end: usize,
    /// The last `@`, and the last `%40`.
    sign: Option<usize>,
    escaped: Option<usize>,
}

impl Word {
    fn at(text: &str, start: usize) -> Word {
        let ends = |c: char| c.is_whitespace() || "'\"`<>".contains(c);
        let length = text[start..].find(ends).unwrap_or(text.len() - start);
        let word = &text[start..start + length];
        let absolute = |at: Option<usize>| at.map(|at| start + at);
        Word { end: start + length, sign: absolute(word.rfind('@')), escaped: absolute(word.rfind("%40")) }
    }
}

/// Hides the values of `pass=`, `password=` and the like. In a URI file name, `=` may be `%3D` and `&` `%26`.
fn without_parameters(text: &str) -> String {
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    let sign = |text: &str| {
        let mut signs = text.match_indices(['=', '%']).filter_map(|(at, _)| match text.as_bytes()[at..] {
            [b'=', ..] => Some((at, 1)),
            [_, b'3', b'D' | b'd', ..] => Some((at, 3)),
            _ => None,
        });
        signs.next()
    };
    while let Some((at, length)) = sign(rest) {
        let (before, behind) = rest.split_at(at + length);
        shown.push_str(before);
        rest = behind;
        let name = before[..at].rsplit(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').next();
        let name = name.unwrap_or_default().to_ascii_lowercase();
        if name == SECRET_NAME || SECRET_NAMES.iter().any(|secret| name.contains(secret)) {
            let ends = |at: usize, c: char| {
                c.is_whitespace() || "&'\"`,;)".contains(c) || c == '%' && behind[at..].starts_with("%26")
            };
            let end = behind.char_indices().find(|(at, c)| ends(*at, *c)).map_or(behind.len(), |(at, _)| at);
            if end > 0 {
                shown.push_str(HIDDEN);
            }
            rest = &behind[end..];
        }
    }
    shown + rest
}

/// An address that did not parse, for a message: its scheme and host, as far as they can be recognised.
/// Everything that may be a user or a password is left out: the text before the last `@`, and the text from the
/// first character that can begin parameters.
pub(crate) fn shown_address(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (&text[..scheme.len() + 3], rest),
        _ => ("", text),
    };
    let (cut, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (HIDDEN, rest),
        None => ("", rest),
    };
    let end = rest.find(|c: char| c.is_whitespace() || "?#%,;=&|".contains(c)).unwrap_or(rest.len());
    let more = if end < rest.len() { HIDDEN } else { "" };
    // The `@` may belong to a password in the query, which must not be shown either.
    if !cut.is_empty() && text.contains('?') {
        return format!("{scheme}{HIDDEN}");
    }
    let host: String = rest[..end].chars().take(80).collect();
    let at = if cut.is_empty() { "" } else { "@" };
    format!("{scheme}{cut}{at}{host}{more}")
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.len() < 20 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'+')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_use_are_hidden_wherever_they_stand() {
        know("Tulip-7");
        know("Tulip-7-and-more");
        know("ab");
        assert_eq!(hide_secrets("ERR `AUTH me Tulip-7`"), "ERR `AUTH me …`");
        assert_eq!(hide_secrets("Tulip-7-and-moreTulip-7"), "……");
        assert_eq!(hide_secrets("about 'ab' and ab"), "about '…' and …", "a short one is hidden as a word only");
        assert_eq!(hide_secrets("nothing to hide"), "nothing to hide");
    }

    #[test]
    fn passwords_in_use_are_hidden_however_they_are_escaped() {
        know("p@s/s-Ü");
        for written in
            ["p@s/s-Ü", "p%40s/s-Ü", "p%40s%2fs-%c3%9C", "p%2540s%252Fs-%25C3%259c", "%70%40%73%2F%73%2D%C3%9C"]
        {
            assert_eq!(hide_secrets(&format!("no database at h/{written}, sorry")), "no database at h/…, sorry");
        }
        for other in ["p%41s/s-Ü", "p%40s/s-", "p%4", "100 % of it%"] {
            assert_eq!(hide_secrets(other), other);
        }
    }

    #[test]
    fn command_arguments_repeated_by_a_server_are_hidden() {
        let said = "unknown command 'AUTH', with args beginning with: 'me' 'never-known' \r\n";
        assert_eq!(hide_secrets(said), "unknown command 'AUTH', with args beginning with: …");
    }

    #[test]
    fn passwords_in_addresses_are_hidden() {
        for (text, shown) in [
            ("at redis://me:x1y2@h:1/2, then", "at redis://…@h:1/2, then"),
            ("redis://:p@q@h and redis://a:b@c", "redis://…@h and redis://…@c"),
            ("redis://h,redis://a:b@c,redis://d", "redis://…@c,redis://d"),
            ("sentinel://shop@a:1,b:2", "sentinel://shop@a:1,b:2"),
            ("redis://[::1]:7000", "redis://[::1]:7000"),
            ("unix:///run/socket?db=1&pass=x1y2&user=ann", "unix:///run/socket?db=1&pass=…&user=ann"),
            ("h:1,password=x1y2,ssl=True", "h:1,password=…,ssl=True"),
            ("file:shop?redis=unix:///s%3Fpass%3Dx1y2%26db%3D1", "file:shop?redis=unix:///s%3Fpass%3D…%26db%3D1"),
            ("file:a?redis=redis%3A%2F%2Fu%3Ap1%40h", "file:a?redis=redis%3A%2F%2F…%40h"),
            ("file:a?redis=redis%3a%2f%2fu%3Ap%2540q%40h", "file:a?redis=redis%3a%2f%2f…%40h"),
            ("redis://u:p%40q@h/1", "redis://…@h/1"),
            ("redis://u:pw%40h", "redis://…%40h"),
            ("redis://u:p1@h?redis=redis%3A%2F%2Fv%3Ap2%40g", "redis://…@h?redis=redis%3A%2F%2F…%40g"),
            ("'redis://u:p1@h' someone@example.org", "'redis://…@h' someone@example.org"),
            ("PWD=x1y2; Sentinel_Password=z", "PWD=…; Sentinel_Password=…"),
            ("redis://h?auth=x&author=visible", "redis://h?auth=…&author=visible"),
            ("wait_ms=1: expected passion", "wait_ms=1: expected passion"),
        ] {
            assert_eq!(hide_secrets(text), shown);
        }
    }

    #[test]
    fn long_texts_take_no_longer_than_they_are_long() {
        let begun = std::time::Instant::now();
        for part in [
            "://",
            "://:",
            "a=",
            "%3D",
            "pass=",
            "=%26",
            "@",
            "://@",
            "://a:@",
            "pass=%26",
            "%3a%2f%2f%40",
            "%3a%2f%2f",
            "a ",
        ] {
            hide_secrets(&part.repeat(400_000));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
    }

    #[test]
    fn an_invalid_address_is_shown_without_possible_secrets() {
        for (text, shown) in [
            ("localhost:6379", "localhost:6379"),
            ("http://localhost", "http://localhost"),
            ("127.0.0.1:1,password=x,ssl=True", "127.0.0.1:1…"),
            ("127.0.0.1:1?password=x", "127.0.0.1:1…"),
            ("redis:/me:x@host", "…@host"),
            ("redis://me:x@host:notaport", "redis://…@host:notaport"),
            ("unix:///path?db=x&pass=a@x", "unix://…"),
            ("redis://127.0.0.1:1%3Fauth%3Dx", "redis://127.0.0.1:1…"),
            ("redis://127.0.0.1:1%23x", "redis://127.0.0.1:1…"),
            ("me:x@host redis://y", "…@host…"),
        ] {
            assert_eq!(shown_address(text), shown);
        }
    }
}
