//! The replicas of a database: those that connections name, which are looked at once, or those
//! that the primary has.
//!
//! What a replica says is believed only as far as it is of the primary's history, so that a wrong
//! one can do no harm. Here it is told to whoever named it, since it would be of no use either.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config;
use crate::config::Config;
use crate::database::Database;
use crate::model::error::{Cause, Result};
use crate::process::sync::Mutex;
use crate::reading::read_server::Source;
use crate::store::redis::base::RedisStore;
use crate::store::redis::keys::Keys;
use crate::wire::info::{info, info_field};
use crate::wire::request::Request;
use crate::wire::server::Server;
use crate::wire::servers;

/// How long it is remembered which replicas the primary has.
const LOOK: Duration = Duration::from_secs(5);

/// Replicas of one database that are remembered although nobody reads from them.
const MOST_KNOWN: usize = 256;

/// Those that a process knows.
#[derive(Default)]
pub(crate) struct Replicas {
    /// By their settings.
    known: Mutex<HashMap<String, Arc<Source>>>,
    /// Those that the primary has, and when it was asked.
    found: Mutex<(Option<Instant>, Vec<Arc<Source>>)>,
}

impl Replicas {
    /// Those that a connection with these settings reads from now.
    ///
    /// # Errors
    /// One that was named is not a replica of the primary, or does not let itself be read.
    pub(crate) fn of(&self, database: &Database, config: &Config, name: &str) -> Result<Vec<Arc<Source>>> {
        let Some(primary) = database.server() else { return Ok(Vec::new()) };
        match &config.replicas {
            config::Replicas::Named(named) => {
                named.iter().map(|address| self.source(&config.of_replica(address), name, Some(primary))).collect()
            }
            config::Replicas::Auto => Ok(self.auto(primary, config, name)),
        }
    }

    /// Those that the primary has. While one connection asks, others go on with what is known.
    fn auto(&self, primary: &Server, config: &Config, name: &str) -> Vec<Arc<Source>> {
        let mut found = self.found.lock();
        if found.0.is_some_and(|asked| asked.elapsed() < LOOK) {
            return found.1.clone();
        }
        found.0 = Some(Instant::now());
        drop(found);
        let asked = primary.replication().and_then(|replication| {
            let online = replication.replicas.into_iter().filter(|replica| replica.online);
            online.map(|replica| self.source(&config.of_replica(&replica.address), name, None)).collect()
        });
        let mut found = self.found.lock();
        match asked {
            Ok(sources) => found.1 = sources,
            // It may be away, while its replicas serve.
            Err(error) => {
                crate::process::log::log(&format!("the replicas of {}: {}", config.server_name(), error.cause))
            }
        }
        found.1.clone()
    }

    /// The replica of these settings. If it is only said to be one of that primary, it is looked at
    /// when it is named first.
    fn source(&self, config: &Config, name: &str, primary: Option<&Server>) -> Result<Arc<Source>> {
        let key = config.server_key();
        if let Some(replica) = self.known.lock().get(&key) {
            return Ok(replica.clone());
        }
        let server = servers::server(config, &Keys::new(&config.prefix, name).hash);
        let redis = RedisStore::new(server.clone(), config, name);
        let source = Source::new(config.server_name(), Arc::new(redis.clone()), false);
        if let Some(primary) = primary {
            look_at(&source, &redis, primary, &server)?;
        }
        let mut known = self.known.lock();
        // A primary may have others each time.
        if known.len() >= MOST_KNOWN {
            known.retain(|_, source| Arc::strong_count(source) > 1);
        }
        Ok(known.entry(key).or_insert_with(|| Arc::new(source)).clone())
    }
}

/// Refuses what is not a replica of the primary, or does not let itself be read. One that is away,
/// or busy with its data, is left alone for a while.
fn look_at(source: &Source, redis: &RedisStore, primary: &Server, replica: &Server) -> Result<()> {
    let unfit = |reason: String| Cause::UnfitReplica { server: source.name.clone(), reason }.into();
    match redis.open(&[], &[]).and_then(|_| Ok((role(primary)?, role(replica)?))) {
        Ok((Some(primary), Some(replica))) => stranger(&primary, &replica).map_or(Ok(()), |reason| Err(unfit(reason))),
        // Access rules forbid to ask.
        Ok(_) => Ok(()),
        Err(error) if error.cause.is_absence() => {
            source.failed(&error);
            Ok(())
        }
        Err(error) => Err(unfit(error.cause.to_string())),
    }
}

/// What `INFO replication` says of a server.
#[derive(Debug, PartialEq, Eq)]
struct Role {
    is_replica: bool,
    /// Whether it is in step with the server that it replicates.
    linked: bool,
    /// The server that it replicates.
    of: String,
    /// Names what is replicated; the same on a primary and on all its replicas.
    stream: String,
    /// What it replicated before it was made a primary.
    earlier_stream: String,
}

fn role(server: &Server) -> Result<Option<Role>> {
    let mut replies = server.ask(&Request::one(redis::cmd("INFO").arg("replication")))?;
    Ok(info(replies.pop())?.as_deref().and_then(parse_role))
}

fn parse_role(text: &str) -> Option<Role> {
    let field = |name| info_field(Some(text), name).unwrap_or_default();
    Some(Role {
        is_replica: info_field(Some(text), "role")? == "slave",
        linked: field("master_link_status") == "up",
        of: format!("{}:{}", field("master_host"), field("master_port")),
        stream: info_field(Some(text), "master_replid")?.to_owned(),
        earlier_stream: field("master_replid2").to_owned(),
    })
}

/// Why a server is no replica of the primary, if that is certain. While servers change their
/// roles it is not.
fn stranger(primary: &Role, replica: &Role) -> Option<String> {
    if primary.is_replica || replica.stream == primary.stream || replica.earlier_stream == primary.stream {
        return None;
    }
    match (replica.is_replica, replica.linked) {
        (true, true) => Some(format!("it is a replica of {}, which is another primary", replica.of)),
        (true, false) => None,
        (false, _) => Some("it is not a replica".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(role: &str, link: &str, stream: &str, earlier: &str) -> Role {
        parse_role(&format!(
            "# Replication\r\nrole:{role}\r\nmaster_host:h\r\nmaster_port:1\r\nmaster_link_status:{link}\r\n\
             master_replid:{stream}\r\nmaster_replid2:{earlier}\r\n"
        ))
        .unwrap()
    }

    #[test]
    fn only_what_is_certainly_no_replica_is_refused() {
        let primary = role("master", "", "a", "0");
        for fit in [
            role("slave", "up", "a", "0"),
            role("slave", "down", "b", "0"),
            role("master", "", "a", "0"),
            role("master", "", "b", "a"),
        ] {
            assert_eq!(stranger(&primary, &fit), None, "{fit:?}");
        }
        let other = stranger(&primary, &role("slave", "up", "b", "0")).unwrap();
        assert!(other.contains("a replica of h:1"), "{other}");
        assert!(stranger(&primary, &role("master", "", "b", "0")).is_some());
        assert_eq!(stranger(&role("slave", "up", "b", "0"), &role("slave", "up", "a", "0")), None, "a failover");
        assert_eq!(parse_role("nothing"), None);
    }
}
