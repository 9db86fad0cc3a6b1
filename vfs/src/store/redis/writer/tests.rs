//! Something happens at each named place of a write, on a real server. Whatever it is, a commit
//! that was reported as done is there once, one reported as failed is not, and all goes on.

use std::time::Duration;

use rusqlite::Connection;
use sqlite_redis_tests::{Server, eventually};

use crate::model::error::Cause;
use crate::process::fault::{Point, hooked};
use crate::{Error, Options};

const POINTS: [Point; 9] = [
    Point::BeforeLease,
    Point::AfterLease,
    Point::Staged,
    Point::BeforeExec,
    Point::AfterExec,
    Point::BeforeResolve,
    Point::BeforePromote,
    Point::BeforeRelease,
    Point::AfterRelease,
];

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The connection is lost.
    Lost,
    /// The code panics.
    Panic,
    /// The lease ends and another client commits.
    Overtaken,
    /// The server closes all connections.
    ClientsKilled,
    /// The server forgets its scripts.
    ScriptsFlushed,
    /// The server forgets everything.
    Flushed,
}

const EVENTS: [Event; 6] =
    [Event::Lost, Event::Panic, Event::Overtaken, Event::ClientsKilled, Event::ScriptsFlushed, Event::Flushed];

struct Stand {
    server: Server,
    name: String,
    db: Connection,
    /// The setting: at 0 each commit is staged.
    stage_bytes: u64,
    /// The setting: at 0 no lease lingers, else all do.
    linger: Duration,
}

const LARGE: u64 = 32 << 20;
const NEVER: Duration = Duration::ZERO;
const ALWAYS: Duration = Duration::from_secs(60);

impl Stand {
    fn new(server: Server, stage_bytes: u64, linger: Duration) -> Self {
        let db = Connection::open_in_memory().unwrap();
        let mut stand = Stand { db, server, name: String::new(), stage_bytes, linger };
        stand.begin_anew("first");
        stand
    }

    fn options(&self) -> Options {
        Options::new(&self.name)
            .server(self.server.url())
            .stage_bytes(self.stage_bytes)
            .linger(self.linger)
            .lease(Duration::from_millis(300))
            .timeout(Duration::from_secs(2))
    }

    fn begin_anew(&mut self, name: &str) {
        self.name = name.to_owned();
        self.db = self.options().open().unwrap();
        self.db.busy_timeout(Duration::from_secs(10)).unwrap();
        // Pages that later commits don't change.
        let ballast = "CREATE TABLE ballast AS SELECT zeroblob(20000)";
        self.db.execute_batch(ballast).unwrap();
        self.db.execute_batch("CREATE TABLE t (x INTEGER PRIMARY KEY); INSERT INTO t VALUES (0)").unwrap();
    }

    /// Lets it happen once, at this place.
    fn arm(&self, point: Point, event: Event) {
        let (socket, name) = (self.server.socket(), self.name.clone());
        let rival = self.options().log_commits(9999);
        let mut armed = true;
        // Nobody asks what became of a commit unless its reply was lost before.
        let mut lose = point == Point::BeforeResolve;
        hooked::set(move |at| {
            if lose && at == Point::AfterExec {
                lose = false;
                return Err(Cause::ConnectionLost("on purpose".into()).into());
            }
            if at != point || !std::mem::take(&mut armed) {
                return Ok(());
            }
            let client = redis::Client::open(format!("unix://{}", socket.display())).unwrap();
            let mut redis = client.get_connection().unwrap();
            match event {
                Event::Lost => return Err(Cause::ConnectionLost("on purpose".into()).into()),
                Event::Panic => panic!("on purpose, at {at:?}"),
                Event::Overtaken => {
                    redis::cmd("DEL").arg(format!("sqlite:{{{name}}}:lock")).exec(&mut redis).unwrap();
                    let rival = rival.open().unwrap();
                    rival.execute("INSERT INTO t SELECT min(x) - 1 FROM t", []).unwrap();
                }
                Event::ClientsKilled => redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec(&mut redis).unwrap(),
                Event::ScriptsFlushed => redis::cmd("SCRIPT").arg("FLUSH").exec(&mut redis).unwrap(),
                Event::Flushed => redis::cmd("FLUSHALL").exec(&mut redis).unwrap(),
            }
            Ok(())
        });
    }

