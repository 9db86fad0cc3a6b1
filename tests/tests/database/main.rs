//! SQL has the same effect on a database in Redis as on a file.

mod attach;
mod backup;
mod chinook;
mod compression;
mod corpus;
mod disk_full;
mod error_log;
mod features;
mod journal_modes;
mod model;
mod pending_byte;
mod smoke;
mod transactions;
mod vacuum;
