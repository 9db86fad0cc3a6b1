//! The primary that the Sentinels name (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
//!
//! The client library's Sentinel client sets no timeouts, so one hanging Sentinel would block its callers for ever.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::{RedisResult, Role, cmd, from_redis_value};

use crate::config::address::Service;
use crate::config::endpoint::{Endpoint, elsewhere, place};
use crate::model::error::{Cause, Error};
use crate::process::sync::Mutex;
use crate::sqlite::interrupt;
use crate::wire::connection::Wire;
use crate::wire::route::{Found, Hello, Idle, Missed, Node, Times, ask, connect, connect_cause, named, reason};

/// How long an answer of the Sentinels is trusted while the server itself answers.
const CONFIRMED: Duration = Duration::from_secs(1);
/// Pause before the Sentinels are asked again after none has answered.
const SILENCE: Duration = Duration::from_secs(5);

/// See the [module](self).
pub(crate) struct Sentinels {
    service: Service,
    state: Mutex<State>,
}

struct State {
    /// The Sentinels; the one that answered last is first.
    order: Vec<Endpoint>,
    /// A connection to the first of them.
    connection: Option<Wire>,
    /// Their answer when the last connection to the server was made.
    named: Option<Node>,
    /// The server of that connection, and the largest configuration epoch in which a Sentinel has named it. Each
    /// failover increments the epoch.
    newest: Option<(Node, u64)>,
    /// When to ask the Sentinels again, although the server answers.
    next: Instant,
}

impl Sentinels {
    pub(crate) fn new(service: &Service) -> Self {
        let (order, next) = (service.sentinels.clone(), Instant::now());
        let state = State { order, connection: None, named: None, newest: None, next };
        Sentinels { service: service.clone(), state: Mutex::new(state) }
    }

    pub(crate) fn info(&self) -> &Endpoint {
        &self.service.server
    }

    /// Asks the Sentinels in turn, until one names a server that is a primary and has not been replaced.
    pub(crate) fn connect(&self, times: &Times) -> Found {
        let mut tried: Vec<Node> = Vec::new();
        let mut reasons = Vec::new();
        let mut behind = 0;
        for _ in 0..self.service.sentinels.len() {
            let mut state = interrupt::lock(&self.state).map_err(Missed::for_good)?;
            let sentinel = place(&state.order[0]);
            let (node, epoch) = match state.primary(&self.service.name, times) {
                Ok(Some(named)) => named,
                Ok(None) => {
                    reasons.push(format!("Sentinel {sentinel} knows no service {}", self.service.name));
                    state.turn();
                    continue;
                }
                Err(error) if is_final(&error) => return Err(Missed::for_good(error)),
                Err(error) => {
                    reasons.push(format!("Sentinel {}", reason(error)));
                    state.turn();
                    continue;
                }
            };
            behind += usize::from(state.is_older(epoch));
            drop(state);
            if tried.contains(&node) {
                self.state.lock().turn();
                continue;
            }
            match self.primary_at(&node, times) {
                Ok((connection, at)) => {
                    let mut state = self.state.lock();
                    if !state.is_replaced(&at, epoch) {
                        state.next = Instant::now() + CONFIRMED;
                        state.reached(node, &at, epoch);
                        return Ok((connection, at));
                    }
                    reasons.push(format!("Sentinel {sentinel} names {at}, which has been replaced since"));
                }
                Err(error) if is_final(&error) => return Err(Missed::for_good(error)),
                Err(error) => reasons.push(format!("Sentinel {sentinel} names {}", reason(error))),
            }
            tried.push(node);
            self.state.lock().turn();
        }
        let mut state = self.state.lock();
        state.forget_if(behind);
        let error = Cause::Unreachable(reasons.join("; "));
        // No Sentinel knows a server, so waiting would not help.
        let waits = !tried.is_empty() || state.named.is_some();
        if waits { Err(Missed::for_now(error)) } else { Err(Missed::for_good(error)) }
    }

    /// A connection to a server that reports itself as primary. If the named server is a replica, its primary is
    /// tried: after a `FAILOVER`, Sentinels take a while to notice.
    fn primary_at(&self, named: &Node, times: &Times) -> Found<Error> {
        match self.role_at(named, times)? {
            (connection, Role::Primary { .. }) => Ok((Idle::new(connection), named.clone())),
            (_, Role::Replica { primary_ip, primary_port, .. }) => {
                let primary = Node { host: primary_ip, port: primary_port };
                match self.role_at(&primary, times) {
                    Ok((connection, Role::Primary { .. })) => Ok((Idle::new(connection), primary)),
                    _ => Err(Cause::Unreachable(format!("{named}, which is a replica of {primary}")).into()),
                }
            }
            _ => Err(Cause::Unreachable(format!("{named}, which is no server")).into()),
        }
    }

