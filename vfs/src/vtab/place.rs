//! The server of a table: found, and found again when it has moved.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{ConnectionAddr, Value, cmd};

use super::address::Address;
use crate::config::Config;
use crate::error::{Cause, Error, Result};
use crate::process::Process;
use crate::store::protocol::{array, bad_reply, text};
use crate::store::server::{Request, Server, checked};

/// How long a question waits for a new primary.
const FAILOVER: Duration = Duration::from_secs(5);

/// See the [module](self).
pub(crate) struct Place {
    address: Address,
    current: Mutex<Option<(Arc<Server>, String)>>,
}

impl Place {
    pub(crate) fn new(address: Address) -> Self {
        Place { address, current: Mutex::default() }
    }

    /// What tells it from other places; without passwords.
    pub(crate) fn name(&self) -> String {
        match &self.address {
            Address::Server(config) => config.server_name(),
            Address::Sentinels { service, sentinels } => {
                let names: Vec<String> = sentinels.iter().map(Config::server_name).collect();
                format!("sentinel {service} of {}", names.join(" "))
            }
        }
    }

    /// What makes two places interchangeable: passwords included.
    pub(crate) fn key(&self) -> String {
        match &self.address {
            Address::Server(config) => config.server_key(),
            Address::Sentinels { service, sentinels } => {
                let keys: Vec<String> = sentinels.iter().map(Config::server_key).collect();
                format!("sentinel {service} {}", keys.join(" "))
            }
        }
    }

    /// The server as it is known, or looked for.
    pub(crate) fn server(&self) -> Result<Arc<Server>> {
        let mut current = self.current.lock();
        if let Some((server, _)) = &*current {
            return Ok(server.clone());
        }
        let config = match &self.address {
            Address::Server(config) => (**config).clone(),
            Address::Sentinels { service, sentinels } => primary(service, sentinels)?,
        };
        let server = Process::current().server(&config)?;
        *current = Some((server.clone(), config.server_name()));
        Ok(server)
    }

    /// Sends commands that may be sent twice; see [`Server::ask`]. Errors among the replies are
    /// failures. A server that has moved is looked for once, or with sentinels for as long as a
    /// failover may take.
    pub(crate) fn ask(&self, request: &Request) -> Result<Vec<Value>> {
        let deadline = Instant::now() + FAILOVER;
        let mut pause = Duration::from_millis(20);
        let mut outcome = self.try_ask(request);
        while let Err(error) = &outcome
            && self.has_moved(error)
        {
            outcome = self.try_ask(request);
            if !matches!(self.address, Address::Sentinels { .. }) || Instant::now() + pause > deadline {
                break;
            }
            if outcome.is_err() {
                sleep(pause);
                pause *= 2;
            }
        }
        outcome
    }

    fn try_ask(&self, request: &Request) -> Result<Vec<Value>> {
        let server = self.server()?;
        server.ask(request)?.into_iter().map(checked).collect()
    }

    /// Whether a failure may be over when the server is looked for again. Forgets it then.
    pub(crate) fn has_moved(&self, error: &Error) -> bool {
        let elsewhere = match (&error.cause, &self.address) {
            (Cause::Server(message), Address::Server(config)) => match moved_to(message, config) {
                Some(config) => Some(config),
                None => return false,
            },
            (
                Cause::Unreachable(_) | Cause::ConnectionLost(_) | Cause::ReadOnlyServer(_),
                Address::Sentinels { .. },
            ) => None,
            _ => return false,
        };
        let mut current = self.current.lock();
        *current = None;
        if let Some(config) = elsewhere {
            match Process::current().server(&config) {
                Ok(server) => *current = Some((server, config.server_name())),
                Err(_) => return false,
            }
        }
        true
    }
}

/// The address in `MOVED 3999 127.0.0.1:6381`, the answer of a cluster's node about a key that
/// another node has.
fn moved_to(message: &str, config: &Config) -> Option<Config> {
    let mut words = message.strip_prefix("MOVED ")?.split(' ');
    let (host, port) = words.nth(1)?.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = host.to_owned();
    let address = match config.server.addr() {
        ConnectionAddr::Tcp(known, _) => ConnectionAddr::Tcp(if host.is_empty() { known.clone() } else { host }, port),
        ConnectionAddr::TcpTls { host: known, insecure, tls_params, .. } => ConnectionAddr::TcpTls {
            host: if host.is_empty() { known.clone() } else { host },
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    let mut moved = config.clone();
    moved.server = moved.server.set_addr(address);
    Some(moved)
}

/// Asks the sentinels, one after the other, for the primary; believes it when the server agrees
/// (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
fn primary(service: &str, sentinels: &[Config]) -> Result<Config> {
    let mut failures = Vec::new();
    for sentinel in sentinels {
        match ask_sentinel(service, sentinel) {
            Ok(config) => return Ok(config),
            Err(error) => failures.push(format!("{}: {}", sentinel.server_name(), error.cause)),
        }
    }
    Err(Cause::Unreachable(format!("no sentinel leads to the primary of `{service}`: {}", failures.join("; "))).into())
}

fn ask_sentinel(service: &str, sentinel: &Config) -> Result<Config> {
    let process = Process::current();
    let question = Request::one(cmd("SENTINEL").arg("get-master-addr-by-name").arg(service));
    let reply = process.server(sentinel)?.ask(&question)?.pop().unwrap_or_default();
    let reply = checked(reply)?;
    if reply == Value::Nil {
        return Err(Cause::Server(format!("it knows no service `{service}`")).into());
    }
    let parts: Vec<String> = array("SENTINEL", reply)?.iter().filter_map(text).collect();
    let [host, port] = parts.as_slice() else {
        return Err(Cause::BadReply("SENTINEL get-master-addr-by-name".into()).into());
    };
    let port = port.parse().map_err(|_| Cause::BadReply(format!("SENTINEL answered the port {port}")))?;
    let mut config = sentinel.clone();
    config.server = config.server.set_addr(ConnectionAddr::Tcp(host.clone(), port));
    let reply = checked(process.server(&config)?.ask(&Request::one(&cmd("ROLE")))?.pop().unwrap_or_default())?;
    match array("ROLE", reply)?.first().and_then(text).as_deref() {
        Some("master") => Ok(config),
        Some(role) => {
            Err(Cause::ReadOnlyServer(format!("{} is a {role}, not yet the primary", config.server_name())).into())
        }
        None => Err(bad_reply("ROLE", &Value::Nil).into()),
    }
}
