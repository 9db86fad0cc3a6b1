//! A commit as one script, which writes if no key is of another type than it is written as, and what
//! the commit rests on is as it was: Redis does not undo the rest of a transaction when one command
//! of it fails.
//!
//! What is few is watched, and the script is a part of that transaction. Redis compares each key of a
//! `WATCH` with all that the client watches already, so for some ten thousand it would take minutes,
//! in which it does nothing else. So what is many is not watched: the script asks again all that was
//! asked about it, and compares the replies. Nobody comes between its questions and its writes, and it
//! is what a `WATCH` protects that is compared: the content that the decision rested on.
//!
//! A transaction refuses at once what may not be done; a script stops in the middle. So all its keys
//! and each kind of its commands are also in the transaction itself, where they do nothing. One of the
//! keys is never there: a node of a Cluster refuses the transaction for it while the slot is on its
//! way to another node, where a script would miss a key as soon as it has emptied it.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use redis::{Arg, Cmd, Value as Reply, cmd};

use super::commit::CHUNK;
use super::keys::Keys;
use super::place::wrong_type;
use super::table::bulk;
use crate::error::{Cause, Result};
use crate::store::protocol::{array, bad_reply, text};
use crate::store::redis::script;
use crate::store::request::Request;
use crate::store::script::{By, Script};
use crate::store::server::checked;

static FUNCTIONS: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/functions.lua")));
static CALL: LazyLock<String> =
    LazyLock::new(|| format!("{}\nreturn functions[ARGV[1]](KEYS[1], unpack(ARGV, 2))", *FUNCTIONS));
/// The script of a commit.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    let rest =
        [include_str!("scripts/types.lua"), include_str!("scripts/questions.lua"), include_str!("scripts/writes.lua")];
    Script::new([FUNCTIONS.clone(), rest.map(script).join("\n")].join("\n"))
});

/// Bytes in one argument of the script.
const PIECE: usize = 1 << 20;

/// What a kind of command takes behind its key to do nothing, and what undoes it where that can't be.
fn in_vain(name: &[u8]) -> (&'static [&'static str], Option<&'static [&'static str]>) {
    match name {
        b"HSET" => (&["HSET", "1", "1"], Some(&["HDEL", "1"])),
        b"HDEL" => (&["HDEL", "1"], None),
        b"SADD" => (&["SADD", "1"], Some(&["SREM", "1"])),
        b"SREM" => (&["SREM", "1"], None),
        b"ZADD" => (&["ZADD", "XX", "1", "1"], None),
        b"ZREM" | b"settle" => (&["ZREM", "1"], None),
        // `DEL` comes first always.
        _ => (&["SET", "1", "XX"], None),
    }
}

/// A command that calls a function.
pub(crate) fn eval(call: &Cmd) -> Cmd {
    let mut words = words(call);
    let (name, key) = (words.next(), words.next());
    let mut eval = cmd("EVAL");
    eval.arg(CALL.as_str()).arg(1).arg(key).arg(name).arg(words.collect::<Vec<_>>());
    eval
}

/// The words of a command.
pub(super) fn words(command: &Cmd) -> impl Iterator<Item = &[u8]> {
    command.args_iter().filter_map(|word| if let Arg::Simple(word) = word { Some(word) } else { None })
}

/// A question that a commit rests on, with the reply that it had.
pub(crate) type Claim = (Cmd, Reply);

/// The arguments of the script.
#[derive(Default)]
pub(crate) struct Scripted {
    questions: Pieces,
    writes: Pieces,
    /// All that it reads and writes.
    keys: HashSet<Vec<u8>>,
    /// Commands and functions that it writes with.
    kinds: BTreeSet<Vec<u8>>,
}

impl Scripted {
    pub(crate) fn rest_on(&mut self, claims: &[Claim]) {
        for (command, reply) in claims {
            self.keys.extend(keys_of(command));
            let question = self.questions.item();
            question.extend_from_slice(&[0x92]);
            write_command(question, command);
            write_reply(question, reply);
        }
    }

    /// Adds a command, or the call of a function of `functions.lua`: its name, a key, other arguments.
    pub(crate) fn push(&mut self, command: &Cmd) {
        let name = words(command).next().unwrap_or_default();
        if !self.kinds.contains(name) {
            self.kinds.insert(name.to_vec());
        }
        self.keys.extend(keys_of(command));
        write_command(self.writes.item(), command);
    }

    /// Adds all to an open transaction.
    pub(crate) fn write(self, keys: &Keys, by: By, request: &mut Request) {
        let nothing = keys.nothing();
        let on_nothing = |words: &[&str]| cmd(words[0]).arg(&nothing).arg(&words[1..]).to_owned();
        request.push(&on_nothing(&["DEL"]));
        for kind in &self.kinds {
            let (command, undo) = in_vain(kind);
            request.push(&on_nothing(command));
            undo.into_iter().for_each(|undo| request.push(&on_nothing(undo)));
        }
        let keys = Vec::from_iter(self.keys);
        let (some, rest) = keys.split_at(keys.len().min(CHUNK));
        for chunk in rest.chunks(CHUNK) {
            request.push(cmd("EVAL").arg("").arg(chunk.len()).arg(chunk));
        }
        let (questions, writes) = (self.questions.done(), self.writes.done());
        let mut call = COMMIT.command(by);
        call.arg(1 + some.len()).arg(&nothing).arg(some);
        request.push(call.arg(questions.len()).arg(questions).arg(writes));
    }
}

/// The keys of a command that a commit asks or writes with.
fn keys_of(command: &Cmd) -> impl Iterator<Item = Vec<u8>> {
    let of_keys_only = matches!(words(command).next(), Some(b"DEL" | b"EXISTS" | b"SUNION"));
    words(command).skip(1).take(if of_keys_only { usize::MAX } else { 1 }).map(<[u8]>::to_vec)
}

/// What the script has answered, whose reply is the last one of its transaction: the key that another
/// client has changed, if there is one.
///
/// # Errors
/// A key is of a wrong type, and nothing was written; or the server has refused a part.
pub(crate) fn changed(mut replies: Vec<Reply>) -> Result<Option<Vec<u8>>> {
    let reply = checked(replies.pop().unwrap_or_default())?;
    let said = array("EVAL", reply.clone())?;
    let word = |n| said.get(n).and_then(text).unwrap_or_default();
    let key = bulk(said.get(1)).unwrap_or_default();
    match word(0).as_str() {
        "" if said.is_empty() => Ok(None),
        "changed" => Ok(Some(key.to_vec())),
        "wrong" => Err(wrong_type(key, &format!("{}, not {}", word(2), word(3)))),
        "refused" => {
            let reason = format!("a part of the transaction was refused, the rest was written: {}", word(1));
            Err(Cause::Damaged(reason).into())
        }
        _ => Err(bad_reply("EVAL", &reply).into()),
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
    packed.extend(array_of(words(command).count() as u32));
    words(command).for_each(|word| write_bytes(packed, word));
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
