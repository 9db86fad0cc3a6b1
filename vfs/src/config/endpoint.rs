//! How to reach one server: its place, TLS, user, password and database number.

use std::path::PathBuf;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::config::credentials::Credentials;
use crate::model::secret;

/// How to reach one server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub place: Place,
    /// `None` without TLS.
    pub tls: Option<Tls>,
    pub db: i64,
    pub user: Option<String>,
    pub password: Password,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// How server and client authenticate with TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Tls {
    /// Accepts any certificate of the server (`#insecure`).
    pub insecure: bool,
    pub files: TlsFiles,
}

/// The settings `tls_*`: files in PEM format, and the name that the server's certificate must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct TlsFiles {
    /// The client's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Trusted certificate authorities; `None` for the system's.
    pub authorities: Option<PathBuf>,
    /// The name in the server's certificate; `None` for the host in the address.
    pub name: Option<String>,
}

/// The password of a user, or its place.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) enum Password {
    None,
    /// In the address.
    Given(String),
    /// Read anew for each connection.
    Named(Credentials),
}

impl Password {
    /// Returns the password, after reading it from its place.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn read(&self) -> crate::model::error::Result<Option<String>> {
        match self {
            Password::None => Ok(None),
            Password::Given(password) => Ok(Some(password.clone())),
            Password::Named(credentials) => credentials.read().map(Some),
        }
    }

    /// The password in the address.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn given(&self) -> Option<&str> {
        match self {
            Password::Given(password) => Some(password),
            Password::None | Password::Named(_) => None,
        }
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Endpoint").field(&name(self)).finish()
    }
}

impl Endpoint {
    /// Parses the URL of one server.
    ///
    /// # Errors
    /// The expected form. The message repeats nothing of the URL but the name of a parameter.
    pub(super) fn parse(url: &str) -> Result<Endpoint, String> {
        let info = url.into_connection_info().map_err(|error| {
            // The library's text after " - " may repeat a part of the address.
            let error = error.to_string();
            format!("not a server address: {}", error.split(" - ").next().unwrap_or_default())
        })?;
        let endpoint = Endpoint::of(&info)?;
        check_query(url, &endpoint)?;
        Ok(endpoint)
    }

    fn of(info: &ConnectionInfo) -> Result<Endpoint, String> {
        let redis = info.redis_settings();
        let (place, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (Place::Tcp { host: host.clone(), port: *port }, None),
            ConnectionAddr::TcpTls { host, port, insecure, .. } => {
                let tls = Tls { insecure: *insecure, ..Tls::default() };
                (Place::Tcp { host: host.clone(), port: *port }, Some(tls))
            }
            ConnectionAddr::Unix(path) => (Place::Unix(path.clone()), None),
            _ => return Err("not a server address: an unknown kind of place".to_owned()),
        };
        let password = match redis.password() {
            Some(password) => {
                secret::know(password);
                Password::Given(password.to_owned())
            }
            None => Password::None,
        };
        Ok(Endpoint { place, tls, db: redis.db(), user: redis.username().map(str::to_owned), password })
    }

    /// A text that is equal for interchangeable endpoints. It contains user and password: don't show it.
    pub(crate) fn key(&self) -> String {
        let password = match &self.password {
            Password::None => None,
            Password::Given(password) => Some(format!("{password:?}")),
            Password::Named(credentials) => Some(credentials.to_string()),
        };
        format!("{:?} {:?} {} {:?} {password:?};", self.place, self.tls, self.db, self.user)
    }
}

/// Refuses unknown parameters, which the client library would ignore.
fn check_query(url: &str, endpoint: &Endpoint) -> Result<(), String> {
    let (url, fragment) = url.split_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
    if fragment.is_some() && endpoint.tls.is_none() {
        return Err("expected nothing behind #; `#insecure` is for rediss:// only".to_owned());
    }
    let Some((_, query)) = url.split_once('?') else { return Ok(()) };
    let (known, advice): (&[&str], _) = match endpoint.place {
        Place::Unix(_) => (&["db", "user", "pass"], "known are db, user and pass"),
        Place::Tcp { .. } => (&[], "the database number stands behind the host, as in redis://host:port/db"),
    };
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        // The name is shown only if it can't be a part of a password.
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) && !query.contains('@');
        let shown = if plain && name.len() <= 40 { name } else { "…" };
        if !known.contains(&name) {
            return Err(format!("unknown parameter `{shown}` behind ?; {advice}"));
        }
        if seen.contains(&name) {
            return Err(format!("the parameter `{shown}` is there twice"));
        }
        seen.push(name);
    }
    Ok(())
}

/// The address without user and password, as a URL.
pub(crate) fn name(endpoint: &Endpoint) -> String {
    let scheme = if endpoint.tls.is_some() { "rediss" } else { "redis" };
    match &endpoint.place {
        Place::Tcp { .. } => with_db(format!("{scheme}://{}", place(endpoint)), "/", endpoint.db),
        Place::Unix(path) => with_db(format!("unix://{}", path.display()), "?db=", endpoint.db),
    }
}

pub(super) fn with_db(address: String, separator: &str, db: i64) -> String {
    if db == 0 { address } else { format!("{address}{separator}{db}") }
}

/// Host and port, or the path of a socket.
pub(crate) fn place(endpoint: &Endpoint) -> String {
    match &endpoint.place {
        Place::Tcp { host, port } => host_and_port(host, *port),
        Place::Unix(path) => path.display().to_string(),
    }
}

pub(crate) fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The endpoint with another host and port.
pub(crate) fn elsewhere(endpoint: &Endpoint, host: &str, port: u16) -> Endpoint {
    Endpoint { place: Place::Tcp { host: host.to_owned(), port }, ..endpoint.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_nothing_reads_are_refused_by_name() {
        for (url, words) in [
            ("redis://h?db=3", "`db`"),
            ("redis://h/?protocol=resp3", "`protocol`"),
            ("rediss://h?timeout_ms=1", "`timeout_ms`"),
            ("unix:///s?database=3", "`database`"),
            ("unix:///s?DB=3", "`DB`"),
            ("unix:///s?db=3&protocol=2", "`protocol`"),
            ("unix:///s?db=3&db=4", "twice"),
            ("redis://h?a:b@c", "`…`"),
            ("redis://h#insecure", "behind #"),
        ] {
            let error = Endpoint::parse(url).unwrap_err();
            assert!(error.contains(words), "{url}: {error}");
        }
        for url in
            ["redis://h?", "redis://u:Endpoint-7@h:1/3", "unix:///s?db=3&user=u&pass=Endpoint-7", "rediss://h#insecure"]
        {
            assert!(Endpoint::parse(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn no_password_is_shown_for_debugging() {
        let endpoint = Endpoint::parse("redis://me:Crocus@h:1/3").unwrap();
        assert_eq!(format!("{endpoint:?}"), "Endpoint(\"redis://h:1/3\")");
        assert!(endpoint.key().contains("Crocus"));
    }
}
