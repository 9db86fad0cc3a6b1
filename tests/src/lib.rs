//! Shared code of the suites: private Redis servers, connections to them, and the paths of built files.
//!
//! Each test starts its own server in a private directory, on a unix socket, and ends it afterwards. No test talks
//! to a server that it did not start.

pub mod allocated;
pub mod cluster;
pub mod failovers;
pub mod failures;
mod frames;
pub mod group;
pub mod hostile;
pub mod hosts;
pub mod program;
pub mod proxy;
pub mod python;
pub mod queries;
pub mod relay;
pub mod replicated;
pub mod rows;
pub mod soak;
pub mod stored;
pub mod switch;
pub mod twins;
pub mod vtab;

use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rusqlite::Connection;
use sqlite_redis::Options;
use tempfile::TempDir;

/// A private Redis server of one test. It ends when this value is dropped.
pub struct Server {
    child: Child,
    directory: TempDir,
    arguments: Vec<String>,
    port: Option<u16>,
}

/// Options for starting a server.
#[derive(Default)]
pub struct Start {
    arguments: Vec<String>,
    tcp: bool,
    configuration: Option<String>,
    bus: bool,
}

impl Start {
    /// Adds an option of `redis.conf`, such as `["--maxmemory", "10mb"]`.
    pub fn with<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Listens on a TCP port of loopback as well.
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Reserves a free port for the Cluster bus, too.
    pub fn cluster_bus(mut self) -> Self {
        self.bus = true;
        self
    }

    /// Starts the server with a configuration file. A Sentinel needs one to store its state.
    pub fn configured(mut self, text: &str) -> Self {
        self.configuration = Some(text.to_owned());
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(self) -> Server {
        self.try_start().unwrap_or_else(|error| panic!("redis-server: {error:#}"))
    }

    /// Starts the server as a replica of a primary that listens on TCP. Returns when the first synchronisation is done.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn replica_of(self, primary: &Server) -> Server {
        let replica = self.tcp().start();
        replica.follow(primary);
        eventually("the replica is in step", || replica.is_replica_in_step());
        replica
    }

    fn try_start(self) -> Result<Server> {
        loop {
            let directory = tempfile::Builder::new().prefix("sqlite-redis-test.").tempdir()?;
            let port = if self.tcp { Some(self.free_port()?) } else { None };
            if let Some(text) = &self.configuration {
                fs::write(directory.path().join("redis.conf"), text)?;
            }
            let mut arguments = self.arguments.clone();
            if self.bus && program::server().has_bus_port() {
                arguments.extend(["--cluster-port".to_owned(), free_port()?.to_string()]);
            }
            let child = spawn(directory.path(), port, &arguments)?;
            let mut server = Server { child, directory, arguments, port };
            match server.wait_until_up() {
                // Another test took the port after `free_port` had found it free.
                Err(_) if self.tcp && server.log().contains("Address already in use") => {}
                outcome => return outcome.map(|()| server),
            }
        }
    }
}

impl Start {
    /// A free port. If the bus port can't be chosen, it is the port plus 10,000, which must be valid, too.
    fn free_port(&self) -> Result<u16> {
        loop {
            let port = free_port()?;
            if !self.bus || program::server().has_bus_port() || port < u16::MAX - 10_000 {
                return Ok(port);
            }
        }
    }
}

fn spawn(directory: &Path, port: Option<u16>, arguments: &[String]) -> Result<Child> {
    let mut command = ending_with_us(&program::server().path);
    command.args(Some(directory.join("redis.conf")).filter(|file| file.exists()));
    command.args(["--port", &port.unwrap_or(0).to_string(), "--bind", "127.0.0.1"]);
    command.args(["--unixsocket", &directory.join("redis.sock").to_string_lossy()]);
    // As a whole path: some servers open it before they enter the directory.
    let log = directory.join("redis.log");
    command.args(["--dir", &directory.to_string_lossy(), "--logfile", &log.to_string_lossy()]);
    command.args(["--save", "", "--daemonize", "no"]).args(program::server().debug_arguments());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    start_for_good(command).context("can't start redis-server; is it installed? (scripts/setup installs it)")
}

