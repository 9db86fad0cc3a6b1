//! Fields of `INFO`, and the checks that a server can keep a database safely.

use redis::Value;

use crate::model::error::{Cause, Result};
use crate::wire::reply::{checked, text};

/// The text of an `INFO` reply. `None` where access rules forbid the command.
pub(crate) fn info(reply: Option<Value>) -> Result<Option<String>> {
    match reply.map(checked) {
        Some(Ok(value)) => Ok(text(&value)),
        Some(Err(error)) if error.cause.is_refusal() => Ok(None),
        Some(Err(error)) => Err(error),
        None => Ok(None),
    }
}

/// One field of an `INFO` text.
pub(crate) fn info_field<'a>(info: Option<&'a str>, field: &str) -> Option<&'a str> {
    info?.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
}

pub(crate) fn check_version(info: Option<&str>) -> Result<()> {
    let Some(version) = info_field(info, "redis_version") else { return Ok(()) };
    if version_of(version) < (6, 2) {
        return Err(Cause::ServerTooOld(version.to_owned()).into());
    }
    Ok(())
}

/// The first two numbers of a version, such as 7.0.
pub(crate) fn version_of(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Policies `allkeys-*` may evict any key. Policies `volatile-*` evict only keys with a time to live: of a database
/// that is the lease, and a commit notices its loss.
pub(crate) fn check_policy(info: Option<&str>) -> Result<()> {
    match info_field(info, "maxmemory_policy") {
        Some(policy) if policy.starts_with("allkeys") => Err(Cause::Eviction(policy.to_owned()).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_that_can_drop_pages_are_refused() {
        for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random"] {
            assert!(check_policy(Some(&format!("x:1\r\nmaxmemory_policy:{policy}\r\n"))).is_err());
        }
        for policy in ["noeviction", "volatile-lru", "volatile-ttl"] {
            assert!(check_policy(Some(&format!("maxmemory_policy:{policy}\r\n"))).is_ok());
        }
        assert!(check_policy(None).is_ok(), "not allowed to ask");
    }

    #[test]
    fn old_servers_are_refused() {
        for (version, ok) in [("6.0.16", false), ("5.0.0", false), ("6.2.0", true), ("7.0.15", true), ("8.4", true)] {
            assert_eq!(check_version(Some(&format!("redis_version:{version}\r\n"))).is_ok(), ok, "{version}");
        }
    }
}