    /// Whether the row is there, as a process sees it that begins now.
    fn has(&self, x: i64) -> bool {
        let fresh = self.options().log_commits(8888).open().unwrap();
        let ok: String = fresh.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(ok, "ok");
        fresh.query_row("SELECT count(*) FROM t WHERE x = ?1", [x], |row| row.get::<_, i64>(0)).unwrap() == 1
    }
}

#[test]
fn whatever_happens_anywhere_in_a_write_it_is_done_once_or_not_and_reported_so() {
    anything_anywhere(Stand::new(Server::start(), LARGE, NEVER));
}

#[test]
fn whatever_happens_anywhere_where_leases_linger_a_write_is_done_once_or_not_and_reported_so() {
    anything_anywhere(Stand::new(Server::start(), LARGE, ALWAYS));
}

#[test]
fn whatever_happens_anywhere_in_a_staged_write_it_is_done_once_or_not_and_reported_so() {
    anything_anywhere(Stand::new(Server::start(), 0, NEVER));
}

fn anything_anywhere(mut stand: Stand) {
    let mut x = 0;
    for point in POINTS {
        for event in EVENTS {
            for sql in ["INSERT INTO t VALUES (?1)", "rolled back"] {
                x += 1;
                stand.arm(point, event);
                crate::forget_last_failure();
                let outcome = if sql == "rolled back" {
                    let begun = stand.db.execute_batch("BEGIN IMMEDIATE");
                    let rolled_back = begun.and_then(|()| stand.db.execute_batch("ROLLBACK"));
                    rolled_back.map(|()| false)
                } else {
                    stand.db.execute(sql, [x]).map(|_| true)
                };
                hooked::clear();
                let at = format!("{event:?} at {point:?}, {sql}: {outcome:?}, {:?}", crate::last_failure());
                if event == Event::Flushed {
                    stand.begin_anew(&format!("after{x}"));
                    continue;
                }
                match &outcome {
                    Ok(there) => assert_eq!(stand.has(x), *there, "{at}"),
                    Err(_) if outcome_unknown(crate::last_failure()) => {}
                    Err(_) => assert!(!stand.has(x), "{at}"),
                }
                // The connection goes on, and nobody is kept waiting for longer than the lease.
                if !stand.db.is_autocommit() {
                    stand.db.execute_batch("ROLLBACK").unwrap_or_else(|error| panic!("{at}: {error}"));
                }
                x += 1;
                let mut then = stand.db.execute("INSERT INTO t VALUES (?1)", [x]);
                if event == Event::Overtaken && stand.linger == ALWAYS && then.is_err() {
                    // A lease that lingered was taken away; that is noticed by the commit.
                    assert!(!stand.has(x), "{at}");
                    then = stand.db.execute("INSERT INTO t VALUES (?1)", [x]);
                }
                then.unwrap_or_else(|error| panic!("{at}: then {error}"));
                assert!(stand.has(x), "{at}");
            }
        }
    }
    let name = stand.name.clone();
    eventually("the last lease ends", || !stand.server.is_leased(&name));
    stand.server.check_stored(&name);
}

#[test]
fn gathered_pages_that_someone_removes_refuse_the_commit() {
    let stand = Stand::new(Server::start(), 0, NEVER);
    for (x, point) in [(1, Point::Staged), (2, Point::BeforeExec)] {
        let socket = stand.server.socket();
        hooked::set(move |at| {
            if at == point {
                let client = redis::Client::open(format!("unix://{}", socket.display())).unwrap();
                let mut redis = client.get_connection().unwrap();
                let gathered: Vec<String> = redis::cmd("KEYS").arg("*:import:*").query(&mut redis).unwrap();
                redis::cmd("DEL").arg(gathered).exec(&mut redis).unwrap();
            }
            Ok(())
        });
        let outcome = stand.db.execute("INSERT INTO t VALUES (?1)", [x]);
        hooked::clear();
        assert!(outcome.is_err(), "at {point:?}");
        assert!(!stand.has(x));
        stand.db.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
        assert!(stand.has(x));
    }
    stand.server.check_stored(&stand.name);
}

/// Reported as unknown. After a panic nothing else can be said either.
fn outcome_unknown(error: Option<Error>) -> bool {
    matches!(error.map(|error| error.cause), Some(Cause::OutcomeUnknown { .. } | Cause::Internal(_)))
}
