//! What the suites share: private Redis servers, connections to them, and where things are.
//!
//! A test starts its own server in a directory of its own, on a unix socket, and ends it when it
//! is done. Nothing here ever talks to a server that it did not start.

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

/// A Redis server of this test alone.
pub struct Server {
    child: Child,
    directory: TempDir,
    arguments: Vec<String>,
    port: Option<u16>,
}

/// How to start a server, beyond the usual.
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

    /// Has a free port for the bus of a Cluster.
    pub fn cluster_bus(mut self) -> Self {
        self.bus = true;
        self
    }

    /// With a configuration file, which a Sentinel needs to write down what it has learnt.
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

    /// Starts it as a replica of a server that listens on TCP. Returns when it is in step.
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
                // Another test took the port between the look for a free one and its use.
                Err(_) if self.tcp && server.log().contains("Address already in use") => {}
                outcome => return outcome.map(|()| server),
            }
        }
    }
}

impl Start {
    /// A free port, behind which there is one for the bus of a Cluster if that can't be chosen.
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
    command.args(["--dir", &directory.to_string_lossy(), "--logfile", "redis.log"]);
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
                // Whoever asked is waiting for it.
                let _ = answer.send(command.spawn());
            }
        });
        send
    });
    let (send, receive) = mpsc::channel();
    STARTER.send((command, send)).map_err(io::Error::other)?;
    receive.recv().map_err(io::Error::other)?
}

/// A program that ends when the thread does that started it, even if a signal ends that. Where
/// util-linux is not there, it only ends when it is told to.
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

/// A port that nobody listens on right now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Server {
    /// A server with nothing special about it.
    pub fn start() -> Server {
        Start::default().start()
    }

    /// A server to be started with options.
    pub fn with<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> Start {
        Start::default().with(arguments)
    }

    /// A replica of a server that listens on TCP. Returns when it is in step.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn replica_of(primary: &Server) -> Server {
        Start::default().replica_of(primary)
    }

    /// Makes it a replica of a server that listens on TCP.
    ///
    /// # Panics
    /// When either can't be.
    pub fn follow(&self, primary: &Server) {
        let done = self.redis_cli(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
        assert!(done.starts_with("OK"), "REPLICAOF: {done}");
    }

    /// Whether it has received from its primary all that was there when it came.
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
                // It is there and wants a password.
                Err(error) if error.code().is_some_and(|code| code != "LOADING") => return Ok(()),
                Err(error) if Instant::now() > deadline => bail!("it does not answer: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("redis.log")).unwrap_or_default()
    }

    /// Its directory, which goes when it goes.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its address as a URL of its unix socket.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its address as a URL of its TCP port.
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

    /// A connection to look behind the scenes with.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn redis(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|client| client.get_connection()).expect("a connection")
    }

    /// What `redis-cli` prints.
    ///
    /// # Panics
    /// When it can't be run.
    pub fn redis_cli(&self, arguments: &[&str]) -> String {
        let output = program::server().cli().arg("-s").arg(self.socket()).args(arguments).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Calls of each command so far, as the server counts them.
    ///
    /// # Panics
    /// When the server can't be asked.
    pub fn calls(&self, command: &str) -> u64 {
        let stats: String =
            redis::cmd("INFO").arg("commandstats").query(&mut self.redis()).expect("command statistics");
        let line = format!("cmdstat_{}:calls=", command.to_lowercase());
        let calls = stats.lines().find_map(|stat| stat.strip_prefix(&line)).and_then(|rest| rest.split(',').next());
        calls.map_or(0, |calls| calls.parse().expect("a number"))
    }

    /// Options for a database on it.
    pub fn options(&self, name: &str) -> Options {
        Options::new(name).server(self.url())
    }

    /// A connection to a database on it, which waits for others that write.
    ///
    /// # Panics
    /// When it can't be opened.
    pub fn open(&self, name: &str) -> Connection {
        let connection = self.options(name).open().unwrap_or_else(|error| panic!("{error}"));
        connection.busy_timeout(Duration::from_secs(30)).expect("a busy timeout");
        connection
    }

    /// A connection as another process would have it: with a cache and sockets that no connection
    /// of [`Server::open`] shares, nor one of another `n`.
    ///
    /// # Panics
    /// When it can't be opened.
    pub fn open_apart(&self, name: &str, n: u64) -> Connection {
        let options = self.options(name).timeout(Duration::from_millis(20_000 + n));
        let connection = options.open().unwrap_or_else(|error| panic!("{error}"));
        connection.busy_timeout(Duration::from_secs(30)).expect("a busy timeout");
        connection
    }

    /// Sends it a signal, such as `STOP`.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(sent.expect("kill").success(), "kill -{signal}");
    }

    /// Ends the server at once, as a crash does.
    ///
    /// # Panics
    /// When it can't be ended.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        let _ = fs::remove_file(self.socket());
    }

    /// Cuts half a transaction off the end of the append-only file, as `docs/durability.md` says one
    /// must after a crash: Redis only cuts off half a command, and leaves its `MULTI` there.
    fn repair_append_only_file(&self) {
        // Redis 6.2 has one file, later versions a manifest that names several.
        let places = ["appendonlydir/appendonly.aof.manifest", "appendonly.aof"];
        let mut files = places.iter().map(|place| self.directory.path().join(place));
        let Some(file) = files.find(|file| file.exists()) else { return };
        let mut command = program::server().check_aof();
        command.arg("--fix").arg(file).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut check = command.spawn().expect("redis-check-aof");
        // It asks only when there is something to cut off.
        let _ = check.stdin.take().expect("its input").write_all(b"y\n");
        assert!(check.wait().expect("redis-check-aof").success(), "redis-check-aof --fix");
    }

    /// Starts it again after [`Server::kill`], in the same directory.
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
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds that takes a while.
///
/// # Panics
/// When it does not hold after two minutes.
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(Duration::from_secs(120), what, holds);
}

/// Waits until something holds that takes longer.
///
/// # Panics
/// When it does not hold in time.
pub fn within(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !holds() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first column of the first row, as text.
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

/// Options for a client that is to live through failovers on a busy machine.
pub fn following(url: &str, name: &str) -> Options {
    let soon = Duration::from_secs(2);
    Options::new(name).server(url).timeout(soon).lease(soon).failover(Duration::from_secs(60))
}

/// Asserts that SQLite finds nothing wrong with a database.
///
/// # Panics
/// When it does.
pub fn check_integrity(connection: &Connection) {
    assert_eq!(text(connection, "PRAGMA integrity_check"), "ok");
    let violations = connection.prepare("PRAGMA foreign_key_check").and_then(|mut s| s.exists([])).expect("a check");
    assert!(!violations, "foreign keys are violated");
}

/// The extended result code of a failure.
///
/// # Panics
/// When it did not fail.
pub fn code<T: std::fmt::Debug>(result: rusqlite::Result<T>) -> i32 {
    match result {
        Err(rusqlite::Error::SqliteFailure(error, _)) => error.extended_code,
        other => panic!("expected a failure of SQLite, got {other:?}"),
    }
}

/// The Chinook database beside the project. Without it, the test is skipped.
pub fn chinook() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/chinook.sqlite");
    if !path.exists() {
        program::skipped("there is no chinook.sqlite beside the project");
        return None;
    }
    Some(path)
}

/// A file that the build has made, such as the extension or the shell: the newest, since
/// `cargo test` puts the extension among the test programs, `cargo build` one directory up.
///
/// # Panics
/// When the test program is not where cargo puts it.
pub fn built(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("the test program");
    let places = program.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let age = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    places.max_by_key(age).expect("the target directory")
}
