//! Replies, taken apart. A reply of the wrong shape is an error.

use std::fmt::{self, Write};

use redis::{ServerError, Value};

use crate::model::error::{Cause, Result};
use crate::model::secret::hide_secrets;

/// The text of a reply, if it is text.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        _ => None,
    }
}

/// The beginning of a text: a reply may have gigabytes.
struct Short(String);

impl Short {
    /// Bytes.
    const LONGEST: usize = 200;
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = Self::LONGEST - self.0.len();
        let end = text.floor_char_boundary(room);
        self.0.push_str(&text[..end]);
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// A reply that is no use here, named in short.
pub(crate) fn bad_reply(command: &str, value: &Value) -> Cause {
    Cause::BadReply(answered_with(command, value))
}

/// The words for that.
pub(crate) fn answered_with(command: &str, value: &Value) -> String {
    let mut shown = Short(String::new());
    // Ends with an error where the text is cut.
    let _ = write!(shown, "{value:?}");
    let Short(shown) = shown;
    format!("{command} was answered with {shown}")
}

/// The items of an array reply.
pub(crate) fn array(command: &str, value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(bad_reply(command, &other).into()),
    }
}

/// An error among the replies, as a failure.
pub(crate) fn checked(reply: Value) -> Result<Value> {
    match reply {
        Value::ServerError(error) => Err(server_cause(&error).into()),
        value => Ok(value),
    }
}

/// The words of an error, without secrets.
pub(super) fn message(error: &ServerError) -> String {
    match error.details() {
        Some(details) => hide_secrets(&format!("{} {details}", error.code())),
        None => error.code().to_owned(),
    }
}

/// What servers say when a script does what its user may not, for which there is no code.
const IN_SCRIPTS: [&str; 2] = ["user executing the script can't run", "ACL failure in script"];

/// What an error reply of the server means.
pub(crate) fn server_cause(error: &ServerError) -> Cause {
    let message = message(error);
    // `EXECABORT Transaction discarded because of: READONLY ...`
    let aborted = message.split_once("because of: ").filter(|_| error.code() == "EXECABORT");
    let code = aborted.and_then(|(_, why)| why.split(' ').next()).unwrap_or(error.code());
    match code {
        "LOADING" | "MASTERDOWN" | "BUSY" => Cause::Loading(message),
        "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" => Cause::Moving(message),
        "NOREPLICAS" => Cause::TooFewReplicas(message),
        "READONLY" => Cause::ReadOnlyServer(message),
        "NOPERM" => Cause::Permission(message),
        "OOM" => Cause::ServerFull(message),
        "NOAUTH" | "WRONGPASS" => Cause::Authentication(message),
        "WRONGTYPE" => Cause::Damaged(format!("its key holds something else ({message})")),
        _ if IN_SCRIPTS.iter().any(|said| message.contains(said)) => Cause::Permission(message),
        _ if error.details().is_some_and(is_unknown_command) => Cause::MissingCommand(message),
        _ => Cause::Server(message),
    }
}

/// Whether servers and proxies say this of a command that they don't have.
fn is_unknown_command(details: &str) -> bool {
    let details = details.to_ascii_lowercase();
    ["unknown command", "unsupported command"].iter().any(|said| details.starts_with(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_may_not_do_is_a_matter_of_access_rules_on_every_server() {
        for said in [
            // Redis 7.0; Valkey 8.0, also when the script passes it on.
            "-ERR The user executing the script can't run this command or subcommand\r\n",
            "-NOPERM ACL failure in script: User some has no permissions to run the 'sdiff' command\r\n",
            "-ERR ACL failure in script: User some has no permissions to run the 'sdiff' command\r\n",
        ] {
            let error = checked(redis::parse_redis_value(said.as_bytes()).unwrap()).unwrap_err();
            assert!(matches!(error.cause, Cause::Permission(_)), "{said}");
        }
    }
}
