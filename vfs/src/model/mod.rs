//! The types that all other modules use: versions, pages, log entries, errors. Imports nothing of the crate.

pub(crate) mod delta;
pub(crate) mod error;
pub(crate) mod header;
pub(crate) mod log_entry;
pub(crate) mod page;
pub(crate) mod page_encoding;
pub(crate) mod secret;
pub(crate) mod undo;
mod unique;
pub(crate) mod version;

pub(crate) use crate::model::unique::unique;
