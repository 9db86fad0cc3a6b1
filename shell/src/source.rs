//! The sources of `.read` and `.import`.

use std::fs::File;
use std::io::Read;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow};

/// A file, or the output of a program given as `|program`.
pub enum Source {
    /// A file.
    File(File),
    /// A running program.
    Program(Child, ChildStdout),
}

impl Source {
    /// Opens the file, or starts the program.
    pub fn open(name: &str) -> Result<Self> {
        let cannot = |error| anyhow!("cannot open \"{name}\": {error}");
        let Some(command) = name.strip_prefix('|') else {
            return Ok(Source::File(File::open(name).map_err(cannot)?));
        };
        let mut child = Command::new("sh").arg("-c").arg(command).stdout(Stdio::piped()).spawn().map_err(cannot)?;
        let output = child.stdout.take().context("a program without output")?;
        Ok(Source::Program(child, output))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Source::File(file) => file.read(buffer),
            Source::Program(child, output) => {
                let length = output.read(buffer)?;
                if length == 0 && !buffer.is_empty() {
                    let status = child.wait()?;
                    if !status.success() {
                        return Err(std::io::Error::other(format!("the program ended with {status}")));
                    }
                }
                Ok(length)
            }
        }
    }
}
