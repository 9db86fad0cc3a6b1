//! The node of a Cluster that has a slot (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).
//!
//! The client library's Cluster client does not hand out connections, which `WATCH` and `MULTI` need. So this module
//! only finds the node and connects to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use redis::{Value, cmd};

use crate::config::endpoint::{Endpoint, elsewhere, place};
use crate::model::error::{Cause, Error, Result};
use crate::process::sync::Mutex;
use crate::wire::connection::Wire;
use crate::wire::reply::{array, bad_reply, text};
use crate::wire::route::{Found, Idle, Missed, Node, Pool, Times, ask, connect_cause, named, pooled, reason};

/// The most nodes to remember. The specification recommends at most 1,000.
const MOST_NODES: usize = 1000;

/// See the [module](self).
pub(crate) struct Cluster {
    /// The nodes in the address, at least one. User, password and TLS of the first are used for all nodes.
    seeds: Vec<Endpoint>,
    key: String,
    /// The pool for its nodes, shared by all slots, and the first part of the pool's keys.
    pool: Arc<Pool>,
    base: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Known nodes; the one that answered last is first.
    nodes: Vec<Node>,
    /// The node that the last `MOVED` named.
    hint: Option<Node>,
}

/// Ranges of slots, each with its primary and replicas.
struct Range {
    first: i64,
    last: i64,
    nodes: Vec<Node>,
}

impl Cluster {
    pub(crate) fn new(seeds: &[Endpoint], key: &str, pool: &Arc<Pool>, base: &Arc<str>) -> Self {
        let (pool, base) = (pool.clone(), base.clone());
        Cluster { seeds: seeds.to_vec(), key: key.to_owned(), pool, base, state: Mutex::default() }
    }

    pub(crate) fn info(&self) -> &Endpoint {
        &self.seeds[0]
    }

    /// Follows a `MOVED`. Without a host, it means the host that sent it.
    pub(crate) fn redirected(&self, mut node: Node, answering: Option<Node>) {
        if node.host.is_empty()
            && let Some(answering) = answering
        {
            node.host = answering.host;
        }
        self.state.lock().hint = Some(node);
    }

    /// A connection to the node that has the slot. With `reused`, an idle one is taken if there is one.
    pub(crate) fn connect(&self, times: &Times, reused: bool, deadline: Instant) -> Found {
        let hint = self.state.lock().hint.take();
        if let Some(node) = hint
            && let Ok(connection) = self.reach(&node, times, reused)
        {
            return Ok((connection, node));
        }
        let mut reasons = Vec::new();
        let mut answered = false;
        for info in self.to_ask() {
            if !reasons.is_empty() && Instant::now() >= deadline {
                break;
            }
            let (slot, ranges) = match self.layout(&info, times) {
                Ok(layout) => layout,
                Err(error) if !matches!(error.cause, Cause::Unreachable(_) | Cause::Loading(_)) => {
                    return Err(Missed::for_good(error));
                }
                Err(error) => {
                    reasons.push(reason(error));
                    continue;
                }
            };
            answered = true;
            let owner = ranges.iter().find(|range| (range.first..=range.last).contains(&slot));
            let Some(owner) = owner.and_then(|range| range.nodes.first()) else {
                reasons.push(format!("{} knows no node that has slot {slot}", place(&info)));
                continue;
            };
            match self.reach(owner, times, reused) {
                Ok(connection) => return Ok((connection, owner.clone())),
                Err(error) => reasons.push(reason(error)),
            }
        }
        let error = Cause::Unreachable(reasons.join("; "));
        if answered { Err(Missed::for_now(error)) } else { Err(Missed::for_good(error)) }
    }

