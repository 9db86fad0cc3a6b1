//! `status`: the server of a database, its replicas, and their lag.

use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use sqlite_redis::admin::{ReplicaState, ReplicaStatus, Status};

use crate::admin::{holder, lease, table};
use crate::database::Server;
use crate::{database, shown, signals};

/// The interval of `--watch`.
const PERIOD: Duration = Duration::from_secs(1);

/// Prints the status once.
pub fn status(server: &Server, name: &str, as_json: bool) -> Result<()> {
    let status = look(server, name)?;
    let text = if as_json { shown::json(&serde_json::to_string_pretty(&to_json(&status))?) } else { as_text(&status) };
    crate::admin::print(&text)
}

/// Prints the status repeatedly, until a signal or a closed pipe.
pub fn watch(server: &Server, name: &str, as_json: bool) -> Result<()> {
    // On a terminal, each status replaces the one before.
    let clear = if stdout().is_terminal() && !as_json { "\x1b[H\x1b[2J" } else { "" };
    while signals::ending().is_none() {
        let text = match look(server, name) {
            Ok(status) if as_json => shown::json(&to_json(&status).to_string()),
            Ok(status) => as_text(&status),
            Err(error) if as_json => json!({ "name": name, "error": database::describe(&error) }).to_string(),
            Err(error) => format!("Error: {}", database::describe(&error)),
        };
        match writeln!(stdout(), "{clear}{text}") {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        let mut waited = Duration::ZERO;
        while waited < PERIOD && signals::ending().is_none() {
            sleep(PERIOD / 20);
            waited += PERIOD / 20;
        }
    }
    Ok(())
}

fn look(server: &Server, name: &str) -> Result<Status> {
    server.admin()?.status(name)?.ok_or_else(|| server.missing(name))
}

fn as_text(status: &Status) -> String {
    let head = ["SERVER", "VERSION", "BEHIND", "FOR", "ROLE"].map(str::to_owned);
    let role = if status.is_replica { "replica" } else { "primary" };
    let server = [&status.server, &status.version.to_string(), "-", "-", role].map(str::to_owned);
    let replicas = status.replicas.iter().map(row);
    let rows: Vec<_> = [head, server].into_iter().chain(replicas).collect();
    format!("{}\nlease: {}", table(&rows), lease(status.lease.as_ref()))
}

fn row(replica: &ReplicaStatus) -> [String; 5] {
    let unknown = || "-".to_owned();
    let (version, behind, time, role) = match &replica.state {
        ReplicaState::Has { version, behind, behind_ms } => {
            let time = behind_ms.map_or_else(unknown, |ms| format!("{ms} ms"));
            (version.to_string(), behind.to_string(), time, "replica".to_owned())
        }
        ReplicaState::AnotherHistory { version } => {
            (version.to_string(), unknown(), unknown(), "replica, of another history".to_owned())
        }
        ReplicaState::Unknown(error) => (unknown(), unknown(), unknown(), format!("replica: {}", error.cause)),
        _ => (unknown(), unknown(), unknown(), "replica".to_owned()),
    };
    [replica.server.clone(), version, behind, time, role]
}

fn to_json(status: &Status) -> Value {
    let replica = |replica: &ReplicaStatus| match &replica.state {
        ReplicaState::Has { version, behind, behind_ms } => {
            json!({ "server": replica.server, "version": version, "behind": behind, "behind_ms": behind_ms })
        }
        ReplicaState::AnotherHistory { version } => {
            json!({ "server": replica.server, "version": version, "another_history": true })
        }
        ReplicaState::Unknown(error) => json!({ "server": replica.server, "error": error.cause.to_string() }),
        _ => json!({ "server": replica.server }),
    };
    json!({
        "name": status.name,
        "server": status.server,
        "role": if status.is_replica { "replica" } else { "primary" },
        "version": status.version,
        "replicas": status.replicas.iter().map(replica).collect::<Vec<_>>(),
        "lease": holder(status.lease.as_ref()),
    })
}
