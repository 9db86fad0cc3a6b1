//! The replicas of a server, from its own `INFO replication`.

use redis::cmd;

use crate::config::Address;
use crate::config::endpoint::{elsewhere, host_and_port};
use crate::model::error::Result;
use crate::wire::info::info_field;
use crate::wire::reply::checked;
use crate::wire::reply::{bad_reply, text};
use crate::wire::request::Request;
use crate::wire::server::Server;

/// The most replicas to use. Reads of a primary that has more go to the first ones.
const MOST: usize = 64;

/// A replica that is connected to its primary.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    /// The address that opens the replica: the primary's, with the replica's host and port.
    pub address: Address,
    /// Host and port.
    pub place: String,
    /// Whether its first synchronisation is complete.
    pub online: bool,
}

/// What `INFO replication` says.
#[derive(Debug)]
pub(crate) struct Replication {
    /// Whether the server is a replica itself.
    pub is_replica: bool,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

impl Server {
    /// The replicas of the server. For Sentinel and Cluster addresses: of the present primary.
    pub(crate) fn replication(&self) -> Result<Replication> {
        let reply = self.ask(&Request::one(cmd("INFO").arg("replication")))?.pop().unwrap_or_default();
        let reply = checked(reply)?;
        let Some(info) = text(&reply) else { return Err(bad_reply("INFO", &reply).into()) };
        let is_replica = info_field(Some(&info), "role") == Some("slave");
        let replicas = replicas(&info).map(|(host, port, online)| self.replica(host, port, online)).collect();
        Ok(Replication { is_replica, replicas })
    }

    fn replica(&self, host: &str, port: u16, online: bool) -> Replica {
        let info = elsewhere(self.route().info(), host, port);
        let address = if self.route().is_cluster() { Address::Replica(info) } else { Address::Fixed(info) };
        Replica { address, place: host_and_port(host, port), online }
    }
}

/// Lines such as `slave0:ip=10.0.0.2,port=6379,state=online,offset=123,lag=0`, the first [`MOST`] of them.
fn replicas(info: &str) -> impl Iterator<Item = (&str, u16, bool)> {
    let lines = info.lines().filter_map(|line| {
        let (number, fields) = line.strip_prefix("slave")?.split_once(':')?;
        let is_numbered = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        is_numbered.then_some(fields.trim())
    });
    let parsed = lines.filter_map(|line| {
        let field = |name: &str| line.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        Some((field("ip")?, field("port")?.parse().ok()?, field("state")? == "online"))
    });
    parsed.take(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_read_from_info_replication() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=::1,port=7001,state=online,offset=28,lag=1\r\n\
                    slave1:ip=b.example,port=7002,state=wait_bgsave,offset=0,lag=0\r\nmaster_repl_offset:42\r\n";
        let found: Vec<_> = replicas(info).collect();
        assert_eq!(found, [("::1", 7001, true), ("b.example", 7002, false)]);
        assert_eq!(replicas("role:slave\r\nslave0:ip=a\r\nslave_priority:100\r\n").count(), 0);
    }

    #[test]
    fn the_number_of_replicas_is_bounded() {
        let line = |n: usize| format!("slave{n}:ip=h,port={},state=online\r\n", n % 60_000 + 1);
        let info: String = (0..200_000).map(line).collect();
        assert_eq!(replicas(&info).count(), MOST);
    }
}
