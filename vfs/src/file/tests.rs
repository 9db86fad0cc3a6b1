use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::model::log_entry::Changes;
use crate::model::page::PageNo;
use crate::store::Store;
use crate::store::memory::MemoryStore;

mod commits;
mod exclusive;
mod levels;
mod pieces;
mod shape;

const SIZE: usize = 512;

/// A server in memory, and files open on it through one cache or several.
struct Stand {
    store: Arc<MemoryStore>,
}

impl Stand {
    fn new() -> Self {
        Stand { store: Arc::new(MemoryStore::default()) }
    }

    /// A database as one process knows it.
    fn process(&self, cache_size: u64) -> Arc<Database> {
        Database::on(self.store.clone(), cache_size)
    }

    fn file(&self) -> File {
        File::on(self.process(1 << 20), false)
    }
}

/// Page 1 of a database with this change counter and page count.
fn page_one(counter: u32, page_count: u32, page_size: u32) -> Vec<u8> {
    let mut page = vec![0; page_size as usize];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..18].copy_from_slice(&(if page_size == 65536 { 1 } else { page_size as u16 }).to_be_bytes());
    page[18..20].fill(1);
    page[24..28].copy_from_slice(&counter.to_be_bytes());
    page[28..32].copy_from_slice(&page_count.to_be_bytes());
    page[92..96].copy_from_slice(&counter.to_be_bytes());
    page
}

fn page(byte: u8) -> Vec<u8> {
    vec![byte; SIZE]
}

/// What SQLite does at the start of a read transaction.
fn begin(file: &mut File) -> Result<[u8; 16]> {
    file.lock(Level::Shared)?;
    let mut bytes = [0; 16];
    file.read(24, &mut bytes)?;
    Ok(bytes)
}

fn begin_writing(file: &mut File) -> Result<()> {
    begin(file)?;
    file.lock(Level::Reserved)?;
    file.lock(Level::Exclusive)
}

fn put(file: &mut File, number: u32, content: &[u8]) {
    file.write(u64::from(number - 1) * content.len() as u64, content).unwrap();
}

fn get(file: &mut File, number: u32) -> Result<Vec<u8>> {
    let mut content = vec![0; SIZE];
    file.read(u64::from(number - 1) * SIZE as u64, &mut content)?;
    Ok(content)
}

/// Commits pages `2..` with these bytes.
fn commit(file: &mut File, counter: u32, pages: &[u8]) -> Result<()> {
    begin_writing(file)?;
    put(file, 1, &page_one(counter, pages.len() as u32 + 1, SIZE as u32));
    for (n, &byte) in pages.iter().enumerate() {
        put(file, n as u32 + 2, &page(byte));
    }
    let done = file.sync(None, Files::None);
    file.unlock(Level::None)?;
    done
}

fn content(store: &MemoryStore) -> Vec<u8> {
    let now = store.now();
    let pages: Vec<_> = PageNo::range(2, now.page_count).collect();
    let fetched = store.fetch(&pages).unwrap();
    fetched.pages.into_iter().map(|page| page.unwrap()[0]).collect()
}

#[test]
fn nothing_is_asked_before_the_first_read() {
    let stand = Stand::new();
    let mut file = stand.file();
    file.lock(Level::Shared).unwrap();
    assert!(stand.store.fetches().is_empty());
    assert_eq!(file.size().unwrap(), 0);
    assert_eq!(stand.store.fetches().len(), 1);
}

#[test]
fn a_warm_read_transaction_asks_once_and_for_no_page() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2, 3]).unwrap();
    let before = stand.store.fetches().len();
    begin(&mut file).unwrap();
    assert_eq!(get(&mut file, 3).unwrap(), page(3));
    file.unlock(Level::None).unwrap();
    assert_eq!(stand.store.fetches()[before..], [vec![]]);
}

