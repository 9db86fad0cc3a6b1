use super::*;
use crate::model::log_entry::Undo;
use crate::model::undo::UndoBuilder;

fn snapshot(version: u64, commit: u64) -> Snapshot {
    Snapshot { version: Version(version), commit: CommitId(commit), page_size: 512, page_count: 9 }
}

fn no(n: u32) -> PageNo {
    PageNo::new(n).unwrap()
}

fn page(byte: u8) -> Page {
    Page::new(vec![byte; 512])
}

/// The log entry of a version that changed one page.
fn entry(version: u64, commit: u64, base: u64, changed: u32) -> LogEntry {
    let mut undo = UndoBuilder::new(u64::MAX);
    undo.page(no(changed), &[1; 512], &[0; 512]);
    let Undo::Deltas(deltas) = undo.finish() else { panic!("it is little") };
    LogEntry {
        version: Version(version),
        commit: CommitId(commit),
        base: CommitId(base),
        page_count: 9,
        changes: Changes::Deltas(deltas),
    }
}

fn admitted(cache: &Cache, snapshot: &Snapshot) -> Epoch {
    match cache.admit(snapshot) {
        Admission::Admitted(epoch) => epoch,
        other => panic!("{other:?}"),
    }
}

/// A cache at version 5 (commit 50) that holds pages 1 and 2.
fn cache() -> (Cache, Epoch) {
    let cache = Cache::new(1 << 20);
    let epoch = admitted(&cache, &snapshot(5, 50));
    cache.insert(epoch, Version(5), &[snapshot(5, 50)], [(no(1), page(1)), (no(2), page(2))]);
    (cache, epoch)
}

#[test]
fn the_same_snapshot_finds_its_pages() {
    let (cache, epoch) = cache();
    assert_eq!(admitted(&cache, &snapshot(5, 50)), epoch);
    assert_eq!(cache.get(no(1), Version(5), epoch), Some(page(1)));
    assert_eq!(cache.get(no(3), Version(5), epoch), None);
}

#[test]
fn a_newer_version_drops_only_what_changed() {
    let (cache, epoch) = cache();
    assert_eq!(cache.admit(&snapshot(6, 60)), Admission::NeedsHistory { after: Version(5) });
    assert_eq!(cache.admit_with(&snapshot(6, 60), &[entry(6, 60, 50, 2)]), (epoch, vec![no(2)]));
    assert_eq!(cache.get(no(1), Version(6), epoch), Some(page(1)));
    assert_eq!(cache.get(no(2), Version(6), epoch), None);
    assert_eq!(cache.get(no(2), Version(5), epoch), None, "nor does the older reader get it");
    assert_eq!(cache.get(no(1), Version(5), epoch), Some(page(1)), "what did not change serves both");
}

#[test]
fn listed_pages_are_dropped_like_those_with_deltas() {
    // Page 2; pages 2 to 4 billion; pages 3 to 4 billion.
    for (list, dropped) in [
        (&[1, 1][..], vec![no(2)]),
        (&[1, 0xfe, 0xff, 0xff, 0xff, 0x0f], vec![no(2)]),
        (&[2, 0xfd, 0xff, 0xff, 0xff, 0x0f], vec![]),
    ] {
        let (cache, epoch) = cache();
        let entry = LogEntry { changes: Changes::Pages(list.to_vec()), ..entry(6, 60, 50, 2) };
        cache.admit(&snapshot(6, 60));
        assert_eq!(cache.admit_with(&snapshot(6, 60), &[entry]), (epoch, dropped.clone()));
        assert_eq!(cache.get(no(1), Version(6), epoch), Some(page(1)));
        assert_eq!(cache.get(no(2), Version(6), epoch).is_none(), !dropped.is_empty());
    }
}

#[test]
fn an_older_reader_gets_no_newer_page() {
    let (cache, epoch) = cache();
    cache.admit_with(&snapshot(6, 60), &[entry(6, 60, 50, 2)]);
    cache.insert(epoch, Version(6), &[snapshot(6, 60)], [(no(2), page(9))]);
    assert_eq!(cache.get(no(2), Version(6), epoch), Some(page(9)));
    assert_eq!(cache.get(no(2), Version(5), epoch), None);
    assert_eq!(admitted(&cache, &snapshot(5, 50)), epoch, "version 5 is still known");
}

#[test]
fn another_history_drops_everything() {
    for (to, log) in [
        (snapshot(5, 51), vec![]),
        (snapshot(4, 40), vec![]),
        (Snapshot { page_count: 8, ..snapshot(5, 50) }, vec![]),
        (snapshot(6, 61), vec![entry(6, 61, 51, 2)]),
        (snapshot(7, 70), vec![entry(7, 70, 60, 2)]),
        (snapshot(7, 70), vec![]),
        (snapshot(6, 60), vec![LogEntry { changes: Changes::Unknown, ..entry(6, 60, 50, 2) }]),
        (snapshot(6, 60), vec![LogEntry { changes: Changes::Deltas(vec![0x80]), ..entry(6, 60, 50, 2) }]),
        (snapshot(6, 60), vec![LogEntry { changes: Changes::Pages(vec![0x80]), ..entry(6, 60, 50, 2) }]),
    ] {
        let (cache, before) = cache();
        let epoch = match cache.admit(&to) {
            Admission::Admitted(epoch) => epoch,
            Admission::NeedsHistory { .. } => cache.admit_with(&to, &log).0,
        };
        assert_ne!(epoch, before);
        assert_eq!(cache.get(no(1), to.version, epoch), None, "{to:?}");
        cache.insert(epoch, to.version, &[to], [(no(1), page(8))]);
        assert_eq!(cache.get(no(1), Version(9), before), None, "a reader from before, {to:?}");
    }
}

