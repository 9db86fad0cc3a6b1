//! A large commit: its pages are gathered in a hash of their own, beside the database, and take
//! their place in one small step. So no other client of the server waits for the whole of it.
//!
//! ```text
//! HSET   sqlite:{shop}:import:TOKEN   in pieces, nobody sees them
//! EXEC   all pages are new:    it becomes the hash
//!        some are:             it becomes sqlite:{shop}:staged, and the hash says format 2:
//!                              its pages go before those of the hash
//! EVAL   promote.lua, in pieces: the staged pages move into the hash, which then says format 1
//! ```

use std::sync::Arc;
use std::sync::LazyLock;

use redis::{Value, cmd};

use crate::model::error::{Cause, Error, Result};
use crate::model::page::PageNo;
use crate::model::page_encoding::pack;
use crate::model::version::Snapshot;
use crate::store::redis::base::{RedisStore, script};
use crate::store::redis::keys;
use crate::wire::reply::checked;
use crate::wire::reply::{bad_reply, text};
use crate::wire::request::Request;
use crate::wire::server::Server;

/// Pages in one `HSET`, and in one round trip.
pub(crate) const BATCH: usize = 64;
/// Bytes that one call of the script moves, about: a few milliseconds for the server.
const PROMOTED_AT_ONCE: u32 = 1 << 20;
/// How long the pages of a client that died stay in Redis.
const SECONDS: u64 = 600;

static PROMOTE: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/promote.lua")));

/// Pages on their way. They are removed when this is dropped, unless they took their place.
pub(crate) struct Stage {
    server: Arc<Server>,
    /// The hash that holds them, with a time to live, should this process die.
    pub key: String,
    pub pages: u32,
    pub published: bool,
    compress: bool,
}

impl Stage {
    pub(crate) fn new(server: Arc<Server>, keys: &keys::Keys, compress: bool) -> Result<Self> {
        let token = format!("{:016x}", crate::model::unique()?);
        Ok(Stage { server, key: keys.staging(&token), pages: 0, published: false, compress })
    }

    /// Checks a reply to `HLEN`.
    pub(crate) fn check(&self, reply: Value) -> Result<()> {
        match checked(reply)? {
            Value::Int(found) if found == i64::from(self.pages) => Ok(()),
            Value::Int(found) => {
                Err(Cause::Server(format!("{found} of {} pages are in {}; someone removed them", self.pages, self.key))
                    .into())
            }
            other => Err(bad_reply("HLEN", &other).into()),
        }
    }

    /// Adds pages; each page once.
    pub(crate) fn add<'a>(&mut self, pages: impl Iterator<Item = (PageNo, &'a [u8])>) -> Result<()> {
        let mut pages = pages.peekable();
        while pages.peek().is_some() {
            let mut hset = cmd("HSET");
            hset.arg(&self.key);
            let mut count = 0;
            for (page, bytes) in pages.by_ref().take(BATCH) {
                hset.arg(keys::page(page)).arg(pack(bytes, self.compress).to_vec());
                count += 1;
            }
            let mut request = Request::one(&hset);
            request.push(cmd("EXPIRE").arg(&self.key).arg(SECONDS));
            // Sent again after a lost reply, the same fields get the same values.
            for reply in self.server.ask(&request)? {
                checked(reply)?;
            }
            self.pages += count;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.published || self.pages == 0 {
            return;
        }
        let removed = self.server.ask(&Request::one(cmd("UNLINK").arg(&self.key)));
        if let Err(error) = removed.and_then(|mut replies| checked(replies.pop().unwrap_or_default())) {
            crate::process::log::log(&format!("{} will be removed by its time to live: {error}", self.key));
        }
    }
}

impl RedisStore {
    /// Moves staged pages to their place, if a commit has left any there. Whoever holds the lease
    /// does it, before it commits: a writer that died may not have come to the end.
    pub(crate) fn promote(&self, at: &Snapshot) -> Result<()> {
        let pages = PROMOTED_AT_ONCE / at.page_size.max(512);
        let before = self.server.ask(&Request::one(cmd("HGET").arg(&self.keys.staged).arg(keys::PAGE_COUNT)))?.pop();
        let before: u32 = text(&checked(before.unwrap_or_default())?).and_then(|count| count.parse().ok()).unwrap_or(0);
        // Each call moves or removes about so many, or comes to the end of a pass.
        let most_calls = 100 + 4 * u64::from(at.page_count.max(before) / pages);
        let mut cursor = "0".to_owned();
        for _ in 0..most_calls {
            let mut command = cmd("EVAL");
            command.arg(PROMOTE.as_str()).arg(2).arg(&self.keys.hash).arg(&self.keys.staged);
            command.arg(at.commit.to_string()).arg(pages).arg(&cursor);
            let reply = checked(self.server.ask(&Request::one(&command))?.pop().unwrap_or_default())?;
            match (text(&reply), reply) {
                (Some(next), _) => cursor = next,
                (None, Value::Int(0)) => return Ok(()),
                (None, other) => return Err(bad_reply("EVAL", &other).into()),
            }
        }
        let reason =
            format!("the staged pages of version {} are not in their place after {most_calls} calls", at.version);
        Err(Cause::BadReply(reason).into())
    }
}

/// The failure where the hash says that pages of this version are staged and they are not there: they were
/// removed, or the hash was copied or moved without them.
pub(crate) fn missing(at: &Snapshot) -> Error {
    Cause::Damaged(format!("the staged pages of version {} are not with it", at.version)).into()
}

/// Puts staged pages before those of the hash; `false` if they belong to another commit.
pub(crate) fn overlay(at: &Snapshot, pages: &mut [Value], staged: Vec<Value>) -> Result<bool> {
    // With fewer, pages of the version before would pass for new ones.
    if staged.len() != 1 + pages.len() {
        return Err(Cause::BadReply(format!("HMGET was answered with {} values", staged.len())).into());
    }
    let mut staged = staged.into_iter();
    let commit = staged.next().unwrap_or_default();
    if !matches!(&commit, Value::BulkString(id) if *id == at.commit.to_string().into_bytes()) {
        return Ok(false);
    }
    for (page, newer) in pages.iter_mut().zip(staged) {
        if newer != Value::Nil {
            *page = newer;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn staged_pages_go_first_and_only_those_of_the_commit() {
        let at = Snapshot { commit: crate::model::version::CommitId(0xab), ..Snapshot::EMPTY };
        let mut pages = [bulk("old"), bulk("kept")];
        let staged = |commit: &str| vec![bulk(commit), bulk("new"), Value::Nil];
        assert!(!overlay(&at, &mut pages, staged("00000000000000ac")).unwrap());
        assert!(overlay(&at, &mut pages, staged("00000000000000ab")[..2].to_vec()).is_err(), "too short");
        assert_eq!(pages, [bulk("old"), bulk("kept")]);
        assert!(overlay(&at, &mut pages, staged("00000000000000ab")).unwrap());
        assert_eq!(pages, [bulk("new"), bulk("kept")]);
    }
}
