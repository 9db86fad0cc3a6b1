//! `sqlite-redis status`.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::Home;

#[test]
fn status_shows_the_server_and_who_writes() {
    let home = Home::new();
    home.ok(&["shop", "CREATE TABLE t(a); INSERT INTO t VALUES (42)"], "");
    let shown = home.ok(&["status", "shop"], "");
    let lines: Vec<&str> = shown.lines().collect();
    let columns: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(columns, ["SERVER", "VERSION", "BEHIND", "FOR", "ROLE"]);
    let row: Vec<&str> = lines[1].split_whitespace().collect();
    assert!(row[0].starts_with("unix://") && row[1..] == ["2", "-", "-", "primary"], "{shown}");
    assert_eq!(lines[2..], ["lease: free"]);
    let json: serde_json::Value = serde_json::from_str(&home.ok(&["status", "shop", "--json"], "")).unwrap();
    assert_eq!((json["version"].as_u64(), json["role"].as_str()), (Some(2), Some("primary")));
    let missing = home.run(&["status", "none"], "");
    assert!(missing.code == 1 && missing.stderr.contains("there is no database none"), "{missing:?}");
}

#[test]
fn a_watched_status_goes_on_until_it_is_told_to_end() {
    let home = Home::new();
    home.ok(&["shop", "CREATE TABLE t(a)"], "");
    let mut watch = home.command(&["status", "shop", "--watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["version"], 1);
    }
    // Nobody reads any more.
    drop(lines);
    assert!(watch.wait().unwrap().success());
}