/// Starts a program from a thread that lives as long as this process; see [`ending_with_us`].
fn start_for_good(command: Command) -> io::Result<Child> {
    type Start = (Command, Sender<io::Result<Child>>);
    static STARTER: LazyLock<Sender<Start>> = LazyLock::new(|| {
        let (send, receive) = mpsc::channel::<Start>();
        std::thread::spawn(move || {
            for (mut command, answer) in receive {
                // The receiver is waiting; `send` fails only if its thread has panicked.
                let _ = answer.send(command.spawn());
            }
        });
        send
    });
    let (send, receive) = mpsc::channel();
    STARTER.send((command, send)).map_err(io::Error::other)?;
    receive.recv().map_err(io::Error::other)?
}

/// A program that the kernel kills when its starting thread ends, even by a signal (`setpriv --pdeathsig`). Without
/// util-linux, only [`Server`]'s drop ends it.
fn ending_with_us(program: &Path) -> Command {
    let setpriv = ["--pdeathsig", "KILL", "true"];
    let known =
        Command::new("setpriv").args(setpriv).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !known {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A TCP port of loopback that is free at the moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Server {
    /// Starts a server with default options.
    pub fn start() -> Server {
        Start::default().start()
    }

    /// Options for a server, such as `["--maxmemory", "10mb"]`; [`Start::start`] starts it.
    pub fn with<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> Start {
        Start::default().with(arguments)
    }

    /// Starts a replica of a primary that listens on TCP. Returns when the first synchronisation is done.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn replica_of(primary: &Server) -> Server {
        Start::default().replica_of(primary)
    }

    /// Makes this server a replica of a primary that listens on TCP.
    ///
    /// # Panics
    /// When the command fails.
    pub fn follow(&self, primary: &Server) {
        let done = self.redis_cli(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
        assert!(done.starts_with("OK"), "REPLICAOF: {done}");
    }

    /// Whether its first synchronisation with the primary is complete.
    pub fn is_replica_in_step(&self) -> bool {
        self.redis_cli(&["INFO", "replication"]).contains("master_link_status:up")
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", self.log());
            }
            let ping =
                redis::Client::open(self.url())?.get_connection().and_then(|mut c| redis::cmd("PING").exec(&mut c));
            match ping {
                Ok(()) => return Ok(()),
                // The server is up and requires a password.
                Err(error) if error.code().is_some_and(|code| code != "LOADING") => return Ok(()),
                Err(error) if Instant::now() > deadline => bail!("it does not answer: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// The server's log so far; empty if there is none.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("redis.log")).unwrap_or_default()
    }

    /// The server's directory, removed on drop.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// The URL of its unix socket.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The URL of its TCP port.
    ///
    /// # Panics
    /// When it was started without one.
    pub fn tcp_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.expect("started without a port"))
    }

    /// Its TCP port.
    ///
    /// # Panics
    /// When it was started without one.
    pub fn port(&self) -> u16 {
        self.port.expect("started without a port")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A plain Redis connection, to inspect or change keys directly.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn redis(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|client| client.get_connection()).expect("a connection")
    }

    /// Runs a command with `redis-cli` and returns its output.
    ///
    /// # Panics
    /// When it can't be run.
    pub fn redis_cli(&self, arguments: &[&str]) -> String {
        let output = program::server().cli().arg("-s").arg(self.socket()).args(arguments).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Calls of one command so far, from `INFO commandstats`.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn calls(&self, command: &str) -> u64 {
        let stats: String =
            redis::cmd("INFO").arg("commandstats").query(&mut self.redis()).expect("command statistics");
        let line = format!("cmdstat_{}:calls=", command.to_lowercase());
        let calls = stats.lines().find_map(|stat| stat.strip_prefix(&line)).and_then(|rest| rest.split(',').next());
        calls.map_or(0, |calls| calls.parse().expect("a number"))
    }

    /// Options for a database on this server.
    pub fn options(&self, name: &str) -> Options {
        Options::new(name).server(self.url())
    }

    /// A connection to a database on this server, with a busy timeout of 30 s.
    ///
    /// # Panics
    /// When it can't be opened.
    pub fn open(&self, name: &str) -> Connection {
        let connection = self.options(name).open().unwrap_or_else(|error| panic!("{error}"));
        connection.busy_timeout(Duration::from_secs(30)).expect("a busy timeout");
        connection
    }

    /// A connection as in another process: it shares its cache and sockets only with connections of the same `n`. The
    /// timeout depends on `n`, and connections with different options share nothing.
    ///
    /// # Panics
    /// When it can't be opened.
    pub fn open_apart(&self, name: &str, n: u64) -> Connection {
        let options = self.options(name).timeout(Duration::from_millis(20_000 + n));
        let connection = options.open().unwrap_or_else(|error| panic!("{error}"));
        connection.busy_timeout(Duration::from_secs(30)).expect("a busy timeout");
        connection
    }

    /// Sends the server a signal, such as `STOP`.
    ///
    /// # Panics
    /// When the server has ended.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(sent.expect("kill").success(), "kill -{signal}");
    }

    /// Kills the server with `SIGKILL`, like a crash.
    ///
    /// # Panics
    /// When the server can't be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        let _ = fs::remove_file(self.socket());
    }

    /// Removes an incomplete transaction from the end of the append-only file, as `docs/durability.md` requires after a
    /// crash. Redis itself only removes an incomplete command, and keeps the `MULTI` before it.
    fn repair_append_only_file(&self) {
        // Redis 6.2 has one file, later versions a manifest that names several.
        let places = ["appendonlydir/appendonly.aof.manifest", "appendonly.aof"];
        let mut files = places.iter().map(|place| self.directory.path().join(place));
        let Some(file) = files.find(|file| file.exists()) else { return };
        let mut command = program::server().check_aof();
        command.arg("--fix").arg(file).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut check = command.spawn().expect("redis-check-aof");
        // The program reads the confirmation only if it has something to remove.
        let _ = check.stdin.take().expect("its input").write_all(b"y\n");
        assert!(check.wait().expect("redis-check-aof").success(), "redis-check-aof --fix");
    }

    /// Starts the server again after [`Server::kill`], in the same directory.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.repair_append_only_file();
        self.child = spawn(self.directory.path(), self.port, &self.arguments).expect("redis-server");
        self.wait_until_up().expect("redis-server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits up to two minutes until `holds` returns true.
///
/// # Panics
/// After two minutes, with `what` in the message.
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(Duration::from_secs(120), what, holds);
}

/// Waits up to `time` until `holds` returns true.
///
/// # Panics
/// After `time`, with `what` in the message.
pub fn within(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first column of the first row, as text. NULL is the empty string.
///
/// # Panics
/// When the query fails.
pub fn text(connection: &Connection, sql: &str) -> String {
    let value = connection.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0));
    match value.unwrap_or_else(|error| panic!("{sql}: {error}; {:?}", sqlite_redis::last_error(connection))) {
        rusqlite::types::Value::Null => String::new(),
        rusqlite::types::Value::Integer(number) => number.to_string(),
        rusqlite::types::Value::Real(number) => number.to_string(),
        rusqlite::types::Value::Text(text) => text,
        rusqlite::types::Value::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}

/// The first column of the first row, as a number.
///
/// # Panics
/// When the query fails.
pub fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| {
        panic!("{sql}: {error}; {:?}", sqlite_redis::last_error(connection));
    })
}

