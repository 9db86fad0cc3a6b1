//! A relay between a client and a server: counts what goes through, and can delay it.
//!
//! Each direction is delayed by itself and nothing waits for what is ahead of it, so it adds
//! latency and leaves bandwidth alone, as a longer cable does.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;

/// What has gone through a relay.
#[derive(Debug, Default)]
pub struct Counters {
    trips: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// The values of [`Counters`] at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Times that the client spoke after the server had.
    pub trips: u64,
    /// Bytes from client to server.
    pub sent: u64,
    /// Bytes from server to client.
    pub received: u64,
}

impl Counters {
    pub fn counts(&self) -> Counts {
        Counts { trips: self.trips.load(Relaxed), sent: self.sent.load(Relaxed), received: self.received.load(Relaxed) }
    }
}

/// One direction of a connection, seen by the counters.
#[derive(Clone)]
struct Way {
    counters: Arc<Counters>,
    up: bool,
    /// Whether the server spoke last on this connection.
    server_spoke: Arc<AtomicBool>,
}

impl Way {
    fn count(&self, bytes: usize) {
        if !self.up {
            self.server_spoke.store(true, Relaxed);
            self.counters.received.fetch_add(bytes as u64, Relaxed);
            return;
        }
        self.counters.sent.fetch_add(bytes as u64, Relaxed);
        if self.server_spoke.swap(false, Relaxed) {
            self.counters.trips.fetch_add(1, Relaxed);
        }
    }
}

/// Listens on a socket and passes on to another, for the life of this process.
///
/// # Errors
/// The socket can't be made.
pub fn start(listen: &Path, target: &Path, delay: Duration) -> Result<Arc<Counters>> {
    let listener = UnixListener::bind(listen)?;
    let counters = Arc::new(Counters::default());
    let (shared, target) = (counters.clone(), target.to_owned());
    std::thread::spawn(move || accept(&listener, &target, delay, &shared));
    Ok(counters)
}

fn accept(listener: &UnixListener, target: &PathBuf, delay: Duration, counters: &Arc<Counters>) {
    for client in listener.incoming() {
        let pair = client.and_then(|client| Ok((client, UnixStream::connect(target)?)));
        let Ok((client, server)) = pair else { continue };
        let server_spoke = Arc::new(AtomicBool::new(true));
        let way = |up| Way { counters: counters.clone(), up, server_spoke: server_spoke.clone() };
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { continue };
        pass(client, server, delay, way(true));
        pass(server_too, client_too, delay, way(false));
    }
}

/// Passes bytes on until either end closes, then closes both.
fn pass(mut from: UnixStream, mut to: UnixStream, delay: Duration, way: Way) {
    let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>();
    let deliver = move |to: &mut UnixStream, bytes: &[u8]| to.write_all(bytes).is_ok();
    let mut direct = if delay.is_zero() { to.try_clone().ok() } else { None };
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 18];
        while let Ok(bytes @ 1..) = from.read(&mut buffer) {
            way.count(bytes);
            let passed = match &mut direct {
                Some(to) => deliver(to, &buffer[..bytes]),
                None => send.send((Instant::now() + delay, buffer[..bytes].to_vec())).is_ok(),
            };
            if !passed {
                break;
            }
        }
        drop((send, direct.map(|to| to.shutdown(Shutdown::Both))));
        // It may be closed already.
        let _ = from.shutdown(Shutdown::Both);
    });
    if delay.is_zero() {
        return;
    }
    std::thread::spawn(move || {
        for (due, bytes) in receive {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if !deliver(&mut to, &bytes) {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
