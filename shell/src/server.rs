//! The private redis-server: the databases of who has no server yet.
//!
//! It keeps its data in the user's data directory and listens on a unix
//! socket only. All shells of a user share it:
//!
//! - `start.lock` is held for the moment in which a shell joins or leaves.
//! - `users` is locked shared by every shell as long as it runs. The lock of
//!   a shell that is killed goes with it.
//! - Who leaves and then gets `users` exclusively was the last, and stops the
//!   server. A server whose shells were all killed is picked up by the next.
//!
//! The data directory of the server is compared before it is stopped, so a
//! foreign server at the socket is left alone. Directories that another user
//! could have made or changed are refused ([`private`]).

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{paths, private};

/// The programs that can be the server, the preferred one first.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// Paths of unix sockets are limited to 104 (macOS) or 108 bytes.
const SOCKET_PATH_LIMIT: usize = 100;
/// How long a server may take until it listens. Loading data comes later and
/// may take as long as it needs.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a server may take to write its data and stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// The membership of this process, until [`leave`] takes it.
static MEMBER: Mutex<Option<Member>> = Mutex::new(None);

struct Member {
    place: Place,
    /// The shared lock that says "in use".
    users: File,
    /// Tells when the server ended, if it is a child of this process.
    child: Option<Ended>,
}

/// Receives the exit status of a child.
type Ended = Receiver<std::io::Result<ExitStatus>>;

/// What [`join`] found.
pub struct Joined {
    /// Whether this process was no member before.
    pub first: bool,
    /// Whether this process started the server.
    pub started: bool,
    /// Where its data is, for people to read.
    pub directory: String,
}

/// Where the private server of this user listens, running or not.
pub fn url() -> Result<String> {
    let socket = Place::find()?.socket;
    let mut url = "unix://".to_owned();
    for byte in socket.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                url.push(char::from(*byte));
            }
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    Ok(url)
}

/// Makes sure that the private server runs until [`leave`].
pub fn join() -> Result<Joined> {
    let mut member = MEMBER.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::find()?;
    let directory = paths::with_tilde(&place.directory);
    if member.is_some() {
        return Ok(Joined { first: false, started: false, directory });
    }
    place.prepare()?;
    let door = place.door()?;
    let users = lock_file(&place.directory.join("users"))?;
    users.lock_shared().context("the private server's `users` file can't be locked")?;
    let child = if place.answers()? { None } else { Some(start(&place)?) };
    drop(door);
    let started = child.is_some();
    *member = Some(Member { place, users, child });
    Ok(Joined { first: true, started, directory })
}

/// Gives the private server up; the last one to leave stops it. Trouble is
/// reported, but can't be helped any more.
pub fn leave() {
    // Held to the end, so that a signal does not end the process halfway.
    let mut member = MEMBER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(member) = member.take()
        && let Err(error) = member.leave()
    {
        note!("Warning: the private redis-server was left running: {error:#}");
    }
}

/// [`leave`] for the thread that ends the process after a signal. While the
/// main thread joins or leaves, it gets some time for that; if that is not
/// enough, the server is left to the next shell.
pub fn leave_within(patience: Duration) {
    let begin = Instant::now();
    while let Err(TryLockError::WouldBlock) = MEMBER.try_lock() {
        if begin.elapsed() > patience {
            return;
        }
        thread::sleep(POLL);
    }
    leave();
}

impl Member {
    fn leave(self) -> Result<()> {
        let _door = self.place.door()?;
        drop(self.users);
        let users = lock_file(&self.place.directory.join("users"))?;
        if users.try_lock().is_err() {
            return Ok(());
        }
        self.place.stop()?;
        if let Some(child) = self.child {
            // A parent that ends before its child is reaped may leave a zombie behind.
            let _ = child.recv_timeout(STOP_LIMIT);
        }
        Ok(())
    }
}

/// The directories and files of the private server.
struct Place {
    directory: PathBuf,
    socket: PathBuf,
}

impl Place {
    fn find() -> Result<Self> {
        let directory = paths::data_dir()?;
        let socket = socket_path(&directory);
        Ok(Place { directory, socket })
    }

    fn prepare(&self) -> Result<()> {
        private::directory(&self.directory)?;
        match self.socket.parent() {
            Some(parent) if parent != self.directory => private::directory(parent),
            _ => Ok(()),
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.join("redis.log")
    }

    /// Enters the section in which only one shell starts or stops the server.
    fn door(&self) -> Result<File> {
        let file = lock_file(&self.directory.join("start.lock"))?;
        file.lock().context("the private server's `start.lock` can't be locked")?;
        Ok(file)
    }

    fn connect(&self) -> Result<redis::Connection, redis::RedisError> {
        let path = self.socket.clone();
        let client = redis::Client::open(redis::ConnectionAddr::Unix(path))?;
        let connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(STOP_LIMIT))?;
        Ok(connection)
    }

    /// Whether the private server listens here. It is waited for while it
    /// loads its data.
    fn answers(&self) -> Result<bool> {
        let Ok(mut connection) = self.connect() else {
            return Ok(false);
        };
        loop {
            match redis::cmd("PING").query::<String>(&mut connection) {
                Ok(_) => return Ok(true),
                Err(error) if is_loading(&error) => thread::sleep(POLL * 5),
                Err(error) => {
                    return Err(error)
                        .context(format!("the private redis-server at {} does not answer", self.socket.display()));
                }
            }
        }
    }

