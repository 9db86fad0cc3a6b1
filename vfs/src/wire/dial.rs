//! Opens a socket to a server, before a deadline. Resolves the name, gives each address its share of the time, and
//! bounds the TLS handshake.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, TcpKeepalive, Type};

use crate::config::endpoint::{Endpoint, Place};
use crate::sqlite::interrupt;
use crate::wire::socket::Socket;
use crate::wire::tls;

/// Idle time after which TCP sends a keep-alive probe; further probes follow every [`PROBE_PAUSE`]. Load balancers
/// and firewalls drop connections that are idle for longer, most of them after some minutes.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_PAUSE: Duration = Duration::from_secs(5);
/// Unanswered probes after which the connection is closed.
const PROBES: u32 = 3;
/// The shortest time that sent data may stay unacknowledged before the connection is closed (`TCP_USER_TIMEOUT`).
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Connects, with TLS if the endpoint asks for it. `reply` is the timeout of a reply: it sets how long sent data may
/// stay unacknowledged.
pub(crate) fn dial(endpoint: &Endpoint, deadline: Instant, reply: Duration) -> io::Result<Socket> {
    let (host, port) = match &endpoint.place {
        Place::Unix(path) => return Ok(Socket::of(unix(path, deadline)?)),
        Place::Tcp { host, port } => (host, *port),
    };
    let stream = first_of(&addresses(host, port, deadline)?, deadline)?;
    // Requests are sent whole, so Nagle's algorithm would only delay them.
    stream.set_nodelay(true)?;
    keep_alive(&stream, UNACKNOWLEDGED.max(reply))?;
    match &endpoint.tls {
        None => Ok(Socket::of(stream)),
        Some(settings) => Ok(Socket::of(tls::handshake(stream, settings, host, deadline)?)),
    }
}

/// The time left until the deadline.
pub(crate) fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// `connect` on a unix socket blocks while the server's queue is full, up to the send timeout.
fn unix(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    loop {
        interrupt::check_io()?;
        socket.set_write_timeout(Some(interrupt::slice(left(deadline)?)))?;
        match socket.connect(&address) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tries the addresses of a host one after the other.
fn first_of(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for (n, address) in addresses.iter().enumerate() {
        let share = left(deadline)? / (addresses.len() - n) as u32;
        match connect(address, share.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn connect(address: &SocketAddr, time: Duration) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&(*address).into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => interrupt::wait_for(&socket, PollFlags::OUT, time)?,
    }
    match socket.take_error()? {
        Some(error) => Err(error),
        None => {
            socket.set_nonblocking(false)?;
            Ok(socket.into())
        }
    }
}

/// Makes the system close a connection whose other side is gone.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "only Linux has this limit"))]
fn keep_alive(stream: &TcpStream, unacknowledged: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_PAUSE).with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(unacknowledged))?;
    Ok(())
}

/// Resolves a name. The system's resolver has no deadline, so a thread calls it and may outlive this call.
fn addresses(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (send, receive) = mpsc::channel();
    let name = host.to_owned();
    std::thread::Builder::new().name("sqlite-redis-name".into()).spawn(move || {
        let found = (name, port).to_socket_addrs().map(Iterator::collect);
        // The caller may have given up already.
        let _ = send.send(found);
    })?;
    loop {
        interrupt::check_io()?;
        let Ok(left) = left(deadline) else {
            let text = format!("looking up the name `{host}` takes longer than connect_ms");
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        };
        match receive.recv_timeout(interrupt::slice(left)) {
            Ok(found) => return found,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other(format!("looking up the name `{host}` failed")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(300)
    }

    #[test]
    fn a_unix_socket_with_a_full_queue_is_given_up_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let listener = UnixListener::from(socket);
        let mut queued = Vec::new();
        let begun = Instant::now();
        let refused = loop {
            match unix(&path, soon()) {
                Ok(stream) if queued.len() < 100 => queued.push(stream),
                Ok(_) => panic!("the queue has no end"),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(20));
        drop(listener);
    }

    #[test]
    fn an_address_that_swallows_packets_leaves_time_for_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // The queue of this listener is full, so the system drops further packets.
        let full = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&silent, Duration::from_millis(100)) {
            queued.push(stream);
            assert!(queued.len() < 100, "the queue has no end");
        }
        let all = [silent, listener.local_addr().unwrap()];
        let stream = first_of(&all, Instant::now() + Duration::from_millis(600)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), all[1]);
        assert!(first_of(&[silent, silent], soon()).is_err());
    }

    #[test]
    fn silent_connections_are_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = addresses("localhost", listener.local_addr().unwrap().port(), soon()).unwrap();
        let stream = first_of(&found, soon()).unwrap();
        keep_alive(&stream, UNACKNOWLEDGED).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), PROBE_AFTER);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }
}
