//! A large change, cut into slices that the server carries out one at a time: each takes it a few
//! milliseconds, so that its other clients are served between two.
//!
//! A slice is kept by the server as the number of words of each command (4 bytes, the highest first), and each word
//! after its length (4 bytes).

use redis::{Cmd, cmd};

use crate::model::error::{Cause, Result};
use crate::vtab::commit::scripted::{Sink, words};

/// Words of the commands in a slice, and [`CALL`] for each command: some hundred rows.
const WORDS: usize = 10_000;
/// What a command costs beside its words.
const CALL: usize = 3;
/// Bytes in a slice, unless one command has more.
const BYTES: usize = 1 << 20;

/// Commands and functions that a slice may have. A client that finishes the change of another calls nothing else.
const NAMES: [&[u8]; 12] = [
    b"HSET",
    b"HDEL",
    b"SADD",
    b"SREM",
    b"ZADD",
    b"ZREM",
    b"DEL",
    b"UNLINK",
    b"raise",
    b"give_back",
    b"settle",
    b"move",
];

/// Whether a change of so many words and bytes is cut.
pub(crate) fn are_many(words: usize, bytes: usize) -> bool {
    words > 2 * WORDS || bytes > BYTES
}

/// Commands, cut into slices in their order.
#[derive(Default)]
pub(crate) struct Slices {
    done: Vec<Slice>,
    open: Slice,
    words: usize,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Slice {
    packed: Vec<u8>,
}

impl Sink for Slices {
    fn push(&mut self, command: &Cmd) {
        let words: Vec<&[u8]> = words(command).collect();
        let bytes: usize = words.iter().map(|word| word.len() + 4).sum();
        // To free a key takes longer than to read a word.
        let each = if matches!(words.first(), Some(&b"DEL" | &b"UNLINK")) { 3 } else { 1 };
        let cost = each * words.len() + CALL;
        let fits = self.words + cost <= WORDS && self.open.packed.len() + bytes <= BYTES;
        if self.words > 0 && !fits {
            self.done.push(std::mem::take(&mut self.open));
            self.words = 0;
        }
        self.words += cost;
        pack(&mut self.open.packed, &words);
    }
}

impl Slices {
    /// Takes the slices that are complete, if there are so many.
    pub(crate) fn take(&mut self, at_least: usize) -> Vec<Slice> {
        if self.done.len() < at_least { Vec::new() } else { std::mem::take(&mut self.done) }
    }

    pub(crate) fn finish(mut self) -> Vec<Slice> {
        if self.words > 0 {
            self.done.push(self.open);
        }
        self.done
    }
}

impl Slice {
    pub(crate) fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// One that a server has kept.
    pub(crate) fn of(packed: Vec<u8>) -> Slice {
        Slice { packed }
    }

    /// Its commands.
    ///
    /// # Errors
    /// It is none, or has other commands than those of a change.
    pub(crate) fn commands(&self) -> Result<Vec<Cmd>> {
        let damaged = || Cause::Damaged("the slice of a change makes no sense".into());
        let (mut rest, mut all) = (self.packed.as_slice(), Vec::new());
        while !rest.is_empty() {
            let words = unpack(&mut rest).ok_or_else(damaged)?;
            let [name, arguments @ ..] = words.as_slice() else { return Err(damaged().into()) };
            if !NAMES.contains(name) || arguments.is_empty() {
                return Err(damaged().into());
            }
            let mut command = cmd(std::str::from_utf8(name).map_err(|_| damaged())?);
            all.push(command.arg(arguments).to_owned());
        }
        Ok(all)
    }
}

fn pack(packed: &mut Vec<u8>, words: &[impl AsRef<[u8]>]) {
    // A value of Redis has 512 MB at most.
    let length = |length: usize| (length as u32).to_be_bytes();
    packed.extend_from_slice(&length(words.len()));
    for word in words {
        packed.extend_from_slice(&length(word.as_ref().len()));
        packed.extend_from_slice(word.as_ref());
    }
}

fn unpack<'a>(rest: &mut &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let number = |rest: &mut &'a [u8]| {
        let (four, after) = rest.split_first_chunk::<4>()?;
        *rest = after;
        usize::try_from(u32::from_be_bytes(*four)).ok()
    };
    let count = number(rest)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = number(rest)?;
        let (word, after) = rest.split_at_checked(length)?;
        *rest = after;
        words.push(word);
    }
    Some(words)
}

/// Some words.
pub(crate) fn packed_words(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut packed = Vec::new();
    pack(&mut packed, words);
    packed
}

/// The opposite of [`packed_words`].
pub(crate) fn unpacked_words(mut packed: &[u8]) -> Option<Vec<Vec<u8>>> {
    let words = unpack(&mut packed)?;
    packed.is_empty().then(|| words.into_iter().map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: usize, text: &str) -> Cmd {
        cmd("HSET").arg(format!("p.main.t:{n}")).arg("a").arg(text).to_owned()
    }

    fn cut(commands: impl Iterator<Item = Cmd>) -> Vec<Slice> {
        let mut slices = Slices::default();
        commands.for_each(|command| slices.push(&command));
        slices.finish()
    }

    #[test]
    fn slices_have_their_commands_in_order_and_are_small() {
        for (rows, text) in [(50_000, "x".to_owned()), (40, "y".repeat(300_000)), (3, "z".repeat(3 << 20))] {
            let slices = cut((0..rows).map(|n| row(n, &text)));
            assert!(slices.len() >= 3, "{}", slices.len());
            let mut all = Vec::new();
            for slice in &slices {
                let commands = slice.commands().unwrap();
                let count: usize = commands.iter().map(|command| words(command).count() + CALL).sum();
                assert!(count <= WORDS && (slice.packed.len() <= BYTES || commands.len() == 1));
                all.extend(commands);
            }
            let expected: Vec<_> = (0..rows).map(|n| row(n, &text).get_packed_command()).collect();
            assert_eq!(all.iter().map(Cmd::get_packed_command).collect::<Vec<_>>(), expected);
        }
        assert!(cut(std::iter::empty()).is_empty());
        let mut slices = Slices::default();
        (0..50_000).for_each(|n| slices.push(&row(n, "x")));
        let some = slices.take(10).len();
        assert!(some >= 10 && slices.take(1).is_empty() && slices.finish().len() == 1);
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        let packed = |words: &[&str]| packed_words(words);
        let of = |packed: Vec<u8>| Slice::of(packed).commands();
        assert_eq!(of(packed(&["SADD", "k", "1"])).unwrap().len(), 1);
        for wrong in [&["FLUSHALL", "x"][..], &["HSET"], &[], &["EVAL", "return 1", "0"], &["hset", "k", "a", "b"]] {
            assert!(of(packed(wrong)).is_err(), "{wrong:?}");
        }
        let whole = packed(&["SADD", "k", "1"]);
        for end in 1..whole.len() {
            assert!(of(whole[..end].to_vec()).is_err(), "{end}");
        }
        assert!(of(vec![0xff; 16]).is_err());
        let names = vec![b"a".to_vec(), b"\0b".to_vec()];
        assert_eq!(unpacked_words(&packed_words(&names)), Some(names));
        assert_eq!(unpacked_words(&[0, 0, 0, 9]), None);
    }
}
