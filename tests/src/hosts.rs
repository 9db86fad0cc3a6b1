//! Programs that load the extension into their own SQLite.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;

use crate::program;

/// Path of the extension beside the test programs. Cargo builds both together; the copy one directory above may be
/// older.
///
/// # Panics
/// When the file does not exist.
pub fn extension() -> PathBuf {
    let program = std::env::current_exe().expect("the test program");
    let name = if cfg!(target_os = "macos") { "libsqlite_redis.dylib" } else { "libsqlite_redis.so" };
    let extension = program.with_file_name(name);
    assert!(extension.exists(), "{} was not built", extension.display());
    extension
}

/// The output of a program.
#[derive(Debug)]
pub struct Said {
    /// Standard output, without trailing white space.
    pub out: String,
    /// Standard error, without trailing white space.
    pub err: String,
    /// Whether the exit status is 0.
    pub ok: bool,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            out: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
            err: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
            ok: output.status.success(),
        }
    }
}

/// A command whose environment has no settings of this project except `environment`.
pub fn command(program: impl AsRef<OsStr>, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    for setting in sqlite_redis::SETTINGS.iter().chain(sqlite_redis::PROCESS_SETTINGS) {
        command.env_remove(setting.environment);
    }
    command.envs(environment.iter().copied());
    command
}

/// Loads the extension into the system's `sqlite3`, and runs a script.
///
/// # Panics
/// When `/usr/bin/sqlite3` can't be run.
pub fn sqlite3(script: &str, environment: &[(&str, &str)]) -> Said {
    let mut command = command("/usr/bin/sqlite3", environment);
    let mut child = command
        .args(["-batch", ":memory:"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("/usr/bin/sqlite3; is it installed? (scripts/setup installs it)");
    // Dot commands must begin at the start of a line.
    let script: String = script.lines().flat_map(|line| [line.trim_start(), "\n"]).collect();
    let script = format!(".load {}\n{script}\n", extension().display());
    // The program may end before it has read the whole script; its output says why.
    let _ = child.stdin.take().expect("its input").write_all(script.as_bytes());
    child.wait_with_output().expect("its output").into()
}

/// Start of every Python script: defines `load(connection)`, `connect(uri)` and `say(…)`, and loads the extension once.
const PRELUDE: &str = r"
import os, sys, sqlite3
EXTENSION = os.environ['EXTENSION']
def load(connection):
    connection.enable_load_extension(True)
    connection.load_extension(EXTENSION)
    connection.enable_load_extension(False)
def connect(uri, **options):
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, **options)
    return connection
def say(*words):
    print(*words, flush=True)
loader = sqlite3.connect(':memory:')
load(loader)
";

/// A command that runs a script with the system's `python3`. `None`, and the test is skipped, if its SQLite can't load
/// extensions.
pub fn python(script: &str, environment: &[(&str, &str)]) -> Option<Command> {
    static ABLE: OnceLock<bool> = OnceLock::new();
    let able = *ABLE.get_or_init(|| {
        let probe = "import sqlite3; sqlite3.connect(':memory:').enable_load_extension(True)";
        Command::new("/usr/bin/python3").args(["-c", probe]).output().is_ok_and(|output| output.status.success())
    });
    if !able {
        program::skipped("/usr/bin/python3 is missing or its sqlite3 module can't load extensions");
        return None;
    }
    let mut command = command("/usr/bin/python3", environment);
    command.env("EXTENSION", extension()).env("PYTHONUNBUFFERED", "1");
    command.arg("-c").arg(format!("{PRELUDE}\n{script}"));
    Some(command)
}

/// Runs a Python script to its end.
///
/// # Panics
/// When `python3` can't be run.
pub fn run_python(script: &str, environment: &[(&str, &str)]) -> Option<Said> {
    Some(python(script, environment)?.output().expect("python3").into())
}

/// A command that runs a script with Node and `better-sqlite3`, installed by npm once per target directory. `None`, and
/// the test is skipped, if that fails.
pub fn node(script: &str, environment: &[(&str, &str)]) -> Option<Command> {
    static MODULES: OnceLock<Option<PathBuf>> = OnceLock::new();
    let modules = MODULES.get_or_init(|| {
        better_sqlite3().inspect_err(|reason| program::skipped(&format!("no better-sqlite3: {reason}"))).ok()
    });
    let mut command = command("node", environment);
    command.env("NODE_PATH", modules.as_ref()?).env("EXTENSION", extension());
    command.arg("-e").arg(script);
    Some(command)
}

fn better_sqlite3() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = program.ancestors().nth(3).ok_or("no target directory")?;
    let home = target.join("better-sqlite3");
    let modules = home.join("node_modules");
    if !works(&modules) {
        std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
        let install = ["install", "better-sqlite3", "--no-audit", "--no-fund", "--prefix"];
        let output = Command::new("npm").args(install).arg(&home).current_dir(&home).output();
        let output = output.map_err(|error| format!("npm: {error}"))?;
        if !works(&modules) {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
    }
    Ok(modules)
}

fn works(modules: &Path) -> bool {
    let probe = "new (require('better-sqlite3'))(':memory:')";
    let ran = Command::new("node").env("NODE_PATH", modules).args(["-e", probe]).output();
    ran.is_ok_and(|output| output.status.success())
}

/// A program that runs beside the test. Both exchange lines over its standard input and output. Killed on drop.
pub struct Beside {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Beside {
    /// Starts the program.
    ///
    /// # Panics
    /// When the program can't be started.
    pub fn start(mut command: Command) -> Beside {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Beside { input: child.stdin.take(), child, output }
    }

    /// Sends a line.
    ///
    /// # Panics
    /// When it has ended.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("it listens");
    }

    /// The next line of its output; `None` at the end.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(length) if length > 0 => Some(line.trim_end().to_owned()),
            _ => None,
        }
    }

    /// All remaining lines of its output.
    pub fn hear_all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.hear()).collect()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the program a signal, such as `STOP`.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(sent.expect("kill").success(), "kill -{signal}");
    }

    /// Kills the program with `SIGKILL`.
    ///
    /// # Panics
    /// When the program can't be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Closes its input and waits for its end. Returns whether the exit status is 0.
    ///
    /// # Panics
    /// When it can't be waited for.
    pub fn end(mut self) -> bool {
        drop(self.input.take());
        self.child.wait().expect("wait").success()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // The program may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