/// Options for a client that survives failovers, with timeouts for a busy machine.
pub fn following(url: &str, name: &str) -> Options {
    let soon = Duration::from_secs(2);
    Options::new(name).server(url).timeout(soon).lease(soon).failover(Duration::from_secs(60))
}

/// Asserts that `PRAGMA integrity_check` and `foreign_key_check` find no error.
///
/// # Panics
/// When they do.
pub fn check_integrity(connection: &Connection) {
    assert_eq!(text(connection, "PRAGMA integrity_check"), "ok");
    let violations = connection.prepare("PRAGMA foreign_key_check").and_then(|mut s| s.exists([])).expect("a check");
    assert!(!violations, "foreign keys are violated");
}

/// The extended result code of a failure.
///
/// # Panics
/// When the result is no failure of SQLite.
pub fn code<T: std::fmt::Debug>(result: rusqlite::Result<T>) -> i32 {
    match result {
        Err(rusqlite::Error::SqliteFailure(error, _)) => error.extended_code,
        other => panic!("expected a failure of SQLite, got {other:?}"),
    }
}

/// Path of the Chinook database beside the project; `None`, and the test is skipped, if it is missing.
pub fn chinook() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/chinook.sqlite");
    if !path.exists() {
        program::skipped("there is no chinook.sqlite beside the project");
        return None;
    }
    Some(path)
}

/// A file of the build, such as the extension or the shell. `cargo test` puts the extension beside the test programs,
/// `cargo build` one directory up; the newer file wins.
///
/// # Panics
/// When the test program is not where cargo puts it.
pub fn built(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("the test program");
    let places = program.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let age = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    places.max_by_key(age).expect("the target directory")
}