    fn stop(&self) -> Result<()> {
        let Ok(mut connection) = self.connect() else {
            return Ok(());
        };
        let (_, directory) = redis::cmd("CONFIG").arg(&["GET", "dir"]).query::<(String, String)>(&mut connection)?;
        if fs::canonicalize(directory).ok() != fs::canonicalize(&self.directory).ok() {
            bail!("the server at {} is another one", self.socket.display());
        }
        // No answer but a closed connection means that it obeys.
        if let Err(error) = redis::cmd("SHUTDOWN").query::<()>(&mut connection)
            && !error.is_io_error()
        {
            return Err(error).context("SHUTDOWN was refused");
        }
        let begin = Instant::now();
        while self.connect().is_ok() {
            if begin.elapsed() > STOP_LIMIT {
                bail!("it still listens after SHUTDOWN");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

fn is_loading(error: &redis::RedisError) -> bool {
    error.code() == Some("LOADING")
}

/// Starts the server and waits until it answers.
fn start(place: &Place) -> Result<Ended> {
    let mut child = spawn(place)?;
    if let Err(error) = wait_until_it_listens(place, &mut child) {
        // Neither of these can fail for a child that is not reaped yet.
        let _ = child.kill();
        let _ = child.wait();
        let log = place.log();
        let end = tail(&log);
        bail!("the private redis-server did not start: {error:#}; the end of {}:\n{end}", log.display());
    }
    // Waiting in a thread means that no zombie stays, whenever it ends.
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait()));
    place.answers()?;
    Ok(ended)
}

fn spawn(place: &Place) -> Result<Child> {
    for program in PROGRAMS {
        match command(program, place)?.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.with_context(|| format!("{program} can't be started")),
        }
    }
    bail!(
        "no server was given and there is no redis-server to start a private one.\n\
         Install it (Debian, Ubuntu: apt install redis-server; macOS: brew install redis)\n\
         or name a server: --redis URL or SQLITE_REDIS_URL"
    )
}

fn command(program: &str, place: &Place) -> Result<Command> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(place.log())?;
    let mut command = Command::new(program);
    command
        .args(["--port", "0", "--unixsocketperm", "600", "--unixsocket"])
        .arg(&place.socket)
        .args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--loglevel", "warning"])
        .args(["--maxmemory-policy", "noeviction", "--dir"])
        .arg(&place.directory)
        .arg("--logfile")
        .arg(place.log())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C in the terminal is for the shell, not for the server.
        .process_group(0);
    Ok(command)
}

fn wait_until_it_listens(place: &Place, child: &mut Child) -> Result<()> {
    let begin = Instant::now();
    while place.connect().is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}");
        }
        if begin.elapsed() > START_LIMIT {
            bail!("it does not listen after {} seconds", START_LIMIT.as_secs());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

fn lock_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(0o600);
    options.open(path).with_context(|| format!("{} can't be opened", path.display()))
}

/// The socket beside the data, or in a short directory of its own where the
/// path would be too long for a socket.
fn socket_path(data: &Path) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    socket_path_in(data, runtime.into_iter().chain([std::env::temp_dir()]))
}

/// The same with the directories that may hold the short one. One in which another user could
/// replace it is passed over: `su` keeps the `XDG_RUNTIME_DIR` of the other user.
fn socket_path_in(data: &Path, bases: impl IntoIterator<Item = PathBuf>) -> PathBuf {
    let beside = data.join("redis.sock");
    if beside.as_os_str().len() <= SOCKET_PATH_LIMIT {
        return beside;
    }
    let key = format!("sqlite-redis-{:016x}", fnv1a(data.as_os_str().as_encoded_bytes()));
    let short = |base: &PathBuf| base.as_os_str().len() + key.len() + 12 <= SOCKET_PATH_LIMIT;
    let base = bases.into_iter().find(|base| short(base) && private::is_safe_base(base));
    base.unwrap_or_else(|| PathBuf::from("/tmp")).join(key).join("redis.sock")
}

/// A hash that stays the same in every build, as all shells must agree.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_get_a_short_socket() {
        let short = Path::new("/home/a/.local/share/sqlite-redis");
        assert_eq!(socket_path(short), short.join("redis.sock"));
        let long = PathBuf::from(format!("/home/{}", "a".repeat(120)));
        assert!(socket_path(&long).as_os_str().len() <= SOCKET_PATH_LIMIT);
        assert_ne!(socket_path(&long), socket_path(&long.join("b")));
        let base = tempfile::tempdir().unwrap();
        let shared = base.path().join("shared");
        fs::create_dir(&shared).unwrap();
        let chosen = || socket_path_in(&long, [PathBuf::from("relative"), shared.clone(), base.path().to_owned()]);
        assert!(chosen().starts_with(&shared));
        fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(!chosen().starts_with(&shared) && chosen().starts_with(base.path()));
    }

    #[test]
    fn the_end_of_a_log_is_its_last_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = (1..=20).map(|i| format!("line {i}\n\n")).collect();
        fs::write(file.path(), text).unwrap();
        assert!(tail(file.path()).starts_with("line 13\n"));
        assert_eq!(tail(Path::new("/nowhere")), "");
    }
}
