//! Calls down into SQLite: its functions, its values, its mutexes at a fork, its interrupts. Besides `ffi`, the only unsafe code.

pub(crate) mod interrupt;
pub(crate) mod api;
pub(crate) mod fork;
pub(crate) mod memory;
pub(crate) mod value;
