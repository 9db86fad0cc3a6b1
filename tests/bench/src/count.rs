//! The cost of an operation apart from time: round trips, commands, bytes, and CPU time of the server.

use anyhow::Result;
use serde::Serialize;

use crate::servers::Servers;
use crate::setting::Setting;
use crate::system::System;
use crate::workload::{Session, Workload};

/// Number of operations that are averaged.
const OPERATIONS: u64 = 20;

/// Averages for one operation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PerOp {
    pub trips: f64,
    pub sent: f64,
    pub received: f64,
    /// Commands that Redis carried out.
    pub commands: Option<f64>,
    /// Time that Redis spent in these commands, in microseconds. It bounds the throughput of one server.
    pub server_us: Option<f64>,
}

/// Runs some operations of a session that goes through a relay, and averages their costs.
///
/// # Errors
/// An operation fails, or the server does not answer.
pub fn per_op(workload: &Workload, session: &mut Session, servers: &Servers) -> Result<PerOp> {
    let counters = if session.system.asks_redis() { &servers.redis_counters } else { &servers.postgres_counters };
    workload.before(session)?;
    for _ in 0..3 {
        workload.op(session)?;
    }
    let mut redis = servers.places.redis(System::Redis, Setting::OneCore)?;
    let (counts, commands) = (counters.counts(), commands(&mut redis)?);
    for _ in 0..OPERATIONS {
        workload.op(session)?;
    }
    let (counts_after, commands_after) = (counters.counts(), self::commands(&mut redis)?);
    workload.after(session)?;
    let each = |before: u64, after: u64| (after - before) as f64 / OPERATIONS as f64;
    let asks = session.system.asks_redis();
    Ok(PerOp {
        trips: each(counts.trips, counts_after.trips),
        sent: each(counts.sent, counts_after.sent),
        received: each(counts.received, counts_after.received),
        commands: asks.then(|| each(commands.0, commands_after.0)),
        server_us: asks.then(|| each(commands.1, commands_after.1)),
    })
}

/// Number of commands so far, and the microseconds spent in them.
fn commands(redis: &mut redis::Connection) -> Result<(u64, u64)> {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(redis)?;
    let mut sum = (0, 0);
    for line in stats.lines() {
        let Some((command, rest)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':')) else {
            continue;
        };
        let number = |name: &str| {
            let value = rest.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
        };
        // The benchmark itself sends INFO. The time of EXEC already counts in the commands within it.
        if command != "info" {
            sum.0 += number("calls");
            sum.1 += if command == "exec" { 0 } else { number("usec") };
        }
    }
    Ok(sum)
}
