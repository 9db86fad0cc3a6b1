//! Readers of an older version after commits whose undo data is in pieces.

use super::*;
use crate::model::version::{CommitId, Version};

/// Enough pages for several pieces of undo data.
const PAGES: u32 = 400;

/// Large commits, and a reader of the version before them.
struct Behind {
    stand: Stand,
    reader: File,
}

impl Behind {
    /// Each of the commits overwrites the pages `2..=PAGES`.
    fn new(commits: u32) -> Self {
        let stand = Stand::new();
        let mut writer = stand.file();
        let all = |byte: u8| vec![byte; PAGES as usize - 1];
        commit(&mut writer, 1, &all(1)).unwrap();
        let mut reader = File::on(stand.process(SIZE as u64), false);
        begin(&mut reader).unwrap();
        for n in 0..commits {
            commit(&mut writer, 2 + n, &all(2 + n as u8)).unwrap();
        }
        Behind { stand, reader }
    }

    fn asked(&self) -> usize {
        self.stand.store.undo_asked().len()
    }
}

#[test]
fn a_reader_behind_large_commits_gets_the_old_pages() {
    let Behind { stand, mut reader } = Behind::new(3);
    assert!(stand.store.log()[1..].iter().all(|entry| matches!(entry.changes, Changes::Pages(_))));
    for number in [2, PAGES, 200, 3] {
        assert_eq!(get(&mut reader, number).unwrap(), page(1), "page {number}");
    }
    for number in 2..=PAGES {
        assert_eq!(get(&mut reader, number).unwrap(), page(1), "page {number}");
    }
}

#[test]
fn pieces_are_fetched_when_they_are_needed_and_once() {
    let mut behind = Behind::new(2);
    assert_eq!(behind.asked(), 0);
    get(&mut behind.reader, 300).unwrap();
    let asked = behind.stand.store.undo_asked();
    let of = |version| asked.iter().filter(|asked| asked.version == Version(version)).count();
    assert_eq!((of(2), of(3), asked.len()), (1, 1, 2), "one piece of each commit: {asked:?}");
    assert!(asked.iter().all(|asked| asked.count == 1), "{asked:?}");
    get(&mut behind.reader, 2).unwrap();
    assert_eq!(behind.asked(), 4, "page 2 is in another piece");
    for number in [301, 5, 290, 2] {
        get(&mut behind.reader, number).unwrap();
    }
    assert_eq!(behind.asked(), 4, "these are in the same pieces");
}

#[test]
fn a_page_whose_undo_data_is_gone_or_wrong_is_refused() {
    type Change = fn(&(Version, PageNo), &mut (CommitId, crate::model::log_entry::Piece)) -> bool;
    let changes: [(&str, Change); 6] = [
        ("gone", |_, _| false),
        ("another commit's", |_, (commit, _)| {
            commit.0 ^= 1;
            true
        }),
        ("cut short", |_, (_, piece)| {
            piece.deltas.pop();
            true
        }),
        ("without its last page", |_, (_, piece)| {
            let pages = crate::model::delta::parse_undo(&piece.deltas).unwrap();
            let last = pages.last().unwrap().1.as_ptr() as usize - piece.deltas.as_ptr() as usize;
            piece.deltas.truncate(last - 4);
            true
        }),
        ("empty", |_, (_, piece)| {
            piece.deltas.clear();
            true
        }),
        ("of another place", |(_, last), (_, piece)| {
            piece.last = PageNo::new(last.get() + 1).unwrap();
            true
        }),
    ];
    for (name, change) in changes {
        let Behind { stand, mut reader } = Behind::new(1);
        stand.store.change_undo(change);
        let refused = get(&mut reader, 300).unwrap_err();
        assert!(matches!(refused.cause, Cause::SnapshotGone { .. }), "{name}: {refused}");
    }
}

#[test]
fn a_page_that_no_later_commit_changed_needs_no_undo_data() {
    let stand = Stand::new();
    let mut writer = stand.file();
    let mut content = vec![1; PAGES as usize - 1];
    commit(&mut writer, 1, &content).unwrap();
    let mut reader = File::on(stand.process(SIZE as u64), false);
    begin(&mut reader).unwrap();
    content[100..].fill(2);
    commit(&mut writer, 2, &content).unwrap();
    stand.store.change_undo(|_, _| false);
    assert_eq!(get(&mut reader, 50).unwrap(), page(1));
    // Here pages ahead are asked for too, and those can't be taken back.
    for number in 51..=101 {
        assert_eq!(get(&mut reader, number).unwrap(), page(1), "page {number}");
    }
    assert!(matches!(get(&mut reader, 102).unwrap_err().cause, Cause::SnapshotGone { .. }));
}

#[test]
fn pages_that_were_removed_and_added_again_come_back() {
    let stand = Stand::new();
    let mut writer = stand.file();
    let all = |byte: u8, pages: u32| vec![byte; pages as usize - 1];
    commit(&mut writer, 1, &all(1, PAGES)).unwrap();
    let mut reader = File::on(stand.process(SIZE as u64), false);
    begin(&mut reader).unwrap();
    begin_writing(&mut writer).unwrap();
    put(&mut writer, 1, &page_one(2, 10, SIZE as u32));
    writer.truncate(10 * SIZE as u64).unwrap();
    writer.sync(None, Files::None).unwrap();
    writer.unlock(Level::None).unwrap();
    commit(&mut writer, 3, &all(3, PAGES)).unwrap();
    commit(&mut writer, 4, &all(4, PAGES)).unwrap();
    assert_eq!(get(&mut reader, 300).unwrap(), page(1));
    let asked = stand.store.undo_asked();
    assert!(asked.iter().all(|asked| asked.version == Version(2)), "later commits say nothing of it: {asked:?}");
    for number in 2..=PAGES {
        assert_eq!(get(&mut reader, number).unwrap(), page(1), "page {number}");
    }
}
