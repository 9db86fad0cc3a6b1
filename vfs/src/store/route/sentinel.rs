//! The primary that the Sentinels name (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
//!
//! The client library has a Sentinel client of its own. It gives no time limit to any of its
//! questions, so one Sentinel that hangs would hang all that ask it.

use std::time::{Duration, Instant};

use redis::{Connection, ConnectionInfo, Role, cmd};

use super::{Found, Missed, Node, Times, ask, connect, connect_cause, named, reason};
use crate::config::address::{Service, elsewhere, place};
use crate::error::{Cause, Error};
use crate::sync::Mutex;

/// How long an answer is good while the server answers too.
const CONFIRMED: Duration = Duration::from_secs(1);
/// How long the Sentinels are left alone after none of them answered.
const SILENCE: Duration = Duration::from_secs(5);

/// See the [module](self).
pub(super) struct Sentinels {
    service: Service,
    state: Mutex<State>,
}

struct State {
    /// The one that answered last is the first.
    order: Vec<ConnectionInfo>,
    /// To the first of them.
    connection: Option<Connection>,
    /// What they said when the last connection to the server was made.
    named: Option<Node>,
    /// When they are to be asked again, although the server answers.
    next: Instant,
}

impl Sentinels {
    pub(super) fn new(service: &Service) -> Self {
        let state = State { order: service.sentinels.clone(), connection: None, named: None, next: Instant::now() };
        Sentinels { service: service.clone(), state: Mutex::new(state) }
    }

    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.service.server
    }

    /// Asks the Sentinels in turn until one of them names a server that is a primary indeed.
    pub(super) fn connect(&self, times: &Times) -> Found {
        let mut tried: Vec<Node> = Vec::new();
        let mut reasons = Vec::new();
        for _ in 0..self.service.sentinels.len() {
            let mut state = self.state.lock();
            let sentinel = place(&state.order[0]);
            let node = match state.primary(&self.service.name, times) {
                Ok(Some(node)) => node,
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
            drop(state);
            if tried.contains(&node) {
                self.state.lock().turn();
                continue;
            }
            match self.primary_at(&node, times) {
                Ok((connection, at)) => {
                    let mut state = self.state.lock();
                    state.next = Instant::now() + CONFIRMED;
                    state.named = Some(node);
                    return Ok((connection, at));
                }
                Err(error) if is_final(&error) => return Err(Missed::for_good(error)),
                Err(error) => reasons.push(format!("Sentinel {sentinel} names {}", reason(error))),
            }
            tried.push(node);
            self.state.lock().turn();
        }
        let error = Cause::Unreachable(reasons.join("; "));
        // With no server to wait for, nothing will change by itself.
        if tried.is_empty() { Err(Missed::for_good(error)) } else { Err(Missed::for_now(error)) }
    }

    /// A connection to a server that says itself that it is a primary. It may be the primary of
    /// the one that is named: after a `FAILOVER`, Sentinels take a while to learn of it.
    fn primary_at(&self, named: &Node, times: &Times) -> Found<Error> {
        match self.role_at(named, times)? {
            (connection, Role::Primary { .. }) => Ok((connection, named.clone())),
            (_, Role::Replica { primary_ip, primary_port, .. }) => {
                let primary = Node { host: primary_ip, port: primary_port };
                match self.role_at(&primary, times) {
                    Ok((connection, Role::Primary { .. })) => Ok((connection, primary)),
                    _ => Err(Cause::Unreachable(format!("{named}, which is a replica of {primary}")).into()),
                }
            }
            _ => Err(Cause::Unreachable(format!("{named}, which is no server")).into()),
        }
    }

    fn role_at(&self, node: &Node, times: &Times) -> Result<(Connection, Role), Error> {
        let info = elsewhere(&self.service.server, &node.host, node.port);
        let ask = || {
            let mut connection = connect(&info, &times.attempt())?;
            let role = cmd("ROLE").query(&mut connection).map_err(connect_cause)?;
            Ok((connection, role))
        };
        ask().map_err(|error| named(&node.to_string(), error))
    }

    /// Whether a Sentinel names another server than before. None answering changes nothing.
    pub(super) fn say_another(&self, times: &Times) -> bool {
        // Somebody else may be asking already.
        let Some(mut state) = self.state.try_lock() else { return false };
        if Instant::now() < state.next {
            return false;
        }
        for _ in 0..state.order.len() {
            match state.primary(&self.service.name, times) {
                Ok(Some(node)) => {
                    state.next = Instant::now() + CONFIRMED;
                    return state.named.as_ref().is_some_and(|named| *named != node);
                }
                Ok(None) | Err(_) => state.turn(),
            }
        }
        state.next = Instant::now() + SILENCE;
        false
    }

    pub(super) fn doubt(&self) {
        // Whoever has it locked is asking.
        if let Some(mut state) = self.state.try_lock() {
            state.next = Instant::now();
        }
    }
}

impl State {
    /// What the first Sentinel says.
    fn primary(&mut self, service: &str, times: &Times) -> Result<Option<Node>, Error> {
        let command = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service).to_owned();
        if let Some(mut connection) = self.connection.take()
            && let Ok(answer) = command.query(&mut connection)
        {
            self.connection = Some(connection);
            return Ok(node(answer));
        }
        let mut connection = ask(&self.order[0], times)?;
        let answer = command.query(&mut connection);
        let answer = answer.map_err(|error| named(&place(&self.order[0]), connect_cause(error).into()))?;
        self.connection = Some(connection);
        Ok(node(answer))
    }

    /// The next Sentinel is the first from now on.
    fn turn(&mut self) {
        self.connection = None;
        self.order.rotate_left(1);
    }
}

fn node(answer: Option<(String, u16)>) -> Option<Node> {
    answer.map(|(host, port)| Node { host, port })
}

/// Whether the failure will be the same however often it is tried again.
fn is_final(error: &Error) -> bool {
    matches!(error.cause, Cause::Authentication(_) | Cause::Permission(_))
}
