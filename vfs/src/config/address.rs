//! Server addresses: the forms of the URL, and the address for messages, without user and password.

use crate::config::credentials::Credentials;
use crate::config::endpoint::{Endpoint, Password, TlsFiles, name, place, with_db};

/// Default port of a Sentinel.
const SENTINEL_PORT: u16 = 26379;
/// Default port of a server.
const SERVER_PORT: u16 = 6379;

/// Maximum number of hosts in one address, and of named replicas. They are tried one after the other.
pub(super) const MOST_HOSTS: usize = 64;

/// The address of a database's server.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    /// One server. A host name is resolved anew for each connection.
    Fixed(Endpoint),
    /// The primary of a service, found through Sentinels.
    Sentinel(Service),
    /// The node of a Cluster that has the database's slot, found through these nodes.
    Cluster(Vec<Endpoint>),
    /// A replica in a Cluster. It serves reads after `READONLY`. No URL has this form.
    Replica(Endpoint),
}

/// A primary and its replicas that Sentinels monitor.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Its name, as in `sentinel monitor NAME ...`.
    pub name: String,
    /// How to reach the Sentinels.
    pub sentinels: Vec<Endpoint>,
    /// User, password, database and TLS of the service's servers. Host and port come from the Sentinels.
    pub server: Endpoint,
}

impl Address {
    /// Parses a URL.
    ///
    /// # Errors
    /// The expected form. The message repeats nothing of the URL, which may contain a password.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        match scheme {
            "redis" | "rediss" | "unix" | "redis+unix" | "valkey" | "valkeys" => {
                Ok(Address::Fixed(Endpoint::parse(url)?))
            }
            "sentinel" => sentinel("redis", rest),
            "sentinels" => sentinel("rediss", rest),
            "redis+cluster" => cluster("redis", rest),
            "rediss+cluster" => cluster("rediss", rest),
            _ => {
                Err("expected redis://, rediss://, unix://, sentinel:// or redis+cluster:// and an address".to_owned())
            }
        }
    }

    /// Whether connections follow the database to another server after a failover or a slot migration.
    pub(crate) fn follows(&self) -> bool {
        matches!(self, Address::Sentinel(_) | Address::Cluster(_))
    }

    /// The address without user and password.
    pub(crate) fn name(&self) -> String {
        match self {
            Address::Fixed(endpoint) | Address::Replica(endpoint) => name(endpoint),
            Address::Sentinel(Service { name, sentinels, server }) => {
                let scheme = if is_tls(server) { "sentinels" } else { "sentinel" };
                with_db(format!("{scheme}://{name}@{}", places(sentinels)), "/", server.db)
            }
            Address::Cluster(nodes) => {
                let scheme = if nodes.iter().any(is_tls) { "rediss+cluster" } else { "redis+cluster" };
                format!("{scheme}://{}", places(nodes))
            }
        }
    }

    /// A text that is equal for interchangeable addresses. It contains user and password: don't show it.
    pub(crate) fn key(&self) -> String {
        match self {
            Address::Fixed(endpoint) => endpoint.key(),
            Address::Replica(endpoint) => format!("replica {}", endpoint.key()),
            Address::Sentinel(Service { name, sentinels, server }) => {
                format!("{name} {} {}", server.key(), sentinels.iter().map(Endpoint::key).collect::<String>())
            }
            Address::Cluster(nodes) => format!("cluster {}", nodes.iter().map(Endpoint::key).collect::<String>()),
        }
    }

    /// All named servers, including Sentinels.
    fn endpoints(&self) -> Vec<&Endpoint> {
        match self {
            Address::Fixed(endpoint) | Address::Replica(endpoint) => vec![endpoint],
            Address::Sentinel(service) => service.sentinels.iter().chain([&service.server]).collect(),
            Address::Cluster(nodes) => nodes.iter().collect(),
        }
    }

    /// All secrets in the address.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn passwords(&self) -> Vec<&str> {
        self.endpoints().into_iter().filter_map(|endpoint| endpoint.password.given()).collect()
    }

    /// Whether connections use TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.endpoints().iter().any(|endpoint| endpoint.tls.is_some())
    }

    /// Whether both addresses name the same servers. User, password and database number may differ.
    pub(crate) fn has_servers_of(&self, other: &Address) -> bool {
        let all = |address: &Address| -> Vec<_> {
            address.endpoints().into_iter().map(|one| (one.place.clone(), one.tls.is_some())).collect()
        };
        all(self) == all(other)
    }

    /// Adds credentials to servers without a password in the address, and files to servers with TLS. Sentinels don't
    /// get the credentials: their password is a parameter of the URL.
    pub(super) fn with(mut self, credentials: Option<&Credentials>, files: &TlsFiles) -> Address {
        let log_in = |server: &mut Endpoint| {
            if let (Password::None, Some(credentials)) = (&server.password, credentials) {
                server.password = Password::Named(credentials.clone());
            }
        };
        let trust = |server: &mut Endpoint| {
            if let Some(tls) = &mut server.tls {
                tls.files = files.clone();
            }
        };
        match &mut self {
            Address::Fixed(endpoint) | Address::Replica(endpoint) => {
                log_in(endpoint);
                trust(endpoint);
            }
            Address::Sentinel(Service { sentinels, server, .. }) => {
                log_in(server);
                trust(server);
                sentinels.iter_mut().for_each(trust);
            }
            Address::Cluster(nodes) => nodes.iter_mut().for_each(|node| {
                log_in(node);
                trust(node);
            }),
        }
        self
    }
}

