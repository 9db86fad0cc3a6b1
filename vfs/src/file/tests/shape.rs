//! Commits of which page 1 tells something else than what was written.

use super::*;

#[test]
fn a_first_page_that_is_no_header_is_committed_with_the_pages_that_there_are() {
    let stand = Stand::new();
    let mut file = stand.file();
    for first in [page(b'0'), page(0xff)] {
        begin_writing(&mut file).unwrap();
        put(&mut file, 1, &first);
        put(&mut file, 2, &page(2));
        file.sync(None, Files::None).unwrap();
        file.unlock(Level::None).unwrap();
        assert_eq!(stand.store.now().page_count, 2);
        begin(&mut file).unwrap();
        assert_eq!((get(&mut file, 1).unwrap(), get(&mut file, 2).unwrap()), (first, page(2)));
        file.unlock(Level::None).unwrap();
    }
}

#[test]
fn pages_that_nobody_has_written_are_not_committed() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2]).unwrap();
    let mut refused = |count: u32, last: Option<u32>| {
        begin_writing(&mut file).unwrap();
        put(&mut file, 1, &page_one(2, count, SIZE as u32));
        if let Some(last) = last {
            put(&mut file, last, &page(9));
        }
        let refused = file.sync(None, Files::None).unwrap_err();
        assert!(matches!(refused.cause, Cause::Damaged(_)), "{refused}");
        file.unlock(Level::None).unwrap();
    };
    refused(4, None);
    refused(u32::MAX - 1, None);
    refused(u32::MAX - 1, Some(u32::MAX - 1));
    assert_eq!(content(&stand.store), [2]);
    // SQLite leaves out free pages that were never used, and the page with the bytes that it locks in files.
    // What it has written beyond the last page, it has given up.
    for (count, last) in [(100, 100), (102, 101), (102, u32::MAX - 1)] {
        begin_writing(&mut file).unwrap();
        put(&mut file, 1, &page_one(3, count, SIZE as u32));
        put(&mut file, last, &page(9));
        file.sync(None, Files::None).unwrap();
        file.unlock(Level::None).unwrap();
        assert_eq!(stand.store.now().page_count, count);
    }
}

#[test]
fn a_database_of_which_only_the_size_is_set_is_refused() {
    let stand = Stand::new();
    let mut file = stand.file();
    begin_writing(&mut file).unwrap();
    file.truncate(SIZE as u64).unwrap();
    let refused = file.sync(None, Files::None).unwrap_err();
    assert!(matches!(refused.cause, Cause::Damaged(_)), "{refused}");
    file.unlock(Level::None).unwrap();
}
