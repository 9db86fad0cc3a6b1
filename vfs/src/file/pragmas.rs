//! Pragmas that are answered or watched here. `docs/configuration.md` lists them.

use crate::config::{Consistency, REPLICAS, Wait};
use crate::file::File;
use crate::model::error::{Cause, Error, Result};
use crate::model::version::Version;

/// How a pragma is to be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// As SQLite does.
    NotOurs,
    Text(String),
}

const LOCKING_MODE: &str = "locking_mode";
const JOURNAL_MODE: &str = "journal_mode";
/// Replicas that must have a commit of this connection.
const WAIT: &str = "redis_wait";
/// Whether they and the primary must have it on disk.
const WAIT_DISK: &str = "redis_wait_disk";
/// How new what the connection reads must be.
const CONSISTENCY: &str = "redis_consistency";
/// The snapshot that it took last.
const SNAPSHOT: &str = "redis_snapshot";
/// The version of the database that the connection reads.
const VERSION: &str = "redis_version";
/// Waits for a version.
const WAIT_VERSION: &str = "redis_wait_version";
/// The last failure of the connection, in words.
const LAST_ERROR: &str = "redis_last_error";
/// What has gone over the wire.
const STATS: &str = "redis_stats";

/// Those that only exist here.
#[cfg(test)]
pub(crate) const PRAGMAS: &[&str] = &[VERSION, WAIT_VERSION, SNAPSHOT, CONSISTENCY, WAIT, WAIT_DISK, LAST_ERROR, STATS];

/// Modes that `PRAGMA journal_mode` may set here.
const JOURNAL_MODES: &[&str] = &["delete", "truncate", "persist", "memory", "off"];

impl File {
    pub(crate) fn pragma(&mut self, name: &str, value: Option<&str>) -> Result<Answer> {
        let value = value.map(str::to_ascii_lowercase);
        let name = name.to_ascii_lowercase();
        if [WAIT_DISK, CONSISTENCY, SNAPSHOT, VERSION, WAIT_VERSION].contains(&name.as_str()) {
            self.finish_opening()?;
        }
        let text = match (name.as_str(), value.as_deref()) {
            (LOCKING_MODE, Some(mode @ ("normal" | "exclusive"))) => {
                if self.set_locking_mode(mode == "exclusive")? {
                    return Ok(Answer::NotOurs);
                }
                "normal".to_owned()
            }
            // SQLite refuses WAL by itself, except in exclusive mode.
            (JOURNAL_MODE, Some("wal")) => self.journal_mode.clone(),
            (JOURNAL_MODE, Some(mode)) => {
                if JOURNAL_MODES.contains(&mode) {
                    self.journal_mode = mode.to_owned();
                }
                return Ok(Answer::NotOurs);
            }
            (WAIT, None) => self.wait.replicas.to_string(),
            (WAIT, Some(given)) => {
                let number = REPLICAS.parse(given).map_or_else(|| bad(WAIT, given, &REPLICAS.expected()), Ok)?;
                self.wait.replicas = number as u32;
                self.wait.replicas.to_string()
            }
            (WAIT_DISK, None) => u8::from(self.wait.disk).to_string(),
            (WAIT_DISK, Some(given @ ("0" | "1"))) => {
                let wait = Wait { disk: given == "1", ..self.wait };
                self.look_for_fork()?;
                self.database.check_wait(wait)?;
                self.wait = wait;
                given.to_owned()
            }
            (WAIT_DISK, Some(other)) => return bad(WAIT_DISK, other, "expected 0 or 1"),
            (CONSISTENCY, None) => self.session.consistency().to_string(),
            (CONSISTENCY, Some(given)) => {
                let level =
                    Consistency::parse(given).map_or_else(|| bad(CONSISTENCY, given, Consistency::EXPECTED), Ok)?;
                self.look_for_fork()?;
                self.session.set_consistency(level);
                level.to_string()
            }
            (SNAPSHOT, None) => {
                self.look_for_fork()?;
                self.session.describe(&self.database)
            }
            (VERSION, None) => self.version()?.to_string(),
            (WAIT_VERSION, Some(given)) => {
                let wanted = given.parse().or_else(|_| bad(WAIT_VERSION, given, "expected the number of a version"))?;
                self.wait_version(Version(wanted))?.to_string()
            }
            (LAST_ERROR, None) => self.last_error().map(Error::to_string).unwrap_or_default(),
            (STATS, None) => {
                let stats = self.database.stats();
                let (trips, commands, bytes) = (stats.round_trips, stats.commands, stats.bytes_sent);
                format!("round_trips={trips} commands={commands} bytes_sent={bytes}")
            }
            _ => return Ok(Answer::NotOurs),
        };
        Ok(Answer::Text(text))
    }

    /// The version that the open transaction reads, or else the newest.
    fn version(&mut self) -> Result<Version> {
        self.look_for_fork()?;
        match self.txn.snapshot() {
            Some(snapshot) => Ok(snapshot.version),
            None => self.session.newest_version(&self.database),
        }
    }

    /// Waits until this connection would read that version or a newer one; an open transaction
    /// stays with the one that it reads.
    fn wait_version(&mut self, wanted: Version) -> Result<Version> {
        self.look_for_fork()?;
        match self.txn.snapshot().map(|snapshot| snapshot.version) {
            Some(found) if found < wanted => {
                Err(Cause::Behind { server: "the open transaction".to_owned(), wanted, found }.into())
            }
            Some(found) => Ok(found),
            None => self.session.wait_for(&self.database, wanted),
        }
    }
}

fn bad<T>(setting: &str, value: &str, reason: &str) -> Result<T> {
    let (setting, value, reason) = (setting.to_owned(), value.to_owned(), reason.to_owned());
    Err(Cause::BadSetting { setting, value, reason }.into())
}
