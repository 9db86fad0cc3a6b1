//! Levels of consistency, on a primary and replicas in memory that lag and go away at random.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::reading::follower::Listener;
use crate::reading::read_server::Source;

/// A primary, replicas, and what each version held.
struct Servers {
    primary: Arc<MemoryStore>,
    replicas: Vec<Arc<MemoryStore>>,
    versions: BTreeMap<u64, u8>,
}

impl Servers {
    fn new() -> Self {
        let servers = Servers {
            primary: Arc::default(),
            replicas: (0..2).map(|_| Arc::default()).collect(),
            versions: BTreeMap::new(),
        };
        // So that there is something to replicate.
        let mut first = File::on(Database::on(servers.primary.clone(), 1 << 20), false);
        commit(&mut first, 1, &[1, 1, 1]).unwrap();
        for replica in &servers.replicas {
            replica.copy(&servers.primary);
        }
        Servers { versions: BTreeMap::from([(1, 1)]), ..servers }
    }

    /// A connection of a process of its own.
    fn file(&self, level: Consistency) -> File {
        let mut file = File::on(Database::on(self.primary.clone(), 1 << 20), false);
        self.open(&mut file, level);
        file
    }

    fn open(&self, file: &mut File, level: Consistency) {
        let source =
            |(n, store): (usize, &Arc<MemoryStore>)| Arc::new(Source::restless(&format!("replica {n}"), store.clone()));
        let replicas = self.replicas.iter().enumerate().map(source).collect();
        file.session = Session::new(level, Duration::from_millis(1), replicas);
        let opened = file.database.open(false).unwrap();
        file.session.saw(opened.snapshot, opened.epoch);
    }

    /// Commits as an application does that tries again.
    fn write(&mut self, file: &mut File) {
        let next = self.primary.now().version.0 + 1;
        let byte = (next % 250) as u8;
        for _ in 0..10 {
            match commit(file, next as u32, &[byte, byte, byte]) {
                Ok(()) => {
                    self.versions.insert(next, byte);
                    return;
                }
                Err(error) => {
                    assert!(matches!(error.cause, Cause::Stale { .. }), "{error}");
                    file.failed(&error);
                    file.unlock(Level::None).unwrap();
                }
            }
        }
        panic!("a writer starves");
    }

    /// The version that a read transaction sees, whose pages must all be of it.
    fn read(&self, file: &mut File) -> u64 {
        let version = |file: &mut File| -> Result<u64> {
            begin(file)?;
            let version = file.txn.snapshot().unwrap().version.0;
            for number in 2..=4 {
                assert_eq!(get(file, number)?, page(self.versions[&version]), "page {number} of version {version}");
            }
            Ok(version)
        };
        let read = version(file);
        file.unlock(Level::None).unwrap();
        read.unwrap()
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    OwnWrite,
    OtherWrite,
    Read,
    Catch(usize),
    Leave(usize),
    Return(usize),
    /// The follower hears of the primary or a replica.
    Hear(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::OwnWrite),
        3 => Just(Step::OtherWrite),
        6 => Just(Step::Read),
        2 => (0..2usize).prop_map(Step::Catch),
        1 => (0..2usize).prop_map(Step::Leave),
        2 => (0..2usize).prop_map(Step::Return),
        1 => (0..3usize).prop_map(Step::Hear),
    ]
}

/// Goes through the steps with one connection and one that disturbs it; gives each read to `check`
/// with the version that was read or written before.
fn play(level: Consistency, steps: &[Step], mut check: impl FnMut(u64, u64, &Servers)) {
    let mut servers = Servers::new();
    let mut file = servers.file(level);
    let mut other = servers.file(Consistency::Strong);
    // Shares the cache, and has replicas show it versions out of turn.
    let mut beside = File::on(file.database.clone(), false);
    servers.open(&mut beside, Consistency::Snapshot);
    let mut seen = 1;
    for &step in steps {
        match step {
            Step::OwnWrite => {
                servers.write(&mut file);
                seen = servers.primary.now().version.0;
            }
            Step::OtherWrite => servers.write(&mut other),
            Step::Read => {
                let version = servers.read(&mut file);
                check(version, seen, &servers);
                seen = version;
                servers.read(&mut beside);
            }
            Step::Catch(n) => servers.replicas[n].copy(&servers.primary),
            Step::Leave(n) => servers.replicas[n].go_away(true),
            Step::Return(n) => servers.replicas[n].go_away(false),
            Step::Hear(n) => {
                let source = match n {
                    0 => file.database.primary.clone(),
                    n => Arc::new(Source::restless("replica", servers.replicas[n - 1].clone())),
                };
                let (asked, after) = (Instant::now(), file.database.known().0.version);
                if let Ok(heard) = source.store.listen(after, Duration::ZERO) {
                    file.database.heard(&source, asked, &heard).unwrap();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_session_never_goes_back_whatever_its_replicas_do(steps in prop::collection::vec(step(), 1..60)) {
        play(Consistency::Session, &steps, |version, seen, _| assert!(version >= seen, "from {seen} back to {version}"));
    }

    #[test]
    fn strong_reads_are_of_the_newest_version_whatever_replicas_do(steps in prop::collection::vec(step(), 1..60)) {
        play(Consistency::Strong, &steps, |version, _, servers| assert_eq!(version, servers.primary.now().version.0));
    }

    #[test]
    fn bounded_and_snapshot_reads_are_of_one_version_and_writers_go_on(steps in prop::collection::vec(step(), 1..60)) {
        for level in [Consistency::Bounded(Duration::from_secs(60)), Consistency::Snapshot] {
            play(level, &steps, |version, _, servers| assert!(servers.versions.contains_key(&version)));
        }
    }
}

#[test]
fn a_replica_of_another_history_is_not_read() {
    for newer in [0, 1, 3] {
        let mut servers = Servers::new();
        let mut other = servers.file(Consistency::Strong);
        for replica in &servers.replicas {
            replica.replace_history();
        }
        for _ in 0..newer {
            servers.write(&mut other);
        }
        let mut file = servers.file(Consistency::Snapshot);
        assert_eq!(servers.read(&mut file), 1 + newer);
        assert!(file.session.describe(&file.database).ends_with("server=memory"), "the primary was asked");
        // Nor one of which nothing can be told.
        servers.replicas[0].copy(&servers.primary);
        servers.write(&mut other);
        servers.primary.trim();
        let mut file = servers.file(Consistency::Snapshot);
        assert_eq!(servers.read(&mut file), 2 + newer);
    }
}

#[test]
fn a_session_whose_version_was_lost_is_told_so_once() {
    let mut servers = Servers::new();
    let mut file = servers.file(Consistency::Session);
    let mut kept = servers.file(Consistency::Strong);
    servers.write(&mut file);
    let lost = servers.primary.now();
    servers.primary.copy(&servers.replicas[0]);
    file.session.want_newest();
    let error = begin(&mut file).unwrap_err();
    let Cause::SessionLost { seen, found } = error.cause else { panic!("{error}") };
    assert_eq!((seen, found), (lost.version, Version(1)));
    file.unlock(Level::None).unwrap();
    assert_eq!(servers.read(&mut file), 1);
    // Another commit takes the number of the lost one.
    servers.write(&mut file);
    servers.write(&mut kept);
    assert_eq!(servers.read(&mut file), 3);
    servers.primary.copy(&servers.replicas[0]);
    for _ in 0..5 {
        servers.write(&mut kept);
    }
    file.session.want_newest();
    assert!(matches!(begin(&mut file).unwrap_err().cause, Cause::SessionLost { .. }), "a larger number is no proof");
}
