//! The histories of workers, one JSON object per line. A worker writes each line to a pipe before its next step, so the
//! line survives `kill -9`.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::clock::now;
use super::worker::{BOUND, Role};

/// The outcome of a transaction, as reported to its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Reported as committed.
    Acknowledged,
    /// Reported as failed.
    Failed,
    /// A transaction without writes.
    Read,
    /// Reported as unknown, or the worker was killed before the reply.
    Unknown,
}

/// Writes a history to standard output, which is a pipe: it works without free file descriptors or disk space, and
/// keeps written lines after `kill -9`.
pub struct Writer {
    worker: String,
    role: Role,
    next: u64,
}

impl Writer {
    /// `worker` must differ between all processes of a run.
    pub fn new(worker: &str, role: Role) -> Writer {
        Writer { worker: worker.to_owned(), role, next: 0 }
    }

    fn line(&mut self, value: &Value) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("{value}\n").as_bytes()).and_then(|()| out.flush()).context("the history")
    }

    /// Records the beginning of an operation, and returns its id.
    ///
    /// # Errors
    /// Nobody takes the lines any more.
    pub fn begin(&mut self, what: &Value) -> Result<String> {
        let id = format!("{}.{}", self.worker, self.next);
        self.next += 1;
        self.line(&json!({"begin": id, "at": now(), "role": self.role.name(), "what": what}))?;
        Ok(id)
    }

    /// Records the outcome of an operation.
    ///
    /// # Errors
    /// Nobody takes the lines any more.
    pub fn end(&mut self, id: &str, outcome: Outcome, result: &Value) -> Result<()> {
        let outcome = match outcome {
            Outcome::Acknowledged => "ok",
            Outcome::Failed => "failed",
            Outcome::Read => "read",
            Outcome::Unknown => "unknown",
        };
        self.line(&json!({"end": id, "at": now(), "outcome": outcome, "result": result}))
    }

    /// Records a violated guarantee.
    ///
    /// # Errors
    /// Nobody takes the lines any more.
    pub fn violation(&mut self, what: &str) -> Result<()> {
        self.line(&json!({"violation": what, "at": now()}))
    }
}

/// An operation, read from its lines in a history.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// The role of its worker.
    pub role: Role,
    /// When it began.
    pub began: u64,
    /// When it ended; `None` if its worker was killed before.
    pub ended: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// Its arguments.
    pub what: Value,
    /// Its result.
    pub result: Value,
}

impl Operation {
    /// The earliest time whose version the operation may have read.
    pub fn as_of(&self) -> u64 {
        match self.role {
            // A replica may lag by any time.
            Role::Replica => 0,
            // Only reads may be stale: by the bound, or back to the version that the session last saw. Writes never
            // build on a stale version.
            Role::Session if self.outcome == Outcome::Read => 0,
            Role::Relaxed if self.outcome == Outcome::Read => self.began.saturating_sub(BOUND.as_nanos() as u64),
            Role::Primary | Role::Waiting | Role::Relaxed | Role::Session => self.began,
        }
    }
}

/// All operations of a workload, and the violations that its workers recorded.
///
/// # Errors
/// A file can't be read, or has a line that is no JSON other than a last one cut short.
pub fn read(directory: &Path, workload: &str) -> Result<(Vec<Operation>, Vec<String>)> {
    let mut operations: Vec<Operation> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut violations = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{workload}-"))) {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        for line in text.lines() {
            // A worker that was killed in the middle of a line leaves half of one.
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let at = line["at"].as_u64().unwrap_or(0);
            if let Some(id) = line["begin"].as_str() {
                places.insert(id.to_owned(), operations.len());
                operations.push(Operation {
                    id: id.to_owned(),
                    role: Role::named(line["role"].as_str().unwrap_or("")).context("no such role")?,
                    began: at,
                    ended: None,
                    outcome: Outcome::Unknown,
                    what: line["what"].clone(),
                    result: Value::Null,
                });
            } else if let Some(id) = line["end"].as_str() {
                let operation = &mut operations[*places.get(id).context("an end without a beginning")?];
                operation.ended = Some(at);
                operation.result = line["result"].clone();
                operation.outcome = match line["outcome"].as_str() {
                    Some("ok") => Outcome::Acknowledged,
                    Some("failed") => Outcome::Failed,
                    Some("read") => Outcome::Read,
                    _ => Outcome::Unknown,
                };
            } else if let Some(what) = line["violation"].as_str() {
                violations.push(format!("{workload}: {what}"));
            }
        }
    }
    Ok((operations, violations))
}
