//! Transactions over two databases on real servers, in which something happens between their commits.

use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis_tests::Server;

use crate::process::fault::{Point, hooked};
use crate::{Cause, Error, Options};

/// Two databases that one connection has attached, on one server or on two.
struct Stand {
    db: Connection,
    one: Server,
    two: Option<Server>,
}

const FIRST: &str = "first";
const SECOND: &str = "second";

impl Stand {
    fn new(servers: usize, journal_mode: &str) -> Self {
        let (one, two) = (Server::start(), (servers == 2).then(Server::start));
        let db = options(&one, FIRST).open().unwrap();
        let stand = Stand { db, one, two };
        stand.db.execute("ATTACH ?1 AS other", [options(stand.second_server(), SECOND).uri()]).unwrap();
        let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) \
                    INSERT INTO junk SELECT randomblob(3000) FROM n";
        for schema in ["main", "other"] {
            stand.db.execute_batch(&format!("PRAGMA {schema}.journal_mode={journal_mode}")).unwrap();
        }
        stand.db.execute_batch("PRAGMA auto_vacuum=FULL; CREATE TABLE junk (b); CREATE TABLE t (x UNIQUE)").unwrap();
        stand.db.execute_batch(rows).unwrap();
        stand.db.execute_batch("CREATE TABLE other.u (x UNIQUE)").unwrap();
        stand
    }

    fn second_server(&self) -> &Server {
        self.two.as_ref().unwrap_or(&self.one)
    }

    /// A transaction that makes the first database smaller, with a row in each.
    fn transaction(&self, x: i64) -> rusqlite::Result<()> {
        let first = format!("BEGIN; INSERT INTO t VALUES ({x}); DELETE FROM junk WHERE rowid % 10 = {x} % 10");
        self.db.execute_batch(&first)?;
        let outcome = self.db.execute_batch(&format!("INSERT INTO u VALUES ({x}); COMMIT"));
        if !self.db.is_autocommit() {
            self.db.execute_batch("ROLLBACK").unwrap();
        }
        outcome
    }

    /// Rows of both with this value, as other processes see them; both are whole.
    fn rows(&self, x: i64) -> (i64, i64) {
        let count = |server: &Server, name: &str, sql: String| {
            let db = options(server, name).cache_size(4 << 20).open().unwrap();
            let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok", "{name}");
            server.check_stored(name);
            db.query_row(&sql, [], |row| row.get(0)).unwrap()
        };
        let first = count(&self.one, FIRST, format!("SELECT count(*) FROM t WHERE x = {x}"));
        (first, count(self.second_server(), SECOND, format!("SELECT count(*) FROM u WHERE x = {x}")))
    }

    fn junk(&self) -> i64 {
        options(&self.one, FIRST).open().unwrap().query_row("SELECT count(*) FROM junk", [], |row| row.get(0)).unwrap()
    }

    /// Lets something happen when this point is passed for the `n`th time.
    fn at(&self, point: Point, n: usize, mut event: impl FnMut() -> Result<(), Error> + 'static) {
        let mut passed = 0;
        hooked::set(move |at| {
            passed += usize::from(at == point);
            if at == point && passed == n { event() } else { Ok(()) }
        });
    }

    /// Another client commits to the second database, whose lease has ended.
    fn overtake_second(&self) -> impl FnMut() -> Result<(), Error> + use<> {
        let (socket, rival) = (self.second_server().socket(), options(self.second_server(), SECOND));
        move || {
            let client = redis::Client::open(format!("unix://{}", socket.display())).unwrap();
            let mut redis = client.get_connection().unwrap();
            redis::cmd("DEL").arg(format!("sqlite:{{{SECOND}}}:lock")).exec(&mut redis).unwrap();
            rival.clone().open().unwrap().execute("INSERT INTO u SELECT coalesce(min(x), 0) - 1 FROM u", []).unwrap();
            Ok(())
        }
    }
}

fn options(server: &Server, name: &str) -> Options {
    Options::new(name).server(server.url()).lease(Duration::from_millis(500)).timeout(Duration::from_secs(2))
}

fn lost() -> Result<(), Error> {
    Err(Cause::ConnectionLost("on purpose".into()).into())
}

const MODES: [&str; 4] = ["delete", "persist", "memory", "off"];

#[test]
fn databases_of_one_server_commit_together_or_not_at_all() {
    for mode in MODES {
        let stand = Stand::new(1, mode);
        stand.transaction(1).unwrap();
        assert_eq!(stand.rows(1), (1, 1), "{mode}");
        let before = stand.junk();
        stand.at(Point::BeforeExec, 1, stand.overtake_second());
        let refused = stand.transaction(2);
        hooked::clear();
        assert!(refused.is_err(), "{mode}");
        assert_eq!((stand.rows(2), stand.junk()), ((0, 0), before), "{mode}");
        if mode != "off" {
            stand.transaction(3).unwrap();
            assert_eq!(stand.rows(3), (1, 1), "{mode}");
        }
    }
}

