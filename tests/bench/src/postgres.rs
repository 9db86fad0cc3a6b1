//! A private PostgreSQL: its own cluster in a temporary directory, on a unix socket.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// File name of the socket.
pub const SOCKET: &str = ".s.PGSQL.5432";

/// The databases of the cluster, one for each `synchronous_commit`.
pub const DATABASES: [&str; 2] = ["async", "sync"];

/// A running cluster. Dropping it stops the server.
pub struct Cluster {
    server: Child,
    directory: TempDir,
}

impl Cluster {
    /// Creates and starts a cluster.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub fn start() -> Result<Cluster> {
        let programs = programs().context("PostgreSQL is not installed (scripts/bench installs it on Debian)")?;
        let directory = tempfile::Builder::new().prefix("sqlite-redis-bench.").tempdir()?;
        let user = Unprivileged::find(directory.path())?;
        let data = directory.path().join("data");
        let output = user
            .command(&programs.join("initdb"))
            .args(["--auth=trust", "--username=bench", "--encoding=UTF8", "--locale=C", "--no-instructions"])
            .arg("--pgdata")
            .arg(&data)
            .output()?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let log = fs::File::create(directory.path().join("log"))?;
        let server = user
            .command(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(directory.path())
            .args(["-c", "listen_addresses=", "-c", "shared_buffers=256MB", "-c", "max_wal_size=4GB"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut cluster = Cluster { server, directory };
        cluster.make_databases()?;
        Ok(cluster)
    }

    fn make_databases(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut client = loop {
            match connect(self.directory(), "postgres", "") {
                Ok(client) => break client,
                Err(error) if Instant::now() > deadline => return Err(error.context(self.log())),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            if let Some(status) = self.server.try_wait()? {
                bail!("postgres ended with {status}: {}", self.log());
            }
        };
        for database in DATABASES {
            client.batch_execute(&format!("CREATE DATABASE {database}"))?;
        }
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The directory of the socket.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process ids of the server and its children.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let server = self.server.id();
        let output = Command::new("pgrep").args(["-P", &server.to_string()]).output()?;
        let children = String::from_utf8(output.stdout)?;
        Ok(children.lines().filter_map(|line| line.parse().ok()).chain([server]).collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGINT is a fast shutdown: the server disconnects its clients.
        let _ = Command::new("kill").args(["-INT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
}

/// Connects to the socket in a directory. `options` are command-line options of the server.
///
/// # Errors
/// The server does not answer.
pub fn connect(directory: &Path, database: &str, options: &str) -> Result<postgres::Client> {
    let mut config = postgres::Config::new();
    config.host_path(directory).user("bench").dbname(database).options(options);
    Ok(config.connect(postgres::NoTls)?)
}

/// The directory of the PostgreSQL programs, as Debian and others install them: the newest version.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max()?;
    Some(format!("/usr/lib/postgresql/{newest}/bin").into())
}

/// The user to run as, because PostgreSQL refuses to run as root.
struct Unprivileged(Option<(String, String)>);

impl Unprivileged {
    /// The current user if that is not root; else `postgres` or `nobody`, who then owns the directory.
    fn find(directory: &Path) -> Result<Self> {
        if fs::metadata(directory)?.uid() != 0 {
            return Ok(Unprivileged(None));
        }
        let (uid, gid) = id("postgres").or_else(|| id("nobody")).context("there is neither postgres nor nobody")?;
        chown(directory, Some(uid.parse()?), Some(gid.parse()?))?;
        Ok(Unprivileged(Some((uid, gid))))
    }

    fn command(&self, program: &Path) -> Command {
        let Some((uid, gid)) = &self.0 else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", gid, "--clear-groups", "--pdeathsig", "INT"]).arg(program);
        command
    }
}

fn id(user: &str) -> Option<(String, String)> {
    let ask = |flag| {
        let output = Command::new("id").args([flag, user]).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    Some((ask("-u")?, ask("-g")?))
}
