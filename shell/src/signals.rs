//! Ctrl-C, and signals that end the process.
//!
//! One thread waits for signals. In an interactive shell, Ctrl-C interrupts the running statement. Any other signal
//! ends the process with exit code 128 + n: it interrupts the statement, and the main thread closes its connection,
//! releases leases and leaves the private server. If the main thread can't because it waits for input, this thread
//! ends the process.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use rusqlite::{Connection, InterruptHandle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::server;

/// The connection that Ctrl-C interrupts.
static RUNNING: Mutex<Option<InterruptHandle>> = Mutex::new(None);
/// Whether the main thread will check [`ending`] itself.
static BUSY: AtomicBool = AtomicBool::new(false);
/// Whether Ctrl-C asked the current command to stop.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The signal that ends the process, or 0.
static ENDING: AtomicI32 = AtomicI32::new(0);
/// How long the main thread may take to end after a signal.
const GRACE: Duration = Duration::from_secs(3);

fn running() -> MutexGuard<'static, Option<InterruptHandle>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes Ctrl-C interrupt this connection from now on.
pub fn interrupt_with(db: &Connection) {
    *running() = Some(db.get_interrupt_handle());
}

/// While this exists, the main thread checks for signals itself.
pub struct Busy(());

/// Marks the main thread as busy.
pub fn busy() -> Busy {
    BUSY.store(true, Ordering::SeqCst);
    Busy(())
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::SeqCst);
    }
}

/// Forgets earlier interrupts, because a new command begins.
pub fn begin() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}

/// Whether a long operation should stop.
pub fn stop() -> bool {
    INTERRUPTED.load(Ordering::SeqCst) || ending().is_some()
}

/// The exit code, if a signal asked the process to end.
pub fn ending() -> Option<i32> {
    match ENDING.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(128 + signal),
    }
}

/// Starts the thread that waits for signals.
pub fn watch(interactive: bool) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let terminal = interactive.then(Terminal::remember).flatten();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            if signal == SIGINT && interactive {
                interrupt();
            } else {
                end(signal, terminal.as_ref());
            }
        }
    })?;
    Ok(())
}

fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
    if let Some(handle) = running().as_ref() {
        handle.interrupt();
    }
}

fn end(signal: i32, terminal: Option<&Terminal>) {
    ENDING.store(signal, Ordering::SeqCst);
    interrupt();
    let mut waited = Duration::ZERO;
    while BUSY.load(Ordering::SeqCst) && waited < GRACE {
        thread::sleep(Duration::from_millis(20));
        waited += Duration::from_millis(20);
    }
    // The main thread is either about to end, which also takes this lock, or waits for input that may never arrive.
    thread::sleep(Duration::from_millis(50));
    if let Some(terminal) = terminal {
        terminal.restore();
    }
    server::leave_within(GRACE);
    std::process::exit(128 + signal);
}

/// The terminal's settings before line editing changed them.
struct Terminal(Termios);

impl Terminal {
    fn remember() -> Option<Self> {
        tcgetattr(io::stdin()).ok().map(Terminal)
    }

    fn restore(&self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
