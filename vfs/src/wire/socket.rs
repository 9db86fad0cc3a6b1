//! A byte stream to a server, and how to wait for its bytes.

#[cfg(feature = "fuzzing")]
use std::io::Read;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::{RecvFlags, recv};

use crate::sqlite::interrupt;
use crate::wire::pace::time_for;

/// How long to poll for bytes before sleeping. A server on the same machine answers within this time, and waking a
/// sleeping thread takes as long as the answer.
const LOOK: Duration = Duration::from_micros(100);
/// If `yield_now` takes longer than this, another thread needs the processor, maybe the server's.
const ALONE: Duration = Duration::from_micros(5);
/// Bytes to send between two looks at the clock.
const WRITTEN_AT_ONCE: usize = 32 << 10;
/// After a poll without success, this many waits begin with sleep.
const IN_VAIN: u32 = 15;

/// See the [module](self).
pub(crate) struct Socket {
    stream: Box<dyn Stream>,
    /// Timeout of a read.
    patience: Duration,
    /// How many of the next waits begin with sleep instead of a poll.
    sleeps: u32,
}

/// The operations that each kind of stream has.
pub(crate) trait Stream: Write + Send {
    fn set_timeout(&self, time: Duration) -> io::Result<()>;

    /// Waits for some bytes until the timeout.
    fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize>;

    /// Reads bytes that have already arrived, or returns [`ErrorKind::WouldBlock`].
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

macro_rules! stream {
    ($stream:ty) => {
        impl Stream for $stream {
            fn set_timeout(&self, time: Duration) -> io::Result<()> {
                self.set_read_timeout(Some(time))?;
                self.set_write_timeout(Some(time))
            }

            fn read(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
                receive(self, buffer, patience)
            }

            fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                Ok(recv(self.as_fd(), buffer, RecvFlags::DONTWAIT)?.0)
            }
        }
    };
}

stream!(TcpStream);
stream!(UnixStream);

/// Waits for bytes on a socket whose timeout is `patience`, or for an interrupt of the waiting connection.
pub(crate) fn receive(socket: &impl AsFd, buffer: &mut [u8], patience: Duration) -> io::Result<usize> {
    if interrupt::can_come() {
        interrupt::wait_for(socket, PollFlags::IN, patience)?;
    }
    Ok(recv(socket, buffer, RecvFlags::empty())?.0)
}

impl Socket {
    pub(crate) fn of(stream: impl Stream + 'static) -> Socket {
        Socket { stream: Box::new(stream), patience: Duration::MAX, sleeps: 0 }
    }

    /// Sets the timeout of reads and writes.
    pub(crate) fn set_timeout(&mut self, time: Duration) -> io::Result<()> {
        self.patience = time;
        self.stream.set_timeout(time)
    }

    /// Sends all bytes. Times out if the server accepts them too slowly.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (begun, mut taken) = (Instant::now(), 0);
        while taken < bytes.len() {
            // The system restarts its timeout with each byte that is accepted.
            let end = bytes.len().min(taken + WRITTEN_AT_ONCE);
            match self.stream.write(&bytes[taken..end]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if taken < bytes.len() && begun.elapsed() > time_for(self.patience, taken) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        self.stream.flush()
    }

    /// Reads some bytes, at least one unless the stream has ended.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.sleeps.checked_sub(1) {
            Some(sleeps) => self.sleeps = sleeps,
            None => match self.look(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.sleeps = IN_VAIN,
                outcome => return outcome,
            },
        }
        loop {
            match self.stream.read(buffer, self.patience) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    /// Polls for bytes as long as no other thread needs the processor.
    fn look(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            match self.stream.read_now(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let before = Instant::now();
                    yield_now();
                    if before.elapsed() > ALONE || begun.elapsed() > LOOK {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }
}

/// Recorded replies, for the fuzz target.
#[cfg(feature = "fuzzing")]
impl Stream for io::Cursor<Vec<u8>> {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        Read::read(self, buffer)
    }

    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Read::read(self, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn after_a_poll_in_vain_a_few_reads_sleep() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let mut socket = Socket::of(here);
        socket.set_timeout(Duration::from_millis(1)).unwrap();
        let mut buffer = [0; 1];
        assert_eq!(socket.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing came in time");
        assert_eq!(socket.sleeps, IN_VAIN);
        there.write_all(&[7; 100]).unwrap();
        for left in (0..IN_VAIN).rev() {
            assert_eq!((socket.read(&mut buffer).unwrap(), buffer, socket.sleeps), (1, [7], left));
        }
        assert_eq!((socket.read(&mut buffer).unwrap(), socket.sleeps), (1, 0), "it was seen at a look");
        drop(there);
        let end = std::iter::repeat_with(|| socket.read(&mut buffer).unwrap()).find(|count| *count == 0);
        assert_eq!(end, Some(0), "the end is no failure");
    }

    #[test]
    fn a_server_that_takes_bytes_too_slowly_is_given_up() {
        let (here, mut there) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&here).set_send_buffer_size(1).unwrap();
        let mut socket = Socket::of(here);
        socket.set_timeout(Duration::from_secs(2)).unwrap();
        // The server accepts 4 kB a second.
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_over = over.clone();
        let slow = std::thread::spawn(move || {
            let mut buffer = [0; 200];
            while !is_over.load(Relaxed) && io::Read::read(&mut there, &mut buffer).is_ok_and(|count| count > 0) {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let begun = Instant::now();
        assert_eq!(socket.write_all(&vec![7; 1 << 20]).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(60), "1 MB takes minutes");
        over.store(true, Relaxed);
        slow.join().unwrap();
    }

    #[test]
    fn a_read_waits_for_bytes_that_come_late() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let mut socket = Socket::of(here);
        let late = std::thread::spawn(move || {
            std::thread::sleep(20 * LOOK);
            there.write_all(b"x").unwrap();
        });
        let mut buffer = [0; 4];
        assert_eq!((socket.read(&mut buffer).unwrap(), buffer[0]), (1, b'x'));
        late.join().unwrap();
    }
}
