//! Options of the command line and of dot commands: taken as `sqlite3` takes them, or refused. And
//! what is never shown: passwords, and characters that a terminal obeys.

mod common;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Stdio;

use common::{Home, has_redis, skipped, sqlite3};
use nix::pty::openpty;

const SCHEMA: &str = "
CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT, c AS (a + 1));
CREATE TABLE long(a integer, b text not null default (1+(2*3)),   \"c(,d\" blob, -- a comment
  \"e,f\" text, check (b in (1,2)), /* another */ primary key(a,b));
CREATE TABLE 'quoted'(x, y);
CREATE TABLE columns(rowid, y); CREATE TABLE all_taken(rowid, _rowid_, oid);
CREATE TABLE key(i integer primary key desc, y); CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE VIEW v AS SELECT a, b FROM t;
CREATE VIRTUAL TABLE ft USING fts5(q);
CREATE INDEX i1 ON t(b);
INSERT INTO t(b) VALUES ('x' || char(10) || 'y' || char(13)), (NULL);
INSERT INTO quoted(rowid, x, y) VALUES (7, 1, 2), (9, x'00', NULL);
INSERT INTO columns VALUES (1, 2); INSERT INTO all_taken VALUES (1, 2, 3); INSERT INTO key VALUES (5, 6);
INSERT INTO w VALUES ('k', 'v'); INSERT INTO ft VALUES ('hello');
";

#[track_caller]
fn same(args: &[&str], input: &str) {
    let Some(stock) = sqlite3("3.40") else { return };
    let (ours, theirs) = (Home::new(), Home::new());
    let (run, expected) = (ours.run(args, input), stock.run(theirs.dir.path(), args, input));
    assert_eq!((run.stdout, run.code), (expected.stdout, expected.code), "{args:?} {input}\n{}", run.stderr);
}

#[test]
fn dot_commands_take_the_options_of_sqlite3() {
    for command in [
        ".dump --data-only",
        ".dump -data-only t v",
        ".dump --newlines t",
        ".dump --nosys",
        ".dump --preserve-rowids",
        ".dump --preserve-rowids --data-only quoted w",
        ".schema --indent",
        ".schema -indent long",
        ".schema --nosys",
        ".schema [lq]*",
        ".schema main.W",
        ".read '|echo SELECT 5;'",
        ".import '|printf 1,2' --csv n\nSELECT count(*) FROM n;",
        ".mode csv\n.import --skip 1 '|printf \"a,b\\nc,d\\ne,f\\n\"' quoted\n.mode list\nSELECT * FROM quoted;",
        ".import --ascii '|printf \"a\\037b\\036x\\037y\\036\"' n\nSELECT a, b FROM n;",
        ".print -x --y -",
        ".nullvalue -\nSELECT NULL;",
        ".separator -- -\nSELECT 1, 2;",
        ".mode box --wrap 3\nSELECT 'abcdef';",
        ".exit -1",
    ] {
        same(&[":memory:"], &format!("{SCHEMA}{command}\n"));
    }
}

#[test]
fn output_to_files_begins_with_a_byte_order_mark_if_asked_for() {
    let home = Home::new();
    home.ok(&[":memory:"], ".once --bom a.txt\nSELECT 1;\n.output -bom b.txt\nSELECT 2;\n.output\n.once\nSELECT 3;\n");
    assert_eq!(std::fs::read_to_string(home.path("a.txt")).unwrap(), "\u{feff}1\n");
    assert_eq!(std::fs::read_to_string(home.path("b.txt")).unwrap(), "\u{feff}2\n");
}

#[test]
fn every_dot_command_refuses_options_that_it_does_not_have() {
    let home = Home::new();
    // Those whose arguments may begin with a dash.
    let literal = ["exit", "nullvalue", "print", "quit", "separator", "timeout"];
    let help = home.ok(&[":memory:"], ".help\n");
    let commands: Vec<_> = help.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(commands.len() > 25, "{help}");
    for command in commands.iter().filter(|command| !literal.contains(&command.trim_start_matches('.'))) {
        let run = home.run(&[":memory:"], &format!("{command} --nonsense x y\n"));
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{command}");
        assert!(run.stderr.contains("unknown option: --nonsense"), "{command}: {}", run.stderr);
    }
    for command in [".once -x", ".once -e f", ".output -x", ".open --new f", ".backup --append f", ".schema -debug"] {
        let run = home.run(&[":memory:"], &format!("{command}\n"));
        assert!(run.code == 1 && run.stderr.contains("unknown option: -"), "{command}: {run:?}");
    }
    let left: Vec<_> = std::fs::read_dir(home.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "bin"), "{left:?}");
    for command in [".import a b --skip", ".import --skip x a b", ".mode box --wrap", ".mode csv a b", ".tables a b"] {
        let run = home.run(&[":memory:"], &format!("{command}\n"));
        assert!(run.code == 1 && run.stderr.contains("usage: ."), "{command}: {run:?}");
    }
    // After two dashes, everything is a word.
    assert_eq!(home.ok(&[":memory:"], "CREATE TABLE \"-x\"(a);\n.tables -- -x\n"), "-x\n");
}

