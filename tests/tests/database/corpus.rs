//! Replays each file of the fuzzers' corpus (`tests/fuzz/corpus`) through its target.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sqlite_redis::fuzzing::TARGETS;

#[test]
fn the_corpus_holds_in_every_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).exists(), "no fuzz target {name}");
        let mut files = 0;
        for file in std::fs::read_dir(fuzz.join("corpus").join(name)).unwrap() {
            let path = file.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            if catch_unwind(AssertUnwindSafe(|| target(&data))).is_err() {
                failed.push(path);
            }
            files += 1;
        }
        assert!(files >= 5, "the corpus of {name} has {files} files");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
