//! The server of a table.

use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use redis::{Value, cmd};

use crate::config::{Address, Config};
use crate::model::error::{Cause, During, Error, Result, code, sqlite_code};
use crate::sqlite::interrupt;
use crate::vtab::layout::keys::shown;
use crate::wire::reply::checked;
use crate::wire::reply::text;
use crate::wire::request::Request;
use crate::wire::server::{Asked, Server};
use crate::wire::servers;

/// See the [module](self).
pub(crate) struct Place {
    config: Config,
    /// What decides the slot in a Cluster: the hash tag of the keys, or all of a key without one.
    tag: String,
    /// The same place as that of a Cluster, if a node of one was named by itself.
    cluster: OnceLock<Option<Config>>,
    /// Rows are kept there, so servers that may drop keys are refused.
    keeps_rows: bool,
    /// How long to wait for a server that is busy.
    patience: Option<Patience>,
}

/// The busy timeout of a connection as it is now; `None` when it can't be had, as after `sqlite3_interrupt`.
pub(crate) type Patience = Rc<dyn Fn() -> Option<Duration>>;

impl Place {
    /// Where keys like this one are.
    pub(crate) fn new(config: Config, key: &str) -> Self {
        let tag = hash_tag(key).unwrap_or(key).to_owned();
        Place { config, tag, cluster: OnceLock::new(), keeps_rows: false, patience: None }
    }

    /// Where a table's keys are, which all begin with this.
    pub(crate) fn of_table(config: Config, base: &str, patience: Patience) -> Self {
        Place { keeps_rows: true, patience: Some(patience), ..Place::new(config, base) }
    }

    /// Its address, without passwords.
    pub(crate) fn name(&self) -> String {
        self.config.server_name()
    }

    /// The server. Tables on one server have the same; in a Cluster, tables of one hash tag.
    pub(crate) fn server(&self) -> Result<Arc<Server>> {
        let named = match self.cluster.get() {
            Some(Some(cluster)) => cluster,
            Some(None) => &self.config,
            None => {
                let cluster = self.cluster_of_node(&servers::server(&self.config, &self.tag))?;
                self.cluster.get_or_init(|| cluster).as_ref().unwrap_or(&self.config)
            }
        };
        Ok(servers::server(named, &self.tag))
    }

    /// The server, once it is known to be fit to keep rows.
    pub(crate) fn fit_server(&self) -> Result<Arc<Server>> {
        let server = self.server()?;
        if self.keeps_rows {
            server.check()?;
        }
        Ok(server)
    }

    /// A node of a Cluster knows the others.
    fn cluster_of_node(&self, server: &Server) -> Result<Option<Config>> {
        let Address::Fixed(info) = &self.config.server else { return Ok(None) };
        let reply = server.ask(&Request::one(cmd("INFO").arg("cluster")))?.pop().unwrap_or_default();
        let reply = match checked(reply) {
            // Access rules may forbid to ask; then the first command on a key will tell.
            Err(error) if error.cause.is_refusal() => return Ok(None),
            reply => reply?,
        };
        let is_node = text(&reply).is_some_and(|info| info.contains("cluster_enabled:1"));
        Ok(is_node.then(|| Config { server: Address::Cluster(vec![info.clone()]), ..self.config.clone() }))
    }

    /// Whether keys are on nodes of a Cluster, each on that which has its slot.
    pub(crate) fn is_cluster(&self) -> Result<bool> {
        Ok(self.server()?.route().is_cluster())
    }

    /// The number that a command answers; `None` where it may not be asked.
    pub(crate) fn size(&self, command: &redis::Cmd) -> Option<u64> {
        match self.ask(&Request::one(command)).ok()?.first() {
            Some(Value::Int(count)) => u64::try_from(*count).ok(),
            _ => None,
        }
    }

    /// Sends commands that may be sent twice; see [`Server::ask`]. Errors among the replies are
    /// failures. Waits for a server that is busy, since SQLite calls no busy handler for a virtual table.
    pub(crate) fn ask(&self, request: &Request) -> Result<Vec<Value>> {
        let (begun, mut pause) = (Instant::now(), Duration::from_millis(5));
        loop {
            match self.ask_once(request) {
                Err(error) => match self.waits(&error.cause, begun) {
                    Some(left) => interrupt::sleep(pause.min(left))?,
                    None => return Err(error),
                },
                replies => return replies,
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// For how long what failed so, and was asked first at `begun`, is to be asked again.
    pub(crate) fn waits(&self, cause: &Cause, begun: Instant) -> Option<Duration> {
        let patience = is_busy(cause).then(|| self.patience.as_ref().and_then(|patience| patience())).flatten()?;
        patience.checked_sub(begun.elapsed()).filter(|left| !left.is_zero())
    }

    fn ask_once(&self, request: &Request) -> Result<Vec<Value>> {
        let server = self.server()?;
        checked_each(request, if self.keeps_rows { server.ask_checked(request)? } else { server.ask(request)? })
    }

    /// Sends what [`Place::ask`] would send, and goes on.
    pub(crate) fn ask_ahead(&self, request: Request) -> Result<Ahead> {
        let server = self.server()?;
        Ok(Ahead { asked: server.ask_ahead(request), server })
    }

    /// What was sent before, and the replies.
    pub(crate) fn replies(&self, Ahead { server, asked }: Ahead) -> Result<(Request, Vec<Value>)> {
        let now = self.server()?;
        // In a forked child, the connection is its parent's.
        let asked = if Arc::ptr_eq(&now, &server) { asked } else { asked.unsent() };
        let (request, replies) = now.replies(asked)?;
        match checked_each(&request, replies) {
            Err(error) if is_busy(&error.cause) => self.ask(&request).map(|replies| (request, replies)),
            outcome => outcome.map(|replies| (request, replies)),
        }
    }
}

/// Whether the server is there and will answer later.
pub(crate) fn is_busy(cause: &Cause) -> bool {
    sqlite_code(cause, During::Read) == code::BUSY
}

fn checked_each(request: &Request, replies: Vec<Value>) -> Result<Vec<Value>> {
    let each = replies.into_iter().enumerate();
    each.map(|(n, reply)| checked_reply(reply, || request.words(n).map(<[u8]>::to_vec).collect())).collect()
}

/// A reply, or what is wrong if it is an error; `words` are those of the command.
pub(crate) fn checked_reply(reply: Value, words: impl FnOnce() -> Vec<Vec<u8>>) -> Result<Value> {
    let why = match &reply {
        Value::ServerError(error) if error.code() == "WRONGTYPE" => error.details().unwrap_or_default().to_owned(),
        // As scripts say it before Redis 7.
        Value::ServerError(error) => match error.details().filter(|why| why.contains("WRONGTYPE")) {
            Some(why) => why.to_owned(),
            None => return checked(reply),
        },
        _ => return Ok(reply),
    };
    let words = words();
    let key = words.get(if words.first().is_some_and(|name| name == b"EVAL") { 3 } else { 1 });
    Err(wrong_type(key.map_or(b"", Vec::as_slice), &why))
}

/// A key of a table that holds what it should not.
pub(crate) fn wrong_type(key: &[u8], why: &str) -> Error {
    Cause::Damaged(format!("its key `{}` holds something else: {why}", shown(key))).into()
}

/// Commands that were sent, and to whom.
pub(crate) struct Ahead {
    server: Arc<Server>,
    asked: Asked,
}

/// The part of a key that decides its slot in a Cluster, if that is not all of it.
pub(crate) fn hash_tag(key: &str) -> Option<&str> {
    let (tag, _) = key.split_once('{')?.1.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}
