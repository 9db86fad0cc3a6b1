//! Replies, taken apart. A reply of the wrong shape is an error.

use std::fmt::{self, Write};

use redis::Value;

use crate::model::error::{Cause, Result};

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
