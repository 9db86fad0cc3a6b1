//! A proxy between a client and its server that loses, holds and cuts what goes through.
//!
//! It passes one command on, waits for its reply and passes that back before it looks at the next
//! command of the same connection. So a fault sits exactly before or after one command, however
//! many the client has sent at once.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use sqlite_redis::Options;
use tempfile::TempDir;

use crate::{Server, eventually};

/// What is done to a command or to its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server never sees the command; the connection is cut.
    LoseRequest,
    /// The server gets half of the command; the connection is cut.
    CutRequest,
    /// The server carries the command out; the connection is cut before the reply.
    LoseReply,
    /// The client gets half of the reply; the connection is cut.
    CutReply,
    /// The command waits in the proxy until it is let go or cut.
    HoldRequest,
    /// The server carries the command out; the reply waits in the proxy until let go or cut.
    HoldReply,
}

enum Trigger {
    /// The next command of this name.
    Command(String),
    /// The command of this number, counted from 0 when the proxy starts or was reset.
    Number(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Go,
    Cut,
}

struct Held {
    id: u64,
    verdict: Option<Verdict>,
}

#[derive(Default)]
struct State {
    faults: Vec<(Trigger, Fault)>,
    commands: Vec<String>,
    /// What waits in the proxy, in order of arrival.
    held: Vec<Held>,
    next_held: u64,
    refusing: bool,
    ended: bool,
    next_connection: u64,
    /// Both ends of each connection, to be shut from outside.
    connections: HashMap<u64, (UnixStream, UnixStream)>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    server: PathBuf,
}

/// See the [module](self).
pub struct Proxy {
    shared: Arc<Shared>,
    directory: TempDir,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy to a server, without any fault yet.
    ///
    /// # Panics
    /// When it can't listen.
    pub fn to(server: &Server) -> Proxy {
        Proxy::to_socket(server.socket())
    }

