//! The first argument of `USING redis(...)`: where the server is.

use crate::config::{Address, Config};
use crate::model::error::{Cause, Result};
use crate::model::secret::shown_address;

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// What is accepted, for messages.
const EXPECTED: &str = "expected `host[:port]`, `sentinel SERVICE host[:port] host[:port] ...`, \
                        or a URL redis://, rediss://, unix://, sentinel:// or redis+cluster:// in quotes";

/// Where the server of a table is.
pub(crate) fn parse(argument: &str) -> Result<Config> {
    let argument = unquoted(argument);
    let text = argument.trim();
    if text.contains("://") {
        return config(text);
    }
    let mut words = text.split([' ', '\t', '\n', '\r', ';']).filter(|word| !word.is_empty());
    match words.next() {
        None => refused(text, "it is empty"),
        Some(word) if word.eq_ignore_ascii_case("sentinel") && text.len() > word.len() => {
            let Some(service) = words.next() else { return refused(text, "the name of the service is missing") };
            let sentinels =
                words.map(|word| host_and_port(word, DEFAULT_SENTINEL_PORT)).collect::<Result<Vec<String>>>()?;
            if sentinels.is_empty() {
                return refused(text, "no sentinel is named");
            }
            let mut config = config(&format!("sentinel://service@{}", sentinels.join(",")))?;
            if let Address::Sentinel(at) = &mut config.server {
                at.name = unquoted(service);
            }
            Ok(config)
        }
        Some(word) if words.next().is_none() => config(&format!("redis://{}", host_and_port(word, DEFAULT_PORT)?)),
        Some(_) => refused(text, "it has several words"),
    }
}

fn refused<T>(text: &str, reason: &str) -> Result<T> {
    // There may be a password in it.
    if text.contains('@') {
        return Err(Cause::Declaration(format!("user and password belong into a URL; {EXPECTED}")).into());
    }
    let shown = shown_address(text);
    Err(Cause::Declaration(format!("`{shown}` can't be the address of a server: {reason}; {EXPECTED}")).into())
}

fn config(url: &str) -> Result<Config> {
    Config::of_table(url).map_err(|error| Cause::Declaration(format!("{}; {EXPECTED}", error.cause)).into())
}

fn host_and_port(word: &str, default: u16) -> Result<String> {
    let word = unquoted(word);
    let (host, port) = match word.rfind(':') {
        // The colons of `[::1]` are no port's.
        Some(at) if !word[at..].contains(']') => (&word[..at], &word[at + 1..]),
        _ => (word.as_str(), ""),
    };
    let port = match port {
        "" if host.len() == word.len() => default,
        port => match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            // What follows the colon may be a password.
            _ => return refused(&word, &format!("`{}` is not a port", shown_address(port))),
        },
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !(bracketed || host.chars().all(plain)) {
        return refused(&word, &format!("`{}` is not a host", shown_address(host)));
    }
    Ok(format!("{host}:{port}"))
}

/// The text without the quotes around it, if it has any.
pub(crate) fn unquoted(text: &str) -> String {
    let text = text.trim();
    for (open, close) in [('\'', '\''), ('"', '"'), ('`', '`')] {
        if let Some(inner) = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)) {
            return inner.replace(&format!("{close}{close}"), &close.to_string());
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(argument: &str) -> String {
        parse(argument).unwrap().server_name()
    }

    #[test]
    fn a_host_may_have_a_port() {
        assert_eq!(server("localhost:6380"), "redis://localhost:6380");
        assert_eq!(server(" redis-1.example.com "), "redis://redis-1.example.com:6379");
        assert_eq!(server("[::1]:7000"), "redis://[::1]:7000");
        assert_eq!(server("'redis://me:secret@h:1/2'"), "redis://h:1/2");
        assert_eq!(server("\"unix:///run/redis.sock\""), "unix:///run/redis.sock");
    }

    #[test]
    fn sentinels_are_separated_by_blanks_or_semicolons() {
        for text in ["sentinel mymaster a:1 b", "SENTINEL mymaster a:1;b", "'sentinel mymaster; a:1 ; b'"] {
            assert_eq!(server(text), "sentinel://mymaster@a:1,b:26379");
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_what_was_expected() {
        for (text, part) in [
            ("", "empty"),
            ("localhost:port", "`port` is not a port"),
            ("localhost:", "not a port"),
            ("localhost:0", "not a port"),
            ("localhost:99999", "not a port"),
            (":6379", "not a host"),
            ("a b", "several words"),
            ("sentinel mymaster", "no sentinel"),
            ("sentinel ;", "service"),
            ("sentinel mymaster a:x", "not a port"),
            ("http://localhost", "redis://"),
            ("'redis://h:notaport'", "not a server address"),
            ("ho$t", "not a host"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("sentinel SERVICE"), "{text}: {error}");
        }
    }

    #[test]
    fn no_message_shows_a_password() {
        for text in [
            "'redis://me:secret@h:x'",
            "me:secret@h",
            "sentinel m me:secret@h",
            "127.0.0.1:1,password=secret,ssl=True",
            "127.0.0.1:1?password=secret",
            "127.0.0.1:1/0?password=secret",
            "unix:/x?pass=secret",
            "rediss:/127.0.0.1:1?password=secret",
            "redis:/u:secret@127.0.0.1:1",
            "redis://127.0.0.1:1?password=secret",
            "h;password=secret",
            "a, secret",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
