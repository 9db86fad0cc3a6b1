//! Programs with a SQLite of their own, which the extension is loaded into.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;

use crate::program;

/// The extension. Cargo builds it where the test programs are whenever it builds those, so it is
/// never older than they are; the copy one directory above may be.
///
/// # Panics
/// When it is not there.
pub fn extension() -> PathBuf {
    let program = std::env::current_exe().expect("the test program");
    let name = if cfg!(target_os = "macos") { "libsqlite_redis.dylib" } else { "libsqlite_redis.so" };
    let extension = program.with_file_name(name);
    assert!(extension.exists(), "{} was not built", extension.display());
    extension
}

/// What a program had to say.
#[derive(Debug)]
pub struct Said {
    /// On its standard output, without the end of the last line.
    pub out: String,
    /// On its standard error.
    pub err: String,
    /// Whether it ended well.
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

/// A command with none of this project's settings in its environment, but these.
pub fn command(program: impl AsRef<OsStr>, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    for setting in sqlite_redis::SETTINGS.iter().chain(sqlite_redis::PROCESS_SETTINGS) {
        command.env_remove(setting.environment);
    }
    command.envs(environment.iter().copied());
    command
}

/// Runs the system's `sqlite3` on a script; the extension is loaded first.
///
/// # Panics
/// When there is none.
pub fn sqlite3(script: &str, environment: &[(&str, &str)]) -> Said {
    let mut command = command("/usr/bin/sqlite3", environment);
    let mut child = command
        .args(["-batch", ":memory:"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("/usr/bin/sqlite3; is it installed? (scripts/setup installs it)");
    // The shell's own commands begin at the start of a line.
    let script: String = script.lines().flat_map(|line| [line.trim_start(), "\n"]).collect();
    let script = format!(".load {}\n{script}\n", extension().display());
    // It may end before it has read everything; what it said tells why.
    let _ = child.stdin.take().expect("its input").write_all(script.as_bytes());
    child.wait_with_output().expect("its output").into()
}

/// What every Python script here begins with: `load(connection)`, and `connect(uri)` after it.
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

/// The system's `python3` on a script; `None`, with a message, where its SQLite can't load
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
/// When it can't be run.
pub fn run_python(script: &str, environment: &[(&str, &str)]) -> Option<Said> {
    Some(python(script, environment)?.output().expect("python3").into())
}

/// Node with `better-sqlite3`, which is fetched from npm once for each target directory. `None`,
/// with a message, where that does not work.
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

/// A program that runs beside the test and is spoken with line by line. It ends with this.
pub struct Beside {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Beside {
    /// Starts it.
    ///
    /// # Panics
    /// When it can't be started.
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

    /// The next line that it says; `None` when it has ended.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(length) if length > 0 => Some(line.trim_end().to_owned()),
            _ => None,
        }
    }

    /// All that it still has to say.
    pub fn hear_all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.hear()).collect()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `STOP`.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(sent.expect("kill").success(), "kill -{signal}");
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Panics
    /// When it can't be ended.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Waits for its end, and whether it ended well.
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
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