#[test]
fn a_reader_keeps_its_snapshot() {
    let stand = Stand::new();
    let mut writer = stand.file();
    commit(&mut writer, 1, &[2, 3, 4]).unwrap();
    for cache in [0, 1 << 20] {
        let mut reader = File::on(stand.process(cache), false);
        begin(&mut reader).unwrap();
        let counter = stand.store.now().version.0 as u32;
        commit(&mut writer, counter + 1, &[20]).unwrap();
        commit(&mut writer, counter + 2, &[20, 30, 40, 50]).unwrap();
        assert_eq!(reader.size().unwrap(), 4 * SIZE as u64);
        for (number, byte) in [(2, 2), (3, 3), (4, 4)] {
            assert_eq!(get(&mut reader, number).unwrap(), page(byte), "page {number}");
        }
        reader.unlock(Level::None).unwrap();
        commit(&mut writer, counter + 3, &[2, 3, 4]).unwrap();
    }
}

#[test]
fn a_reader_behind_the_log_fails_rather_than_mixing_versions() {
    let stand = Stand::new();
    let (mut writer, mut reader) = (stand.file(), File::on(stand.process(0), false));
    commit(&mut writer, 1, &[2, 3]).unwrap();
    begin(&mut reader).unwrap();
    commit(&mut writer, 2, &[20, 30]).unwrap();
    stand.store.trim();
    let error = get(&mut reader, 3).unwrap_err();
    assert!(matches!(error.cause, Cause::SnapshotGone { .. }), "{error}");
    reader.unlock(Level::None).unwrap();
    begin(&mut reader).unwrap();
    assert_eq!(get(&mut reader, 3).unwrap(), page(30));
}

#[test]
fn a_reader_never_follows_into_another_history() {
    let stand = Stand::new();
    let (mut writer, mut reader) = (stand.file(), File::on(stand.process(0), false));
    commit(&mut writer, 1, &[2, 3]).unwrap();
    begin(&mut reader).unwrap();
    stand.store.replace_history();
    assert!(matches!(get(&mut reader, 3).unwrap_err().cause, Cause::SnapshotGone { .. }));
    commit(&mut writer, 2, &[20, 30]).unwrap();
    assert!(matches!(get(&mut reader, 3).unwrap_err().cause, Cause::SnapshotGone { .. }));
}

#[test]
fn what_was_committed_on_a_server_that_went_back_is_not_read_from_the_lost_history() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2, 3]).unwrap();
    let earlier = MemoryStore::default();
    earlier.copy(&stand.store);
    commit(&mut file, 2, &[20, 30]).unwrap();
    stand.store.copy(&earlier);
    // One that keeps its lock goes on after the commit.
    begin_writing(&mut file).unwrap();
    put(&mut file, 1, &page_one(2, 3, SIZE as u32));
    put(&mut file, 3, &page(31));
    file.sync(None, Files::None).unwrap();
    assert_eq!((get(&mut file, 2).unwrap(), get(&mut file, 3).unwrap()), (page(2), page(31)));
}

#[test]
fn only_one_writes_and_not_from_an_old_snapshot() {
    let stand = Stand::new();
    let (mut one, mut two) = (stand.file(), stand.file());
    commit(&mut one, 1, &[2]).unwrap();
    begin(&mut two).unwrap();
    begin_writing(&mut one).unwrap();
    assert!(matches!(two.lock(Level::Reserved).unwrap_err().cause, Cause::Busy(_)));
    assert!(two.reserved().unwrap());
    put(&mut one, 1, &page_one(2, 2, SIZE as u32));
    one.sync(None, Files::None).unwrap();
    one.unlock(Level::None).unwrap();
    assert!(matches!(two.lock(Level::Reserved).unwrap_err().cause, Cause::Stale { .. }));
    assert!(!two.reserved().unwrap(), "the lease was given back");
    two.unlock(Level::None).unwrap();
    commit(&mut two, 3, &[7]).unwrap();
    assert_eq!(content(&stand.store), [7]);
}