    /// A proxy to whatever listens on a socket.
    ///
    /// # Panics
    /// When it can't listen.
    pub fn to_socket(server: PathBuf) -> Proxy {
        let directory = tempfile::Builder::new().prefix("sqlite-redis-proxy.").tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("redis.sock")).expect("a socket");
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), server });
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        Proxy { shared, directory, acceptor: Some(acceptor) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Options for a database behind it.
    pub fn options(&self, name: &str) -> Options {
        Options::new(name).server(self.url())
    }

    /// Does this to the next command of this name.
    pub fn next(&self, command: &str, fault: Fault) {
        self.shared.lock().faults.push((Trigger::Command(command.to_owned()), fault));
    }

    /// Does this to the command that comes after so many others from now on.
    pub fn after(&self, commands: u64, fault: Fault) {
        let mut state = self.shared.lock();
        let number = state.commands.len() as u64 + commands;
        state.faults.push((Trigger::Number(number), fault));
    }

    /// Whether a fault has yet to come.
    pub fn is_armed(&self) -> bool {
        !self.shared.lock().faults.is_empty()
    }

    /// Forgets faults that have yet to come.
    pub fn disarm(&self) {
        self.shared.lock().faults.clear();
    }

    /// Names of the commands that have come, in order.
    pub fn commands(&self) -> Vec<String> {
        self.shared.lock().commands.clone()
    }

    /// Waits until so many commands or replies are held at once.
    ///
    /// # Panics
    /// When that does not come to pass.
    pub fn wait_for_held(&self, count: usize) {
        eventually(&format!("{count} held"), || {
            self.shared.lock().held.iter().filter(|held| held.verdict.is_none()).count() == count
        });
    }

    /// Lets the first held go.
    ///
    /// # Panics
    /// When nothing is held.
    pub fn let_go(&self) {
        self.decide(Verdict::Go, false);
    }

    /// Lets the last held go.
    ///
    /// # Panics
    /// When nothing is held.
    pub fn let_go_last(&self) {
        self.decide(Verdict::Go, true);
    }

    /// Cuts the connection of the first held.
    ///
    /// # Panics
    /// When nothing is held.
    pub fn cut_held(&self) {
        self.decide(Verdict::Cut, false);
    }

    /// Lets all that is held go, or cuts it, and forgets it.
    pub fn settle(&self, go: bool) {
        let verdict = if go { Verdict::Go } else { Verdict::Cut };
        for held in &mut self.shared.lock().held {
            held.verdict.get_or_insert(verdict);
        }
        self.shared.changed.notify_all();
    }

    fn decide(&self, verdict: Verdict, last: bool) {
        let mut state = self.shared.lock();
        let mut held = state.held.iter_mut().filter(|held| held.verdict.is_none());
        let held = if last { held.next_back() } else { held.next() };
        held.expect("nothing is held").verdict = Some(verdict);
        self.shared.changed.notify_all();
    }

    /// Cuts all connections, and new ones at once while `refusing`.
    pub fn refuse(&self, refusing: bool) {
        let mut state = self.shared.lock();
        state.refusing = refusing;
        if refusing {
            state.cut_all();
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.cut_all();
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the acceptor, which then sees that it is over.
        let _ = UnixStream::connect(self.socket());
        for thread in threads.into_iter().chain(self.acceptor.take()) {
            let _ = thread.join();
        }
        let _ = fs::remove_file(self.socket());
    }
}

impl State {
    fn cut_all(&mut self) {
        for (client, server) in self.connections.values() {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        for held in &mut self.held {
            held.verdict = Some(Verdict::Cut);
        }
    }

    /// Counts a command, and finds what is to be done to it.
    fn fault(&mut self, name: &str) -> Option<Fault> {
        let number = self.commands.len() as u64;
        self.commands.push(name.to_owned());
        let due = self.faults.iter().position(|(trigger, _)| match trigger {
            Trigger::Command(wanted) => wanted.eq_ignore_ascii_case(name),
            Trigger::Number(wanted) => *wanted == number,
        })?;
        Some(self.faults.remove(due).1)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        while let Ok((client, _)) = listener.accept() {
            let mut state = self.lock();
            if state.ended {
                return;
            }
            if state.refusing {
                continue;
            }
            let Ok(server) = UnixStream::connect(&self.server) else { continue };
            let id = state.next_connection;
            state.next_connection += 1;
            let (Ok(one), Ok(other)) = (client.try_clone(), server.try_clone()) else { continue };
            state.connections.insert(id, (one, other));
            let shared = self.clone();
            // A thread that has ended keeps its stack for as long as its handle is kept.
            state.threads.retain(|thread| !thread.is_finished());
            state.threads.push(std::thread::spawn(move || {
                // However it ends, both sides are closed.
                let _ = shared.converse(client, server);
                if let Some((client, server)) = shared.lock().connections.remove(&id) {
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = server.shutdown(Shutdown::Both);
                }
            }));
        }
    }

    fn converse(&self, client: UnixStream, server: UnixStream) -> io::Result<()> {
        let (mut client, mut server) = (Side::new(client), Side::new(server));
        while let Some(command) = client.frame()? {
            let name = command_name(&command);
            let fault = self.lock().fault(&name);
            match fault {
                Some(Fault::LoseRequest) => return Ok(()),
                Some(Fault::CutRequest) => return server.stream.write_all(&command[..command.len() / 2]),
                Some(Fault::HoldRequest) if self.hold() == Verdict::Cut => return Ok(()),
                _ => {}
            }
            server.stream.write_all(&command)?;
            let Some(reply) = server.frame()? else { return Ok(()) };
            match fault {
                Some(Fault::LoseReply) => return Ok(()),
                Some(Fault::CutReply) => return client.stream.write_all(&reply[..reply.len() / 2]),
                Some(Fault::HoldReply) if self.hold() == Verdict::Cut => return Ok(()),
                _ => {}
            }
            client.stream.write_all(&reply)?;
        }
        Ok(())
    }

    fn hold(&self) -> Verdict {
        let mut state = self.lock();
        let id = state.next_held;
        state.next_held += 1;
        state.held.push(Held { id, verdict: None });
        loop {
            if state.ended {
                return Verdict::Cut;
            }
            let at = state.held.iter().position(|held| held.id == id).expect("it is held");
            if let Some(verdict) = state.held[at].verdict {
                state.held.remove(at);
                return verdict;
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

/// One side of a connection, read frame by frame.
pub(crate) struct Side {
    pub(crate) stream: UnixStream,
    buffer: Vec<u8>,
}

impl Side {
    pub(crate) fn new(stream: UnixStream) -> Side {
        Side { stream, buffer: Vec::new() }
    }

    /// The next command or reply; `None` at the end.
    pub(crate) fn frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = frame_length(&self.buffer) {
                return Ok(Some(self.buffer.drain(..length).collect()));
            }
            let mut more = [0; 65536];
            match self.stream.read(&mut more)? {
                0 => return Ok(None),
                length => self.buffer.extend_from_slice(&more[..length]),
            }
        }
    }
}

/// Bytes of the first command or reply (<https://redis.io/docs/latest/develop/reference/protocol-spec/>),
/// if all of it is there.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&bytes[1..end - 2]).ok()?.parse::<i64>().ok();
    match bytes[0] {
        b'$' => match usize::try_from(number()?) {
            Ok(length) => Some(end + length + 2).filter(|&whole| whole <= bytes.len()),
            Err(_) => Some(end),
        },
        b'*' => {
            let mut at = end;
            for _ in 0..number()?.max(0) {
                at += frame_length(&bytes[at..])?;
            }
            Some(at)
        }
        _ => Some(end),
    }
}

pub(crate) fn command_name(command: &[u8]) -> String {
    let name = command.split(|&byte| byte == b'\n').nth(2).unwrap_or_default();
    String::from_utf8_lossy(name).trim_end().to_uppercase()
}
