//! Where a server is: the forms of its URL, and its name without user and password.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// Port of a Sentinel that is named without one.
const SENTINEL_PORT: u16 = 26379;
/// Port of a server that is named without one.
const SERVER_PORT: u16 = 6379;

/// Where the server of a database is.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    /// Here, or where its name leads to when a connection is made.
    Fixed(ConnectionInfo),
    /// Where the Sentinels say that the primary of a service is.
    Sentinel(Service),
    /// At the node of a Cluster that has the slot of the database. These nodes are asked for it.
    Cluster(Vec<ConnectionInfo>),
    /// A replica in a Cluster, which no URL names: it serves reads to those who say `READONLY`.
    Replica(ConnectionInfo),
}

/// A primary with its replicas, as Sentinels know it.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Its name, as in `sentinel monitor NAME ...`.
    pub name: String,
    /// How to reach the Sentinels.
    pub sentinels: Vec<ConnectionInfo>,
    /// How to reach its servers, but for their host and port.
    pub server: ConnectionInfo,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// What was expected, in words that repeat nothing of the URL.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        match scheme {
            "redis" | "rediss" | "unix" | "redis+unix" | "valkey" | "valkeys" => Ok(Address::Fixed(info(url)?)),
            "sentinel" => sentinel("redis", rest),
            "sentinels" => sentinel("rediss", rest),
            "redis+cluster" => cluster("redis", rest),
            "rediss+cluster" => cluster("rediss", rest),
            _ => {
                Err("expected redis://, rediss://, unix://, sentinel:// or redis+cluster:// and an address".to_owned())
            }
        }
    }

    /// Whether the server may become another one, to which connections follow.
    pub(crate) fn follows(&self) -> bool {
        matches!(self, Address::Sentinel(_) | Address::Cluster(_))
    }

    /// The address without user and password.
    pub(crate) fn name(&self) -> String {
        match self {
            Address::Fixed(info) | Address::Replica(info) => fixed_name(info),
            Address::Sentinel(Service { name, sentinels, server }) => {
                let scheme = if is_tls(server) { "sentinels" } else { "sentinel" };
                with_db(format!("{scheme}://{name}@{}", places(sentinels)), "/", server.redis_settings().db())
            }
            Address::Cluster(nodes) => {
                let scheme = if nodes.iter().any(is_tls) { "rediss+cluster" } else { "redis+cluster" };
                format!("{scheme}://{}", places(nodes))
            }
        }
    }

    /// What makes two of them interchangeable: all of it, user and password included.
    pub(crate) fn key(&self) -> String {
        match self {
            Address::Fixed(info) => key(info),
            Address::Replica(info) => format!("replica {}", key(info)),
            Address::Sentinel(Service { name, sentinels, server }) => {
                format!("{name} {} {}", key(server), sentinels.iter().map(key).collect::<String>())
            }
            Address::Cluster(nodes) => format!("cluster {}", nodes.iter().map(key).collect::<String>()),
        }
    }

    /// Everything that is to be kept secret.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn passwords(&self) -> Vec<&str> {
        let all: Vec<_> = match self {
            Address::Fixed(info) | Address::Replica(info) => vec![info],
            Address::Sentinel(service) => service.sentinels.iter().chain([&service.server]).collect(),
            Address::Cluster(nodes) => nodes.iter().collect(),
        };
        all.into_iter().filter_map(|info| info.redis_settings().password()).collect()
    }
}

fn key(info: &ConnectionInfo) -> String {
    let redis = info.redis_settings();
    format!("{:?} {} {:?} {:?};", info.addr(), redis.db(), redis.username(), redis.password())
}

fn fixed_name(info: &ConnectionInfo) -> String {
    let db = info.redis_settings().db();
    match info.addr() {
        ConnectionAddr::Tcp(..) => with_db(format!("redis://{}", place(info)), "/", db),
        ConnectionAddr::TcpTls { .. } => with_db(format!("rediss://{}", place(info)), "/", db),
        ConnectionAddr::Unix(path) => with_db(format!("unix://{}", path.display()), "?db=", db),
        other => other.to_string(),
    }
}

fn with_db(address: String, separator: &str, db: i64) -> String {
    if db == 0 { address } else { format!("{address}{separator}{db}") }
}

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

fn places(all: &[ConnectionInfo]) -> String {
    all.iter().map(place).collect::<Vec<_>>().join(",")
}

/// Host and port, or the path of a socket.
pub(crate) fn place(info: &ConnectionInfo) -> String {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => host_and_port(host, *port),
        other => other.to_string(),
    }
}

pub(crate) fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The same user, password and TLS at another place.
pub(crate) fn elsewhere(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    let address = match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.clone().set_addr(address)
}

fn info(url: &str) -> Result<ConnectionInfo, String> {
    match url.into_connection_info() {
        Ok(info) => {
            let redis = info.redis_settings().clone().set_lib_name("sqlite-redis", env!("CARGO_PKG_VERSION"));
            Ok(info.set_redis_settings(redis))
        }
        Err(error) => {
            // What follows may repeat a part of the address.
            let error = error.to_string();
            Err(format!("not a server address: {}", error.split(" - ").next().unwrap_or_default()))
        }
    }
}

