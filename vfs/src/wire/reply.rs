//! Takes replies apart. A reply of the wrong shape is an error.

use std::fmt::{self, Write};

use redis::{ServerError, Value};

use crate::model::error::{Cause, Result};
use crate::model::secret::hide_secrets;

/// The text of a reply, if it has any.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        _ => None,
    }
}

/// The beginning of a text. The whole reply may have gigabytes.
struct Short(String);

impl Short {
    /// In bytes.
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

/// The error for a reply of the wrong shape. It shows the beginning of the reply.
pub(crate) fn bad_reply(command: &str, value: &Value) -> Cause {
    Cause::BadReply(answered_with(command, value))
}

/// The message of that error.
pub(crate) fn answered_with(command: &str, value: &Value) -> String {
    let mut shown = Short(String::new());
    // `write!` fails where the text is cut, which is intended.
    let _ = write!(shown, "{value:?}");
    let Short(shown) = shown;
    format!("{command} was answered with {shown}")
}

/// The items of an array reply, or an error.
pub(crate) fn array(command: &str, value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(bad_reply(command, &other).into()),
    }
}

/// Turns an error reply into an error.
pub(crate) fn checked(reply: Value) -> Result<Value> {
    match reply {
        Value::ServerError(error) => Err(server_cause(&error).into()),
        value => Ok(value),
    }
}

/// The text of an error reply, without secrets.
pub(super) fn message(error: &ServerError) -> String {
    match error.details() {
        Some(details) => hide_secrets(&format!("{} {details}", error.code())),
        None => error.code().to_owned(),
    }
}

/// Messages for a script that calls a command forbidden to its user. They have no error code of their own.
const IN_SCRIPTS: [&str; 2] = ["user executing the script can't run", "ACL failure in script"];

/// The cause that an error reply stands for.
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

/// Whether the details of an error reply say that the command is unknown. Servers and proxies word it differently.
fn is_unknown_command(details: &str) -> bool {
    let details = details.to_ascii_lowercase();
    ["unknown command", "unsupported command"].iter().any(|said| details.starts_with(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_forbidden_in_a_script_is_a_permission_error_on_every_server() {
        for said in [
            // The first is Redis 7.0. The others are Valkey 8.0: directly, and passed on by the script.
            "-ERR The user executing the script can't run this command or subcommand\r\n",
            "-NOPERM ACL failure in script: User some has no permissions to run the 'sdiff' command\r\n",
            "-ERR ACL failure in script: User some has no permissions to run the 'sdiff' command\r\n",
        ] {
            let error = checked(redis::parse_redis_value(said.as_bytes()).unwrap()).unwrap_err();
            assert!(matches!(error.cause, Cause::Permission(_)), "{said}");
        }
    }
}
