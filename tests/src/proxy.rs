//! A proxy between a client and its server that loses, holds, delays and cuts what goes through.
//!
//! It passes one command on, waits for its reply and passes that back before it looks at the next
//! command of the same connection. So a fault sits exactly before or after one command, however
//! many the client has sent at once. Clients come over TCP, which alone can reset a connection.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::RngExt;
use socket2::SockRef;
use sqlite_redis::Options;

use crate::frames::{Side, command_name, words};
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
    /// The server carries the command out; the client's connection is reset before the reply.
    Reset,
    /// The server carries the command out; from then on nothing goes through in either direction,
    /// and neither side is told: as when a machine or a cable between them is gone.
    HalfOpen,
    /// The reply comes in small pieces with pauses.
    Trickle,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 9] = [
        Fault::LoseRequest,
        Fault::CutRequest,
        Fault::LoseReply,
        Fault::CutReply,
        Fault::HoldRequest,
        Fault::HoldReply,
        Fault::Reset,
        Fault::HalfOpen,
        Fault::Trickle,
    ];
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

/// How a command is answered, given its words.
type Answer = Arc<dyn Fn(&[String]) -> Vec<u8> + Send + Sync>;

struct State {
    /// Socket of the server.
    server: PathBuf,
    /// By how much replies are late at most.
    delay: Duration,
    /// Bytes a second that go through, both ways and for all connections together.
    rate: Option<u64>,
    /// When what has been let through so far is through at that rate.
    through_at: Instant,
    faults: Vec<(Trigger, Fault)>,
    /// What is done to each command of a name.
    always: HashMap<String, Fault>,
    commands: Vec<String>,
    /// What waits in the proxy, in order of arrival.
    held: Vec<Held>,
    next_held: u64,
    /// Commands that it answers itself, and how, given the words of the command.
    answers: HashMap<String, Answer>,
    refusing: bool,
    ended: bool,
    next_connection: u64,
    /// Both ends of each connection, to be shut from outside.
    connections: HashMap<u64, (TcpStream, UnixStream)>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// See the [module](self).
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
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
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number");
        let shared = Arc::new(Shared { state: Mutex::new(State::new(server)), changed: Condvar::new() });
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        Proxy { shared, address, acceptor: Some(acceptor) }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
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

    /// Does this to each command of this name.
    pub fn each(&self, command: &str, fault: Fault) {
        self.shared.lock().always.insert(command.to_owned(), fault);
    }

    /// From now on answers this command itself, as a server might that is another version.
    pub fn answer(&self, command: &str, reply: &str) {
        let reply = reply.as_bytes().to_vec();
        self.answer_by(command, move |_| reply.clone());
    }

    /// From now on answers this command itself, by its words.
    pub fn answer_by(&self, command: &str, reply: impl Fn(&[String]) -> Vec<u8> + Send + Sync + 'static) {
        self.shared.lock().answers.insert(command.to_owned(), Arc::new(reply));
    }

    /// Lets the server answer all commands again.
    pub fn answer_none(&self) {
        self.shared.lock().answers.clear();
    }

    /// From now on says of these commands that it does not know them.
    pub fn lacks(&self, commands: &[&str]) {
        for command in commands {
            self.answer(command, &format!("-ERR unknown command '{command}', with args beginning with: \r\n"));
        }
    }

    /// Whether a fault has yet to come.
    pub fn is_armed(&self) -> bool {
        !self.shared.lock().faults.is_empty()
    }

    /// Forgets faults that have yet to come.
    pub fn disarm(&self) {
        let mut state = self.shared.lock();
        state.faults.clear();
        state.always.clear();
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

    /// Lets each reply be late by a random time, this at most.
    pub fn delay(&self, most: Duration) {
        self.shared.lock().delay = most;
    }

    /// Lets through so many bytes a second, both ways and for all connections together.
    pub fn rate(&self, bytes: Option<u64>) {
        let mut state = self.shared.lock();
        state.rate = bytes;
        state.through_at = Instant::now();
    }

    /// Turns to another server, as a failover does: cuts all connections; new ones lead there.
    pub fn turn(&self, server: &Server) {
        let mut state = self.shared.lock();
        state.server = server.socket();
        state.cut_all();
        self.shared.changed.notify_all();
    }

    /// Cuts all connections on the client's side only: what is held is on its way to the server yet.
    pub fn cut_clients(&self) {
        for (client, _) in self.shared.lock().connections.values() {
            let _ = client.shutdown(Shutdown::Both);
        }
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
        let _ = TcpStream::connect(self.address);
        for thread in threads.into_iter().chain(self.acceptor.take()) {
            let _ = thread.join();
        }
    }
}

impl State {
    fn new(server: PathBuf) -> State {
        State {
            server,
            delay: Duration::ZERO,
            rate: None,
            through_at: Instant::now(),
            faults: Vec::new(),
            always: HashMap::new(),
            answers: HashMap::new(),
            commands: Vec::new(),
            held: Vec::new(),
            next_held: 0,
            refusing: false,
            ended: false,
            next_connection: 0,
            connections: HashMap::new(),
            threads: Vec::new(),
        }
    }

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
        });
        match due {
            Some(due) => Some(self.faults.remove(due).1),
            None => self.always.get(name).copied(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            let mut state = self.lock();
            if state.ended {
                return;
            }
            if state.refusing {
                continue;
            }
            let Ok(server) = UnixStream::connect(&state.server) else { continue };
            let Ok(()) = client.set_nodelay(true) else { continue };
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
                shared.lock().connections.remove(&id);
            }));
        }
    }

    fn converse(&self, client: TcpStream, server: UnixStream) -> io::Result<()> {
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
            let answer = self.lock().answers.get(&name).cloned();
            if let Some(answer) = answer {
                client.stream.write_all(&answer(&words(&command)))?;
                continue;
            }
            self.pass(command.len());
            server.stream.write_all(&command)?;
            let Some(reply) = server.frame()? else { return Ok(()) };
            self.pass(reply.len());
            self.late();
            match fault {
                Some(Fault::LoseReply) => return Ok(()),
                Some(Fault::CutReply) => return client.stream.write_all(&reply[..reply.len() / 2]),
                Some(Fault::HoldReply) if self.hold() == Verdict::Cut => return Ok(()),
                Some(Fault::Reset) => return SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)),
                Some(Fault::HalfOpen) => return client.drain(),
                Some(Fault::Trickle) => trickle(&mut client.stream, &reply)?,
                _ => client.stream.write_all(&reply)?,
            }
        }
        Ok(())
    }

    /// Waits as long as so many bytes take at the rate that is set.
    fn pass(&self, bytes: usize) {
        let mut state = self.lock();
        let Some(rate) = state.rate else { return };
        let now = Instant::now();
        state.through_at = state.through_at.max(now) + Duration::from_secs_f64(bytes as f64 / rate as f64);
        let wait = state.through_at - now;
        drop(state);
        std::thread::sleep(wait);
    }

    fn late(&self) {
        let most = self.lock().delay;
        if !most.is_zero() {
            std::thread::sleep(rand::rng().random_range(Duration::ZERO..most));
        }
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

fn trickle(stream: &mut TcpStream, reply: &[u8]) -> io::Result<()> {
    for piece in reply.chunks((reply.len() / 100).max(1)) {
        stream.write_all(piece)?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
