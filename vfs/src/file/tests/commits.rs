//! What a commit sends, and what is no commit.

use super::*;

#[test]
fn a_rollback_after_a_spill_publishes_nothing() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2, 3]).unwrap();
    begin_writing(&mut file).unwrap();
    put(&mut file, 3, &page(99));
    put(&mut file, 4, &page(98));
    // Page 3 was free: its old content was not journaled and is not restored.
    file.truncate(3 * SIZE as u64).unwrap();
    file.sync(None, Files::None).unwrap();
    file.unlock(Level::None).unwrap();
    assert_eq!((content(&stand.store), stand.store.now().version), (vec![2, 3], Version(1)));
}

#[test]
fn a_commit_without_unlock_is_no_commit() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2]).unwrap();
    begin_writing(&mut file).unwrap();
    put(&mut file, 1, &page_one(2, 2, SIZE as u32));
    put(&mut file, 2, &page(9));
    file.unlock(Level::None).unwrap();
    assert_eq!(content(&stand.store), [2]);
    assert!(!stand.store.leased().unwrap());
}

#[test]
fn a_shrinking_commit_goes_by_the_header() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2, 3, 4]).unwrap();
    begin_writing(&mut file).unwrap();
    put(&mut file, 1, &page_one(2, 2, SIZE as u32));
    file.sync(None, Files::None).unwrap();
    file.truncate(2 * SIZE as u64).unwrap();
    file.unlock(Level::None).unwrap();
    assert_eq!((content(&stand.store), stand.store.now().version), (vec![2], Version(2)));
}

#[test]
fn a_gap_is_committed_as_zeros() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2]).unwrap();
    begin_writing(&mut file).unwrap();
    put(&mut file, 1, &page_one(2, 5, SIZE as u32));
    put(&mut file, 5, &page(5));
    file.sync(None, Files::None).unwrap();
    file.unlock(Level::None).unwrap();
    assert_eq!(content(&stand.store), [2, 0, 0, 5]);
}

#[test]
fn another_page_size_cuts_everything_anew() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2, 3, 4]).unwrap();
    let mut reader = File::on(stand.process(0), false);
    begin(&mut reader).unwrap();
    begin_writing(&mut file).unwrap();
    // SQLite writes in chunks of the old size: here two of them make one page of the new.
    let first = page_one(2, 2, 1024);
    put(&mut file, 1, &first[..SIZE]);
    put(&mut file, 2, &first[SIZE..]);
    put(&mut file, 3, &page(8));
    put(&mut file, 4, &page(9));
    file.sync(None, Files::None).unwrap();
    file.unlock(Level::None).unwrap();
    let now = stand.store.now();
    assert_eq!((now.page_size, now.page_count), (1024, 2));
    let second = stand.store.fetch(&[PageNo::new(2).unwrap()]).unwrap().pages.remove(0).unwrap();
    assert_eq!(*second, [page(8), page(9)].concat());
    assert_eq!(stand.store.log().last().unwrap().changes, Changes::Unknown);
    assert!(matches!(get(&mut reader, 3).unwrap_err().cause, Cause::SnapshotGone { .. }));
}

#[test]
fn unchanged_pages_are_not_sent() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2, 3]).unwrap();
    commit(&mut file, 2, &[2, 9]).unwrap();
    let log = stand.store.log();
    let Changes::Deltas(deltas) = &log[1].changes else { panic!("{log:?}") };
    let pages: Vec<_> = crate::model::delta::parse_undo(deltas).unwrap().iter().map(|(page, _)| page.get()).collect();
    assert_eq!(pages, [1, 3]);
}

#[test]
fn wal_in_the_header_becomes_a_rollback_journal() {
    let stand = Stand::new();
    let mut file = stand.file();
    begin_writing(&mut file).unwrap();
    let mut first = page_one(1, 1, SIZE as u32);
    first[18..20].fill(2);
    put(&mut file, 1, &first);
    file.sync(None, Files::None).unwrap();
    file.unlock(Level::None).unwrap();
    // SQLite has the page with 2 in its cache, and must drop it.
    assert_ne!(begin(&mut file).unwrap()[..], first[24..40]);
    assert_eq!(get(&mut file, 1).unwrap()[18..20], [1, 1]);
    file.unlock(Level::None).unwrap();
    assert_eq!(begin(&mut file).unwrap()[..], first[24..40], "once is enough");
}

#[test]
fn a_commit_over_several_databases_can_be_taken_back() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2]).unwrap();
    begin_writing(&mut file).unwrap();
    put(&mut file, 1, &page_one(2, 2, SIZE as u32));
    put(&mut file, 2, &page(3));
    file.sync(Some("/tmp/other.db-mj000000900"), Files::None).unwrap();
    assert!(stand.store.leased().unwrap(), "until it is sure that the other databases commit too");
    // Another database failed: SQLite puts the originals back.
    put(&mut file, 1, &page_one(1, 2, SIZE as u32));
    put(&mut file, 2, &page(2));
    file.sync(None, Files::None).unwrap();
    file.unlock(Level::None).unwrap();
    assert_eq!((content(&stand.store), stand.store.now().version), (vec![2], Version(3)));
    assert!(!stand.store.leased().unwrap());
}