#[test]
fn headers_on_is_an_option_and_its_value() {
    for (args, expected) in [
        (&["--headers", "on"][..], "a\n7\n"),
        (&["--headers=on"], "a\n7\n"),
        (&["-headers", "off"], "7\n"),
        (&["-header"], "a\n7\n"),
    ] {
        let args = [args, &[":memory:", "SELECT 7 AS a"]].concat();
        assert_eq!(Home::new().ok(&args, ""), expected, "{args:?}");
    }
    let run = Home::new().run(&["--headers", "shop", "SELECT 1"], "");
    assert!(run.code == 1 && run.stderr.contains("on or off"), "{run:?}");
}

#[test]
fn exit_codes_are_those_of_sqlite3() {
    let table = "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1), (1)";
    for (args, input) in [
        (&["--nonsense"][..], ""),
        (&["-separator"], ""),
        (&[":memory:", table], ""),
        (&[":memory:", table, "SELECT 2"], ""),
        (&[":memory:"], table),
        (&["-bail", ":memory:"], table),
        (&[":memory:", "SELECT nope"], ""),
        (&[":memory:", ".nope"], ""),
        (&[":memory:", ".read nope"], ""),
        (&["-cmd", "SELECT nope", ":memory:", "SELECT 2"], ""),
        (&["-cmd", "SELECT nope", ":memory:"], "SELECT 3;"),
        (&["-cmd", table, "-bail", ":memory:", "SELECT 2"], ""),
        (&["-init", "nope", ":memory:", "SELECT 3"], ""),
        (&["-init", "nope", "-bail", ":memory:", "SELECT 3"], ""),
        (&["-init", "nope", ":memory:"], "SELECT nope;"),
        (&[":memory:", ".exit 300"], ""),
        (&[":memory:", ".quit 5"], ""),
    ] {
        same(args, input);
    }
}

#[test]
fn a_misspelt_command_opens_no_database() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    for args in [&["imprt", "in.db", "music"][..], &["statsu"], &["lst"]] {
        let run = home.run(args, "SELECT 1;");
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{args:?}");
        assert!(run.stderr.contains("did you mean `sqlite-redis "), "{run:?}");
    }
    assert_eq!(home.ok(&["ls"], ""), "");
    // With SQL, after two dashes, or once it is there, it is a database.
    home.ok(&["statsu", "CREATE TABLE t(a)"], "");
    assert_eq!(home.ok(&["statsu"], ".tables\n"), "t\n");
    home.ok(&["--", "imprt"], "CREATE TABLE t(a);");
    assert_eq!(home.ok(&["imprt"], ".tables\n"), "t\n");
}

#[test]
fn the_reason_for_a_refused_uri_is_told() {
    let home = Home::new();
    for (parameter, reason) in [
        ("cashe_size=5", "unknown URI parameter cashe_size"),
        ("cache_size=lots", "cache_size=lots: "),
        ("redis=unix:///nowhere/at/all", "on unix:///nowhere/at/all: can't connect"),
    ] {
        let uri = format!("file:shop?vfs=redis&{parameter}");
        let reads = format!(".open {uri}\n.open {uri}\n");
        for (args, input) in
            [(&["--redis", "unix:///no", &uri, "SELECT 1"][..], ""), (&["--redis", "unix:///no"], &reads)]
        {
            let run = home.run(args, input);
            let told = run.stderr.replace(&uri, "");
            let times = if input.is_empty() { 1 } else { 2 };
            assert_eq!((run.code, told.matches(reason).count()), (1, times), "{run:?}");
        }
    }
    let run = home.run(&["file:/nowhere/x", "SELECT 1"], "");
    assert_eq!(run.stderr, "Error: unable to open database \"file:/nowhere/x\": unable to open database file\n");
}

