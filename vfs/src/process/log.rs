//! Messages for SQLite's error log (<https://sqlite.org/errlog.html>).

use std::ffi::c_int;
use std::sync::OnceLock;

use crate::model::secret::hide_secrets;

/// `SQLITE_WARNING`
const WARNING: c_int = 28;

/// Writes a message under a result code.
pub(crate) type Sink = fn(c_int, &str);

static SINK: OnceLock<Sink> = OnceLock::new();

/// Sets the destination of messages. Only the first call has an effect.
pub(crate) fn set_sink(sink: Sink) {
    let _ = SINK.set(sink);
}

/// Writes a warning.
pub(crate) fn log(message: &str) {
    log_as(WARNING, message);
}

/// Writes a message under a result code, without secrets.
pub(crate) fn log_as(code: c_int, message: &str) {
    if let Some(sink) = SINK.get() {
        sink(code, &hide_secrets(message));
    }
}
