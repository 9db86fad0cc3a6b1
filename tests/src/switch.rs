//! A way to a server that can be turned to another one, as a failover turns clients.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use sqlite_redis::Options;
use tempfile::TempDir;

use crate::Server;

struct State {
    target: PathBuf,
    ended: bool,
    /// Whether what is sent through the present connections gets lost.
    forgotten: Arc<AtomicBool>,
    open: Vec<UnixStream>,
    threads: Vec<JoinHandle<()>>,
}

/// See the [module](self).
pub struct Switch {
    state: Arc<Mutex<State>>,
    directory: TempDir,
    acceptor: Option<JoinHandle<()>>,
}

impl Switch {
    /// A way to this server.
    ///
    /// # Panics
    /// When it can't listen.
    pub fn to(server: &Server) -> Switch {
        let directory = tempfile::Builder::new().prefix("sqlite-redis-switch.").tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("redis.sock")).expect("a socket");
        let state = State {
            target: server.socket(),
            ended: false,
            forgotten: Arc::default(),
            open: Vec::new(),
            threads: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let acceptor = std::thread::spawn({
            let state = state.clone();
            move || accept(&state, &listener)
        });
        Switch { state, directory, acceptor: Some(acceptor) }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Turns it to another server: open connections are cut, new ones lead there.
    ///
    /// # Panics
    /// When a thread of it has panicked.
    pub fn turn(&self, server: &Server) {
        let mut state = self.state.lock().expect("the switch");
        state.target = server.socket();
        state.cut();
    }

    /// Forgets the connections that there are, and tells neither side, as a load balancer does: what is sent there
    /// gets lost from now on, while new ones work.
    ///
    /// # Panics
    /// When a thread of it has panicked.
    pub fn forget(&self) {
        let mut state = self.state.lock().expect("the switch");
        std::mem::take(&mut state.forgotten).store(true, SeqCst);
    }

    /// Options for a database behind it.
    pub fn options(&self, name: &str) -> Options {
        Options::new(name).server(format!("unix://{}", self.socket().display()))
    }
}

impl State {
    fn cut(&mut self) {
        for stream in self.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let Ok(mut state) = self.state.lock() else { return };
        state.ended = true;
        state.cut();
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        // Wakes the acceptor, which then sees that it is over.
        let _ = UnixStream::connect(self.socket());
        for thread in threads.into_iter().chain(self.acceptor.take()) {
            let _ = thread.join();
        }
    }
}

fn accept(state: &Mutex<State>, listener: &UnixListener) {
    while let Ok((client, _)) = listener.accept() {
        let Ok(mut state) = state.lock() else { return };
        if state.ended {
            return;
        }
        let Ok(server) = UnixStream::connect(&state.target) else { continue };
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (Ok(from), Ok(to), Ok(end)) = (from.try_clone(), to.try_clone(), from.try_clone()) else { return };
            state.open.push(end);
            let forgotten = state.forgotten.clone();
            state.threads.push(std::thread::spawn(move || carry(from, to, &forgotten)));
        }
    }
}

/// Carries bytes until either side ends.
fn carry(mut from: UnixStream, mut to: UnixStream, forgotten: &AtomicBool) {
    let mut bytes = vec![0; 64 << 10];
    // An end is an end, whatever its reason.
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !forgotten.load(SeqCst) && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