#[test]
fn a_file_that_reads_on_is_not_about_to_write() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2]).unwrap();
    for another_page in [false, true] {
        file.expect(0, true);
        begin(&mut file).unwrap();
        get(&mut file, 1).unwrap();
        assert!(stand.store.leased().unwrap(), "it will most likely write");
        if another_page {
            get(&mut file, 2).unwrap();
            assert!(!stand.store.leased().unwrap());
        } else {
            file.lock(Level::Reserved).unwrap();
            get(&mut file, 2).unwrap();
            assert!(stand.store.leased().unwrap(), "now it does");
        }
        file.unlock(Level::None).unwrap();
        assert!(!stand.store.leased().unwrap());
    }
    begin(&mut file).unwrap();
    let released = Instant::now();
    while stand.store.leased().unwrap() {
        assert!(released.elapsed() < Duration::from_secs(20), "it does not ask for the write lock");
    }
    file.lock(Level::Reserved).unwrap();
    assert!(stand.store.leased().unwrap(), "late, but nobody has committed");
}

#[test]
fn an_overtaken_commit_is_refused_and_its_rollback_publishes_nothing() {
    let stand = Stand::new();
    let (mut slow, mut fast) = (stand.file(), stand.file());
    commit(&mut slow, 1, &[2]).unwrap();
    begin_writing(&mut slow).unwrap();
    put(&mut slow, 1, &page_one(2, 2, SIZE as u32));
    put(&mut slow, 2, &page(66));
    stand.store.expire();
    commit(&mut fast, 2, &[77]).unwrap();
    let error = slow.sync(None, Files::None).unwrap_err();
    assert!(matches!(error.cause, Cause::Stale { .. }), "{error}");
    // SQLite writes the originals back, and syncs.
    put(&mut slow, 2, &page(2));
    put(&mut slow, 1, &page_one(1, 2, SIZE as u32));
    slow.sync(None, Files::None).unwrap();
    slow.unlock(Level::None).unwrap();
    assert_eq!((content(&stand.store), stand.store.now().version), (vec![77], Version(2)));
    commit(&mut slow, 3, &[5]).unwrap();
    assert_eq!(content(&stand.store), [5]);
}

#[test]
fn sqlite_is_told_when_a_version_was_replaced_by_another_that_looks_the_same() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2]).unwrap();
    let expected = page_one(1, 2, SIZE as u32);
    assert_eq!(begin(&mut file).unwrap()[..], expected[24..40]);
    file.unlock(Level::None).unwrap();
    stand.store.replace_history();
    assert_ne!(begin(&mut file).unwrap()[..], expected[24..40]);
    assert_eq!(without_cookie(get(&mut file, 1).unwrap()), expected);
    file.unlock(Level::None).unwrap();
    assert_eq!(begin(&mut file).unwrap()[..], expected[24..40]);
}

#[test]
fn metadata_that_contradicts_page_1_or_itself_is_refused() {
    for (page_size, page_count) in [(SIZE as u32, 1), (SIZE as u32, 4_294_967_294), (SIZE as u32 * 2, 2)] {
        let stand = Stand::new();
        let mut before = stand.file();
        commit(&mut before, 1, &[2]).unwrap();
        begin(&mut before).unwrap();
        stand.store.misstate(page_size, page_count);
        let refused = begin(&mut stand.file()).unwrap_err().cause;
        assert!(matches!(refused, Cause::Damaged(_)), "page 1 says otherwise: {refused}");
        let refused = before.lock(Level::Reserved).unwrap_err().cause;
        assert!(matches!(refused, Cause::Damaged(_)), "it was otherwise before: {refused}");
    }
}

/// Page 1 with a schema cookie of 0: another history is shown with another.
fn without_cookie(mut page: Vec<u8>) -> Vec<u8> {
    page[40..44].fill(0);
    page
}

