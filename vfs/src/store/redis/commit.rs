//! What a commit sends: pages, metadata, and its entry in the log.

use std::time::SystemTime;

use redis::{Value, cmd};

use crate::model::error::Result;
use crate::model::log_entry::Commit;
use crate::model::page_encoding::pack;
use crate::model::version::{FORMAT, STAGED_FORMAT, Snapshot, Version};
use crate::store::redis::base::RedisStore;
use crate::store::redis::keys;
use crate::store::redis::keys::Keys;
use crate::store::redis::stage::Stage;
use crate::store::redis::undo_stream::KeptUndo;
use crate::wire::link::Sending;
use crate::wire::reply::checked;
use crate::wire::reply::text;
use crate::wire::request::Request;

/// Pages in one `HSET` or `HDEL`.
const BATCH: usize = 256;

/// Bytes of undo data of one commit at most, whatever `log_bytes` allows: the client has them in memory
/// until they are sent.
const MOST_UNDO: u64 = 256 << 20;

/// Bytes of undo data that one commit may have.
pub(crate) fn most_undo(log_bytes: u64) -> u64 {
    (log_bytes / 2).min(MOST_UNDO)
}

/// Bounds the log's bytes, which a stream can't do by itself. The log has two halves; when the
/// younger has got its share, the older is dropped and the younger takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogMark {
    /// Version with which the younger half begins.
    pub begins: u64,
    /// Bytes of undo data in the younger half, wherever they are.
    pub bytes: u64,
}

impl LogMark {
    /// A mark that does not parse only costs a late trim, so it is no reason to refuse a commit.
    pub(crate) fn parse(value: &Value) -> LogMark {
        let parse = || {
            let text = text(value)?;
            let (begins, bytes) = text.split_once(' ')?;
            Some(LogMark { begins: begins.parse().ok()?, bytes: bytes.parse().ok()? })
        };
        parse().unwrap_or_default()
    }

    /// The mark after a commit, and the first version to keep if the older half is to go.
    pub(crate) fn add(self, version: Version, bytes: u64, share: u64) -> (LogMark, Option<u64>) {
        let total = self.bytes.saturating_add(bytes);
        if self.bytes > 0 && total > share {
            (LogMark { begins: version.0, bytes }, Some(self.begins))
        } else {
            (LogMark { begins: self.begins.max(1), bytes: total }, None)
        }
    }
}

/// How many of a commit's commands don't concern the database itself; they come last. The hash alone is the
/// database, so a commit stands although they failed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AboutHistory {
    /// Those that concern the stream of undo data.
    undo: usize,
    /// Those that concern the log; they come after the others.
    log: usize,
}

impl AboutHistory {
    /// The entry in the log alone.
    pub(crate) const ENTRY: AboutHistory = AboutHistory { undo: 0, log: 1 };
}

impl RedisStore {
    /// Sends what a commit has between `MULTI` and `EXEC`.
    pub(crate) fn transaction(
        &self,
        commit: &Commit<'_>,
        log_mark: LogMark,
        stage: Option<&Stage>,
        sending: &mut Sending<'_, '_>,
    ) -> AboutHistory {
        let Commit { base, snapshot, .. } = commit;
        let is_first = *base == Snapshot::EMPTY;
        let share = most_undo(self.log_bytes);
        let undo = KeptUndo::of(commit.undo, share);
        let log_mark = if is_first { LogMark::default() } else { log_mark };
        let (log_mark, trim) = log_mark.add(snapshot.version, undo.bytes(), share);
        match stage {
            Some(stage) => self.publish(commit, log_mark, stage, sending.piece()),
            None => self.pages(commit, log_mark, sending),
        }
        let before = sending.count();
        // What an earlier database of this name left, or its versions would be in the way.
        if is_first {
            sending.piece().push(cmd("DEL").arg(&self.keys.undo));
        }
        self.send_pieces(commit, undo.pieces, trim, sending);
        let after_undo = sending.count();
        let request = sending.piece();
        if is_first {
            request.push(cmd("DEL").arg(&self.keys.log));
        }
        if let Some(first) = trim {
            request.push(cmd("XTRIM").arg(&self.keys.log).arg("MINID").arg(format!("{first}-0")));
        }
        self.xadd(commit, undo, request);
        AboutHistory { undo: after_undo - before, log: sending.count() - after_undo }
    }

    /// Pages and metadata into the hash, removed pages out of it; a time to live that somebody has set is removed.
    fn pages(&self, commit: &Commit<'_>, log_mark: LogMark, sending: &mut Sending<'_, '_>) {
        let mut metadata = metadata(&commit.base, &commit.snapshot, FORMAT, log_mark);
        let (first, rest) = commit.pages.split_at(commit.pages.len().min(BATCH));
        for batch in std::iter::once(first).chain(rest.chunks(BATCH)) {
            let metadata = std::mem::take(&mut metadata);
            let mut hset = sending.piece().begin(2 + 2 * metadata.len() + 2 * batch.len());
            hset.word("HSET").word(&self.keys.hash);
            for (field, value) in metadata {
                hset.word(field).word(value);
            }
            for &(page, bytes) in batch {
                hset.word(keys::page(page)).page(&pack(bytes, self.compress));
            }
        }
        let removed: Vec<_> = commit.removed().collect();
        for batch in removed.chunks(BATCH) {
            let mut hdel = sending.piece().begin(2 + batch.len());
            hdel.word("HDEL").word(&self.keys.hash);
            for &page in batch {
                hdel.word(keys::page(page));
            }
        }
        sending.piece().push(cmd("PERSIST").arg(&self.keys.hash));
    }

