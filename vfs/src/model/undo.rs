//! Undo data: the reverse deltas that roll a commit back.
//!
//! A commit with little undo data keeps it in its log entry. Otherwise the entry only lists the changed
//! pages, and the reverse deltas are split into pieces and stored in a separate stream. A client that catches
//! up thus learns which pages to drop without receiving their old content. A reader of an older version
//! fetches the pieces that it needs.

use std::ops::Range;

use crate::model::delta::{encode, parse_undo, put_varint, take_varint, varint_length};
use crate::model::log_entry::{Piece, Undo};
use crate::model::page::PageNo;

/// Maximum size of the undo data in a log entry, in bytes: about the need of an insert that splits a page of 4,096 bytes.
const MOST_IN_ENTRY: usize = 4 << 10;

/// Maximum size of a piece, in bytes. A piece with a single page may be some bytes longer.
pub(crate) const PIECE: usize = 64 << 10;

/// Maximum size of the list of pages in a log entry, in bytes: 5,000 pages or more. Longer lists are not written: a
/// client that would drop so many pages may as well drop its whole cache.
const LONGEST_LIST: usize = 16 << 10;

/// Initial capacity in bytes, enough for a small commit.
const FEW: usize = 1 << 10;

/// Builds the undo data of one commit.
pub(crate) struct UndoBuilder {
    pages: PageList,
    pieces: Vec<Piece>,
    /// The piece that is being filled.
    filling: Vec<u8>,
    scratch: Vec<u8>,
    bytes: u64,
    most: u64,
}

impl UndoBuilder {
    /// Keeps at most `most` bytes of deltas. Beyond that, only the list of pages is kept.
    pub(crate) fn new(most: u64) -> Self {
        UndoBuilder {
            pages: PageList::default(),
            pieces: Vec::new(),
            filling: Vec::with_capacity(FEW),
            scratch: Vec::with_capacity(FEW),
            bytes: 0,
            most,
        }
    }

    /// Adds a page with its content before and after the commit. Pages must come in ascending order.
    pub(crate) fn page(&mut self, page: PageNo, old: &[u8], new: &[u8]) {
        if !self.is_too_much() {
            self.add(page, old, new);
        }
        self.pages.push(page);
    }

    fn add(&mut self, page: PageNo, old: &[u8], new: &[u8]) {
        self.scratch.clear();
        encode(old, new, &mut self.scratch);
        let (number, length) = (u64::from(page.get()), self.scratch.len());
        let size = varint_length(number) + varint_length(length as u64) + length;
        if !self.filling.is_empty() && self.filling.len() + size > PIECE {
            self.close_piece();
        }
        put_varint(&mut self.filling, number);
        put_varint(&mut self.filling, length as u64);
        self.filling.extend_from_slice(&self.scratch);
        self.bytes += size as u64;
        if self.is_too_much() {
            (self.pieces, self.filling) = (Vec::new(), Vec::new());
        }
    }

    fn is_too_much(&self) -> bool {
        self.bytes > self.most
    }

    fn close_piece(&mut self) {
        if let Some(last) = self.pages.last() {
            self.pieces.push(Piece { last, deltas: std::mem::take(&mut self.filling) });
        }
    }

    pub(crate) fn finish(mut self) -> Undo {
        if self.pieces.is_empty() && self.filling.len() <= MOST_IN_ENTRY && !self.is_too_much() {
            return Undo::Deltas(self.filling);
        }
        let pages = self.pages.encode();
        if pages.len() > LONGEST_LIST {
            return Undo::Barrier;
        }
        if !self.filling.is_empty() {
            self.close_piece();
        }
        Undo::Pieces { pages, pieces: self.pieces }
    }
}

/// A set of pages as ascending runs `(first, last)`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PageList(Vec<(u32, u32)>);

impl PageList {
    /// Adds a page above all others.
    pub(crate) fn push(&mut self, page: PageNo) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == page.get() => *last = page.get(),
            _ => self.0.push((page.get(), page.get())),
        }
    }

    fn last(&self) -> Option<PageNo> {
        PageNo::new(self.0.last()?.1)
    }

    /// Encodes each run as two varints: the pages to skip since the end of the previous run, and the run's length.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (mut out, mut end) = (Vec::new(), 0);
        for &(first, last) in &self.0 {
            put_varint(&mut out, u64::from(first - end - 1));
            put_varint(&mut out, u64::from(last - first) + 1);
            end = last;
        }
        out
    }

    /// Decodes the output of [`PageList::encode`]. `None` if it is malformed.
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let (mut runs, mut end) = (Vec::new(), 0u64);
        while !bytes.is_empty() {
            let first = end.checked_add(take_varint(&mut bytes)?)?.checked_add(1)?;
            end = first.checked_add(take_varint(&mut bytes)?)?.checked_sub(1)?;
            if end < first {
                return None;
            }
            runs.push((u32::try_from(first).ok()?, u32::try_from(end).ok()?));
        }
        Some(PageList(runs))
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    pub(crate) fn contains(&self, page: PageNo) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < page.get());
        self.0.get(at).is_some_and(|(first, _)| *first <= page.get())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = PageNo> + '_ {
        self.0.iter().flat_map(|&(first, last)| PageNo::range(first, last))
    }
}

/// Reverse deltas, indexed by page.
pub(crate) struct Deltas {
    bytes: Vec<u8>,
    /// Each page with the range of its delta in `bytes`, ascending.
    places: Vec<(PageNo, Range<usize>)>,
}