fn is_tls(endpoint: &Endpoint) -> bool {
    endpoint.tls.is_some()
}

fn places(all: &[Endpoint]) -> String {
    all.iter().map(place).collect::<Vec<_>>().join(",")
}

/// The parts of a URL with several hosts: `[user:password@]hosts[/db][?query][#fragment]`.
struct Parts<'a> {
    /// Ends with `@`, unless empty.
    user: &'a str,
    hosts: &'a str,
    db: &'a str,
    query: &'a str,
    /// Begins with `#`, unless empty.
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

    /// Parses each host, as a URL with one host.
    fn infos(&self, scheme: &str, user: &str, port: u16) -> Result<Vec<Endpoint>, String> {
        let one = |host: &str| {
            let port = if has_port(host) { String::new() } else { format!(":{port}") };
            Endpoint::parse(&format!("{scheme}://{user}{host}{port}/{}{}", self.db, self.fragment))
        };
        if self.hosts.split(',').count() > MOST_HOSTS {
            return Err(format!("expected {MOST_HOSTS} hosts at most"));
        }
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
    // The characters that Sentinel allows in a service name.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
        return Err("expected sentinel://SERVICE@HOST:PORT,HOST:PORT with the name of a service".to_owned());
    }
    let (mut sentinel_user, mut sentinel_password) = ("", "");
    for pair in parts.query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_user", value)) => sentinel_user = value,
            Some(("sentinel_password", value)) => sentinel_password = value,
            _ => return Err("the only parameters after ? are sentinel_user and sentinel_password".to_owned()),
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
        return Err("redis+cluster:// takes no parameters after ?".to_owned());
    }
    Ok(Address::Cluster(parts.infos(scheme, parts.user, SERVER_PORT)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::endpoint::elsewhere;

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
        let all = |endpoint: &Endpoint| (endpoint.user.clone(), endpoint.password.clone(), endpoint.db);
        let given = |user: &str, password: &str, db| (Some(user.to_owned()), Password::Given(password.to_owned()), db);
        assert_eq!(all(&service.server), given("me", "se@cret", 3));
        assert!(service.sentinels.iter().all(|sentinel| all(sentinel) == given("u", "p/w", 0)));
        assert_eq!(Address::Sentinel(service).name(), "sentinel://shop-1@a:1,b:26379,[::1]:26379,[::2]:7/3");
    }

    #[test]
    fn tls_holds_for_sentinels_and_servers() {
        let service = service("sentinels://shop@a:1#insecure");
        assert!(is_tls(&service.sentinels[0]));
        let server = elsewhere(&service.server, "b", 2);
        assert_eq!((place(&server).as_str(), server.tls.unwrap().insecure), ("b:2", true));
        assert_eq!(service.server.password, Password::None);
    }

    #[test]
    fn a_cluster_is_named_by_some_of_its_nodes() {
        let Ok(Address::Cluster(nodes)) = Address::parse("redis+cluster://me:pw@a:1,b/0") else { panic!() };
        assert_eq!(places(&nodes), "a:1,b:6379");
        assert!(nodes.iter().all(|node| node.password == Password::Given("pw".to_owned())));
        assert_eq!(Address::parse("rediss+cluster://a:1").map(|a| a.name()), Ok("rediss+cluster://a:1".to_owned()));
    }

    #[test]
    fn credentials_are_for_servers_without_a_password_and_files_for_tls() {
        let credentials = Credentials::parse("env:PW").unwrap();
        let files = TlsFiles { name: Some("n".to_owned()), ..TlsFiles::default() };
        let with = |url: &str| Address::parse(url).unwrap().with(Some(&credentials), &files);
        let Address::Sentinel(service) = with("sentinels://me@shop@a:1") else { panic!() };
        assert_eq!(service.server.password, Password::Named(credentials.clone()));
        assert_eq!(service.server.tls.as_ref().unwrap().files, files);
        assert_eq!(service.sentinels[0].password, Password::None);
        assert_eq!(service.sentinels[0].tls.as_ref().unwrap().files, files);
        let Address::Fixed(own) = with("redis://me:own@h") else { panic!() };
        assert_eq!((own.password, own.tls), (Password::Given("own".to_owned()), None));
    }

    #[test]
    fn invalid_addresses_are_refused() {
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
        let hosts = |count: usize| vec!["a:1"; count].join(",");
        for scheme in ["redis+cluster://", "sentinel://shop@"] {
            assert!(Address::parse(&format!("{scheme}{}", hosts(MOST_HOSTS))).is_ok());
            assert!(Address::parse(&format!("{scheme}{}", hosts(MOST_HOSTS + 1))).is_err());
        }
    }
}