    /// Staged pages become the hash if they are all of them, or else go before those of the hash.
    fn publish(&self, commit: &Commit<'_>, log_mark: LogMark, stage: &Stage, request: &mut Request) {
        let Commit { base, snapshot, .. } = commit;
        let Keys { hash, staged, .. } = &*self.keys;
        let whole = stage.pages == snapshot.page_count;
        let place = if whole {
            let metadata = metadata(&Snapshot::EMPTY, snapshot, FORMAT, log_mark);
            request.push(cmd("HSET").arg(&stage.key).arg(&metadata));
            request.push(cmd("UNLINK").arg(hash).arg(staged));
            hash
        } else {
            let metadata = metadata(base, snapshot, STAGED_FORMAT, log_mark);
            request.push(cmd("HSET").arg(hash).arg(&metadata));
            request.push(cmd("PERSIST").arg(hash));
            let mut hset = cmd("HSET");
            hset.arg(&stage.key).arg(keys::COMMIT).arg(snapshot.commit.to_string());
            // The pages above it that the base had are still to be removed.
            request.push(hset.arg(keys::PAGE_COUNT).arg(base.page_count));
            request.push(cmd("UNLINK").arg(staged));
            staged
        };
        request.push(cmd("PERSIST").arg(&stage.key));
        request.push(cmd("RENAME").arg(&stage.key).arg(place));
    }

    /// Adds the entry of a commit to the log.
    pub(crate) fn xadd(&self, commit: &Commit<'_>, undo: KeptUndo<'_>, request: &mut Request) {
        let mut xadd = request.begin(if undo.field.is_some() { 18 } else { 16 });
        xadd.word("XADD").word(&self.keys.log).word("MAXLEN").word("~").number(self.log_commits);
        xadd.word(format!("{}-0", commit.snapshot.version));
        for (field, value) in log_fields(commit) {
            xadd.word(field).word(value);
        }
        if let Some((field, bytes)) = undo.field {
            xadd.word(field).word(bytes);
        }
    }

    /// Checks the results of an `EXEC` that was carried out. A stream that refused a command is removed, so that
    /// later commits can use it, and so that nobody takes what is in it for the history of this version.
    pub(crate) fn check_results(
        &self,
        commit: &Commit<'_>,
        about_history: AboutHistory,
        mut results: Vec<Value>,
    ) -> Result<()> {
        let mut split = |count: usize| results.split_off(results.len().saturating_sub(count));
        let (log, undo) = (split(about_history.log), split(about_history.undo));
        for result in results {
            checked(result)?;
        }
        self.remove_if_refused(commit.snapshot.version, &self.keys.undo, undo);
        self.remove_if_refused(commit.snapshot.version, &self.keys.log, log);
        Ok(())
    }

    fn remove_if_refused(&self, version: Version, key: &str, results: Vec<Value>) {
        let Some(error) = results.into_iter().find_map(|result| checked(result).err()) else { return };
        crate::process::log::log(&format!(
            "version {version} is committed, but {key} refused its entry and is begun anew: {error}"
        ));
        let deleted = self.server.ask(&Request::one(cmd("DEL").arg(key)));
        if let Err(error) = deleted.and_then(|mut replies| checked(replies.pop().unwrap_or_default())) {
            crate::process::log::log(&format!("{key} could not be removed: {error}"));
        }
    }
}

/// The fields of a commit's log entry that don't say what it has changed.
pub(crate) fn log_fields(commit: &Commit<'_>) -> [(&'static str, String); 5] {
    let Commit { base, snapshot, .. } = commit;
    [
        (keys::log::COMMIT, snapshot.commit.to_string()),
        (keys::log::BASE, base.commit.to_string()),
        (keys::log::TIME, now_ms().to_string()),
        (keys::log::PAGE_SIZE, base.page_size.to_string()),
        (keys::log::PAGE_COUNT, base.page_count.to_string()),
    ]
}

/// The fields of a hash that are not pages, save those that it has of `base` already.
pub(crate) fn metadata(
    base: &Snapshot,
    snapshot: &Snapshot,
    format: u32,
    log_mark: LogMark,
) -> Vec<(&'static str, String)> {
    let mut fields = Vec::with_capacity(6);
    fields.push((keys::VERSION, snapshot.version.to_string()));
    fields.push((keys::COMMIT, snapshot.commit.to_string()));
    if snapshot.page_size != base.page_size {
        fields.push((keys::PAGE_SIZE, snapshot.page_size.to_string()));
    }
    if snapshot.page_count != base.page_count {
        fields.push((keys::PAGE_COUNT, snapshot.page_count.to_string()));
    }
    // Nothing is committed over a version whose pages are staged, so that of the base is `FORMAT`.
    if *base == Snapshot::EMPTY || format != FORMAT {
        fields.push((keys::FORMAT, format.to_string()));
    }
    fields.push((keys::LOG_MARK, format!("{} {}", log_mark.begins, log_mark.bytes)));
    fields
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_between_half_and_all_of_its_bytes() {
        let (mut mark, mut kept) = (LogMark::default(), std::collections::VecDeque::new());
        for version in 1..1000 {
            let (next, trim) = mark.add(Version(version), 7, 50);
            kept.retain(|&(at, _)| trim.is_none_or(|first| at >= first));
            kept.push_back((version, 7));
            mark = next;
            let bytes: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
            assert!(bytes <= 100 && (version < 20 || bytes >= 43), "{bytes} at {version}");
        }
        assert_eq!(LogMark::parse(&Value::BulkString(b"12 x".to_vec())), LogMark::default());
    }
}
