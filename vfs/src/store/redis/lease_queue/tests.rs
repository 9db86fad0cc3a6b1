//! Who holds the lease after whom, on a real server.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sqlite_redis_tests::{Server as TestServer, eventually};

use super::*;
use crate::Options;
use crate::config::Wait;
use crate::model::log_entry::{Commit, Undo};
use crate::model::page::PageNo;
use crate::model::version::CommitId;
use crate::store::data::{After, Bid, Ending};
use crate::store::redis::base::HANDOVER;
use crate::store::{Leased, Store, Writer};
use crate::wire::server::Server;

const LIFE: Duration = Duration::from_secs(60);
const LOCK: &str = "sqlite:{shop}:lock";
/// Longer than any of these tests waits.
const PATIENT: Duration = Duration::from_secs(30);

fn store(server: &TestServer) -> RedisStore {
    let config = Options::new("shop").server(server.url()).timeout(PATIENT * 4).config().unwrap();
    RedisStore::new(Server::new(&config, "sqlite:{shop}", &Arc::default()).into(), &config, "shop")
}

fn bid(token: &str, patience: Duration) -> Bid<'_> {
    Bid { token, life: LIFE, patience, known: Version(0), pages: &[] }
}

fn held(leased: Leased) -> Box<dyn Writer> {
    match leased {
        Leased::Held(held) => held.writer,
        Leased::ByAnother(holder) => panic!("held by {holder}"),
    }
}

fn waiting(server: &TestServer) -> usize {
    server.redis_cli(&["LLEN", "sqlite:{shop}:queue"]).parse().unwrap()
}

fn is_free(server: &TestServer) -> bool {
    server.redis_cli(&["EXISTS", "sqlite:{shop}:lock"]) == "0"
}

#[test]
fn the_lease_is_passed_on_in_order_of_arrival() {
    let server = TestServer::start();
    let mut first = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
    let (order, turns) = mpsc::channel();
    let threads: Vec<_> = ["second", "third", "fourth"]
        .into_iter()
        .enumerate()
        .map(|(n, token)| {
            let (store, order) = (store(&server), order.clone());
            let thread = thread::spawn(move || {
                let mut writer = held(store.lease(bid(token, PATIENT)).unwrap());
                order.send(token).unwrap();
                writer.release().unwrap();
            });
            eventually("it stands in line", || waiting(&server) == n + 1);
            thread
        })
        .collect();
    assert!(turns.try_recv().is_err(), "the first still holds it");
    first.release().unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(turns.try_iter().collect::<Vec<_>>(), ["second", "third", "fourth"]);
    assert_eq!(waiting(&server), 0);
    assert!(is_free(&server), "nobody is left to pass it on to");
}

#[test]
fn a_lease_that_nobody_holds_any_more_goes_to_one_who_waits() {
    let server = TestServer::start();
    let mut first = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
    // Someone stood in line and died.
    server.redis_cli(&["RPUSH", "sqlite:{shop}:queue", "host/7/gone"]);
    first.release().unwrap();
    let passed = server.redis_cli(&["GET", "sqlite:{shop}:lock"]);
    assert!(passed.starts_with("host/7/") && passed.len() == 23, "{passed}");
    let Leased::Held(mut next) = store(&server).lease(bid("next", PATIENT)).unwrap() else { panic!("not held") };
    assert_eq!((next.token, next.life), (passed.clone(), HANDOVER));
    assert_eq!(server.redis_cli(&["GET", "sqlite:{shop}:lock"]), passed);
    assert_eq!(waiting(&server), 0);
    next.writer.release().unwrap();
    assert!(is_free(&server), "and not for ever");
}

#[test]
fn who_gives_up_leaves_the_queue() {
    let server = TestServer::start();
    let _first = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
    match store(&server).lease(bid("second", Duration::from_millis(5))).unwrap() {
        Leased::ByAnother(holder) => assert_eq!(holder, "first"),
        Leased::Held(..) => panic!("two hold it"),
    }
    assert_eq!(waiting(&server), 0);
}

#[test]
fn a_lease_passed_on_to_one_that_died_ends_by_itself() {
    let server = TestServer::start();
    let mut first = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
    server.redis_cli(&["RPUSH", "sqlite:{shop}:queue", "gone"]);
    first.release().unwrap();
    assert_ne!(server.redis_cli(&["LPOP", "sqlite:{shop}:turn"]), "", "it was told, and died");
    eventually("the lease is free", || is_free(&server));
    assert!(matches!(store(&server).lease(bid("next", Duration::ZERO)).unwrap(), Leased::Held(..)));
}

