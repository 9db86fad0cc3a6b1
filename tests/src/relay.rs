//! The way into a server over TCP, which can be cut: for everyone, or for other servers only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::Server;

/// Servers and Sentinels make their connections from here (`bind-source-addr`), clients from
/// 127.0.0.1, so that a relay can tell them apart.
pub const SERVERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Who gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Everyone.
    Open,
    /// Clients, but no other servers.
    Clients,
    /// Nobody.
    Closed,
}

struct State {
    target: Option<u16>,
    passage: Passage,
    ended: bool,
    open: Vec<(bool, TcpStream)>,
    threads: Vec<JoinHandle<()>>,
}

/// See the [module](self).
pub struct Relay {
    state: Arc<Mutex<State>>,
    port: u16,
    acceptor: Option<JoinHandle<()>>,
}

impl Relay {
    /// A way that leads nowhere yet.
    ///
    /// # Panics
    /// When it can't listen.
    pub fn new() -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let state = State { target: None, passage: Passage::Open, ended: false, open: Vec::new(), threads: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let acceptor = std::thread::spawn({
            let state = state.clone();
            move || accept(&state, &listener)
        });
        Relay { state, port, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads it to this server.
    ///
    /// # Panics
    /// When a thread of it has panicked.
    pub fn lead_to(&self, server: &Server) {
        self.state.lock().expect("the relay").target = Some(server.port());
    }

    /// Opens it or cuts it, from now on and for connections that there are.
    ///
    /// # Panics
    /// When a thread of it has panicked.
    pub fn set(&self, passage: Passage) {
        let mut state = self.state.lock().expect("the relay");
        state.passage = passage;
        state.cut();
    }
}

impl Default for Relay {
    fn default() -> Self {
        Relay::new()
    }
}

impl State {
    fn cut(&mut self) {
        let passage = self.passage;
        self.open.retain(|(from_server, stream)| {
            let stays = passes(passage, *from_server);
            if !stays {
                // It may have ended by itself.
                let _ = stream.shutdown(Shutdown::Both);
            }
            stays
        });
        self.threads.retain(|thread| !thread.is_finished());
    }
}

fn passes(passage: Passage, from_server: bool) -> bool {
    match passage {
        Passage::Open => true,
        Passage::Clients => !from_server,
        Passage::Closed => false,
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let Ok(mut state) = self.state.lock() else { return };
        state.ended = true;
        state.passage = Passage::Closed;
        state.cut();
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        // Wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        for thread in threads.into_iter().chain(self.acceptor.take()) {
            let _ = thread.join();
        }
    }
}

fn accept(state: &Mutex<State>, listener: &TcpListener) {
    while let Ok((client, from)) = listener.accept() {
        let Ok(mut state) = state.lock() else { return };
        if state.ended {
            return;
        }
        let from_server = from.ip() == IpAddr::V4(SERVERS);
        if !passes(state.passage, from_server) {
            continue;
        }
        let Some(Ok(server)) = state.target.map(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port))) else {
            continue;
        };
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (Ok(from), Ok(to), Ok(end)) = (from.try_clone(), to.try_clone(), from.try_clone()) else { return };
            // Small commands must not wait for each other.
            let _ = to.set_nodelay(true);
            state.open.push((from_server, end));
            state.threads.push(std::thread::spawn(move || carry(from, to)));
        }
    }
}

/// Carries bytes until either side ends.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    // An end is an end, whatever its reason.
    let _ = io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
