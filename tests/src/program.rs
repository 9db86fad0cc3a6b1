//! The Redis server that the suites start: `redis-server` from `PATH`, or the program that the environment variable
//! `REDIS_SERVER` names; and the features of that version.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Environment variable with the path of another server.
const VARIABLE: &str = "REDIS_SERVER";

/// A server program.
pub struct Program {
    /// Path of the program.
    pub path: PathBuf,
    /// Version of Redis or Valkey: major, minor, patch.
    pub version: (u32, u32, u32),
    /// Whether the server is Valkey.
    pub is_valkey: bool,
}

/// The server that the suites start.
///
/// # Panics
/// When it can't be run.
pub fn server() -> &'static Program {
    static PROGRAM: LazyLock<Program> = LazyLock::new(|| {
        let path = match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => from_root(Path::new(&path)),
            None => PathBuf::from("redis-server"),
        };
        Program::of(path).unwrap_or_else(|error| panic!("{error}; is it installed? (scripts/setup installs it)"))
    });
    &PROGRAM
}

/// Resolves a relative path from the root of the project, because tests run in other directories.
fn from_root(path: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if path.is_relative() && path.components().count() > 1 { root.join(path) } else { path.to_owned() }
}

impl Program {
    fn of(path: PathBuf) -> Result<Program, String> {
        let failed = |reason: String| format!("{} --version: {reason}", path.display());
        let output = Command::new(&path).arg("--version").output().map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (version, is_valkey) = version(&text).ok_or_else(|| failed(text.clone()))?;
        Ok(Program { path, version, is_valkey })
    }

    /// Whether the server is at least this version of Redis, or Valkey, which is based on Redis 7.2.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        self.is_valkey || self.version >= (major, minor, 0)
    }

    /// Arguments that let clients use `DEBUG`, as Redis 6.2 does without any.
    pub fn debug_arguments(&self) -> &'static [&'static str] {
        if self.is_at_least(7, 0) { &["--enable-debug-command", "yes"] } else { &[] }
    }

    /// Whether the port of the Cluster bus can be chosen. Otherwise it is the node's port plus 10,000.
    pub fn has_bus_port(&self) -> bool {
        self.is_at_least(7, 0)
    }

    /// Arguments that make the server connect to other servers from this loopback address.
    pub fn source_arguments(&self, from: Ipv4Addr) -> Vec<String> {
        if self.is_at_least(7, 0) {
            return vec!["--bind-source-addr".to_owned(), from.to_string()];
        }
        // Redis 6.2 connects from the first address that it listens on.
        vec!["--bind".to_owned(), from.to_string(), Ipv4Addr::LOCALHOST.to_string()]
    }

    /// Whether the server was built with TLS. The probe passes no key, so the server never starts.
    pub fn has_tls(&self) -> bool {
        static HAS_TLS: LazyLock<bool> = LazyLock::new(|| {
            let arguments = ["--port", "0", "--tls-port", "1", "--tls-cert-file", "none"];
            let output = Command::new(&server().path).args(arguments).output().expect("redis-server");
            let output = [output.stdout, output.stderr].concat();
            // Without TLS, the message is another one: an unknown directive or missing support.
            String::from_utf8_lossy(&output).contains("No tls-key-file configured")
        });
        *HAS_TLS
    }

    /// `redis-cli` beside the server, or from `PATH`.
    pub fn cli(&self) -> Command {
        let beside = self.path.with_file_name("redis-cli");
        Command::new(if beside.is_file() { beside } else { PathBuf::from("redis-cli") })
    }

    /// `redis-check-aof` of the same version: the server acts as that program under this name.
    pub fn check_aof(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg0("redis-check-aof");
        command
    }

    /// Name and version, for messages.
    pub fn name(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("{} {major}.{minor}.{patch}", if self.is_valkey { "Valkey" } else { "Redis" })
    }
}

/// Reads `Redis server v=6.2.5 sha=...`.
fn version(text: &str) -> Option<((u32, u32, u32), bool)> {
    let (_, behind) = text.split_once(" v=")?;
    let mut numbers = behind.split_whitespace().next()?.split('.').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    Some(((next()?, next()?, next()?), text.starts_with("Valkey")))
}

/// Reports that a test, or a part of it, is skipped. Writes directly to standard error, because the captured output of
/// a passing test is not shown; `scripts/test` counts these lines.
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // A closed standard error does not matter: the test is skipped anyway.
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {reason}");
}

/// Whether the server is at least this version. If not, reports a skip for the missing feature `what`.
pub fn has(what: &str, major: u32, minor: u32) -> bool {
    let there = server().is_at_least(major, minor);
    if !there {
        skipped(&format!("{} has no {what}, which came with Redis {major}.{minor}", server().name()));
    }
    there
}

/// Whether a test can make the server answer often while it loads. If not, reports a skip.
pub fn answers_while_it_loads() -> bool {
    has("loading-process-events-interval-bytes", 7, 0)
}

/// Whether the server was built with TLS. If not, reports a skip.
pub fn has_tls() -> bool {
    let there = server().has_tls();
    if !there {
        skipped(&format!("{} was built without TLS", server().name()));
    }
    there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("Redis server v=6.2.5 sha=00000000:0 malloc=jemalloc-5.1.0"), Some(((6, 2, 5), false)));
        assert_eq!(version("Valkey server v=8.0.1 sha=0"), Some(((8, 0, 1), true)));
        assert_eq!(version("7.0"), None);
    }
}
