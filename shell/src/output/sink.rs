//! The target of output: standard output, a file, or a program.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::{Child, Command, Stdio};

use crate::shown;

/// The current target of results.
pub enum Sink {
    /// Standard output.
    Stdout(BufWriter<io::Stdout>),
    /// Standard output on a terminal: control characters in results are escaped.
    Terminal(BufWriter<io::Stdout>),
    /// A file.
    File(BufWriter<File>, String),
    /// The input of a program, as in `.output |less`.
    Program(Option<Box<Child>>, String),
}

impl Sink {
    /// Standard output.
    pub fn stdout() -> Self {
        let out = BufWriter::new(io::stdout());
        if io::stdout().is_terminal() { Sink::Terminal(out) } else { Sink::Stdout(out) }
    }

    /// The target that `.output` and `.once` name: a file, `|program`, or `stdout`.
    pub fn open(target: &str) -> io::Result<Self> {
        if let Some(command) = target.strip_prefix('|') {
            let child = Command::new("sh").arg("-c").arg(command).stdin(Stdio::piped()).spawn()?;
            return Ok(Sink::Program(Some(Box::new(child)), target.to_owned()));
        }
        match target {
            "stdout" => Ok(Sink::stdout()),
            "off" => Ok(Sink::File(BufWriter::new(File::create("/dev/null")?), target.to_owned())),
            path => Ok(Sink::File(BufWriter::new(File::create(path)?), target.to_owned())),
        }
    }

    /// The name that `.show` prints.
    pub fn name(&self) -> &str {
        match self {
            Sink::Stdout(_) | Sink::Terminal(_) => "stdout",
            Sink::File(_, name) | Sink::Program(_, name) => name,
        }
    }

    /// Flushes the buffer, and waits for a program to end.
    pub fn close(mut self) -> io::Result<()> {
        self.flush()?;
        self.wait()
    }

    fn wait(&mut self) -> io::Result<()> {
        if let Sink::Program(child, _) = self
            && let Some(mut child) = child.take()
        {
            // Closes the program's input, or it would wait for more.
            drop(child.stdin.take());
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // The program still runs here only if an earlier failure skipped `close`.
        let _ = self.wait();
    }
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Stdout(out) => out.write(buf),
            Sink::Terminal(out) => out.write_all(&shown::for_terminal(buf)).map(|()| buf.len()),
            Sink::File(out, _) => out.write(buf),
            Sink::Program(child, _) => match child.as_mut().and_then(|child| child.stdin.as_mut()) {
                Some(input) => input.write(buf),
                None => Ok(buf.len()),
            },
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Stdout(out) | Sink::Terminal(out) => out.flush(),
            Sink::File(out, _) => out.flush(),
            Sink::Program(..) => Ok(()),
        }
    }
}
