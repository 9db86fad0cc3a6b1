//! What workers did, as they wrote it down: one JSON object a line, out of their hands before the
//! next step, so that it survives `kill -9` of the worker.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How a transaction ended, as far as its worker was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Reported as committed.
    Acknowledged,
    /// Reported as failed.
    Failed,
    /// Reported as unknown, or the worker was killed before it heard.
    Unknown,
}

/// Nanoseconds since 1970. All workers share the clock of the machine.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// What one worker writes: lines on its standard output. A pipe takes them whatever becomes of
/// files, and gives up what was written before a `kill -9`.
pub struct Writer {
    worker: String,
    next: u64,
}

impl Writer {
    /// `worker` must differ between all processes of a run.
    pub fn new(worker: &str) -> Writer {
        Writer { worker: worker.to_owned(), next: 0 }
    }

    fn line(&mut self, value: &Value) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("{value}\n").as_bytes()).and_then(|()| out.flush()).context("the history")
    }

    /// Writes down that an operation begins; returns its id.
    ///
    /// # Errors
    /// Nobody takes the lines any more.
    pub fn begin(&mut self, what: &Value) -> Result<String> {
        let id = format!("{}.{}", self.worker, self.next);
        self.next += 1;
        self.line(&json!({"begin": id, "at": now(), "what": what}))?;
        Ok(id)
    }

    /// Writes down how it ended.
    ///
    /// # Errors
    /// Nobody takes the lines any more.
    pub fn end(&mut self, id: &str, outcome: Outcome, result: &Value) -> Result<()> {
        let outcome = match outcome {
            Outcome::Acknowledged => "ok",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
        };
        self.line(&json!({"end": id, "at": now(), "outcome": outcome, "result": result}))
    }

    /// Writes down something that must not be.
    ///
    /// # Errors
    /// Nobody takes the lines any more.
    pub fn violation(&mut self, what: &str) -> Result<()> {
        self.line(&json!({"violation": what, "at": now()}))
    }
}

/// An operation, from all that was written about it.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// When it began.
    pub began: u64,
    /// When it ended, if its worker lived to see that.
    pub ended: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it was to do.
    pub what: Value,
    /// What came of it.
    pub result: Value,
}

/// All operations of a workload, and what its workers found wrong.
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
                    _ => Outcome::Unknown,
                };
            } else if let Some(what) = line["violation"].as_str() {
                violations.push(format!("{workload}: {what}"));
            }
        }
    }
    Ok((operations, violations))
}

/// Checks that what was acknowledged is there once, what failed is not there, and that nothing is
/// there that nobody began. `found` holds the ids that are in the database.
pub fn check_presence(workload: &str, operations: &[Operation], found: &[String]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut times: HashMap<&str, u32> = HashMap::new();
    for id in found {
        *times.entry(id).or_default() += 1;
    }
    for operation in operations {
        let there = times.remove(operation.id.as_str()).unwrap_or(0);
        let fine = match operation.outcome {
            Outcome::Acknowledged => there == 1,
            Outcome::Failed => there == 0,
            Outcome::Unknown => there <= 1,
        };
        if !fine {
            violations
                .push(format!("{workload}: {:?} operation {} is there {there} times", operation.outcome, operation.id));
        }
    }
    violations.extend(times.keys().map(|id| format!("{workload}: nobody began {id}")));
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(id: &str, outcome: Outcome) -> Operation {
        Operation { id: id.into(), began: 0, ended: None, outcome, what: Value::Null, result: Value::Null }
    }

    #[test]
    fn presence_is_judged_by_outcome() {
        let operations =
            [operation("a", Outcome::Acknowledged), operation("f", Outcome::Failed), operation("u", Outcome::Unknown)];
        let check = |found: &[&str]| {
            let found: Vec<String> = found.iter().map(|id| (*id).to_owned()).collect();
            check_presence("test", &operations, &found).len()
        };
        assert_eq!(check(&["a"]), 0);
        assert_eq!(check(&["a", "u"]), 0);
        assert_eq!(check(&[]), 1, "lost");
        assert_eq!(check(&["a", "a"]), 1, "doubled");
        assert_eq!(check(&["a", "f"]), 1, "failed, yet there");
        assert_eq!(check(&["a", "u", "u"]), 1, "doubled");
        assert_eq!(check(&["a", "x"]), 1, "from nowhere");
    }
}
