//! The store that is a Redis server: one hash, one stream, one lock for each database.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Cmd, Value, cmd};

use crate::config::Config;
use crate::error::{Cause, Result};
use crate::store::keys::{self, Keys};
use crate::store::protocol::{self, array, bad_reply, text};
use crate::store::server::{Request, Server, checked};
use crate::store::writer::RedisWriter;
use crate::store::{Fetched, Leased, LogEntry, Page, PageNo, Store, Version};

/// Entries in one `XRANGE`.
const BATCH: usize = 256;

/// Lua without the comment lines, which nobody reads on the wire.
static RELEASE: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/release.lua")));
static RENEW: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/renew.lua")));

fn script(source: &str) -> String {
    source.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n")
}

/// The pages of one database on one server.
#[derive(Clone)]
pub(crate) struct RedisStore {
    pub(super) server: Arc<Server>,
    pub(super) keys: Arc<Keys>,
    pub(super) timeout: Duration,
    pub(super) log_commits: u64,
    pub(super) log_bytes: u64,
}

impl RedisStore {
    pub(crate) fn new(server: Arc<Server>, config: &Config, name: &str) -> Self {
        RedisStore {
            server,
            keys: Arc::new(Keys::new(&config.prefix, name)),
            timeout: config.timeout,
            log_commits: config.log_commits,
            log_bytes: config.log_bytes,
        }
    }

    /// Refuses servers and keys that can't serve; fetches pages like [`Store::fetch`].
    pub(crate) fn open(&self, pages: &[PageNo]) -> Result<Fetched> {
        self.server.check()?;
        let mut request = Request::default();
        request.push(cmd("TYPE").arg(&self.keys.hash));
        request.push(cmd("TYPE").arg(&self.keys.log));
        request.push(&self.hmget(pages));
        let mut replies = self.server.ask(&request)?.into_iter();
        for (key, expected) in [(&self.keys.hash, "hash"), (&self.keys.log, "stream")] {
            let reply = checked(replies.next().unwrap_or_default())?;
            match text(&reply) {
                Some(found) if found == expected || found == "none" => {}
                Some(found) => return Err(Cause::ForeignKey { key: key.clone(), found, expected }.into()),
                None => return Err(bad_reply("TYPE", &reply).into()),
            }
        }
        fetched(replies.next().unwrap_or_default(), pages)
    }

    pub(super) fn hmget(&self, pages: &[PageNo]) -> Cmd {
        let mut command = cmd("HMGET");
        command.arg(&self.keys.hash);
        for field in keys::SNAPSHOT {
            command.arg(field);
        }
        for &page in pages {
            command.arg(keys::page(page));
        }
        command
    }

    pub(super) fn release_command(&self, token: &str) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(RELEASE.as_str()).arg(1).arg(&self.keys.lock).arg(token);
        command
    }

    pub(super) fn xrange(&self, first: Version, last: Version) -> Cmd {
        let mut command = cmd("XRANGE");
        command.arg(&self.keys.log).arg(format!("{first}-0")).arg(format!("{last}-0")).arg("COUNT").arg(BATCH);
        command
    }
}

/// Snapshot and pages out of the reply to an `HMGET`.
pub(crate) fn fetched(reply: Value, pages: &[PageNo]) -> Result<Fetched> {
    let mut values = array("HMGET", checked(reply)?)?;
    if values.len() != keys::SNAPSHOT.len() + pages.len() {
        return Err(Cause::BadReply(format!("HMGET was answered with {} values", values.len())).into());
    }
    let contents = values.split_off(keys::SNAPSHOT.len());
    let at = protocol::snapshot(&values)?;
    let pages = pages
        .iter()
        .zip(contents)
        .map(|(&page, value)| Ok(protocol::page(page, value, &at)?.map(Page::new)))
        .collect::<Result<_>>()?;
    Ok(Fetched { at, pages })
}

impl Store for RedisStore {
    fn fetch(&self, pages: &[PageNo]) -> Result<Fetched> {
        let mut replies = self.server.ask(&Request::one(&self.hmget(pages)))?;
        fetched(replies.pop().unwrap_or_default(), pages)
    }

    fn history(&self, after: Version, through: Version) -> Result<Vec<LogEntry>> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut first = after.next();
        while first <= through {
            let mut replies = self.server.ask(&Request::one(&self.xrange(first, through)))?;
            let batch = protocol::log_entries(checked(replies.pop().unwrap_or_default())?)?;
            let Some(last) = batch.last() else { break };
            if last.version < first {
                return Err(Cause::BadReply("XRANGE answered with entries that were not asked for".into()).into());
            }
            first = last.version.next();
            entries.extend(batch);
        }
        Ok(entries)
    }

    fn lease(&self, token: &str, life: Duration) -> Result<Leased> {
        let mut writer = RedisWriter::new(self, token, life);
        match writer.begin()? {
            Ok(snapshot) => Ok(Leased::Held(Box::new(writer), snapshot)),
            Err(holder) => Ok(Leased::ByAnother(holder)),
        }
    }

    fn renew(&self, token: &str, life: Duration) -> Result<bool> {
        let mut command = cmd("EVAL");
        command.arg(RENEW.as_str()).arg(1).arg(&self.keys.lock).arg(token).arg(life.as_millis() as u64);
        let mut replies = self.server.ask(&Request::one(&command))?;
        match checked(replies.pop().unwrap_or_default())? {
            Value::Int(renewed) => Ok(renewed == 1),
            other => Err(bad_reply("EVAL", &other).into()),
        }
    }

    fn leased(&self) -> Result<bool> {
        let mut replies = self.server.ask(&Request::one(cmd("EXISTS").arg(&self.keys.lock)))?;
        match checked(replies.pop().unwrap_or_default())? {
            Value::Int(found) => Ok(found > 0),
            other => Err(bad_reply("EXISTS", &other).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_travel_without_their_comments() {
        assert!(RELEASE.starts_with("if redis.call('GET'") && !RELEASE.contains("--"));
        assert!(RENEW.contains("PEXPIRE"));
    }
}