/// Milliseconds that a key has left. Starting a program to ask would take some of them.
fn left(connection: &mut redis::Connection, key: &str) -> u64 {
    redis::cmd("PTTL").arg(key).query(connection).unwrap()
}

#[test]
fn a_lease_that_is_handed_over_has_its_whole_life_until_the_next_holder_can_renew_it() {
    let server = TestServer::start();
    let mut connection = server.redis();
    for (lease, least) in [(Duration::from_secs(60), 40_000), (Duration::from_millis(100), 500)] {
        let config = Options::new("shop").server(server.url()).timeout(PATIENT * 4).lease(lease).config().unwrap();
        let store = RedisStore::new(Server::new(&config, "sqlite:{shop}", &Arc::default()).into(), &config, "shop");
        let mut first = held(store.lease(bid("first", Duration::ZERO)).unwrap());
        server.redis_cli(&["RPUSH", "sqlite:{shop}:queue", "host/7/waits"]);
        first.release().unwrap();
        let (lock, turn) = (left(&mut connection, "sqlite:{shop}:lock"), left(&mut connection, "sqlite:{shop}:turn"));
        assert!(lock > least && turn > least && lock <= 60_000, "{lock} {turn}");
        server.redis_cli(&["DEL", "sqlite:{shop}:lock", "sqlite:{shop}:turn"]);

        // Nobody holds it: a waiter hands it over to itself.
        store.contended.store(true, Relaxed);
        let mut next = held(store.lease(bid("next", PATIENT)).unwrap());
        assert!(left(&mut connection, "sqlite:{shop}:lock") > least);
        next.release().unwrap();
    }
}

#[test]
fn what_comes_with_a_turn_is_bounded_by_the_size_of_log_entries() {
    let server = TestServer::start();
    let id = "00000000000000ab";
    for version in 2..=40 {
        let version = format!("{version}-0");
        let entry = ["commit", id, "base", id, "page_count", "1", "undo", ""];
        server.redis_cli(&[&["XADD", "sqlite:{shop}:log", &version], &entry[..]].concat());
    }
    let store = store(&server);
    let entries = || {
        store.contended.store(true, Relaxed);
        let bid = Bid { known: Version(1), ..bid("waits", PATIENT) };
        let Leased::Held(mut held) = store.lease(bid).unwrap() else { panic!("not held") };
        held.writer.release().unwrap();
        held.news.map(|news| news.entries.len())
    };
    assert_eq!(entries(), Some(16), "as long as their size is not known");
    assert_eq!(entries(), Some(39), "they are small");
    let large = Value::Array(vec![Value::BulkString(vec![0; 50_000])]);
    store.entry_size.learn(&large);
    assert_eq!(entries(), Some(2));
}

