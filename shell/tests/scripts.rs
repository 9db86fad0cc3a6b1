//! The shell in scripts: dot commands, errors, exit codes, signals.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use common::{Home, Run, sqlite3};

const SCHEMA: &str = "
CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT, c AS (a + 1), d REAL);
CREATE TABLE \"or der\"(x UNIQUE, \"y z\");
CREATE TABLE parent(id PRIMARY KEY); CREATE TABLE child(p REFERENCES parent);
CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE VIEW v AS SELECT a, b FROM t;
CREATE VIRTUAL TABLE ft USING fts5(q);
CREATE VIRTUAL TABLE rt USING rtree(id, x0, x1);
CREATE INDEX i1 ON t(b);
CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END;
INSERT INTO t(b, d) VALUES ('x', 1.5), ('it''s
nl', 2), (NULL, 0.1), ('é' || char(13), -1e20);
INSERT INTO \"or der\" VALUES (x'00ff', 'a'), ('select', 1e999);
INSERT INTO child VALUES ('no parent');
INSERT INTO w VALUES ('k', 'v');
INSERT INTO ft VALUES ('hello world'), ('other');
INSERT INTO rt VALUES (1, 2, 3);
ANALYZE;
";

/// Runs the same in both programs, and compares what they print and how they end.
#[track_caller]
fn same(args: &[&str], input: &str) {
    let Some(stock) = sqlite3("3.40") else { return };
    let (ours, theirs) = (Home::new(), Home::new());
    assert_eq!(ours.run(args, input), stock.run(theirs.dir.path(), args, input), "{args:?} {input}");
}

#[test]
fn what_is_there_is_listed_as_in_sqlite3() {
    for command in [
        ".tables",
        ".tables %t",
        ".indexes",
        ".indexes t",
        ".schema",
        ".schema t",
        ".schema %or%",
        ".databases",
        "ATTACH ':memory:' AS \"o p\"; CREATE TABLE \"o p\".z(a); CREATE VIEW \"o p\".y AS SELECT 1 AS q;\n.tables\n.schema",
    ] {
        same(&[":memory:"], &format!("{}{command}\n", SCHEMA.replace("ANALYZE;", "")));
    }
}

#[test]
fn dumps_are_those_of_sqlite3() {
    // What ANALYZE and the other modules write differs between versions of SQLite.
    let schema = SCHEMA.replace("ANALYZE;", "");
    for command in [".dump", ".dump t", ".dump ft w", ".dump %order"] {
        same(&[":memory:"], &format!("{schema}{command}\n"));
    }
}

#[test]
fn a_dump_reads_back_in_sqlite3_with_the_same_content() {
    let Some(stock) = sqlite3("3.") else { return };
    let home = Home::new();
    let dump = home.ok(&[":memory:"], &format!("{SCHEMA}.dump\n"));
    let read = stock.run(home.dir.path(), &["copy.db"], &dump);
    assert_eq!((read.code, read.stderr.as_str()), (0, ""));
    let check = "PRAGMA integrity_check; SELECT q FROM ft WHERE ft MATCH 'hello'; SELECT id FROM rt WHERE x0 > 1;
                 SELECT seq FROM sqlite_sequence; SELECT c FROM t WHERE a = 4; INSERT INTO t(b) VALUES (1);";
    assert_eq!(stock.run(home.dir.path(), &["copy.db"], check).stdout, "ok\nhello world\n1\n4\n5\n");
    assert_eq!(
        home.ok(&["file:copy.db"], "DELETE FROM t WHERE a = 5; UPDATE sqlite_sequence SET seq = 4;\n.dump"),
        dump
    );
}

#[test]
fn mistakes_are_reported_as_in_sqlite3() {
    for input in [
        "SELECT * FROM x; SELECT 1;\nSELECT 2;",
        "SELECT 1;\n\n-- comment\nSELCT 1;\n",
        "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1), (1);\nSELECT 1",
        "SELECT 1,\n  2,\n nosuch FROM (SELECT 1);",
        "SELECT 'unfinished",
        "SELECT 1 FROM aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b.c.d;",
        "CREATE TRIGGER x AFTER INSERT ON nope BEGIN\nSELECT 1;\nEND;\nSELECT 3;",
    ] {
        same(&[":memory:"], input);
        same(&["-bail", ":memory:"], input);
    }
    same(&[":memory:", "SELECT 1; SELECT * FROM x", "SELECT 2"], "");
    same(&[":memory:", "SELECT abs(-9223372036854775808)"], "");
}

#[test]
fn the_first_error_ends_a_run_of_arguments_and_of_bail() {
    let home = Home::new();
    let run = home.run(&[":memory:", "SELECT nope", "SELECT 2"], "");
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    let run = home.run(&["--bail", ":memory:"], "SELECT nope;\nSELECT 2;\n");
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    let run = home.run(&[":memory:"], "SELECT nope;\nSELECT 2;\n");
    assert_eq!((run.code, run.stdout.as_str()), (1, "2\n"));
}

#[test]
fn exit_codes_are_those_asked_for() {
    let home = Home::new();
    assert_eq!(home.run(&[":memory:"], ".exit 7\nSELECT 1;").code, 7);
    assert_eq!(home.run(&[":memory:", ".quit", "SELECT nope"], "").code, 0);
    assert_eq!(home.run(&["--nonsense"], "").code, 1);
}

#[test]
fn unknown_commands_get_a_suggestion() {
    let run = Home::new().run(&[":memory:"], ".tabels\n");
    assert_eq!(run.code, 1);
    assert!(run.stderr.starts_with("Error near line 1: unknown command: .tabels; did you mean .tables?"), "{run:?}");
}

#[test]
fn help_lists_every_command() {
    let out = Home::new().ok(&[":memory:"], ".help\n.help mode\n");
    for name in [".backup", ".import", ".mode", ".vfsname", "markdown"] {
        assert!(out.contains(name), "{name}");
    }
}

#[test]
fn csv_is_imported_as_in_sqlite3() {
    let Some(stock) = sqlite3("3.40") else { return };
    let csv = "\u{feff}id,name,Name,\n1,\"a, \"\"b\"\"\",x\n2,é\n3,\"l1\nl2\",y,z,extra\n";
    for script in [
        ".import --csv in.csv t\n.schema t\n.mode quote\nSELECT * FROM t;",
        "CREATE TABLE t(a PRIMARY KEY, b);\n.import --csv --skip 1 in.csv t\n.mode quote\nSELECT * FROM t;",
        ".import --csv nope.csv t",
        "CREATE TABLE t(a, b, c, d);\n.separator ,\n.import in.csv t\nSELECT count(*) FROM t;",
    ] {
        let home = Home::new();
        fs::write(home.path("in.csv"), csv).unwrap();
        let (ours, theirs) = (home.run(&[":memory:"], script), stock.run(home.dir.path(), &[":memory:"], script));
        assert_eq!(ours.stdout, theirs.stdout, "{script}\n{}\n{}", ours.stderr, theirs.stderr);
    }
}

#[test]
fn refused_rows_of_an_import_are_named_and_the_others_kept() {
    let home = Home::new();
    fs::write(home.path("in.csv"), "1\n1\n2\n").unwrap();
    let run = home.run(&[":memory:"], "CREATE TABLE t(a UNIQUE);\n.import --csv in.csv t\nSELECT * FROM t;");
    assert_eq!((run.code, run.stdout.as_str()), (1, "1\n2\n"));
    assert_eq!(run.stderr, "in.csv:2: INSERT failed: UNIQUE constraint failed: t.a\n");
}

#[test]
fn files_are_read_and_written() {
    let home = Home::new();
    fs::write(home.path("a.sql"), "SELECT 'from a';\n.read b.sql\n").unwrap();
    fs::write(home.path("b.sql"), "SELECT nope;\n").unwrap();
    let run = home.run(
        &[":memory:"],
        ".read a.sql\n.output o.txt\nSELECT 1;\n.output\n.once p.txt\nSELECT 2;\nSELECT 3;\n.once '|cat'\nSELECT 4;\n",
    );
    assert_eq!(run.stdout, "from a\n3\n4\n");
    assert_eq!(
        (run.code, run.stderr.as_str()),
        (1, "Parse error near line 1: no such column: nope\n  SELECT nope;\n         ^--- error here\n")
    );
    assert_eq!(fs::read_to_string(home.path("o.txt")).unwrap(), "1\n");
    assert_eq!(fs::read_to_string(home.path("p.txt")).unwrap(), "2\n");
    fs::write(home.path("self.sql"), ".read self.sql\n").unwrap();
    assert!(home.run(&[":memory:"], ".read self.sql\n").stderr.contains("deep"));
}

#[test]
fn backups_restore() {
    let home = Home::new();
    home.ok(&[":memory:"], "CREATE TABLE t(a); INSERT INTO t VALUES (1);\n.backup b.db\n");
    assert_eq!(home.ok(&[":memory:"], ".restore b.db\nSELECT * FROM t;\n"), "1\n");
    assert_eq!(home.ok(&["file:b.db", ".restore main b.db"], ""), "");
    let run = home.run(&[":memory:"], ".restore nope.db\n");
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("nope.db"), "{run:?}");
    assert!(!home.path("nope.db").exists());
}

