//! A server that answers with whatever comes to its mind: well-formed replies of any type, wrong
//! values, broken bytes, silence, an end. Or one between a client and a real server that spoils
//! some replies. All of it follows from a seed and the order of commands on each connection.

pub mod invent;
pub mod reply;
pub mod spoil;

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use crate::Server;
use crate::frames::{Side, command_name};
use invent::Material;
use reply::{Reply, broken};

/// The table that clients of a hostile server work with.
pub const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, stamp INTEGER NOT NULL, filler TEXT NOT NULL);
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 40)
    INSERT INTO t SELECT n, 0, printf('%0*d', 400, 0) FROM n;";

/// Where replies come from.
enum Source {
    /// From nowhere.
    Invented(Material),
    /// From a real server; one in so many is spoilt.
    Server { socket: PathBuf, one_in: u32 },
}

struct Shared {
    seed: u64,
    source: Source,
    /// In a hundred details of an invented reply, how many are wrong; and in a hundred replies,
    /// how many are of any kind.
    wrong: u32,
    ended: AtomicBool,
    spoilt: AtomicU64,
    /// Replies to pass on unspoilt: what a client makes of two spoilt ones in a row may be wrong
    /// where what it makes of one is not.
    peace: AtomicU64,
    open: Mutex<Vec<UnixStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// See the [module](self).
pub struct Hostile {
    shared: Arc<Shared>,
    directory: TempDir,
    acceptor: Option<JoinHandle<()>>,
}

/// Replies that follow a spoilt one as they are.
const PEACE: u64 = 25;

impl Hostile {
    /// A server that makes everything up.
    ///
    /// # Panics
    /// When it can't listen.
    pub fn alone(seed: u64) -> Hostile {
        let wrong = [1, 5, 20, 60][(seed % 4) as usize];
        Hostile::new(seed, Source::Invented(Material::new()), wrong)
    }

    /// One between clients and a real server, which spoils about one in so many replies.
    ///
    /// # Panics
    /// When it can't listen.
    pub fn before(server: &Server, seed: u64, one_in: u32) -> Hostile {
        Hostile::new(seed, Source::Server { socket: server.socket(), one_in }, 0)
    }

    fn new(seed: u64, source: Source, wrong: u32) -> Hostile {
        let directory = tempfile::Builder::new().prefix("sqlite-redis-hostile.").tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("redis.sock")).expect("a socket");
        let shared = Arc::new(Shared {
            seed,
            source,
            wrong,
            ended: AtomicBool::new(false),
            spoilt: AtomicU64::new(0),
            peace: AtomicU64::new(0),
            open: Mutex::default(),
            threads: Mutex::default(),
        });
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        Hostile { shared, directory, acceptor: Some(acceptor) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// How many replies were spoilt so far.
    pub fn spoilt(&self) -> u64 {
        self.shared.spoilt.load(SeqCst)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        for stream in self.shared.open.lock().expect("open connections").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the acceptor, which then sees that it is over.
        let _ = UnixStream::connect(self.socket());
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for thread in std::mem::take(&mut *self.shared.threads.lock().expect("threads")) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        for number in 0u64.. {
            let Ok((client, _)) = listener.accept() else { return };
            let mut open = self.open.lock().expect("open connections");
            if self.ended.load(SeqCst) {
                return;
            }
            let Ok(end) = client.try_clone() else { continue };
            open.push(end);
            drop(open);
            let shared = self.clone();
            let thread = std::thread::spawn(move || {
                let random = StdRng::seed_from_u64(shared.seed.wrapping_mul(1_000_003).wrapping_add(number));
                let closing = client.try_clone();
                // However it ends, the connection is closed.
                let _ = match &shared.source {
                    Source::Invented(material) => shared.invent(client, random, material),
                    Source::Server { socket, one_in } => {
                        UnixStream::connect(socket).and_then(|server| shared.pass(client, server, random, *one_in))
                    }
                };
                if let Ok(closing) = closing {
                    let _ = closing.shutdown(Shutdown::Both);
                }
            });
            self.threads.lock().expect("threads").push(thread);
        }
    }

    fn invent(&self, client: UnixStream, mut random: StdRng, material: &Material) -> io::Result<()> {
        let mut client = Side::new(client);
        while let Some(command) = client.frame()? {
            let sound = material.answer(&mut random, self.wrong, &arguments(&command));
            self.spoilt.fetch_add(1, SeqCst);
            if !random.random_ratio(self.wrong, 200) {
                send(&mut client, &sound)?;
                continue;
            }
            match random.random_range(0..10) {
                0..6 => send(&mut client, &Reply::any(&mut random, 3))?,
                6..8 => return client.stream.write_all(&broken(&mut random, &sound)),
                8 => return client.drain(),
                _ => return flood(client, &mut random),
            }
        }
        Ok(())
    }

    fn pass(&self, client: UnixStream, server: UnixStream, mut random: StdRng, one_in: u32) -> io::Result<()> {
        self.open.lock().expect("open connections").push(server.try_clone()?);
        let (mut client, mut server) = (Side::new(client), Side::new(server));
        while let Some(command) = client.frame()? {
            server.stream.write_all(&command)?;
            let Some(bytes) = server.frame()? else { return Ok(()) };
            let due = random.random_ratio(1, one_in) && self.peace.load(SeqCst) == 0;
            let parsed = if due { Reply::parse(&mut bytes.as_slice()) } else { None };
            let Some(sound) = parsed else {
                let _ = self.peace.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(1)));
                client.stream.write_all(&bytes)?;
                continue;
            };
            self.peace.store(PEACE, SeqCst);
            self.spoilt.fetch_add(1, SeqCst);
            match random.random_range(0..10) {
                0..7 => send(&mut client, &spoil::spoil(&mut random, &command_name(&command), &sound))?,
                7 => return client.stream.write_all(&bytes[..bytes.len() / 2]),
                8 => return client.stream.write_all(b"?\r\n"),
                _ => return client.drain(),
            }
        }
        Ok(())
    }
}

fn send(client: &mut Side<UnixStream>, reply: &Reply) -> io::Result<()> {
    let mut bytes = Vec::new();
    reply.encode(&mut bytes);
    client.stream.write_all(&bytes)
}

/// Answers with something that has no end, until the client goes or it has been a lot.
fn flood(mut client: Side<UnixStream>, random: &mut StdRng) -> io::Result<()> {
    let (start, piece): (&[u8], &[u8]) = match random.random_range(0..3) {
        0 => (b"+", &[b'x'; 8192]),
        1 => (b"*2147483647\r\n", b":1\r\n:2\r\n$-1\r\n"),
        _ => (b"$2147483647\r\n", &[0; 8192]),
    };
    client.stream.write_all(start)?;
    for _ in 0..(1 << 20) / piece.len() {
        client.stream.write_all(piece)?;
    }
    Ok(())
}

/// The arguments of a command, its name first.
fn arguments(command: &[u8]) -> Vec<Vec<u8>> {
    match Reply::parse(&mut &*command) {
        Some(Reply::Array(Some(items))) => items
            .into_iter()
            .filter_map(|item| match item {
                Reply::Bulk(bytes) => bytes,
                Reply::Line(_) | Reply::Array(_) => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}