    fn role_at(&self, node: &Node, times: &Times) -> Result<(Wire, Role), Error> {
        let info = elsewhere(&self.service.server, &node.host, node.port);
        let ask = || {
            let hello = Hello { role: true, ..Hello::default() };
            let (mut connection, role) = connect(&info, hello, &times.attempt())?;
            let role = match role {
                Some(role) => role,
                // Access rules refused `ROLE` at login. Asked again, the error reply says so.
                None => cmd("ROLE").query(&mut connection).map_err(connect_cause)?,
            };
            Ok((connection, role))
        };
        ask().map_err(|error| named(&node.to_string(), error))
    }

    /// Whether a Sentinel names another server than before. No answer changes nothing, and neither does an answer
    /// with an older epoch.
    pub(crate) fn say_another(&self, times: &Times) -> bool {
        // Another thread may be asking already.
        let Some(mut state) = self.state.try_lock() else { return false };
        if Instant::now() < state.next {
            return false;
        }
        let mut behind = 0;
        for _ in 0..state.order.len() {
            match state.primary(&self.service.name, times) {
                Ok(Some((node, epoch))) if !state.is_older(epoch) => {
                    state.next = Instant::now() + CONFIRMED;
                    return state.named.as_ref().is_some_and(|named| *named != node);
                }
                Ok(Some(_)) => behind += 1,
                // The failure is local and says nothing about the Sentinels.
                Err(error) if matches!(error.cause, Cause::Interrupted) => return false,
                Ok(None) | Err(_) => {}
            }
            state.turn();
        }
        state.next = Instant::now() + if state.forget_if(behind) { CONFIRMED } else { SILENCE };
        false
    }

    pub(crate) fn doubt(&self) {
        // The thread that holds the lock is asking.
        if let Some(mut state) = self.state.try_lock() {
            state.next = Instant::now();
        }
    }
}

impl State {
    /// The first Sentinel's answer: the primary, and the epoch since which it is that.
    fn primary(&mut self, service: &str, times: &Times) -> Result<Option<Named>, Error> {
        if let Some(mut connection) = self.connection.take()
            && let Ok(answer) = ask_for(service, &mut connection)
        {
            self.connection = Some(connection);
            return Ok(answer);
        }
        let mut connection = ask(&self.order[0], times)?;
        let answer = ask_for(service, &mut connection);
        let answer = answer.map_err(|error| named(&place(&self.order[0]), connect_cause(error).into()))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Whether a Sentinel with this epoch has missed a failover.
    fn is_older(&self, epoch: Option<u64>) -> bool {
        self.newest.as_ref().zip(epoch).is_some_and(|((_, newest), epoch)| epoch < *newest)
    }

    /// Whether a server that reports itself as primary has been replaced.
    fn is_replaced(&self, at: &Node, epoch: Option<u64>) -> bool {
        self.is_older(epoch) && self.newest.as_ref().is_some_and(|(newest, _)| newest != at)
    }

    /// Remembers the server that connections now lead to.
    fn reached(&mut self, named: Node, at: &Node, epoch: Option<u64>) {
        self.named = Some(named);
        let newest = self.newest.as_ref().map_or(0, |(_, newest)| *newest);
        self.newest = Some((at.clone(), epoch.unwrap_or(0).max(newest)));
    }

    /// If most Sentinels are behind, their epochs were reset, as by `SENTINEL REMOVE`, and are accepted.
    fn forget_if(&mut self, behind: usize) -> bool {
        let anew = behind * 2 > self.order.len();
        if anew {
            self.newest = None;
        }
        anew
    }

    /// Makes the next Sentinel the first.
    fn turn(&mut self) {
        self.connection = None;
        self.order.rotate_left(1);
    }
}

/// A server and its epoch, if access rules let it be asked for.
type Named = (Node, Option<u64>);

/// Asks a Sentinel for the epoch and then for the address, so the address is no older than the epoch.
fn ask_for(service: &str, sentinel: &mut Wire) -> RedisResult<Option<Named>> {
    let mut questions = Vec::new();
    for question in ["MASTER", "GET-MASTER-ADDR-BY-NAME"] {
        cmd("SENTINEL").arg(question).arg(service).write_packed_command(&mut questions);
    }
    sentinel.send(&questions)?;
    let (master, address) = (sentinel.receive()?, sentinel.receive()?);
    let address: Option<(String, u16)> = from_redis_value(address.extract_error()?)?;
    let epoch = from_redis_value::<HashMap<String, String>>(master).ok();
    let epoch = epoch.and_then(|master| master.get("config-epoch")?.parse().ok());
    Ok(address.map(|(host, port)| (Node { host, port }, epoch)))
}

/// Whether retrying cannot change the failure.
fn is_final(error: &Error) -> bool {
    matches!(error.cause, Cause::Authentication(_) | Cause::Permission(_) | Cause::Interrupted)
}
