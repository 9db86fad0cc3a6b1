//! Readers and writers at random, against what each reader must see.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A process commits these pages, as many as it likes.
    Commit(usize, Vec<u8>),
    /// A reader begins, or begins anew.
    Begin(usize),
    /// A reader reads a page.
    Read(usize, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..2, prop::collection::vec(0u8..6, 1..9)).prop_map(|(who, pages)| Step::Commit(who, pages)),
        (0usize..4).prop_map(Step::Begin),
        (0usize..4, 1u32..12).prop_map(|(who, page)| Step::Read(who, page)),
        (0usize..4, 1u32..12).prop_map(|(who, page)| Step::Read(who, page)),
    ]
}

proptest! {
    /// Invariants 1 and 4: whatever is committed meanwhile, through whichever cache, a reader
    /// sees the pages of one version.
    #[test]
    fn every_reader_sees_exactly_one_version(
        cache_pages in 0u64..12,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let stand = Stand::new();
        let processes = [stand.process(cache_pages * SIZE as u64), stand.process(1 << 20)];
        let mut writers = processes.each_ref().map(|process| File::on(process.clone(), false));
        let mut readers = [0, 0, 1, 1].map(|n: usize| (File::on(processes[n].clone(), false), Vec::new()));
        let mut counter = 0;
        let mut now: Vec<Vec<u8>> = Vec::new();
        for step in steps {
            match step {
                Step::Commit(who, pages) => {
                    counter += 1;
                    commit(&mut writers[who], counter, &pages).unwrap();
                    now = vec![page_one(counter, pages.len() as u32 + 1, SIZE as u32)];
                    now.extend(pages.into_iter().map(page));
                }
                Step::Begin(who) => {
                    let (file, seen) = &mut readers[who];
                    file.unlock(Level::None).unwrap();
                    begin(file).unwrap();
                    *seen = now.clone();
                }
                Step::Read(who, number) => {
                    let (file, seen) = &mut readers[who];
                    if file.level() == Level::Shared {
                        let expected = seen.get(number as usize - 1).cloned().unwrap_or_else(|| page(0));
                        let mut found = get(file, number).unwrap();
                        if number == 1 {
                            found = without_cookie(found);
                        }
                        prop_assert_eq!(found, expected, "page {}", number);
                        prop_assert_eq!(file.size().unwrap(), (seen.len() * SIZE) as u64);
                    }
                }
            }
        }
    }
}