#[test]
fn where_it_may_not_be_passed_on_the_lease_is_given_back() {
    let server = TestServer::start();
    for forbidden in ["-lpop", "-lpush"] {
        server.redis_cli(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all", forbidden]);
        let url = format!("{}?user=ann&pass=pw", server.url());
        let config = Options::new("shop").server(url).timeout(PATIENT).config().unwrap();
        let store = RedisStore::new(Server::new(&config, "sqlite:{shop}", &Arc::default()).into(), &config, "shop");
        let mut first = held(store.lease(bid("first", Duration::ZERO)).unwrap());
        server.redis_cli(&["RPUSH", "sqlite:{shop}:queue", "next"]);
        first.release().unwrap();
        assert!(is_free(&server), "{forbidden}");
    }
}

#[test]
fn who_had_to_wait_stands_in_line_at_once_until_nobody_is_in_the_way() {
    let server = TestServer::start();
    let mut first = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
    let waiter = store(&server);
    let turn = thread::spawn({
        let waiter = waiter.clone();
        move || held(waiter.lease(bid("second", PATIENT)).unwrap()).release().unwrap()
    });
    eventually("it stands in line", || waiting(&server) == 1);
    first.release().unwrap();
    turn.join().unwrap();
    let trips = |asks: &dyn Fn()| {
        let before = waiter.server.stats().round_trips;
        asks();
        waiter.server.stats().round_trips - before
    };
    let ask = |token: &str| held(waiter.lease(bid(token, PATIENT)).unwrap()).release().unwrap();
    assert_eq!(trips(&|| ask("third")), 2, "in line, and to give it back");
    assert_eq!(trips(&|| ask("fourth")), 2, "nobody was in the way the last time");
    assert_eq!((waiting(&server), is_free(&server)), (0, true));
}

#[test]
fn a_turn_that_was_passed_on_too_long_ago_is_none() {
    let server = TestServer::start();
    let _first = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
    server.redis_cli(&["RPUSH", "sqlite:{shop}:turn", "host/7/ended"]);
    match store(&server).lease(bid("second", PATIENT)).unwrap() {
        Leased::ByAnother(holder) => assert_eq!(holder, "first"),
        Leased::Held(_) => panic!("two hold it"),
    }
    assert_eq!(waiting(&server), 0);
}

/// Commits a page, and tells whether the lease lingers.
fn commit(
    writer: &mut dyn Writer,
    base: Snapshot,
    snapshot: Snapshot,
    lease: After,
) -> crate::model::error::Result<bool> {
    let page = [7; 512];
    let pages = vec![(PageNo::FIRST, page.as_slice())];
    let commit = Commit { base, snapshot, pages, undo: &Undo::Barrier, shrinks: false };
    let wait = Wait { replicas: 0, disk: false, time: LIFE };
    writer.commit(&commit, None, Ending { lease, wait }).map(|lingers| lingers.is_some())
}

fn at(version: u64) -> Snapshot {
    Snapshot { version: Version(version), commit: CommitId(version), page_size: 512, page_count: 1 }
}

#[test]
fn a_commit_that_was_refused_is_not_made_when_it_is_tried_again() {
    let server = TestServer::start();
    let mut writer = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
    let mut commit = |base, snapshot| commit(&mut *writer, base, snapshot, After::Linger(Some(LIFE)));
    assert!(commit(Snapshot::EMPTY, at(1)).unwrap());
    server.redis_cli(&["DEL", "sqlite:{shop}"]);
    // The first try has watched the hash anew, as it is without it.
    for _ in 0..3 {
        assert!(commit(at(1), at(2)).is_err());
        assert_eq!(server.redis_cli(&["EXISTS", "sqlite:{shop}"]), "0");
    }
}

/// Lets the lease of a writer end, and gives it to another writer, who has 30 s left while a third waits.
fn lose_to_another(server: &TestServer) -> Box<dyn Writer> {
    server.redis_cli(&["DEL", LOCK]);
    let another = held(store(server).lease(bid("another", Duration::ZERO)).unwrap());
    server.redis_cli(&["PEXPIRE", LOCK, "30000"]);
    server.redis_cli(&["RPUSH", "sqlite:{shop}:queue", "waits"]);
    another
}

#[track_caller]
fn assert_untouched(server: &TestServer) {
    assert_eq!(server.redis_cli(&["GET", LOCK]), "another");
    assert!(left(&mut server.redis(), LOCK) <= 30_000);
    assert_eq!(waiting(server), 1);
}

#[test]
fn only_the_holder_renews_a_lease() {
    let server = TestServer::start();
    let _first = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
    let _another = lose_to_another(&server);
    assert!(!store(&server).renew("first", LIFE).unwrap());
    assert_untouched(&server);
    assert!(store(&server).renew("another", LIFE).unwrap());
    assert!(left(&mut server.redis(), LOCK) > 30_000);
}

#[test]
fn only_the_holder_releases_a_lease() {
    let server = TestServer::start();
    let mut first = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
    let mut another = lose_to_another(&server);
    first.release().unwrap();
    assert_untouched(&server);
    another.release().unwrap();
    assert_ne!(server.redis_cli(&["GET", LOCK]), "another");
    assert_eq!(waiting(&server), 0, "handed over");
}

#[test]
fn a_commit_releases_or_keeps_no_lease_of_another() {
    for lease in [After::Release, After::Linger(Some(LIFE))] {
        let server = TestServer::start();
        let mut first = held(store(&server).lease(bid("first", Duration::ZERO)).unwrap());
        let _another = lose_to_another(&server);
        // Nobody else has committed, so this commit is done.
        assert!(!commit(&mut *first, Snapshot::EMPTY, at(1), lease).unwrap());
        assert_untouched(&server);
        drop(first);
        assert_untouched(&server);
    }
}