impl Deltas {
    /// Indexes one piece of undo data. `None` if it is malformed.
    pub(crate) fn of(bytes: Vec<u8>) -> Option<Self> {
        let start = bytes.as_ptr() as usize;
        let place = |delta: &[u8]| {
            let at = delta.as_ptr() as usize - start;
            at..at + delta.len()
        };
        let places = parse_undo(&bytes)?.into_iter().map(|(page, delta)| (page, place(delta))).collect();
        Some(Deltas { bytes, places })
    }

    pub(crate) fn last(&self) -> Option<PageNo> {
        self.places.last().map(|(page, _)| *page)
    }

    /// The delta of a page, if there is one.
    pub(crate) fn get(&self, page: PageNo) -> Option<&[u8]> {
        let at = self.places.binary_search_by_key(&page, |(page, _)| *page).ok()?;
        self.bytes.get(self.places[at].1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn no(page: u32) -> PageNo {
        PageNo::new(page).unwrap()
    }

    /// The undo data of a commit that overwrote each of these pages.
    fn overwritten(pages: impl Iterator<Item = u32>, page_size: usize, most: u64) -> Undo {
        let mut undo = UndoBuilder::new(most);
        pages.for_each(|page| undo.page(no(page), &vec![page as u8; page_size], &vec![0; page_size]));
        undo.finish()
    }

    #[test]
    fn little_undo_data_stays_in_the_entry() {
        let Undo::Deltas(deltas) = overwritten(1..=7, 512, u64::MAX) else { panic!("it is little") };
        assert_eq!(parse_undo(&deltas).unwrap().len(), 7);
        assert!(matches!(overwritten(1..=8, 512, u64::MAX), Undo::Pieces { .. }));
        assert_eq!(overwritten(1..1, 512, 0), Undo::Deltas(Vec::new()));
    }

    #[test]
    fn undo_lists_pages_in_order() {
        let mut undo = UndoBuilder::new(u64::MAX);
        undo.page(no(2), &[1; 512], &[0; 512]);
        undo.page(no(300), &[0; 512], &[0; 512]);
        let Undo::Deltas(bytes) = undo.finish() else { panic!("it is little") };
        let pages = parse_undo(&bytes).unwrap();
        assert_eq!(pages.iter().map(|(page, _)| page.get()).collect::<Vec<_>>(), [2, 300]);
        assert!(pages[1].1.is_empty());
    }

    #[test]
    fn pieces_are_bounded_and_hold_all_pages() {
        for page_size in [512, 4096, 32768, 65536] {
            let changed = || (2..400).filter(|page| page % 3 > 0);
            let Undo::Pieces { pages, pieces } = overwritten(changed(), page_size, u64::MAX) else { panic!("much") };
            let listed: Vec<u32> = PageList::parse(&pages).unwrap().iter().map(PageNo::get).collect();
            assert_eq!(listed, changed().collect::<Vec<_>>());
            let mut held = Vec::new();
            for piece in pieces {
                assert!(piece.deltas.len() <= PIECE.max(page_size + 16), "{}", piece.deltas.len());
                let deltas = Deltas::of(piece.deltas).unwrap();
                assert_eq!(deltas.last(), Some(piece.last));
                held.extend(deltas.places.iter().map(|(page, _)| page.get()));
                assert!(deltas.get(piece.last).is_some() && deltas.get(no(3)).is_none());
            }
            assert_eq!(held, listed);
        }
    }

    #[test]
    fn too_much_undo_data_leaves_the_list_of_pages() {
        for most in [0, 100, 5000, 90_000] {
            let Undo::Pieces { pages, pieces } = overwritten(1..=200, 512, most) else { panic!("it is too much") };
            assert!(pieces.is_empty());
            assert_eq!(PageList::parse(&pages).unwrap().count(), 200, "also those after it became too much");
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_left_out() {
        assert_eq!(overwritten((1..20_000).map(|n| 2 * n), 4, u64::MAX), Undo::Barrier);
        assert!(matches!(overwritten(1..20_000, 4, u64::MAX), Undo::Pieces { .. }));
    }

    #[test]
    fn malformed_page_lists_are_refused() {
        for bytes in [&[0u8, 0][..], &[0], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0x0f, 1]] {
            assert_eq!(PageList::parse(bytes), None, "{bytes:?}");
        }
        let all = PageList::parse(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap();
        assert_eq!((all.count(), all.contains(no(u32::MAX))), (u32::MAX.into(), true));
    }

    proptest! {
        #[test]
        fn a_page_list_is_read_as_it_was_written(pages in prop::collection::btree_set(1u32..500, 0..80)) {
            let mut list = PageList::default();
            pages.iter().for_each(|page| list.push(no(*page)));
            let read = PageList::parse(&list.encode()).unwrap();
            prop_assert_eq!(&read, &list);
            prop_assert_eq!(read.iter().map(PageNo::get).collect::<Vec<_>>(), pages.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(read.count(), pages.len() as u64);
            for page in 1..500 {
                prop_assert_eq!(read.contains(no(page)), pages.contains(&page));
            }
        }

        #[test]
        fn any_bytes_are_refused_or_a_bounded_page_list(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(list) = PageList::parse(&bytes) {
                prop_assert!(list.count() <= u64::from(u32::MAX));
            }
        }
    }
}