#[test]
fn a_replica_is_followed_only_within_this_history() {
    let (cache, epoch) = cache();
    for (to, log) in [
        (snapshot(6, 61), vec![entry(6, 61, 51, 2)]),
        (snapshot(7, 70), vec![entry(7, 70, 60, 2)]),
        (snapshot(6, 60), vec![]),
        (snapshot(5, 51), vec![]),
        (snapshot(4, 40), vec![]),
    ] {
        assert_eq!(cache.follow(&to, &log), None, "{to:?}");
    }
    assert_eq!(cache.recognise(&snapshot(4, 40)), Recognised::Unknown(epoch));
    assert_eq!(cache.remember(&snapshot(4, 40), epoch), Some(epoch));
    assert_eq!(cache.recognise(&snapshot(4, 40)), Recognised::Known(epoch));
    assert_eq!(cache.recognise(&snapshot(4, 41)), Recognised::Unknown(epoch));
    assert_eq!(cache.get(no(1), Version(5), epoch), Some(page(1)), "all that was there still is");
    assert_eq!(cache.get(no(1), Version(4), epoch), None, "nobody has said so of version 4");
    assert_eq!(cache.follow(&snapshot(6, 60), &[entry(6, 60, 50, 2)]), Some(epoch));
    assert_eq!(cache.head().0, snapshot(6, 60));
    assert_eq!(cache.remember(&snapshot(4, 42), Epoch(99)), None);
}

#[test]
fn an_own_commit_that_was_heard_of_before_keeps_its_pages() {
    let (cache, epoch) = cache();
    assert_eq!(cache.follow(&snapshot(6, 60), &[entry(6, 60, 50, 2)]), Some(epoch));
    cache.committed(&snapshot(5, 50), &snapshot(6, 60), [(no(2), Some(page(7)))].into_iter());
    assert_eq!(cache.get(no(2), Version(6), epoch), Some(page(7)));
    cache.committed(&snapshot(6, 60), &snapshot(7, 70), [(no(2), None)].into_iter());
    assert_eq!(cache.get(no(2), Version(7), epoch), None, "changed, and not at hand");
}

#[test]
fn pages_of_another_moment_are_not_taken() {
    let (cache, epoch) = cache();
    cache.insert(epoch, Version(6), &[snapshot(6, 60)], [(no(3), page(3))]);
    cache.insert(epoch, Version(4), &[snapshot(4, 40), snapshot(6, 60)], [(no(4), page(4))]);
    cache.insert(epoch, Version(5), &[snapshot(5, 51)], [(no(5), page(5))]);
    cache.insert(Epoch(99), Version(5), &[snapshot(5, 50)], [(no(6), page(6))]);
    for n in 3..=6 {
        assert!(!cache.has(no(n), Version(9), epoch), "page {n}");
    }
    cache.insert(epoch, Version(4), &[snapshot(4, 40), snapshot(5, 50)], [(no(7), page(7))]);
    assert!(cache.has(no(7), Version(4), epoch), "unchanged from 4 to 5");
}

#[test]
fn a_database_that_is_made_anew_is_another_history_from_its_beginning() {
    let (cache, epoch) = cache();
    let before = cache.head().2;
    cache.removed(before);
    assert_eq!(cache.head().1, epoch, "this answer is older than what is known");
    cache.removed(Instant::now());
    let anew = admitted(&cache, &Snapshot::EMPTY);
    assert_ne!(anew, epoch);
    assert_eq!(cache.committed(&Snapshot::EMPTY, &snapshot(1, 11), [].into_iter()), anew);
    assert_eq!(admitted(&cache, &snapshot(1, 11)), anew);
    assert_eq!(cache.get(no(1), Version(5), epoch), None);
}

#[test]
fn an_own_commit_moves_the_head() {
    let (cache, epoch) = cache();
    let next = Snapshot { page_count: 1, ..snapshot(6, 60) };
    cache.committed(&snapshot(5, 50), &next, [(no(1), Some(page(7)))].into_iter());
    assert_eq!(admitted(&cache, &next), epoch);
    assert_eq!(cache.get(no(1), Version(6), epoch), Some(page(7)));
    assert_eq!(cache.get(no(1), Version(5), epoch), None);
    assert_eq!(cache.get(no(2), Version(6), epoch), None, "truncated");
}

#[test]
fn a_large_one_takes_no_memory_before_pages_come() {
    let cache = Cache::new(u64::MAX);
    let epoch = admitted(&cache, &snapshot(5, 50));
    cache.insert(epoch, Version(5), &[snapshot(5, 50)], [(no(1), page(0))]);
    assert!(cache.has(no(1), Version(5), epoch));
}

#[test]
fn its_size_is_bounded() {
    let cache = Cache::new(10 * 512);
    let epoch = admitted(&cache, &snapshot(5, 50));
    cache.insert(epoch, Version(5), &[snapshot(5, 50)], (1..=100).map(|n| (no(n), page(0))));
    let held = (1..=100).filter(|&n| cache.has(no(n), Version(5), epoch)).count();
    assert_eq!(held, 10);
}
