//! Per-process state: the fork generation, and state that a forked child must not share.

pub(crate) mod fault;
pub(crate) mod generation;
pub(crate) mod log;
mod per_process;
pub(crate) mod sync;

pub(crate) use crate::process::per_process::PerProcess;
