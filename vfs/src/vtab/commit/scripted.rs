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

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use redis::{Arg, Cmd, Value as Reply, cmd};

use crate::model::error::{Cause, Result};
use crate::store::redis::base::script;
use crate::vtab::layout::keys::Keys;
use crate::vtab::layout::replies::bulk;
use crate::vtab::location::{Place, wrong_type};
use crate::wire::reply::checked;
use crate::wire::reply::{array, bad_reply, text};
use crate::wire::request::Request;
use crate::wire::script::{By, Script};

static FUNCTIONS: LazyLock<String> = LazyLock::new(|| script(include_str!("scripts/functions.lua")));
static CALL: LazyLock<String> =
    LazyLock::new(|| format!("{}\nreturn functions[ARGV[1]](KEYS[1], unpack(ARGV, 2))", *FUNCTIONS));
/// The script of a commit.
pub(crate) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    let rest =
        [include_str!("scripts/types.lua"), include_str!("scripts/questions.lua"), include_str!("scripts/writes.lua")];
    Script::new([FUNCTIONS.clone(), rest.map(script).join("\n")].join("\n"))
});

/// Bytes in one argument of the script.
const PIECE: usize = 1 << 20;

/// What does nothing to a key that is not there, and the kinds of writes that it stands for. What can't do
/// nothing is undone by the next.
const IN_VAIN: [(&[&[u8]], &[&str]); 11] = [
    (&[b"HSET"], &["HSET", "1", "1"]),
    (&[b"HSET", b"HDEL"], &["HDEL", "1"]),
    (&[b"SADD"], &["SADD", "1"]),
    (&[b"SADD", b"SREM"], &["SREM", "1"]),
    (&[b"ZADD"], &["ZADD", "XX", "1", "1"]),
    (&[b"ZREM", b"settle"], &["ZREM", "1"]),
    (&[b"SET", b"raise", b"give_back"], &["SET", "1", "XX"]),
    (&[b"settle", b"move"], &["EXISTS"]),
    (&[b"PEXPIRE"], &["PEXPIRE", "1"]),
    (&[b"PERSIST"], &["PERSIST"]),
    (&[b"UNLINK"], &["UNLINK"]),
];

/// A command that calls a function.
pub(crate) fn eval(call: &Cmd) -> Cmd {
    let mut words = words(call);
    let (name, key) = (words.next(), words.next());
    let mut eval = cmd("EVAL");
    eval.arg(CALL.as_str()).arg(1).arg(key).arg(name).arg(words.collect::<Vec<_>>());
    eval
}

/// The words of a command.
pub(crate) fn words(command: &Cmd) -> impl Iterator<Item = &[u8]> {
    command.args_iter().filter_map(|word| if let Arg::Simple(word) = word { Some(word) } else { None })
}

/// What takes the writes of a change: one script, or [slices](crate::vtab::commit::slices).
pub(crate) trait Sink {
    /// Adds a command, or the call of a function of `functions.lua`: its name, a key, other arguments.
    fn push(&mut self, command: &Cmd);
}

impl Sink for Scripted {
    fn push(&mut self, command: &Cmd) {
        self.note_kind(command);
        self.writes.piece().write_command(command, &mut self.keys);
    }
}

/// A question that a commit rests on, with the reply that it had.
pub(crate) type Claim = (Cmd, Reply);

/// What a key has to be.
#[derive(Clone, Copy)]
enum Kind {
    Set,
    SortedSet,
    String,
    /// A row, or of any type.
    Other,
}

/// What the `n`th word of a command is to be, counted from its name; nothing if it is no key.
fn kind_of(name: &[u8], n: usize) -> Option<Kind> {
    match (name, n) {
        (b"DEL" | b"UNLINK" | b"EXISTS" | b"move", _) => Some(Kind::Other),
        (b"SUNION", _) | (b"SADD" | b"SREM" | b"SMEMBERS", 1) | (b"settle", 2) => Some(Kind::Set),
        (b"ZADD" | b"ZREM" | b"settle", 1) => Some(Kind::SortedSet),
        (b"raise" | b"give_back", 1) => Some(Kind::String),
        (_, 1) => Some(Kind::Other),
        _ => None,
    }
}

