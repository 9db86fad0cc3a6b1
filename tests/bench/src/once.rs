//! Measurements that are made once and are no time of an operation: the size of a database in Redis, and the effect of
//! one large transaction on other clients.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sqlite_redis::Options;
use sqlite_redis::admin::{Admin, ImportOptions};
use sqlite_redis_tests::Server;

use crate::data::{self, Sizes};
use crate::setting::Setting;

/// Names for the filter, beside those of the workloads.
pub const STORED: &str = "stored";
pub const LARGE: &str = "large";

/// Memory in Redis divided by the size of the SQLite file.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stored {
    pub plain: f64,
    pub compressed: f64,
}

/// One large transaction: inserts into a database that is in use.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Large {
    /// Bytes of the rows.
    pub bytes: u64,
    pub seconds: f64,
    /// The client's peak memory, and its memory before the transaction, in bytes.
    pub peak: u64,
    pub before: u64,
    /// The longest time that another client's `PING` took, in milliseconds.
    pub blocked_ms: f64,
}

/// Stores Chinook, or generated data where Chinook is missing, without and with compression.
///
/// # Errors
/// The import fails, or the server returns an error.
pub fn stored() -> Result<Stored> {
    let directory = tempfile::tempdir()?;
    let file = match data::chinook() {
        Some(file) => file,
        None => {
            let file = directory.path().join("like-chinook.sqlite");
            data::build(&mut rusqlite::Connection::open(&file)?, Sizes { items: 5_000, records: 0, ..Sizes::QUICK })?;
            file
        }
    };
    Ok(Stored { plain: share(&file, false)?, compressed: share(&file, true)? })
}

fn share(file: &Path, compress: bool) -> Result<f64> {
    let server = Server::start();
    let content = std::fs::read(file)?;
    let page_size = rusqlite::Connection::open(file)?.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0))?;
    let pages: Vec<&[u8]> = content.chunks(page_size as usize).collect();
    let admin = Admin::connect(&Options::new("").server(server.url()).compress(compress))?;
    let mut import = admin.import("stored", ImportOptions::new(page_size, pages.len() as u32))?;
    pages.iter().try_for_each(|page| import.page(page.to_vec()))?;
    import.finish()?;
    let (mut redis, mut bytes) = (server.redis(), 0);
    for key in ["sqlite:{stored}", "sqlite:{stored}:log", "sqlite:{stored}:undo"] {
        bytes += redis::cmd("MEMORY")
            .arg("USAGE")
            .arg(key)
            .arg("SAMPLES")
            .arg(0)
            .query::<Option<u64>>(&mut redis)?
            .unwrap_or(0);
    }
    Ok(bytes as f64 / content.len() as f64)
}

/// Size of the large transaction: that of the goal if memory and disk suffice, else less.
pub fn large_bytes(quick: bool) -> u64 {
    const NEEDED: u64 = 8 << 30;
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemAvailable:"));
    let disk = Command::new("df").args(["--output=avail", "-B1"]).arg(std::env::temp_dir()).output().ok();
    let disk = disk.and_then(|out| String::from_utf8_lossy(&out.stdout).lines().nth(1)?.trim().parse::<u64>().ok());
    match (quick, memory.unwrap_or(0).min(disk.unwrap_or(0))) {
        (true, _) => 8 << 20,
        (false, NEEDED..) => 2 << 30,
        (false, _) => 256 << 20,
    }
}

/// A field of a file in `/proc`, converted from kB to bytes.
fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// The measurements of the transaction's process, as JSON.
#[derive(Serialize, Deserialize)]
struct LargeReport {
    seconds: f64,
    before: u64,
    peak: u64,
}

/// Runs the large transaction in a separate process while another client sends `PING`.
///
/// # Errors
/// The transaction fails, or the server does not answer.
pub fn large(bytes: u64) -> Result<Large> {
    // No append-only file: other clients would wait for the disk.
    let server = Server::start();
    Setting::TwoCores.arrange(&[server.pid()])?;
    let client = Command::new(std::env::current_exe()?)
        .args(["insert-large", &server.url(), &bytes.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let (over, mut blocked) = (AtomicBool::new(false), Duration::ZERO);
    let output = std::thread::scope(|scope| -> Result<_> {
        let prober = scope.spawn(|| -> Result<Duration> {
            let (mut redis, mut longest) = (server.redis(), Duration::ZERO);
            while !over.load(Relaxed) {
                let asked = Instant::now();
                redis::cmd("PING").exec(&mut redis)?;
                longest = longest.max(asked.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(longest)
        });
        let output = client.wait_with_output();
        over.store(true, Relaxed);
        blocked = prober.join().map_err(|_| anyhow::anyhow!("the prober panicked"))??;
        Ok(output?)
    })?;
    ensure!(output.status.success(), "the large transaction ended with {}", output.status);
    let LargeReport { seconds, before, peak } = serde_json::from_slice(&output.stdout)?;
    Ok(Large { bytes, seconds, peak, before, blocked_ms: blocked.as_secs_f64() * 1e3 })
}

/// Runs the large transaction. This is the main function of its process.
///
/// # Errors
/// The transaction fails.
pub fn insert_large(url: &str, bytes: u64) -> Result<()> {
    let mut db = Options::new("large").server(url).open()?;
    // The second table stays unchanged, so not all pages are new. This is the harder case.
    db.execute_batch("CREATE TABLE entry (id INTEGER PRIMARY KEY, body TEXT); CREATE TABLE kept (x)")?;
    let status = |field| -> Result<u64> {
        kilobytes(&std::fs::read_to_string("/proc/self/status")?, field).with_context(|| format!("{field} of itself"))
    };
    let (before, start) = (status("VmRSS:")?, Instant::now());
    let transaction = db.transaction()?;
    for id in 0..bytes as i64 / 1000 {
        let body = data::text(id, 1000);
        transaction.prepare_cached("INSERT INTO entry VALUES (?1, ?2)")?.execute((id, body))?;
    }
    transaction.commit()?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&LargeReport { seconds, before, peak: status("VmHWM:")? })?);
    Ok(())
}