#[test]
fn settings_are_shown_and_echoed() {
    let out = Home::new()
        .ok(&[":memory:"], ".echo on\n.print a 'b  c'\nSELECT\n 1;\n.echo off\n.changes on\nSELECT 2;\n.show\n");
    assert!(
        out.starts_with(".print a 'b  c'\na b  c\nSELECT\n 1;\n1\n.echo off\n2\nchanges: 0   total_changes: 0\n"),
        "{out}"
    );
    assert!(out.contains("colseparator: \"|\"\n"));
}

#[test]
fn a_reader_that_goes_away_ends_the_shell_quietly() {
    let home = Home::new();
    let sql = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) SELECT i FROM c;";
    let mut child = home.start(&[":memory:", sql]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "1\n");
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (141, ""));
}

fn interrupt(child: &std::process::Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn signals_end_a_script_with_their_code() {
    let home = Home::new();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        // While a statement runs.
        let mut child = home.start(&[":memory:"]);
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"SELECT 'ready';\nWITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) SELECT count(*) FROM c;\n").unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut ready = [0; 6];
        out.read_exact(&mut ready).unwrap();
        interrupt(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        // While it waits for input.
        let mut child = home.start(&[":memory:"]);
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"SELECT 'ready';\n").unwrap();
        child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
        interrupt(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn input_is_read_whatever_its_line_ends() {
    let home = Home::new();
    assert_eq!(home.ok(&[], "SELECT 1;\r\nSELECT\r\n2;\r\n"), "1\n2\n");
    assert_eq!(home.ok(&[], "\u{feff}SELECT 1"), "1\n");
    assert_eq!(home.ok(&[], "-- only a comment; no statement\n/* and\nanother; */\n"), "");
    let run = Run::of(home.command(&[]).stderr(Stdio::piped()), b"SELECT '\xff';\n");
    assert_eq!(run.code, 0);
}
