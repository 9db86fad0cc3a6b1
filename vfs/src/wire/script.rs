//! Lua scripts, sent once with `EVAL` and then called by digest with `EVALSHA`, which saves sending and hashing the
//! text.
//!
//! A server loses its scripts when it restarts or runs `SCRIPT FLUSH`, and a new primary never had them. It then
//! answers `NOSCRIPT`, and has executed nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use redis::{Cmd, Value, cmd};

use crate::model::error::Cause;
use crate::process::sync::Mutex;
use crate::wire::reply::server_cause;

/// A script's text and its SHA-1 digest.
pub(crate) struct Script {
    text: String,
    digest: String,
}

impl Script {
    pub(crate) fn new(text: String) -> Self {
        let digest = redis::Script::new(&text).get_hash().to_owned();
        Script { text, digest }
    }

    /// `EVAL text` or `EVALSHA digest`. The caller adds the number of keys, keys and arguments.
    pub(crate) fn command(&self, by: By) -> Cmd {
        match by {
            By::Text => cmd("EVAL").arg(&self.text).to_owned(),
            By::Digest => cmd("EVALSHA").arg(&self.digest).to_owned(),
        }
    }
}

/// How to call a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Text,
    Digest,
}

/// The scripts that a server is known to have.
#[derive(Default)]
pub(crate) struct Scripts {
    /// By digest: whether the script may be called by its digest.
    given: Mutex<HashMap<&'static str, bool>>,
    /// The server runs no scripts: `EVAL` is missing or forbidden by access rules.
    refused: AtomicBool,
}

impl Scripts {
    /// How to call this script now.
    pub(crate) fn way_to(&self, script: &'static Script) -> By {
        match self.given.lock().get(script.digest.as_str()) {
            Some(true) => By::Digest,
            Some(false) | None => By::Text,
        }
    }

    /// Whether the server is known to run no scripts.
    pub(crate) fn are_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Whether a failure means that the server runs no scripts. The answer is remembered.
    pub(crate) fn are_refused_by(&self, cause: &Cause) -> bool {
        let refused = match cause {
            Cause::MissingCommand(_) => true,
            // `EVAL` itself is forbidden, not a command inside the script.
            Cause::Permission(message) => message.to_ascii_lowercase().contains("'eval"),
            _ => false,
        };
        if refused && !self.refused.swap(true, Relaxed) {
            crate::process::log::log(&format!("the server calls no scripts, so writers do not stand in line: {cause}"));
        }
        refused
    }

    /// Whether any script has run on the server.
    pub(crate) fn were_called(&self) -> bool {
        !self.given.lock().is_empty()
    }

    /// Whether the reply says that the call was executed or may have been. If it returns false, the caller sends the
    /// script again, by its text.
    pub(crate) fn is_called(&self, script: &'static Script, by: By, reply: &Value) -> bool {
        let mut given = self.given.lock();
        match (by, reply) {
            // The server no longer has the script.
            (By::Digest, Value::ServerError(error)) if error.code() == "NOSCRIPT" => {
                given.remove(script.digest.as_str());
                false
            }
            // `EVALSHA` is missing or forbidden.
            (By::Digest, Value::ServerError(error)) if server_cause(error).is_refusal() => {
                given.insert(&script.digest, false);
                false
            }
            (By::Text, Value::ServerError(error)) => {
                self.are_refused_by(&server_cause(error));
                true
            }
            (By::Digest, _) => true,
            (By::Text, _) => {
                given.entry(&script.digest).or_insert(true);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    #[test]
    fn a_script_that_the_server_has_is_called_by_digest_unless_that_is_forbidden() {
        static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new("return 1".into()));
        let error = |line: &[u8]| redis::parse_redis_value(line).unwrap();
        let busy = error(b"-BUSY Redis is busy running a script.\r\n");
        let scripts = Scripts::default();
        assert_eq!(scripts.way_to(&SCRIPT), By::Text);
        assert!(scripts.is_called(&SCRIPT, By::Text, &busy), "not known to be not called");
        assert_eq!(scripts.way_to(&SCRIPT), By::Text);
        assert!(scripts.is_called(&SCRIPT, By::Text, &Value::Int(1)));
        assert_eq!(scripts.way_to(&SCRIPT), By::Digest);
        assert!(scripts.is_called(&SCRIPT, By::Digest, &Value::Int(1)));
        assert!(scripts.is_called(&SCRIPT, By::Digest, &busy));
        assert_eq!(scripts.way_to(&SCRIPT), By::Digest);
        assert!(!scripts.is_called(&SCRIPT, By::Digest, &error(b"-NOSCRIPT No matching script.\r\n")));
        assert_eq!(scripts.way_to(&SCRIPT), By::Text);
        assert!(!scripts.is_called(&SCRIPT, By::Digest, &error(b"-NOPERM no permissions\r\n")));
        assert!(scripts.is_called(&SCRIPT, By::Text, &Value::Int(1)));
        assert_eq!(scripts.way_to(&SCRIPT), By::Text);
        assert!(!scripts.are_refused());
        assert!(scripts.is_called(&SCRIPT, By::Text, &error(b"-ERR unknown command 'EVAL', with args\r\n")));
        assert!(scripts.are_refused());
        // The digest that `SCRIPT LOAD "return 1"` returns.
        let command = SCRIPT.command(By::Digest).get_packed_command();
        assert!(String::from_utf8_lossy(&command).contains("e0e1f9fabfc9d4800c877a703b823ac0578ff8db"));
    }
}
