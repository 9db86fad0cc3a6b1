//! A 20-second run of the soak. `scripts/soak SECONDS SEED` runs it longer.

use std::time::Duration;

use sqlite_redis_tests::soak::faults::Fault;
use sqlite_redis_tests::soak::run::{Plan, run};

#[test]
fn no_commit_is_lost_torn_or_repeated_under_faults() {
    let plan =
        Plan { duration: Duration::from_secs(20), seed: 2026, workers: 2, program: env!("CARGO_BIN_EXE_soak").into() };
    let verdict = run(&plan, |_, _| {}).unwrap();
    assert_eq!(verdict.violations, [""; 0], "again with: scripts/soak 20 2026");
    assert_eq!(verdict.faults.len(), Fault::ALL.len(), "{verdict:?}");
    assert!(verdict.acknowledged_by.values().all(|acknowledged| *acknowledged > 0), "{verdict:?}");
}
