//! The encoding of a page as the value of its hash field: unchanged, without its longest run of zeros, or as a
//! Zstandard frame, if that is shorter.
//!
//! A reader recognises the encoding by the value's length and first bytes: a value as long as a page is the
//! unchanged page, and a value that begins with Zstandard's magic number is a frame. Compression therefore does not
//! change the format, and writers with and without it can share a database.
//!
//! Nearly every page has some zeros: in the gap between SQLite's cell pointers and cells, or in small numbers.
//! Redis's allocator rounds a value's memory up to size classes. An unchanged page, with its header, is a few bytes
//! above one of them (4096 bytes take 5120), so leaving out a few bytes saves a fifth of the memory.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::ops::Range;

use zstd::bulk::{Compressor, Decompressor};

/// An encoding is used only if it saves at least this many bytes. About the overhead of a Redis value.
const LEAST_SAVED: usize = 8;
/// Length of the trailer of a page without its run of zeros: the run's offset, and its length less 1, as two
/// little-endian 16-bit numbers.
const TRAILER: usize = 4;
/// Zstandard's magic number.
const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Compression level. Higher levels gain little on pages of a few kilobytes.
const LEVEL: i32 = 1;

thread_local! {
    // Kept per thread: creating a context takes longer than compressing a page.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Runs `work` with this thread's context, which is created on first use.
fn with<C, T>(
    context: &RefCell<Option<C>>,
    make: impl FnOnce() -> io::Result<C>,
    work: impl FnOnce(&mut C) -> io::Result<T>,
) -> io::Result<T> {
    let mut context = context.borrow_mut();
    let context = match &mut *context {
        Some(context) => context,
        empty => empty.insert(make()?),
    };
    work(context)
}

/// An encoded page: the concatenation of these parts.
pub(crate) struct Packed<'page> {
    before: Cow<'page, [u8]>,
    after: &'page [u8],
    trailer: Option<[u8; TRAILER]>,
}

impl<'page> From<Cow<'page, [u8]>> for Packed<'page> {
    fn from(before: Cow<'page, [u8]>) -> Self {
        Packed { before, after: &[], trailer: None }
    }
}

impl Packed<'_> {
    fn parts(&self) -> [&[u8]; 3] {
        [&self.before, self.after, self.trailer.as_ref().map_or(&[], <[u8; TRAILER]>::as_slice)]
    }

    pub(crate) fn len(&self) -> usize {
        self.parts().map(<[u8]>::len).iter().sum()
    }

    pub(crate) fn write_to(&self, out: &mut Vec<u8>) {
        self.parts().iter().for_each(|part| out.extend_from_slice(part));
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.parts().concat()
    }
}

/// Encodes a page.
pub(crate) fn pack(page: &[u8], compress: bool) -> Packed<'_> {
    if compress {
        let packed = COMPRESSOR.with(|it| with(it, || Compressor::new(LEVEL), |it| it.compress(page)));
        // Without memory for a context, the page is stored uncompressed.
        if let Ok(packed) = packed
            && packed.len() + LEAST_SAVED <= page.len()
        {
            return Cow::<[u8]>::Owned(packed).into();
        }
    }
    without_zeros(page).unwrap_or_else(|| Cow::Borrowed(page).into())
}

/// The page without its longest run of zeros. `None` if the run is too short to gain anything, or if the result would be
/// taken for a frame.
fn without_zeros(page: &[u8]) -> Option<Packed<'_>> {
    let run = longest_run(page, LEAST_SAVED + TRAILER)?;
    let (start, length) = (u16::try_from(run.start).ok()?, u16::try_from(run.len() - 1).ok()?);
    if page.starts_with(&FRAME) {
        return None;
    }
    let ([a, b], [c, d]) = (start.to_le_bytes(), length.to_le_bytes());
    Some(Packed { before: Cow::Borrowed(&page[..run.start]), after: &page[run.end..], trailer: Some([a, b, c, d]) })
}

/// The longest run of at least `least` zeros; the first, if several are equally long.
fn longest_run(page: &[u8], least: usize) -> Option<Range<usize>> {
    let (mut longest, mut least, mut from) = (None, least, 0);
    // Every run of `least` zeros that starts in `from..last` covers byte `last - 1`, so a look at that byte is enough.
    while let Some(byte) = page.get(from + least - 1) {
        let last = from + least;
        if *byte != 0 {
            from = last;
            continue;
        }
        let start = page[from..last].iter().rposition(|byte| *byte != 0).map_or(from, |other| from + other + 1);
        let end = last + zeros(&page[last..]);
        from = end;
        if end - start >= least {
            longest = Some(start..end);
            least = end - start + 1;
        }
    }
    longest
}

/// Number of leading zeros. Compares whole words first, for speed.
fn zeros(bytes: &[u8]) -> usize {
    const WORD: usize = 32;
    let words = bytes.chunks_exact(WORD).take_while(|word| **word == [0; WORD]).count();
    let rest = &bytes[words * WORD..];
    words * WORD + rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len())
}

