//! Calls into SQLite: its functions, values, interrupts, and its mutexes during a fork. The only unsafe code outside of
//! `ffi`.

pub(crate) mod interrupt;
pub(crate) mod api;
pub(crate) mod fork;
pub(crate) mod memory;
pub(crate) mod value;
