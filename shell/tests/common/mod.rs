//! What the tests of the shell share: running it, and the stock `sqlite3` beside it.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The program under test.
pub const SHELL: &str = env!("CARGO_BIN_EXE_sqlite-redis");

/// A directory that plays the user's home. It takes data and history of the shells in it.
pub struct Home {
    pub dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        let home = Home { dir: tempfile::tempdir().unwrap() };
        if let Some(program) = server_program() {
            // The shell starts what `PATH` has under this name.
            std::fs::create_dir(home.path("bin")).unwrap();
            std::os::unix::fs::symlink(program, home.path("bin/redis-server")).unwrap();
        }
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the private server keeps its data.
    pub fn data(&self) -> PathBuf {
        self.path("data/sqlite-redis")
    }

    /// A shell in this home that has no server given.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SHELL);
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("PATH", self.search_path())
            .env("HOME", self.dir.path())
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("SQLITE_REDIS_URL")
            .env_remove("SQLITE_REDIS_PREFIX");
        command
    }

    /// `PATH` with the server under test first.
    fn search_path(&self) -> OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(std::iter::once(self.path("bin")).chain(std::env::split_paths(&path))).unwrap()
    }

    /// Runs a shell on this input to its end.
    pub fn run(&self, args: &[&str], input: &str) -> Run {
        Run::of(&mut self.command(args), input.as_bytes())
    }

    /// Runs a shell that must succeed; its standard output.
    pub fn ok(&self, args: &[&str], input: &str) -> String {
        let run = self.run(args, input);
        assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
        run.stdout
    }

    /// Starts a shell that reads from a pipe.
    pub fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Only a test that failed halfway leaves a server of this home behind.
        if let Ok(mut server) = UnixStream::connect(self.data().join("redis.sock")) {
            let _ = server.write_all(b"SHUTDOWN NOSAVE\r\n");
        }
    }
}

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Run {
    pub fn of(command: &mut Command, input: &[u8]) -> Run {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap();
        // It may end before it has read all.
        let _ = child.stdin.take().unwrap().write_all(input);
        Run::from(child.wait_with_output().unwrap())
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Run { stdout: text(&output.stdout), stderr: text(&output.stderr), code: output.status.code().unwrap_or(-1) }
    }
}

/// The server that the variable `REDIS_SERVER` names instead of `redis-server` from `PATH`. A relative
/// path counts from the root of the project.
fn server_program() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("REDIS_SERVER").filter(|path| !path.is_empty())?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match path.components().count() {
        1 => std::env::split_paths(&std::env::var_os("PATH")?)
            .map(|folder| folder.join(&path))
            .find(|path| path.is_file()),
        _ => Some(root.join(path)),
    }
}

/// Whether there is a server to start; without one, the test is skipped.
pub fn has_redis() -> bool {
    let program = server_program().unwrap_or_else(|| PathBuf::from("redis-server"));
    let found = Command::new(&program).arg("--version").output();
    if let Err(error) = &found {
        skipped(&format!("{} can't be run: {error}", program.display()));
    }
    found.is_ok()
}

/// Says that a test is skipped, on standard error itself: the output of a test that passes is not
/// shown. `scripts/test` counts these lines.
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Without a reader, the test is skipped all the same.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}

/// The stock `sqlite3` of some version; without it, a message and `None`.
pub fn sqlite3(version: &str) -> Option<Stock> {
    let output = Command::new("sqlite3").arg("-version").output();
    let found = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match found {
        Ok(found) if found.starts_with(version) => Some(Stock),
        Ok(found) => {
            skipped(&format!("this compares with sqlite3 {version}, there is {found}"));
            None
        }
        Err(error) => {
            skipped(&format!("this compares with the sqlite3 program: {error}"));
            None
        }
    }
}

/// The stock `sqlite3` program.
pub struct Stock;

impl Stock {
    pub fn run(&self, dir: &Path, args: &[&str], input: &str) -> Run {
        Run::of(Command::new("sqlite3").args(args).current_dir(dir), input.as_bytes())
    }
}
