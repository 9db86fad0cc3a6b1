//! Where a database is: its server, the replicas of that, and how far each of them is.

use std::collections::HashMap;
use std::time::Instant;

use redis::{FromRedisValue, Value, cmd};

use crate::admin::{Admin, Holder, holder, snapshot_command};
use crate::config::Config;
use crate::model::error::{Cause, Error, Result};
use crate::model::version::Snapshot;
use crate::store::redis::keys;
use crate::store::redis::keys::{Keys, log};
use crate::store::redis::replies;
use crate::wire::discovery::Replica;
use crate::wire::reply::array;
use crate::wire::reply::checked;
use crate::wire::request::Request;
use crate::wire::server::Server;
use crate::wire::servers;

/// Where a database is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Host and port of its server, or the path of the socket.
    pub server: String,
    /// Whether that is a replica itself.
    pub is_replica: bool,
    /// Number of the last commit there.
    pub version: u64,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Who holds the write lease, if anyone does.
    pub lease: Option<Holder>,
}

/// A replica, and how far it is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReplicaStatus {
    /// Host and port.
    pub server: String,
    /// What it has of the database.
    pub state: ReplicaState,
}

/// What a replica has of a database.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ReplicaState {
    /// One of its versions.
    Has {
        /// Number of the last commit there.
        version: u64,
        /// Commits that it lacks.
        behind: u64,
        /// For how long it has lacked the first of them, in milliseconds: from the time that its
        /// writer put into the log to now, as the primary's clock has it. `None` when the log does
        /// not reach back so far.
        behind_ms: Option<u64>,
    },
    /// A version that is none of the primary's.
    AnotherHistory {
        /// Number of the last commit there.
        version: u64,
    },
    /// It can't be asked, or has no such database.
    Unknown(Error),
}

impl Admin {
    /// Where a database is, or `None` if there is none of this name.
    ///
    /// # Errors
    /// The server can't be asked, or what it has under this name is damaged.
    pub fn status(&self, name: &str) -> Result<Option<Status>> {
        self.at(name, self.look(name))
    }

    fn look(&self, name: &str) -> Result<Option<Status>> {
        let keys = self.keys(name)?;
        let server = self.server(&keys);
        // First, so that what they have is never newer than what the server has.
        let replication = server.replication()?;
        let deadline = Instant::now() + self.config.timeout;
        let at = |one| if Instant::now() < deadline { self.at_replica(one, &keys) } else { Err(Cause::NoReply.into()) };
        let replicas: Vec<_> = replication.replicas.iter().map(|one| (one, at(one))).collect();
        let mut request = Request::default();
        request.push(&snapshot_command(&keys));
        request.push(cmd("GET").arg(&keys.lock));
        request.push(cmd("PTTL").arg(&keys.lock));
        let mut replies = server.ask(&request)?.into_iter().map(checked);
        let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
        let (now, _) = replies::snapshot(&array("HMGET", next()?)?)?;
        if now == Snapshot::EMPTY {
            return Ok(None);
        }
        let lease = holder(&next()?, &next()?);
        let state = |found: Result<Snapshot>| match found.and_then(|found| compare(&server, &keys, &found, &now)) {
            Ok(state) => state,
            Err(error) => ReplicaState::Unknown(error),
        };
        let replicas = replicas
            .into_iter()
            .map(|(one, found)| ReplicaStatus { server: one.place.clone(), state: state(found) })
            .collect();
        Ok(Some(Status {
            name: keys::database_name(name)?.to_owned(),
            server: server.route().server().unwrap_or_else(|| self.server_name()),
            is_replica: replication.is_replica,
            version: now.version.0,
            replicas,
            lease,
        }))
    }

    fn at_replica(&self, replica: &Replica, keys: &Keys) -> Result<Snapshot> {
        if !replica.online {
            return Err(Cause::Loading("it is getting its first copy".into()).into());
        }
        let config = Config { server: replica.address.clone(), ..self.config.clone() };
        let server = servers::server(&config, &keys.hash);
        let reply = server.ask(&Request::one(&snapshot_command(keys)))?.pop().unwrap_or_default();
        match replies::snapshot(&array("HMGET", checked(reply)?)?)? {
            (Snapshot::EMPTY, _) => Err(Cause::Missing.into()),
            (found, _) => Ok(found),
        }
    }
}

/// How far `found` is behind `now`.
fn compare(server: &Server, keys: &Keys, found: &Snapshot, now: &Snapshot) -> Result<ReplicaState> {
    let version = found.version.0;
    if found.identity() == now.identity() {
        return Ok(ReplicaState::Has { version, behind: 0, behind_ms: Some(0) });
    }
    if found.version >= now.version {
        return Ok(ReplicaState::AnotherHistory { version });
    }
    let mut request = Request::default();
    let next = format!("{}-0", found.version.next());
    request.push(cmd("XRANGE").arg(&keys.log).arg(&next).arg(&next));
    request.push(&cmd("TIME"));
    let mut replies = server.ask(&request)?.into_iter();
    let mut next = || checked(replies.next().unwrap_or_default());
    let entries: Vec<(String, HashMap<String, Vec<u8>>)> = read(next()?)?;
    let (seconds, microseconds): (u64, u64) = read(next()?)?;
    let behind = now.version.0 - version;
    let Some((_, entry)) = entries.first() else {
        return Ok(ReplicaState::Has { version, behind, behind_ms: None });
    };
    let field = |name| entry.get(name).and_then(|value| std::str::from_utf8(value).ok());
    if field(log::BASE) != Some(&found.commit.to_string()) {
        return Ok(ReplicaState::AnotherHistory { version });
    }
    let made: Option<u64> = field(log::TIME).and_then(|time| time.parse().ok());
    let behind_ms =
        made.map(|made| seconds.saturating_mul(1000).saturating_add(microseconds / 1000).saturating_sub(made));
    Ok(ReplicaState::Has { version, behind, behind_ms })
}

fn read<T: FromRedisValue>(reply: Value) -> Result<T> {
    redis::from_redis_value(reply).map_err(|error| Cause::BadReply(error.to_string()).into())
}
