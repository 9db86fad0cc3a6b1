//! Calls down into SQLite: its functions, its values, a fork in the middle of them.

pub(crate) mod interrupt;
pub(crate) mod api;
pub(crate) mod fork;
pub(crate) mod memory;
pub(crate) mod value;