#[test]
fn passwords_are_not_shown() {
    let home = Home::new();
    let url = "redis://someone:hush@127.0.0.1:1";
    let uri = format!("file:shop?vfs=redis&redis={url}");
    let encoded = "file:shop?vfs=redis&redis=redis%3A%2F%2Fsomeone%3Ahush%40127.0.0.1%3A1";
    let script = format!(
        ".open {uri}\n.show\n.databases\n.open {encoded}\nATTACH '{uri}' AS a;\nATTACH '{uri}' a b;\nVACUUM INTO '{uri}';\n"
    );
    for args in [
        &[uri.as_str(), "SELECT 1"][..],
        &[encoded, "SELECT 1"],
        &["--redis", url, "shop", "SELECT 1"],
        &["--redis", url, "ls"],
        &["ls", url],
        &["--redis", "unix:///no", url, "SELECT 1"],
        &["--redis", "unix:///no", "--echo", ":memory:"],
    ] {
        let run = home.run(args, &script);
        assert_eq!(run.code, 1, "{args:?}");
        let told = format!("{}{}", run.stdout, run.stderr);
        assert!(!told.contains("hush") && !told.is_empty(), "{args:?}: {told}");
    }
}

/// An escape sequence that would change the title of a terminal, with a C1 character as well.
const TITLE: &str = "a\u{1b}]0;title\u{7}b\u{9b}2J";

#[test]
fn names_are_listed_without_control_characters() {
    if !has_redis() {
        return;
    }
    let home = Home::new();
    home.ok(&[TITLE, "CREATE TABLE t(a)"], "");
    let missing = format!("x{TITLE}");
    let select = format!("SELECT * FROM \"{TITLE}\"");
    let mut told = String::new();
    for args in [
        &["ls"][..],
        &["ls", "--json"],
        &["info", TITLE],
        &["info", TITLE, "--json"],
        &["status", TITLE],
        &["status", TITLE, "--json"],
        &["info", &missing],
        &["rm", TITLE],
        &["import", TITLE, "x"],
        &["--readonly", &missing, "SELECT 1"],
        &[&format!("file:{TITLE}x?vfs=redis&mode=ro")],
        &[TITLE, &select],
        &[TITLE, &format!("CREATE TABLE \"{TITLE}\"(a)"), ".tables", ".indexes", ".databases"],
    ] {
        let run = home.run(args, "");
        let both = format!("{}{}", run.stdout, run.stderr);
        assert!(!both.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{args:?}: {both:?}");
        told += &both;
    }
    assert!(told.contains("a\\u{1b}]0;title\\u{7}b\\u{9b}2J"), "{told}");
    let list: serde_json::Value = serde_json::from_str(&home.ok(&["ls", "--json"], "")).unwrap();
    assert_eq!(list[0]["name"], TITLE);
}

#[test]
fn results_on_a_terminal_hold_no_control_characters() {
    let home = Home::new();
    let sql = format!("SELECT '{TITLE}' AS \"{TITLE}\", x'1b63' AS blob");
    for mode in ["box", "column", "csv", "insert", "json", "line", "list", "markdown", "quote", "table", "tabs"] {
        let terminal = openpty(None, None).unwrap();
        let args = ["--mode", mode, "--headers=on", ":memory:", sql.as_str(), ".tables"];
        let mut child = home.command(&args).stdin(Stdio::null()).stdout(Stdio::from(terminal.slave)).spawn().unwrap();
        assert!(child.wait().unwrap().success());
        let mut shown = [0; 4096];
        let length = File::from(terminal.master).read(&mut shown).unwrap();
        let shown = String::from_utf8_lossy(&shown[..length]);
        assert!(shown.contains("title") && !shown.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{mode}: {shown:?}");
        // Into a pipe go the bytes that are stored.
        let piped = home.ok(&args, "");
        assert!(["box", "column", "json", "markdown", "table"].contains(&mode) || piped.contains('\u{1b}'), "{mode}");
    }
}

/// Only root can make a directory that belongs to another user.
#[test]
fn a_private_server_does_not_use_what_another_user_made() {
    if !nix::unistd::geteuid().is_root() {
        skipped("this makes files of another user, so it must run as root");
        return;
    }
    let home = Home::new();
    let refused = |reason: &str| {
        let run = home.run(&["shop", "SELECT 1"], "");
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
        assert!(run.stderr.contains("belongs to user 65534") && run.stderr.contains(reason), "{run:?}");
    };
    std::fs::create_dir_all(home.data()).unwrap();
    chown(home.data(), Some(65534), None).unwrap();
    let before = home.data().metadata().unwrap().mode();
    refused("data/sqlite-redis");
    assert_eq!(home.data().metadata().unwrap().mode(), before);
    chown(home.data(), Some(0), None).unwrap();
    std::fs::set_permissions(home.data(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(home.data().join("users"), "").unwrap();
    chown(home.data().join("users"), Some(65534), None).unwrap();
    refused("users");
    assert!(!home.data().join("redis.sock").exists());
}
