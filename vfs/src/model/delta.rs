//! Reverse deltas: the bytes to put back to get a page as it was before a commit.
//!
//! A delta is a list of runs. A run has three parts: a varint (LEB128) with the bytes to skip since
//! the end of the previous run, a varint with the run's length, and as many old bytes. The undo data
//! of a commit lists its pages in ascending order, each as varint page number, varint length of the
//! delta, and delta. A page that did not exist after the commit counts as all zeros.

use crate::model::page::PageNo;

/// Two runs with fewer unchanged bytes than this between them are written as one: a second run's varints take more
/// space than the bytes in between.
const GAP: usize = 4;

/// Appends the delta that turns `new` back into `old` (pages of one size).
pub(crate) fn encode(old: &[u8], new: &[u8], out: &mut Vec<u8>) {
    debug_assert_eq!(old.len(), new.len());
    let mut end_of_last = 0;
    let mut at = 0;
    while let Some(start) = next_difference(old, new, at) {
        let end = end_of_run(old, new, start);
        put_varint(out, (start - end_of_last) as u64);
        put_varint(out, (end - start) as u64);
        out.extend_from_slice(&old[start..end]);
        end_of_last = end;
        at = old.len().min(end + GAP);
    }
}

/// First offset from `at` where the pages differ. Compares whole words first, for speed.
fn next_difference(old: &[u8], new: &[u8], at: usize) -> Option<usize> {
    let at = at + same::<32>(&old[at..], &new[at..]);
    let at = at + same::<8>(&old[at..], &new[at..]);
    (at..old.len()).find(|&i| old[i] != new[i])
}

/// Length in bytes of the leading words that are equal.
fn same<const WORD: usize>(old: &[u8], new: &[u8]) -> usize {
    let words = old.as_chunks::<WORD>().0.iter().zip(new.as_chunks::<WORD>().0);
    WORD * words.take_while(|(old, new)| old == new).count()
}

/// End of the run that starts at `start`: followed by at least `GAP` equal bytes, or the page's end.
fn end_of_run(old: &[u8], new: &[u8], start: usize) -> usize {
    let differ = |i: &usize| old[*i] != new[*i];
    let mut end = start + 1;
    // Searches each gap backwards: a difference near its end moves `end` on without comparing the bytes before it.
    loop {
        let behind = end..old.len().min(end + GAP);
        match behind.rev().find(differ) {
            Some(last) => end = last + 1,
            None => return end,
        }
    }
}

/// Writes the old bytes of a delta into the page. `None` if the delta does not fit the page, which is then partly
/// changed and must not be used.
#[must_use]
pub(crate) fn apply(mut delta: &[u8], page: &mut [u8]) -> Option<()> {
    let mut at = 0usize;
    while !delta.is_empty() {
        let skip = usize::try_from(take_varint(&mut delta)?).ok()?;
        let length = usize::try_from(take_varint(&mut delta)?).ok()?;
        let start = at.checked_add(skip)?;
        at = start.checked_add(length)?;
        page.get_mut(start..at)?.copy_from_slice(take(&mut delta, length)?);
    }
    Some(())
}

/// The pages of one commit's undo data, each with its delta. `None` if the data is malformed.
pub(crate) fn parse_undo(mut undo: &[u8]) -> Option<Vec<(PageNo, &[u8])>> {
    let mut pages = Vec::new();
    while !undo.is_empty() {
        let page = PageNo::new(u32::try_from(take_varint(&mut undo)?).ok()?)?;
        if pages.last().is_some_and(|(last, _)| *last >= page) {
            return None;
        }
        let length = usize::try_from(take_varint(&mut undo)?).ok()?;
        pages.push((page, take(&mut undo, length)?));
    }
    Some(pages)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Number of bytes that [`put_varint`] writes for `value`.
pub(crate) fn varint_length(value: u64) -> usize {
    (64 - value.leading_zeros()).div_ceil(7).max(1) as usize
}

pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        value |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_pages_have_an_empty_delta() {
        let mut delta = Vec::new();
        encode(&[7; 4096], &[7; 4096], &mut delta);
        assert!(delta.is_empty());
    }

    #[test]
    fn a_small_change_makes_a_small_delta() {
        let old = vec![1u8; 4096];
        let mut new = old.clone();
        new[100..110].fill(2);
        new[4095] = 9;
        let mut delta = Vec::new();
        encode(&old, &new, &mut delta);
        assert_eq!(delta.len(), 1 + 1 + 10 + 2 + 1 + 1);
    }

    #[test]
    fn malformed_undo_data_is_refused() {
        for bytes in [&[0u8, 0][..], &[1, 5, 0], &[2, 0, 1, 0], &[0xff; 11], &[0x80]] {
            assert!(parse_undo(bytes).is_none(), "{bytes:?}");
        }
        for delta in [&[0u8, 9, 1][..], &[200, 200, 0], &[0xff; 3], &[0, 0x80]] {
            assert!(apply(delta, &mut [0; 8]).is_none(), "{delta:?}");
        }
        assert!(apply(&[7, 2, 1, 1], &mut [0; 8]).is_none(), "past the end of the page");
    }

    proptest! {
        #[test]
        fn a_delta_restores_the_old_page(
            old in prop::collection::vec(0u8..4, 512),
            edits in prop::collection::vec((0usize..512, any::<u8>()), 0..60),
        ) {
            let mut new = old.clone();
            for (at, byte) in edits {
                new[at] = byte;
            }
            let mut delta = Vec::new();
            encode(&old, &new, &mut delta);
            let mut restored = new.clone();
            prop_assert!(apply(&delta, &mut restored).is_some());
            prop_assert_eq!(restored, old);
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = apply(&bytes, &mut [0; 512]);
            let _ = parse_undo(&bytes);
        }

        #[test]
        fn a_varint_is_read_as_it_was_written(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_length(value));
            prop_assert_eq!(take_varint(&mut &bytes[..]), Some(value));
        }
    }
}
