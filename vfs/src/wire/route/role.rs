//! Checks the role of a server at a fixed address. During a failover or after a restart, a name may lead to a
//! replica. Its data may be old, so it must not be taken for the primary.

use redis::{Role, Value, cmd};

use crate::config::endpoint::{Endpoint, host_and_port};
use crate::model::error::{Cause, Result};
use crate::wire::connection::Wire;
use crate::wire::reply::text;
use crate::wire::route::{Hello, Times, connect_cause};

/// The state of a replica whose link to the primary is up, in `ROLE`.
const IN_STEP: &str = "connected";

/// A connection to a primary or, with `any_role`, also to a replica that has data. Where access rules forbid `ROLE`,
/// the server is trusted to have the right role.
pub(crate) fn connect(endpoint: &Endpoint, any_role: bool, times: &Times) -> Result<Wire> {
    let hello = Hello { role: true, ..Hello::default() };
    let (mut wire, role) = crate::wire::route::connect(endpoint, hello, times)?;
    match role {
        None | Some(Role::Primary { .. }) => Ok(wire),
        Some(Role::Replica { primary_ip, primary_port, replication_state, .. }) => {
            let primary = host_and_port(&primary_ip, primary_port);
            // A replica before its first synchronisation looks like an empty server.
            if replication_state != IN_STEP && is_empty(&mut wire)? {
                return Err(Cause::Loading(format!("it is a replica of {primary} and has got no data yet")).into());
            }
            if any_role { Ok(wire) } else { Err(Cause::IsReplica(primary).into()) }
        }
        Some(_) => {
            Err(Cause::Unreachable("it is a Sentinel, to be named as sentinel://SERVICE@host:port".to_owned()).into())
        }
    }
}

/// Whether the server holds no keys in any database.
fn is_empty(wire: &mut Wire) -> Result<bool> {
    match cmd("INFO").arg("keyspace").query::<Value>(wire) {
        Ok(info) => Ok(text(&info).is_some_and(|info| !info.lines().any(|line| line.starts_with("db")))),
        // `INFO` is forbidden, or the server is loading.
        Err(error) if error.code().is_some() => match connect_cause(error) {
            Cause::Loading(message) => Err(Cause::Loading(message).into()),
            _ => Ok(false),
        },
        Err(error) => Err(connect_cause(error).into()),
    }
}