#[test]
fn each_history_is_shown_with_a_schema_cookie_of_its_own_and_stored_with_the_true_one() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2]).unwrap();
    let mut cookies = Vec::new();
    for change in 2..6 {
        stand.store.replace_history();
        begin(&mut file).unwrap();
        let mut first = get(&mut file, 1).unwrap();
        cookies.push(first[40..44].to_vec());
        // SQLite writes page 1 as it was shown, with another change counter.
        first[24..28].copy_from_slice(&u32::to_be_bytes(change));
        first[92..96].copy_from_slice(&u32::to_be_bytes(change));
        file.lock(Level::Reserved).unwrap();
        put(&mut file, 1, &first);
        file.sync(None, Files::None).unwrap();
        file.unlock(Level::None).unwrap();
        let mut fresh = stand.file();
        begin(&mut fresh).unwrap();
        assert_eq!(get(&mut fresh, 1).unwrap(), page_one(change, 2, SIZE as u32));
    }
    cookies.sort_unstable();
    cookies.dedup();
    assert_eq!(cookies.len(), 4);
}

#[test]
fn exclusive_mode_keeps_the_lease_between_commits() {
    let stand = Stand::new();
    let mut file = stand.file();
    file.pragma("locking_mode", Some("EXCLUSIVE")).unwrap();
    begin_writing(&mut file).unwrap();
    for (counter, byte) in [(1, 2), (2, 3)] {
        put(&mut file, 1, &page_one(counter, 2, SIZE as u32));
        put(&mut file, 2, &page(byte));
        file.sync(None, Files::None).unwrap();
        assert!(stand.store.leased().unwrap());
    }
    // Later commits under one lock leave the change counter alone.
    put(&mut file, 2, &page(4));
    file.sync(None, Files::None).unwrap();
    assert_eq!((content(&stand.store), stand.store.now().version), (vec![4], Version(3)));
    file.unlock(Level::None).unwrap();
    assert!(!stand.store.leased().unwrap());
}

#[test]
fn exclusive_mode_that_was_not_announced_takes_the_lease_again() {
    let stand = Stand::new();
    let (mut file, mut other) = (stand.file(), stand.file());
    begin_writing(&mut file).unwrap();
    put(&mut file, 1, &page_one(1, 2, SIZE as u32));
    put(&mut file, 2, &page(2));
    file.sync(None, Files::None).unwrap();
    put(&mut file, 2, &page(3));
    file.sync(None, Files::None).unwrap();
    assert_eq!(content(&stand.store), [3]);
    assert!(stand.store.leased().unwrap(), "and keeps it from then on");
    stand.store.expire();
    commit(&mut other, 2, &[9]).unwrap();
    put(&mut file, 2, &page(4));
    assert!(matches!(file.sync(None, Files::None).unwrap_err().cause, Cause::Stale { .. }));
    assert_eq!(content(&stand.store), [9]);
}

#[test]
fn a_read_only_file_takes_no_lease() {
    let stand = Stand::new();
    let mut file = File::on(stand.process(1 << 20), true);
    begin(&mut file).unwrap();
    assert!(matches!(file.lock(Level::Reserved).unwrap_err().cause, Cause::ReadOnly));
}

#[test]
fn a_failure_leaves_the_file_usable() {
    let stand = Stand::new();
    let mut file = stand.file();
    commit(&mut file, 1, &[2]).unwrap();
    for op in ["read", "lock", "commit"] {
        if op == "read" {
            stand.store.fail_next(Cause::ConnectionLost("test".into()));
            assert!(begin(&mut file).is_err());
        } else {
            begin(&mut file).unwrap();
            if op == "lock" {
                stand.store.fail_next(Cause::ServerFull("test".into()));
            }
            let locked = file.lock(Level::Reserved);
            assert_eq!(locked.is_err(), op == "lock");
            if op == "commit" {
                put(&mut file, 1, &page_one(2, 2, SIZE as u32));
                put(&mut file, 2, &page(66));
                stand.store.fail_next(Cause::ServerFull("test".into()));
                assert!(matches!(file.sync(None, Files::None).unwrap_err().cause, Cause::ServerFull(_)));
            }
        }
        file.unlock(Level::None).unwrap();
        begin(&mut file).unwrap();
        assert_eq!(get(&mut file, 2).unwrap(), page(2), "after a failed {op}");
        file.unlock(Level::None).unwrap();
    }
    commit(&mut file, 2, &[3]).unwrap();
    assert_eq!(content(&stand.store), [3]);
}

mod model;
