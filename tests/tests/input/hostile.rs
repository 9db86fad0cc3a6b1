//! Servers that answer what no server should: clients fail in good order, and believe nothing that
//! they could know to be wrong. See `tests/src/hostile`.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sqlite_redis_tests::hostile::{Hostile, SCHEMA};
use sqlite_redis_tests::{Server, check_integrity, eventually, number};

/// Far more than a client needs, for a machine that is busy with other things.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Runs a client to its end, which must come.
fn client(mode: &str, url: &str, seed: u64) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hostile_client"))
        .args([mode, url, &seed.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + WATCHDOG;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("seed {seed}: it hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.unwrap().read_to_end(&mut stdout).unwrap();
    child.stderr.unwrap().read_to_end(&mut stderr).unwrap();
    let output = Output { status, stdout, stderr };
    assert!(status.success(), "seed {seed}: {status}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Seeds to run: few unless `HOSTILE_SEEDS` says how many, or which as `FIRST..LAST`.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let Ok(wanted) = std::env::var("HOSTILE_SEEDS") else { return 0..few };
    let number = |text: &str| text.parse().expect("HOSTILE_SEEDS is a number or a range");
    match wanted.split_once("..") {
        Some((first, last)) => number(first)..number(last),
        None => 0..number(&wanted),
    }
}

#[test]
fn a_server_that_makes_everything_up_does_no_harm_to_its_client() {
    let mut answers = 0;
    for seed in seeds(24) {
        let server = Hostile::alone(seed);
        client("alone", &server.url(), seed);
        answers += server.spoilt();
    }
    assert!(answers > 100, "only {answers} answers were wanted");
}

#[test]
fn what_is_read_through_spoilt_replies_is_right_and_what_is_written_too() {
    let mut spoilt = 0;
    for seed in seeds(6) {
        let server = Server::start();
        server.open("shop").execute_batch(SCHEMA).unwrap();
        let between = Hostile::before(&server, seed, 4);
        let output = client("through", &between.url(), seed);
        spoilt += between.spoilt();
        drop(between);
        let possible: Vec<i64> =
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(|stamp| stamp.parse().unwrap()).collect();
        let db = server.open("shop");
        let stamp = number(&db, "SELECT max(stamp) FROM t");
        assert!(possible.contains(&stamp), "seed {seed}: {stamp} is none of {possible:?}");
        assert_eq!(number(&db, "SELECT min(stamp) FROM t"), stamp, "seed {seed}");
        check_integrity(&db);
        eventually("the last lease ends", || !server.is_leased("shop"));
        server.check_stored("shop");
    }
    assert!(spoilt > 20, "only {spoilt} replies were spoilt");
}
