//! `locking_mode=EXCLUSIVE`: SQLite keeps its lock and its page cache, and does not look for changes.

use super::*;
use crate::model::error::{During, code, sqlite_code};

fn exclusive(stand: &Stand) -> File {
    let mut file = stand.file();
    assert_eq!(file.pragma("locking_mode", Some("EXCLUSIVE")).unwrap(), Answer::NotOurs);
    file
}

#[test]
fn the_first_read_takes_the_lease_and_normal_mode_gives_it_back() {
    let stand = Stand::new();
    let mut other = stand.file();
    commit(&mut other, 1, &[2]).unwrap();
    let mut file = exclusive(&stand);
    begin(&mut file).unwrap();
    let refused = begin_writing(&mut other).unwrap_err();
    assert!(matches!(refused.cause, Cause::Busy(_)), "{refused}");
    other.unlock(Level::None).unwrap();
    // SQLite does not unlock between transactions.
    file.lock(Level::Reserved).unwrap();
    put(&mut file, 1, &page_one(2, 2, SIZE as u32));
    put(&mut file, 2, &page(3));
    file.sync(None, Files::None).unwrap();
    assert_eq!(content(&stand.store), [3]);
    file.pragma("locking_mode", Some("normal")).unwrap();
    file.unlock(Level::None).unwrap();
    commit(&mut other, 3, &[4]).unwrap();
}

#[test]
fn there_is_no_snapshot_while_another_writes_and_a_new_one_each_time() {
    let stand = Stand::new();
    let (mut other, mut file) = (stand.file(), exclusive(&stand));
    commit(&mut other, 1, &[2]).unwrap();
    begin_writing(&mut other).unwrap();
    file.lock(Level::Shared).unwrap();
    for _ in 0..2 {
        let mut bytes = [0; 16];
        let busy = file.read(24, &mut bytes).unwrap_err();
        assert_eq!(sqlite_code(&busy.cause, During::Read), code::BUSY, "so that the busy handler is called: {busy}");
        assert!(matches!(file.size().unwrap_err().cause, Cause::Busy(_)));
    }
    put(&mut other, 1, &page_one(2, 2, SIZE as u32));
    put(&mut other, 2, &page(5));
    other.sync(None, Files::None).unwrap();
    other.unlock(Level::None).unwrap();
    begin(&mut file).unwrap();
    assert_eq!(get(&mut file, 2).unwrap(), page(5));
    assert!(stand.store.leased().unwrap());
}

#[test]
fn the_mode_is_refused_inside_a_transaction_that_reads_an_old_version() {
    let stand = Stand::new();
    let (mut other, mut file) = (stand.file(), stand.file());
    commit(&mut other, 1, &[2]).unwrap();
    begin(&mut file).unwrap();
    commit(&mut other, 2, &[3]).unwrap();
    let refused = file.pragma("locking_mode", Some("exclusive")).unwrap_err();
    assert!(matches!(refused.cause, Cause::Stale { .. }), "{refused}");
    file.unlock(Level::None).unwrap();
    begin(&mut file).unwrap();
    file.pragma("locking_mode", Some("exclusive")).unwrap();
    assert!(stand.store.leased().unwrap(), "what it reads is the newest");
}

#[test]
fn a_read_only_file_stays_in_normal_mode() {
    let stand = Stand::new();
    let mut file = File::on(stand.process(1 << 20), true);
    let mode = file.pragma("locking_mode", Some("exclusive")).unwrap();
    assert_eq!(mode, Answer::Text("normal".to_owned()));
    begin(&mut file).unwrap();
    assert!(!stand.store.leased().unwrap());
}

/// Has SQLite, which was not told to unlock, write in a transaction that the other has overtaken.
fn overtaken(stand: &Stand) -> (File, File) {
    let (mut other, mut file) = (stand.file(), stand.file());
    commit(&mut other, 1, &[2]).unwrap();
    begin(&mut file).unwrap();
    commit(&mut other, 2, &[7]).unwrap();
    assert!(matches!(file.lock(Level::Reserved).unwrap_err().cause, Cause::Stale { .. }));
    (file, other)
}

#[test]
fn sqlite_that_keeps_an_old_lock_untold_is_made_to_drop_its_page_cache() {
    for trimmed in [false, true] {
        let stand = Stand::new();
        let (mut file, _) = overtaken(&stand);
        if trimmed {
            stand.store.trim();
            file.database = stand.process(0);
        }
        file.lock(Level::Exclusive).unwrap();
        put(&mut file, 1, &page_one(2, 2, SIZE as u32));
        put(&mut file, 2, &page(66));
        let refused = file.sync(None, Files::None).unwrap_err();
        assert_eq!(sqlite_code(&refused.cause, During::Commit), code::BUSY_SNAPSHOT, "{refused}");
        put(&mut file, 1, &page_one(1, 2, SIZE as u32));
        let told = file.sync(None, Files::None).unwrap_err();
        assert_eq!(sqlite_code(&told.cause, During::Commit), code::IOERR_WRITE, "its cache is to go: {told}");
        begin(&mut file).unwrap();
        assert_eq!(get(&mut file, 2).unwrap(), page(7), "what the other has committed");
        put(&mut file, 1, &page_one(3, 2, SIZE as u32));
        put(&mut file, 2, &page(8));
        file.sync(None, Files::None).unwrap();
        assert_eq!(content(&stand.store), [8]);
    }
}

#[test]
fn a_transaction_that_goes_on_reading_stays_refused() {
    let stand = Stand::new();
    let (mut file, _) = overtaken(&stand);
    for _ in 0..3 {
        assert!(file.is_overtaken());
        file.goes_on_reading();
        assert!(matches!(file.lock(Level::Reserved).unwrap_err().cause, Cause::Stale { .. }));
    }
    file.unlock(Level::None).unwrap();
    assert!(!file.is_overtaken());
    commit(&mut file, 3, &[9]).unwrap();
}