/// The arguments of the script.
#[derive(Default)]
pub(crate) struct Scripted {
    questions: Pieces,
    writes: Pieces,
    /// All that it reads and writes, by kind, with numbers from 0.
    keys: [HashMap<Vec<u8>, u32>; 4],
    /// Commands and functions that it writes with.
    kinds: BTreeSet<Vec<u8>>,
}

impl Scripted {
    pub(crate) fn rest_on(&mut self, claims: &[Claim]) {
        for (command, reply) in claims {
            let piece = self.questions.piece();
            piece.write_command(command, &mut self.keys);
            piece.write_reply(reply);
            piece.items += 1;
        }
    }

    /// Refuses what [`Sink::push`] would refuse, and writes nothing.
    pub(crate) fn concern(&mut self, command: &Cmd) {
        self.note_kind(command);
        Piece::default().write_command(command, &mut self.keys);
    }

    fn note_kind(&mut self, command: &Cmd) {
        let name = words(command).next().unwrap_or_default();
        if !self.kinds.contains(name) {
            self.kinds.insert(name.to_vec());
        }
    }

    /// Adds all to an open transaction.
    pub(crate) fn write(&self, keys: &Keys, by: By, request: &mut Request) {
        let nothing = keys.nothing();
        request.push(cmd("DEL").arg(&nothing));
        for (kinds, words) in IN_VAIN {
            if kinds.iter().any(|kind| self.kinds.contains(*kind)) {
                request.push(cmd(words[0]).arg(&nothing).arg(&words[1..]));
            }
        }
        // The numbers of the first of each kind, counted from 1 as Lua does.
        let mut firsts = [0; 4];
        let mut all = vec![nothing];
        for (first, keys) in firsts.iter_mut().zip(&self.keys) {
            let count = all.len();
            *first = count as u32 + 1;
            all.resize(count + keys.len(), Vec::new());
            keys.iter().for_each(|(key, n)| all[count + *n as usize].clone_from(key));
        }
        let last_question = 1 + self.questions.0.len() as u32;
        let mut numbers = Vec::new();
        for number in [firsts[1] - 1, firsts[2] - 1, firsts[3] - 1, last_question] {
            write_number(&mut numbers, number);
        }
        let mut call = COMMIT.command(by);
        call.arg(all.len()).arg(all).arg(numbers);
        for piece in [&self.questions, &self.writes].into_iter().flat_map(|pieces| &pieces.0) {
            call.arg(piece.done(firsts));
        }
        request.push(&call);
    }
}

/// What came of some scripts and commands.
#[derive(Default)]
pub(crate) struct Ran {
    /// For each script that did nothing: the key that was not as it should be.
    pub changed: Vec<Vec<u8>>,
    /// Replies to the commands.
    pub replies: Vec<Reply>,
}

/// Has a server run scripts, one after the other, and carries out some commands afterwards.
///
/// # Errors
/// Those of [`changed`]; some of the scripts may have been run.
pub(crate) fn run(place: &Place, keys: &Keys, scripts: &[Scripted], also: &[Cmd]) -> Result<Ran> {
    if scripts.is_empty() && also.is_empty() {
        return Ok(Ran::default());
    }
    let server = place.fit_server()?;
    let by = if scripts.is_empty() { By::Text } else { server.scripts().way_to(&COMMIT) };
    match run_by(place, keys, scripts, also, by) {
        // The server does not have the script any more, or this user may not call it so: none of them was run.
        Err(error) if by == By::Digest && is_uncalled(&error.cause) => {}
        outcome => return outcome,
    }
    let outcome = run_by(place, keys, scripts, also, By::Text)?;
    server.scripts().is_called(&COMMIT, By::Text, &Reply::Okay);
    Ok(outcome)
}

fn is_uncalled(cause: &Cause) -> bool {
    matches!(cause, Cause::Permission(_)) || matches!(cause, Cause::Server(message) if message.starts_with("NOSCRIPT"))
}

