//! What a table keeps in Redis: its keys, rows as hashes, indexes.

pub(crate) mod index;
pub(crate) mod keys;
pub(crate) mod replies;
pub(crate) mod row;
