//! Scripts that are called again and again: by their text once, and then by the digest of it, under
//! which the server keeps them. So the text neither travels nor is digested for each call.
//!
//! A server forgets what it was given when it restarts, and when it is told to; one that takes over
//! was never given it. `NOSCRIPT` says so, and means that nothing was done.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use redis::{Cmd, Value, cmd};

use crate::model::error::Cause;
use crate::process::sync::Mutex;
use crate::wire::reply::server_cause;

/// The text of a script, and its digest.
pub(crate) struct Script {
    text: String,
    digest: String,
}

impl Script {
    pub(crate) fn new(text: String) -> Self {
        let digest = redis::Script::new(&text).get_hash().to_owned();
        Script { text, digest }
    }

    /// The command that calls it, up to the number of keys.
    pub(crate) fn command(&self, by: By) -> Cmd {
        match by {
            By::Text => cmd("EVAL").arg(&self.text).to_owned(),
            By::Digest => cmd("EVALSHA").arg(&self.digest).to_owned(),
        }
    }
}

/// How a script is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Text,
    Digest,
}

/// What is known of a server's scripts.
#[derive(Default)]
pub(crate) struct Scripts {
    /// By digest: whether it may be called by that.
    given: Mutex<HashMap<&'static str, bool>>,
    /// The server calls no scripts: it has not got `EVAL`, or access rules forbid it.
    refused: AtomicBool,
}

impl Scripts {
    /// How to call one.
    pub(crate) fn way_to(&self, script: &'static Script) -> By {
        match self.given.lock().get(script.digest.as_str()) {
            Some(true) => By::Digest,
            Some(false) | None => By::Text,
        }
    }

    /// Whether the server is known to call no scripts.
    pub(crate) fn are_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Whether a failure to call a script means that the server calls none. That is remembered.
    pub(crate) fn are_refused_by(&self, cause: &Cause) -> bool {
        let refused = match cause {
            Cause::MissingCommand(_) => true,
            // Not what a script may not do.
            Cause::Permission(message) => message.to_ascii_lowercase().contains("'eval"),
            _ => false,
        };
        if refused && !self.refused.swap(true, Relaxed) {
            crate::process::log::log(&format!("the server calls no scripts, so writers do not stand in line: {cause}"));
        }
        refused
    }

    /// Whether some script was called.
    pub(crate) fn were_called(&self) -> bool {
        !self.given.lock().is_empty()
    }

    /// Whether a call was carried out, as the reply to it says, or may have been. If not, it is to be made
    /// again, and goes by the text.
    pub(crate) fn is_called(&self, script: &'static Script, by: By, reply: &Value) -> bool {
        let mut given = self.given.lock();
        match (by, reply) {
            // The server does not have it any more.
            (By::Digest, Value::ServerError(error)) if error.code() == "NOSCRIPT" => {
                given.remove(script.digest.as_str());
                false
            }
            // It may not be called by its digest.
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
    fn a_script_is_called_by_its_digest_where_it_was_given_and_may_be() {
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
        // As redis-cli says: SCRIPT LOAD "return 1".
        let command = SCRIPT.command(By::Digest).get_packed_command();
        assert!(String::from_utf8_lossy(&command).contains("e0e1f9fabfc9d4800c877a703b823ac0578ff8db"));
    }
}