    /// Connections to all primaries.
    pub(crate) fn all(&self, times: &Times) -> Result<Vec<(Wire, Node)>> {
        let deadline = Instant::now() + times.failover;
        let mut failure = Error::from(Cause::Unreachable("no node is named".into()));
        for (n, info) in self.to_ask().into_iter().enumerate() {
            if n > 0 && Instant::now() >= deadline {
                break;
            }
            match self.layout(&info, times) {
                Ok((_, ranges)) => {
                    let primaries = distinct(ranges.iter().filter_map(|range| range.nodes.first()));
                    return primaries.into_iter().map(|node| Ok((ask(&self.at(&node), times)?, node))).collect();
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// All known nodes, then those in the address.
    fn to_ask(&self) -> Vec<Endpoint> {
        let known = self.state.lock().nodes.clone();
        known.iter().map(|node| self.at(node)).chain(self.seeds.iter().cloned()).collect()
    }

    fn at(&self, node: &Node) -> Endpoint {
        elsewhere(&self.seeds[0], &node.host, node.port)
    }

    fn reach(&self, node: &Node, times: &Times, reused: bool) -> Result<Idle> {
        let idle = if reused { self.pool.take(&pooled(&self.base, node)) } else { None };
        idle.map_or_else(|| ask(&self.at(node), times).map(Idle::new), Ok)
    }

    /// The slot of the key, and the slots of each node, as this node knows them.
    fn layout(&self, info: &Endpoint, times: &Times) -> Result<(i64, Vec<Range>)> {
        let node = Node::parse(&place(info)).map(|node| pooled(&self.base, &node));
        let idle = node.as_ref().and_then(|node| self.pool.take(node));
        let (answer, idle) = match idle.map(|idle| self.ask_layout(idle, info, times)) {
            Some(Ok(answered)) => answered,
            // The connection may have been closed while it was idle.
            Some(Err(_)) | None => self.ask_layout(Idle::new(ask(info, times)?), info, times)?,
        };
        if let Some(node) = node {
            self.pool.put(&node, idle);
        }
        let ranges = ranges(answer.1, info)?;
        let mut nodes = distinct(ranges.iter().flat_map(|range| &range.nodes));
        nodes.sort_by_key(|node| node.to_string() != place(info));
        self.state.lock().nodes = nodes;
        Ok((answer.0, ranges))
    }

    fn ask_layout(&self, mut idle: Idle, info: &Endpoint, times: &Times) -> Result<((i64, Value), Idle)> {
        let failed = |error| named(&place(info), Error::from(connect_cause(error)));
        idle.wire.set_timeout(times.attempt().reply).map_err(failed)?;
        let slot = cmd("CLUSTER").arg("KEYSLOT").arg(&self.key).query(&mut idle.wire).map_err(failed)?;
        let slots = cmd("CLUSTER").arg("SLOTS").query(&mut idle.wire).map_err(failed)?;
        idle.wire.set_timeout(times.reply).map_err(failed)?;
        Ok(((slot, slots), idle))
    }
}

/// The reply to `CLUSTER SLOTS`.
fn ranges(reply: Value, answering: &Endpoint) -> Result<Vec<Range>> {
    let wrong = |value: &Value| Error::from(bad_reply("CLUSTER SLOTS", value));
    let mut ranges = Vec::new();
    for range in array("CLUSTER SLOTS", reply)? {
        let parts = array("CLUSTER SLOTS", range)?;
        let [Value::Int(first), Value::Int(last), nodes @ ..] = parts.as_slice() else {
            return Err(wrong(&Value::Array(parts)));
        };
        let nodes = nodes.iter().filter_map(|node| at(node, answering)).collect();
        ranges.push(Range { first: *first, last: *last, nodes });
    }
    Ok(ranges)
}

/// The distinct nodes in order, the first [`MOST_NODES`] of them.
fn distinct<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<Node> {
    let mut seen = HashSet::new();
    nodes.filter(|node| seen.insert(*node)).take(MOST_NODES).cloned().collect()
}

/// One node of a range. Without a host, it is the host that answered; `?` means unknown.
fn at(node: &Value, answering: &Endpoint) -> Option<Node> {
    let Value::Array(parts) = node else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let port = u16::try_from(*port).ok()?;
    match text(host).filter(|host| !host.is_empty()) {
        Some(unknown) if unknown == "?" => None,
        Some(host) => Some(Node { host, port }),
        None => Node::parse(&place(answering)).map(|answering| Node { port, ..answering }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: i64) -> Value {
        Value::Array(vec![Value::BulkString(host.into()), Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    #[test]
    fn the_number_of_nodes_is_bounded() {
        let nodes: Vec<Node> = (0..1_000_000).map(|n| Node { host: format!("h{}", n / 2), port: 1 }).collect();
        let found = distinct(nodes.iter());
        assert_eq!((found.len(), found[1].host.as_str()), (MOST_NODES, "h1"));
    }

    #[test]
    fn a_node_without_a_host_has_the_host_that_answered() {
        let crate::config::Address::Fixed(answering) = crate::config::Address::parse("redis://[::1]:7").unwrap() else {
            panic!()
        };
        let slots = |nodes: Vec<Value>| {
            let range = [Value::Int(0), Value::Int(99)].into_iter().chain(nodes).collect();
            ranges(Value::Array(vec![Value::Array(range)]), &answering)
        };
        let found = slots(vec![node("", 1), node("b", 2)]).unwrap();
        assert_eq!((found[0].first, found[0].last), (0, 99));
        assert_eq!(found[0].nodes, ["[::1]:1", "b:2"].map(|text| Node::parse(text).unwrap()));
        assert!(slots(vec![node("?", 1)]).unwrap()[0].nodes.is_empty());
        assert!(ranges(Value::Array(vec![Value::Array(vec![Value::Int(0)])]), &answering).is_err());
        assert!(ranges(Value::Int(1), &answering).is_err());
    }
}
