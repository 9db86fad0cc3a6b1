//! The primary that the Sentinels name (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
//!
//! The client library has a Sentinel client of its own. It gives no time limit to any of its
//! questions, so one Sentinel that hangs would hang all that ask it.

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

/// How long an answer is good while the server answers too.
const CONFIRMED: Duration = Duration::from_secs(1);
/// How long the Sentinels are left alone after none of them answered.
const SILENCE: Duration = Duration::from_secs(5);

/// See the [module](self).
pub(crate) struct Sentinels {
    service: Service,
    state: Mutex<State>,
}

struct State {
    /// The one that answered last is the first.
    order: Vec<Endpoint>,
    /// To the first of them.
    connection: Option<Wire>,
    /// What they said when the last connection to the server was made.
    named: Option<Node>,
    /// The server that it was made to, and the largest epoch in which a Sentinel has named it. They
    /// number failovers so.
    newest: Option<(Node, u64)>,
    /// When they are to be asked again, although the server answers.
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

    /// Asks the Sentinels in turn until one of them names a server that is a primary indeed, and
    /// not one that has been replaced.
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
        // With no server to wait for, nothing will change by itself.
        let waits = !tried.is_empty() || state.named.is_some();
        if waits { Err(Missed::for_now(error)) } else { Err(Missed::for_good(error)) }
    }

    /// A connection to a server that says itself that it is a primary. It may be the primary of
    /// the one that is named: after a `FAILOVER`, Sentinels take a while to learn of it.
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
                // Access rules refused `ROLE` at login; asked again, the error says so.
                None => cmd("ROLE").query(&mut connection).map_err(connect_cause)?,
            };
            Ok((connection, role))
        };
        ask().map_err(|error| named(&node.to_string(), error))
    }

    /// Whether a Sentinel names another server than before. None answering changes nothing, and
    /// neither does one that is behind.
    pub(crate) fn say_another(&self, times: &Times) -> bool {
        // Somebody else may be asking already.
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
                // That says nothing about the Sentinels.
                Err(error) if matches!(error.cause, Cause::Interrupted) => return false,
                Ok(None) | Err(_) => {}
            }
            state.turn();
        }
        state.next = Instant::now() + if state.forget_if(behind) { CONFIRMED } else { SILENCE };
        false
    }

    pub(crate) fn doubt(&self) {
        // Whoever has it locked is asking.
        if let Some(mut state) = self.state.try_lock() {
            state.next = Instant::now();
        }
    }
}

impl State {
    /// What the first Sentinel says: a server, and the epoch since which it is the primary.
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

    /// Whether a Sentinel that says this epoch has missed a failover.
    fn is_older(&self, epoch: Option<u64>) -> bool {
        self.newest.as_ref().zip(epoch).is_some_and(|((_, newest), epoch)| epoch < *newest)
    }

    /// Whether a server that takes itself for the primary is one that has been replaced.
    fn is_replaced(&self, at: &Node, epoch: Option<u64>) -> bool {
        self.is_older(epoch) && self.newest.as_ref().is_some_and(|(newest, _)| newest != at)
    }

    /// Takes note of the server that the connections lead to.
    fn reached(&mut self, named: Node, at: &Node, epoch: Option<u64>) {
        self.named = Some(named);
        let newest = self.newest.as_ref().map_or(0, |(_, newest)| *newest);
        self.newest = Some((at.clone(), epoch.unwrap_or(0).max(newest)));
    }

    /// If most of the Sentinels are behind, they have begun to count anew, as they do after a
    /// `SENTINEL REMOVE`.
    fn forget_if(&mut self, behind: usize) -> bool {
        let anew = behind * 2 > self.order.len();
        if anew {
            self.newest = None;
        }
        anew
    }

    /// The next Sentinel is the first from now on.
    fn turn(&mut self) {
        self.connection = None;
        self.order.rotate_left(1);
    }
}

/// A server, and the epoch, where access rules let it be asked for.
type Named = (Node, Option<u64>);

/// Asks a Sentinel. Its address comes after the epoch, so that it is no older than that.
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

/// Whether the failure will be the same however often it is tried again.
fn is_final(error: &Error) -> bool {
    matches!(error.cause, Cause::Authentication(_) | Cause::Permission(_) | Cause::Interrupted)
}
