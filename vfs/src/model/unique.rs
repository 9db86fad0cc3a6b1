//! Unique random numbers, for commit ids and tokens.

use rand::TryRng;
use rand::rngs::SysRng;

use crate::model::error::{Cause, Result};

/// Draws 64 random bits from the operating system. A generator in the process's memory would repeat its numbers in a
/// forked child.
pub(crate) fn unique() -> Result<u64> {
    SysRng.try_next_u64().map_err(|error| Cause::Host(format!("the system gives no random numbers: {error}")).into())
}