/// The parts of a URL with several hosts: `[user:password@]hosts[/db][?query][#fragment]`.
struct Parts<'a> {
    /// With the `@` behind.
    user: &'a str,
    hosts: &'a str,
    db: &'a str,
    query: &'a str,
    /// With the `#` in front.
    fragment: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let (rest, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let (hosts, db) = rest.split_once('/').unwrap_or((rest, ""));
        Parts { user, hosts, db, query, fragment }
    }

    /// Each host as a URL that the client library reads.
    fn infos(&self, scheme: &str, user: &str, port: u16) -> Result<Vec<ConnectionInfo>, String> {
        let one = |host: &str| {
            let port = if has_port(host) { String::new() } else { format!(":{port}") };
            info(&format!("{scheme}://{user}{host}{port}/{}{}", self.db, self.fragment))
        };
        self.hosts.split(',').map(one).collect()
    }
}

fn has_port(host: &str) -> bool {
    host.rsplit(']').next().is_some_and(|behind| behind.contains(':'))
}

/// `[user:password@]service@host:port,host:port[/db][?sentinel_user=U&sentinel_password=P]`
fn sentinel(scheme: &str, rest: &str) -> Result<Address, String> {
    let parts = Parts::of(rest);
    let service_and_user = parts.user.strip_suffix('@').unwrap_or_default();
    let (user, name) = match service_and_user.rsplit_once('@') {
        Some((user, name)) => (format!("{user}@"), name),
        None => (String::new(), service_and_user),
    };
    // What Sentinel allows in a name.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
        return Err("expected sentinel://SERVICE@HOST:PORT,HOST:PORT with the name of a service".to_owned());
    }
    let (mut sentinel_user, mut sentinel_password) = ("", "");
    for pair in parts.query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_user", value)) => sentinel_user = value,
            Some(("sentinel_password", value)) => sentinel_password = value,
            _ => return Err("behind ? expected sentinel_user=USER and sentinel_password=PASSWORD".to_owned()),
        }
    }
    let asking = match (sentinel_user, sentinel_password) {
        ("", "") => String::new(),
        (user, password) => format!("{user}:{password}@"),
    };
    let servers = parts.infos(scheme, &user, SENTINEL_PORT)?;
    let sentinels = Parts { db: "", ..parts }.infos(scheme, &asking, SENTINEL_PORT)?;
    let Some(server) = servers.into_iter().next() else { return Err("expected a Sentinel".to_owned()) };
    Ok(Address::Sentinel(Service { name: name.to_owned(), sentinels, server }))
}

/// `[user:password@]host:port,host:port`
fn cluster(scheme: &str, rest: &str) -> Result<Address, String> {
    let parts = Parts::of(rest);
    if !matches!(parts.db, "" | "0") {
        return Err("a Cluster has database 0 only; leave the number out".to_owned());
    }
    if !parts.query.is_empty() {
        return Err("expected nothing behind ?".to_owned());
    }
    Ok(Address::Cluster(parts.infos(scheme, parts.user, SERVER_PORT)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(url: &str) -> Service {
        match Address::parse(url) {
            Ok(Address::Sentinel(service)) => service,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn a_service_is_named_with_its_sentinels() {
        let service =
            service("sentinel://me:se%40cret@shop-1@a:1,b,[::1],[::2]:7/3?sentinel_user=u&sentinel_password=p%2Fw");
        assert_eq!(service.name, "shop-1");
        assert_eq!(places(&service.sentinels), "a:1,b:26379,[::1]:26379,[::2]:7");
        let server = service.server.redis_settings();
        assert_eq!((server.username(), server.password(), server.db()), (Some("me"), Some("se@cret"), 3));
        for sentinel in &service.sentinels {
            let sentinel = sentinel.redis_settings();
            assert_eq!((sentinel.username(), sentinel.password(), sentinel.db()), (Some("u"), Some("p/w"), 0));
        }
        assert_eq!(Address::Sentinel(service).name(), "sentinel://shop-1@a:1,b:26379,[::1]:26379,[::2]:7/3");
    }

    #[test]
    fn tls_holds_for_sentinels_and_servers() {
        let service = service("sentinels://shop@a:1#insecure");
        assert!(is_tls(&service.sentinels[0]));
        let server = elsewhere(&service.server, "b", 2);
        assert!(matches!(server.addr(), ConnectionAddr::TcpTls { host, port: 2, insecure: true, .. } if host == "b"));
        assert_eq!(service.server.redis_settings().password(), None);
    }

    #[test]
    fn a_cluster_is_named_by_some_of_its_nodes() {
        let Ok(Address::Cluster(nodes)) = Address::parse("redis+cluster://me:pw@a:1,b/0") else { panic!() };
        assert_eq!(places(&nodes), "a:1,b:6379");
        assert!(nodes.iter().all(|node| node.redis_settings().password() == Some("pw")));
        assert_eq!(Address::parse("rediss+cluster://a:1").map(|a| a.name()), Ok("rediss+cluster://a:1".to_owned()));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in [
            "sentinel://a:1",
            "sentinel://@a:1",
            "sentinel://sh op@a:1",
            "sentinel://shop@",
            "sentinel://shop@a:x",
            "sentinel://shop@a:1,,b:1",
            "sentinel://shop@a:1/x",
            "sentinel://shop@a:1?password=x",
            "redis+cluster://a:1/2",
            "redis+cluster://",
            "redis+cluster://a:1?db=2",
            "redis+sentinel://shop@a:1",
            "localhost:6379",
            "",
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }
}
