//! Pages: their numbers and their bytes.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

/// The number of a page, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(NonZeroU32);

impl PageNo {
    pub(crate) const FIRST: PageNo = PageNo(NonZeroU32::MIN);

    pub(crate) fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(PageNo)
    }

    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }

    /// Pages `first` to `last`, both included; none when `last` is smaller.
    pub(crate) fn range(first: u32, last: u32) -> impl DoubleEndedIterator<Item = PageNo> {
        (first.max(1)..=last).filter_map(PageNo::new)
    }
}

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bytes of a page, shared by the page cache and all its readers.
pub(crate) type Page = Arc<Vec<u8>>;
