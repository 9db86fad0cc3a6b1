//! Commits that rest on many keys. Redis compares each key of a `WATCH` with all that the client
//! watches already, so for some ten thousand it would take minutes, in which it does nothing else.
//!
//! Those keys are not watched. A script asks again all that was asked about them, and writes if the
//! replies are as before. Nobody comes between its questions and its writes, and it is what a `WATCH`
//! protects that is compared: the content that the decision rested on. What is few is watched as
//! ever, and the script is a part of that transaction. What scripts can't call, other scripts, comes
//! behind it in the transaction; none of that matters when nothing is written.
//!
//! A transaction refuses at once what may not be done; a script stops in the middle. So each kind of
//! command is also in the transaction itself, where it does nothing.
//!
//! Not in a Cluster: there, keys may be on their way to another node while a script writes.

use std::sync::LazyLock;

use redis::{Arg, Cmd, Value as Reply, cmd};

use super::commit::script;
use super::keys::Keys;
use super::table::bulk;
use crate::error::{Cause, Result};
use crate::store::protocol::{array, bad_reply, text};
use crate::store::request::Request;

static COMMIT: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/commit.lua")));

/// Bytes in one argument of the script.
const PIECE: usize = 1 << 20;

/// The kinds of commands that the script may have to write with, and how many arguments each takes
/// behind its key. One undoes the other.
const EACH: [(&str, usize); 8] =
    [("HSET", 2), ("HDEL", 1), ("SET", 1), ("DEL", 0), ("SADD", 1), ("SREM", 1), ("ZADD", 2), ("ZREM", 1)];

/// Where the commands of a commit go.
pub(crate) trait Sink {
    fn push(&mut self, command: &Cmd);
}

impl Sink for Request {
    fn push(&mut self, command: &Cmd) {
        Request::push(self, command);
    }
}

/// A question that a commit rests on, with the reply that it had.
pub(crate) type Claim = (Cmd, Reply);

/// The arguments of the script.
#[derive(Default)]
pub(crate) struct Large {
    questions: Pieces,
    writes: Pieces,
    /// Commands that can't be in a script.
    behind: Request,
}

impl Large {
    pub(crate) fn rest_on(&mut self, claims: &[Claim]) {
        for (command, reply) in claims {
            let question = self.questions.item();
            question.extend_from_slice(&[0x92]);
            write_command(question, command);
            write_reply(question, reply);
        }
    }

    /// Adds all to an open transaction, with what tells that it happened.
    pub(crate) fn write(mut self, mark: &Cmd, keys: &Keys, request: &mut Request) {
        self.push(mark);
        let nothing = keys.nothing();
        for (name, arguments) in EACH {
            request.push(cmd(name).arg(&nothing).arg(vec![1; arguments]));
        }
        let (questions, writes) = (self.questions.done(), self.writes.done());
        let mut eval = cmd("EVAL");
        eval.arg(COMMIT.as_str()).arg(1).arg(&nothing).arg(questions.len()).arg(questions).arg(writes);
        request.push(&eval);
        request.append(&self.behind);
    }
}

impl Sink for Large {
    fn push(&mut self, command: &Cmd) {
        if command.args_iter().next() == Some(Arg::Simple(b"EVAL")) {
            self.behind.push(command);
        } else {
            write_command(self.writes.item(), command);
        }
    }
}

/// What the script has answered: the key that another client has changed, if there is one.
pub(crate) fn changed(reply: &Reply) -> Result<Option<Vec<u8>>> {
    let said = array("EVAL", reply.clone())?;
    match (said.first().and_then(text).as_deref(), said.get(1)) {
        (None, None) => Ok(None),
        (Some("changed"), key) => Ok(Some(bulk(key).unwrap_or_default().to_vec())),
        (Some("refused"), Some(why)) => {
            let why = text(why).unwrap_or_default();
            let reason = format!("a part of the transaction was refused, the rest was written: {why}");
            Err(Cause::Damaged(reason).into())
        }
        _ => Err(bad_reply("EVAL", reply).into()),
    }
}

/// Arrays in MessagePack, of about [`PIECE`] bytes each.
#[derive(Default)]
struct Pieces {
    full: Vec<Vec<u8>>,
    items: Vec<u8>,
    count: u32,
}

impl Pieces {
    /// Where to write one more item.
    fn item(&mut self) -> &mut Vec<u8> {
        if self.items.len() > PIECE {
            self.close();
        }
        self.count += 1;
        &mut self.items
    }

    fn close(&mut self) {
        let mut piece = array_of(self.count);
        piece.append(&mut self.items);
        self.full.push(piece);
        self.count = 0;
    }

    fn done(mut self) -> Vec<Vec<u8>> {
        if self.count > 0 {
            self.close();
        }
        self.full
    }
}

fn array_of(count: u32) -> Vec<u8> {
    [&[0xdd], count.to_be_bytes().as_slice()].concat()
}

fn write_bytes(packed: &mut Vec<u8>, bytes: &[u8]) {
    packed.push(0xdb);
    // A value of Redis has 512 MB at most.
    packed.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    packed.extend_from_slice(bytes);
}

fn write_command(packed: &mut Vec<u8>, command: &Cmd) {
    let words = || command.args_iter().filter_map(|word| if let Arg::Simple(word) = word { Some(word) } else { None });
    packed.extend(array_of(words().count() as u32));
    words().for_each(|word| write_bytes(packed, word));
}

/// A reply as a script gets it: false for nil.
fn write_reply(packed: &mut Vec<u8>, reply: &Reply) {
    match reply {
        Reply::Int(number) => {
            packed.push(0xd3);
            packed.extend_from_slice(&number.to_be_bytes());
        }
        Reply::Array(items) => {
            packed.extend(array_of(items.len() as u32));
            items.iter().for_each(|item| write_reply(packed, item));
        }
        Reply::BulkString(bytes) => write_bytes(packed, bytes),
        _ => packed.push(0xc2),
    }
}