fn run_by(place: &Place, keys: &Keys, scripts: &[Scripted], also: &[Cmd], by: By) -> Result<Ran> {
    let (mut request, mut calls) = (Request::default(), Vec::new());
    for script in scripts {
        script.write(keys, by, &mut request);
        calls.push(request.len() - 1);
    }
    let commands = request.len();
    also.iter().for_each(|command| request.push(command));
    let mut replies = place.ask(&request)?;
    let mut ran = Ran { changed: Vec::new(), replies: replies.split_off(commands) };
    for call in calls {
        ran.changed.extend(changed(vec![std::mem::take(&mut replies[call])])?);
    }
    Ok(ran)
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
struct Pieces(Vec<Piece>);

impl Pieces {
    /// The one that has room.
    fn piece(&mut self) -> &mut Piece {
        if self.0.last().is_none_or(|piece| piece.bytes.len() > PIECE) {
            self.0.push(Piece::default());
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

/// Items of an array in MessagePack.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    items: u32,
    /// Where keys stand: kind and number in four bytes.
    keys: Vec<(usize, Kind)>,
}

impl Piece {
    /// The count of its words, its name, numbers of keys, other words.
    fn write_command(&mut self, command: &Cmd, keys: &mut [HashMap<Vec<u8>, u32>; 4]) {
        let count = words(command).count() as u32;
        self.items += count + 1;
        write_number(&mut self.bytes, count);
        let mut name: &[u8] = b"";
        for (n, word) in words(command).enumerate() {
            match if n == 0 { None } else { kind_of(name, n) } {
                Some(kind) => self.write_key(word, kind, &mut keys[kind as usize]),
                None => write_bytes(&mut self.bytes, word),
            }
            if n == 0 {
                name = word;
            }
        }
    }

    fn write_key(&mut self, key: &[u8], kind: Kind, keys: &mut HashMap<Vec<u8>, u32>) {
        let next = keys.len() as u32;
        let number = match keys.get(key) {
            Some(number) => *number,
            None => *keys.entry(key.to_vec()).or_insert(next),
        };
        self.bytes.push(0xce);
        self.keys.push((self.bytes.len(), kind));
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    /// A reply as a script gets it: false for nil.
    fn write_reply(&mut self, reply: &Reply) {
        match reply {
            Reply::Int(number) => {
                self.bytes.push(0xd3);
                self.bytes.extend_from_slice(&number.to_be_bytes());
            }
            Reply::Array(items) => {
                self.bytes.extend_from_slice(&array_of(items.len() as u32));
                items.iter().for_each(|item| self.write_reply(item));
            }
            Reply::BulkString(bytes) => write_bytes(&mut self.bytes, bytes),
            _ => self.bytes.push(0xc2),
        }
    }

    /// The array, once it is known which number the first key of each kind has.
    fn done(&self, firsts: [u32; 4]) -> Vec<u8> {
        let head = array_of(self.items);
        let mut whole = [head.as_slice(), &self.bytes].concat();
        for (at, kind) in &self.keys {
            if let Some(four) = whole[head.len() + at..].first_chunk_mut::<4>() {
                *four = (u32::from_be_bytes(*four) + firsts[*kind as usize]).to_be_bytes();
            }
        }
        whole
    }
}

fn array_of(count: u32) -> [u8; 5] {
    let [a, b, c, d] = count.to_be_bytes();
    [0xdd, a, b, c, d]
}

fn write_number(packed: &mut Vec<u8>, number: u32) {
    match u8::try_from(number) {
        Ok(small @ 0..0x80) => packed.push(small),
        _ => {
            packed.push(0xce);
            packed.extend_from_slice(&number.to_be_bytes());
        }
    }
}

fn write_bytes(packed: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() < 32 {
        packed.push(0xa0 | bytes.len() as u8);
    } else {
        packed.push(0xdb);
        // A value of Redis has 512 MB at most.
        packed.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    }
    packed.extend_from_slice(bytes);
}