#[test]
fn a_lost_reply_to_a_joint_commit_is_looked_up() {
    let stand = Stand::new(1, "delete");
    for (x, point) in [(1, Point::AfterExec), (2, Point::BeforeExec), (3, Point::BeforeLease)] {
        stand.at(point, 1, lost);
        let outcome = stand.transaction(x);
        hooked::clear();
        let there = i64::from(outcome.is_ok());
        assert_eq!(stand.rows(x), (there, there), "{point:?}");
        assert!(point != Point::AfterExec || outcome.is_ok(), "{outcome:?}");
    }
}

#[test]
fn a_joint_commit_whose_reply_is_lost_is_refused_when_another_took_its_place() {
    let stand = Stand::new(1, "delete");
    let mut overtake = stand.overtake_second();
    stand.at(Point::BeforeExec, 1, move || {
        overtake()?;
        lost()
    });
    assert!(stand.transaction(1).is_err());
    hooked::clear();
    assert_eq!(stand.rows(1), (0, 0));
}

#[test]
fn what_one_server_has_committed_is_taken_back_when_another_refuses() {
    for mode in MODES {
        let stand = Stand::new(2, mode);
        stand.transaction(1).unwrap();
        assert_eq!(stand.rows(1), (1, 1), "{mode}");
        let before = stand.junk();
        // The second server has agreed, and refuses all the same.
        stand.at(Point::BeforeExec, 2, stand.overtake_second());
        let refused = stand.transaction(2);
        hooked::clear();
        assert!(refused.is_err(), "{mode}");
        assert!(crate::last_failure().is_some_and(|error| matches!(error.cause, Cause::Stale { .. })), "{mode}");
        assert_eq!((stand.rows(2), stand.junk()), ((0, 0), before), "{mode}");
    }
}

/// Undo data of more than 4096 bytes is not in the log entry.
#[test]
fn a_commit_whose_undo_data_is_in_pieces_is_taken_back_page_by_page() {
    let stand = Stand::new(2, "delete");
    let stored = || {
        let cli = |arguments: &[&str]| stand.one.redis_cli(arguments);
        let count: u64 = cli(&["HGET", "sqlite:{first}", "page_count"]).parse().unwrap();
        // The file change counter and the version that follows it are in page 1.
        let pages = (2..=count).map(|page| cli(&["HGET", "sqlite:{first}", &format!("page{page}")]));
        (count, pages.collect::<Vec<_>>())
    };
    let pieces = || -> u64 { stand.one.redis_cli(&["XLEN", "sqlite:{first}:undo"]).parse().unwrap() };
    let (before, pieces_before) = (stored(), pieces());
    stand.at(Point::BeforeExec, 2, stand.overtake_second());
    assert!(stand.transaction(3).is_err());
    hooked::clear();
    assert!(pieces() > pieces_before, "the commit that was taken back has left its undo data there");
    assert!(stored() == before, "a page is not as it was");
    assert_eq!(stand.rows(3), (0, 0));
}

#[test]
fn a_server_that_refuses_before_the_first_has_committed_leaves_both_as_they_were() {
    let stand = Stand::new(2, "delete");
    let versions = |stand: &Stand| stand.one.redis_cli(&["HGET", "sqlite:{first}", "version"]);
    let before = versions(&stand);
    // Each database takes its lease, then each server is asked for the versions.
    stand.at(Point::BeforeLease, 4, stand.overtake_second());
    assert!(stand.transaction(1).is_err());
    hooked::clear();
    assert_eq!((stand.rows(1), versions(&stand)), ((0, 0), before), "nothing had to be taken back");
}

#[test]
fn a_part_that_can_not_be_taken_back_is_named() {
    let stand = Stand::new(2, "delete");
    let (mut overtake, socket) = (stand.overtake_second(), stand.one.socket());
    let mut full = false;
    stand.at(Point::BeforeExec, 2, move || {
        overtake()?;
        if !std::mem::replace(&mut full, true) {
            let client = redis::Client::open(format!("unix://{}", socket.display())).unwrap();
            let mut redis = client.get_connection().unwrap();
            redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).exec(&mut redis).unwrap();
        }
        Ok(())
    });
    assert!(stand.transaction(1).is_err());
    hooked::clear();
    let error = crate::last_failure().unwrap();
    stand.one.redis_cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(stand.rows(1), (1, 0));
    assert!(matches!(error.cause, Cause::HalfCommitted { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("`first`") && message.contains("`second`"), "{message}");
    assert!(!message.contains("nothing was written; raise"), "{message}");
}