/// Decodes the value of a field. `None` if it is not a page of this size.
pub(crate) fn unpack(field: Vec<u8>, page_size: usize) -> Option<Vec<u8>> {
    if field.len() == page_size {
        return Some(field);
    }
    if field.len() + LEAST_SAVED > page_size {
        return None;
    }
    if !field.starts_with(&FRAME) {
        return with_zeros(&field, page_size);
    }
    let page = DECOMPRESSOR.with(|it| with(it, Decompressor::new, |it| it.decompress(&field, page_size)));
    page.ok().filter(|page| page.len() == page_size)
}

/// The opposite of [`without_zeros`].
fn with_zeros(field: &[u8], page_size: usize) -> Option<Vec<u8>> {
    let (rest, trailer) = field.split_last_chunk::<TRAILER>()?;
    let [start, length] = [[trailer[0], trailer[1]], [trailer[2], trailer[3]]].map(u16::from_le_bytes).map(usize::from);
    let (before, after) = rest.split_at_checked(start)?;
    if rest.len() + length + 1 != page_size {
        return None;
    }
    let mut page = Vec::with_capacity(page_size);
    page.extend_from_slice(before);
    page.resize(start + length + 1, 0);
    page.extend_from_slice(after);
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_that_would_not_shrink_stays_as_it_is() {
        let noise: Vec<u8> = (0..512).map(|_| rand::random()).collect();
        assert_eq!(pack(&noise, true).to_vec(), noise);
        assert!(pack(&[7; 512], true).len() < 48);
        assert_eq!(pack(&[7; 512], false).len(), 512);
    }

    #[test]
    fn the_longest_run_of_zeros_is_left_out() {
        let page = |runs: &[(usize, usize)]| {
            let mut page = vec![7; 512];
            runs.iter().for_each(|&(start, end)| page[start..end].fill(0));
            page
        };
        for (runs, longest) in [
            (vec![], None),
            (vec![(0, 11), (20, 31), (501, 512)], None),
            (vec![(0, 12)], Some(0..12)),
            (vec![(500, 512)], Some(500..512)),
            (vec![(30, 42), (43, 56), (57, 69)], Some(43..56)),
            (vec![(3, 90), (91, 200), (400, 480)], Some(91..200)),
            (vec![(3, 90), (100, 187)], Some(3..90)),
            (vec![(0, 512)], Some(0..512)),
        ] {
            let page = page(&runs);
            assert_eq!(longest_run(&page, 12), longest, "{runs:?}");
            let saved = longest.map_or(0, |run| run.len() - TRAILER);
            assert_eq!(pack(&page, false).len(), 512 - saved);
            assert_eq!(unpack(pack(&page, false).to_vec(), 512).unwrap(), page);
        }
        for size in [65536, 32768] {
            let mut page = vec![0; size];
            assert_eq!(pack(&page, false).len(), TRAILER);
            assert_eq!(unpack(pack(&page, false).to_vec(), size).unwrap(), page);
            page[..4].copy_from_slice(&FRAME);
            assert_eq!(pack(&page, false).to_vec(), page, "it would be taken for a frame");
            assert_eq!(unpack(pack(&page, true).to_vec(), size).unwrap(), page);
        }
    }

    #[test]
    fn values_that_encode_no_page_are_refused() {
        let packed = pack(&[7; 512], true).to_vec();
        assert_eq!(unpack(packed.clone(), 1024), None, "a frame of another page size");
        assert_eq!(unpack(packed[..packed.len() - 1].to_vec(), 512), None, "cut off");
        assert_eq!(unpack(Vec::new(), 512), None);
        assert_eq!(unpack(vec![7; 511], 512), None);
        assert_eq!(unpack(vec![7; 513], 512), None);
        assert_eq!(unpack(vec![0; 500], 512), None);
        let packed = pack(&[0; 512], false).to_vec();
        assert_eq!(unpack(packed.clone(), 1024), None, "of another page size");
        assert_eq!(unpack([&[7][..], &packed].concat(), 512), None, "more than a page");
        assert_eq!(unpack(vec![9, 0, 0xff, 1], 512), None, "a run behind the end");
    }

    proptest! {
        #[test]
        fn every_page_is_decoded_as_it_was(text in proptest::collection::vec(0u8..20, 0..512), at in 0..512usize, compress: bool) {
            let mut page = vec![0; 512];
            let at = at.min(512 - text.len());
            page[at..at + text.len()].copy_from_slice(&text);
            prop_assert_eq!(unpack(pack(&page, compress).to_vec(), 512), Some(page));
        }

        #[test]
        fn any_bytes_are_refused_or_decode_to_a_page(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(page) = unpack(bytes, 512) {
                prop_assert_eq!(page.len(), 512);
            }
        }
    }
}
