//! A page as the value of its field: as it is, or as a Zstandard frame where that is shorter.
//!
//! The length tells which: a field as long as a page is the page. So databases with and without
//! compression are one format, and writers of both kinds can share one.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

/// What a frame must save to be worth it. Redis rounds a value's memory up to steps, and a page as
/// it is lies a few bytes above one (4096 bytes take 5120); so already a little saves a step.
const LEAST_SAVED: usize = 16;
/// Higher ones gain little on pages of a few kilobytes.
const LEVEL: i32 = 1;

thread_local! {
    // Making one takes longer than compressing a page.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Runs `work` with this thread's context, which is made when first needed.
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

/// The value of a page's field.
pub(crate) fn pack(page: &[u8], compress: bool) -> Cow<'_, [u8]> {
    if !compress {
        return Cow::Borrowed(page);
    }
    let packed = COMPRESSOR.with(|it| with(it, || Compressor::new(LEVEL), |it| it.compress(page)));
    match packed {
        Ok(packed) if packed.len() + LEAST_SAVED <= page.len() => Cow::Owned(packed),
        // Where there is no memory for a context, the page itself will do.
        Ok(_) | Err(_) => Cow::Borrowed(page),
    }
}

/// The page out of a field; `None` when it is not one of this size.
pub(crate) fn unpack(field: Vec<u8>, page_size: usize) -> Option<Vec<u8>> {
    if field.len() == page_size {
        return Some(field);
    }
    if field.len() + LEAST_SAVED > page_size {
        return None;
    }
    let page = DECOMPRESSOR.with(|it| with(it, Decompressor::new, |it| it.decompress(&field, page_size)));
    page.ok().filter(|page| page.len() == page_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_that_would_not_shrink_stays_as_it_is() {
        let noise: Vec<u8> = (0..512).map(|_| rand::random()).collect();
        assert_eq!(pack(&noise, true), Cow::Borrowed(&noise[..]));
        assert!(pack(&[7; 512], true).len() < 48);
        assert_eq!(pack(&[7; 512], false).len(), 512);
    }

    #[test]
    fn fields_that_are_no_page_are_refused() {
        let packed = pack(&[7; 512], true).into_owned();
        assert_eq!(unpack(packed.clone(), 1024), None, "a frame of another page size");
        assert_eq!(unpack(packed[..packed.len() - 1].to_vec(), 512), None, "cut off");
        assert_eq!(unpack(Vec::new(), 512), None);
        assert_eq!(unpack(vec![7; 511], 512), None);
        assert_eq!(unpack(vec![7; 513], 512), None);
    }

    proptest! {
        #[test]
        fn every_page_comes_back(text in proptest::collection::vec(0u8..20, 0..512), compress: bool) {
            let mut page = vec![0; 512];
            page[..text.len()].copy_from_slice(&text);
            prop_assert_eq!(unpack(pack(&page, compress).into_owned(), 512), Some(page));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(page) = unpack(bytes, 512) {
                prop_assert_eq!(page.len(), 512);
            }
        }
    }
}
