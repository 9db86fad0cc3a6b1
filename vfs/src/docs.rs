//! Compares the tables in `docs/` with the code that they describe.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::model::delta;
use crate::model::error::{Cause, During, code, sqlite_code};
use crate::model::page::PageNo;
use crate::model::undo::UndoBuilder;
use crate::model::version::{CommitId, Version};
use crate::store::redis::keys;
use crate::store::redis::keys::Keys;
use crate::{Consistency, PROCESS_SETTINGS, SETTINGS};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of the table behind `<!-- marker -->`, row by row, without its head.
fn table(document: &str, marker: &str) -> Vec<Vec<String>> {
    let start = document.find(&format!("<!-- {marker} -->")).unwrap_or_else(|| panic!("no table `{marker}`"));
    let rows = document[start..].lines().skip(1).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    rows.skip(2).map(cells).collect()
}

/// The text between backticks that a cell begins with.
fn first_code(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|rest| rest.split_once('`')).map_or(cell, |(code, _)| code)
}

#[test]
fn the_tables_of_settings_are_those_of_the_code() {
    let document = read("configuration.md");
    let expected: Vec<Vec<String>> = SETTINGS
        .iter()
        .map(|s| {
            vec![
                format!("`{}`", s.parameter),
                format!("`{}`", s.environment),
                format!("`{}`", s.default),
                s.range.map(|range| range.to_string()).unwrap_or_default(),
                s.meaning.to_owned(),
            ]
        })
        .collect();
    assert_eq!(table(&document, "settings"), expected);
    let expected: Vec<Vec<String>> = PROCESS_SETTINGS
        .iter()
        .map(|s| vec![format!("`{}`", s.environment), format!("`{}`", s.default), s.meaning.to_owned()])
        .collect();
    assert_eq!(table(&document, "process settings"), expected);
}

#[test]
fn the_table_of_levels_is_that_of_the_code() {
    let rows = table(&read("replication.md"), "levels");
    let documented: Vec<_> = rows.iter().map(|row| first_code(&row[0]).replace("=N", "=7")).collect();
    let levels = [
        Consistency::Strong,
        Consistency::Session,
        Consistency::Bounded(Duration::from_millis(7)),
        Consistency::Snapshot,
    ];
    assert_eq!(documented, levels.map(|level| level.to_string()));
}

#[test]
fn the_table_of_pragmas_is_that_of_the_code() {
    let rows = table(&read("configuration.md"), "pragmas");
    let documented: Vec<String> = rows
        .iter()
        .map(|row| first_code(&row[0]).trim_start_matches("PRAGMA ").split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(documented, crate::file::PRAGMAS);
}

#[test]
fn the_tables_of_keys_and_fields_are_those_of_the_code() {
    let document = read("formats.md");
    let keys = Keys::new("sqlite", "shop");
    let staging = keys.staging("<token>");
    let named =
        |marker| -> Vec<String> { table(&document, marker).iter().map(|row| first_code(&row[0]).to_owned()).collect() };
    // Without `..`, so that the compiler asks for new ones.
    let Keys { hash, log, undo, lock, queue, turn, staged } = keys;
    assert_eq!(named("keys"), [hash, log, undo, lock, queue, turn, staging, staged]);
    let mut fields = vec![keys::page(PageNo::FIRST)];
    fields.extend(keys::SNAPSHOT.map(str::to_owned));
    fields.push(keys::LOG_MARK.to_owned());
    assert_eq!(named("fields"), fields);
    use keys::log::{BASE, COMMIT, PAGE_COUNT, PAGE_SIZE, PAGES, TIME, UNDO};
    assert_eq!(named("log"), [COMMIT, BASE, TIME, PAGE_SIZE, PAGE_COUNT, UNDO, PAGES]);
    assert_eq!(named("undo stream"), [COMMIT, UNDO]);
    let formats = format!(
        "| `format` | `{}`; or `{}` while ",
        crate::model::version::FORMAT,
        crate::model::version::STAGED_FORMAT
    );
    assert!(document.contains(&formats));
    assert!(document.contains(&format!("1 to {} bytes of UTF-8", keys::MAX_NAME)));
}

#[test]
fn the_example_of_undo_data_is_what_the_code_makes() {
    let document = read("formats.md");
    let rows = table(&document, "undo example");
    let hex = rows.iter().flat_map(|row| first_code(&row[0]).split(' ').map(str::to_owned).collect::<Vec<_>>());
    let bytes: Vec<u8> = hex.map(|byte| u8::from_str_radix(&byte, 16).expect("hexadecimal")).collect();

    let new = vec![0x55; 4096];
    let mut two = new.clone();
    (two[100], two[101], two[300]) = (0xaa, 0xbb, 0xcc);
    let mut three_hundred = new.clone();
    three_hundred[0] = 1;
    let mut undo = UndoBuilder::new(u64::MAX);
    undo.page(PageNo::new(2).unwrap(), &two, &new);
    undo.page(PageNo::new(300).unwrap(), &three_hundred, &new);
    assert_eq!(crate::model::log_entry::Undo::Deltas(bytes.clone()), undo.finish());

    let pages = delta::parse_undo(&bytes).unwrap();
    let mut restored = new.clone();
    delta::apply(pages[0].1, &mut restored).unwrap();
    assert_eq!(restored, two);
}

/// A cause of each kind, with the name of its kind. The match makes the compiler ask for new ones.
fn causes() -> Vec<(&'static str, Cause)> {
    let text = || "x".to_owned();
    let all = vec![
        Cause::BadName { name: text(), reason: "x" },
        Cause::BadSetting { setting: text(), value: text(), reason: text() },
        crate::config::unknown_parameter(&text()),
        Cause::Host(text()),
        Cause::Unreachable(text()),
        Cause::NoConnectionLeft(text()),
        Cause::IsReplica(text()),
        Cause::Authentication(text()),
        Cause::Permission(text()),
        Cause::MissingCommand(text()),
        Cause::ConnectionLost(text()),
        Cause::NoReply,
        Cause::Interrupted,
        Cause::Loading(text()),
        Cause::Moving(text()),
        Cause::TooFewReplicas(text()),
        Cause::ReadOnlyServer(text()),
        Cause::ReadOnly,
        Cause::ServerFull(text()),
        Cause::Eviction(text()),
        Cause::ServerTooOld(text()),
        Cause::Server(text()),
        Cause::BadReply(text()),
        Cause::Missing,
        Cause::Exists,
        Cause::ImportOvertaken,
        Cause::ForeignKey { key: text(), found: text(), expected: "hash" },
        Cause::Damaged(text()),
        Cause::UnknownFormat(text()),
        Cause::Busy(text()),
        Cause::Stale { snapshot: Version(1), found: Version(2) },
        Cause::ExclusiveLost { snapshot: Version(1), found: Version(2) },
        Cause::SnapshotGone { snapshot: Version(1), reason: text() },
        Cause::SessionLost { seen: Version(2), found: Version(1) },
        Cause::Behind { server: text(), wanted: Version(2), found: Version(1) },
        Cause::UnfitReplica { server: text(), reason: text() },
        Cause::OutcomeUnknown { version: Version(2), commit: CommitId(2), reason: text() },
        Cause::NotTakenBack(text()),
        Cause::RowsUnknown(text()),
        Cause::NotReplicated { version: Version(2), reason: text() },
        Cause::HalfCommitted { version: Version(2), reason: text() },
        Cause::Declaration(text()),
        Cause::Constraint { code: code::CONSTRAINT_UNIQUE, message: text() },
        Cause::Conflict(text()),
        Cause::NoRowid(text()),
        Cause::Forked,
        Cause::Journal { message: text(), full: false },
        Cause::Journal { message: text(), full: true },
        Cause::Unsupported(text()),
        Cause::NoSuchPage(PageNo::FIRST),
        Cause::Internal(text()),
    ];
    let name = |cause: &Cause| match cause {
        Cause::BadName { .. } => "BadName",
        Cause::BadSetting { .. } => "BadSetting",
        Cause::UnknownParameter { .. } => "UnknownParameter",
        Cause::Host(_) => "Host",
        Cause::Unreachable(_) => "Unreachable",
        Cause::NoConnectionLeft(_) => "NoConnectionLeft",
        Cause::IsReplica(_) => "IsReplica",
        Cause::Authentication(_) => "Authentication",
        Cause::Permission(_) => "Permission",
        Cause::MissingCommand(_) => "MissingCommand",
        Cause::ConnectionLost(_) => "ConnectionLost",
        Cause::NoReply => "NoReply",
        Cause::Interrupted => "Interrupted",
        Cause::Loading(_) => "Loading",
        Cause::Moving(_) => "Moving",
        Cause::TooFewReplicas(_) => "TooFewReplicas",
        Cause::ReadOnlyServer(_) => "ReadOnlyServer",
        Cause::ReadOnly => "ReadOnly",
        Cause::ServerFull(_) => "ServerFull",
        Cause::Eviction(_) => "Eviction",
        Cause::ServerTooOld(_) => "ServerTooOld",
        Cause::Server(_) => "Server",
        Cause::BadReply(_) => "BadReply",
        Cause::Missing => "Missing",
        Cause::Exists => "Exists",
        Cause::ImportOvertaken => "ImportOvertaken",
        Cause::ForeignKey { .. } => "ForeignKey",
        Cause::Damaged(_) => "Damaged",
        Cause::UnknownFormat(_) => "UnknownFormat",
        Cause::Busy(_) => "Busy",
        Cause::Stale { .. } => "Stale",
        Cause::ExclusiveLost { .. } => "ExclusiveLost",
        Cause::SnapshotGone { .. } => "SnapshotGone",
        Cause::SessionLost { .. } => "SessionLost",
        Cause::Behind { .. } => "Behind",
        Cause::UnfitReplica { .. } => "UnfitReplica",
        Cause::OutcomeUnknown { .. } => "OutcomeUnknown",
        Cause::NotTakenBack(_) => "NotTakenBack",
        Cause::RowsUnknown(_) => "RowsUnknown",
        Cause::NotReplicated { .. } => "NotReplicated",
        Cause::Declaration(_) => "Declaration",
        Cause::Constraint { .. } => "Constraint",
        Cause::Conflict(_) => "Conflict",
        Cause::NoRowid(_) => "NoRowid",
        Cause::Forked => "Forked",
        Cause::Journal { full: false, .. } => "Journal",
        Cause::Journal { full: true, .. } => "Journal, disk full",
        Cause::Unsupported(_) => "Unsupported",
        Cause::NoSuchPage(_) => "NoSuchPage",
        Cause::HalfCommitted { .. } => "HalfCommitted",
        Cause::Internal(_) => "Internal",
    };
    all.into_iter().map(|cause| (name(&cause), cause)).collect()
}

fn name_of(code: i32) -> &'static str {
    match code {
        code::ERROR => "ERROR",
        code::INTERNAL => "INTERNAL",
        code::PERM => "PERM",
        code::BUSY => "BUSY",
        code::READONLY => "READONLY",
        code::INTERRUPT => "INTERRUPT",
        code::IOERR => "IOERR",
        code::CORRUPT => "CORRUPT",
        code::CONSTRAINT_UNIQUE => "CONSTRAINT_UNIQUE",
        code::FULL => "FULL",
        code::CANTOPEN => "CANTOPEN",
        code::AUTH => "AUTH",
        code::IOERR_READ => "IOERR_READ",
        code::IOERR_WRITE => "IOERR_WRITE",
        code::IOERR_FSYNC => "IOERR_FSYNC",
        code::IOERR_FSTAT => "IOERR_FSTAT",
        code::IOERR_UNLOCK => "IOERR_UNLOCK",
        code::IOERR_DELETE => "IOERR_DELETE",
        code::IOERR_ACCESS => "IOERR_ACCESS",
        code::IOERR_LOCK => "IOERR_LOCK",
        code::BUSY_SNAPSHOT => "BUSY_SNAPSHOT",
        other => panic!("code {other} has no name here"),
    }
}

#[test]
fn the_table_of_codes_is_what_the_code_decides() {
    let document = read("failures.md");
    let rows = table(&document, "codes");
    let causes = causes();
    let listed: Vec<&str> = rows.iter().map(|row| first_code(&row[0])).collect();
    let known: Vec<&str> = causes.iter().map(|(name, _)| *name).collect();
    assert_eq!(listed.iter().collect::<BTreeSet<_>>(), known.iter().collect());
    assert_eq!(listed.len(), known.len(), "a cause is listed twice");
    for (name, cause) in &causes {
        let row = rows.iter().find(|row| first_code(&row[0]) == *name).unwrap();
        let codes: Vec<&str> = [During::Open, During::Read, During::Lock, During::Commit]
            .map(|during| name_of(sqlite_code(cause, during)))
            .to_vec();
        assert_eq!(row[2..6].iter().map(String::as_str).collect::<Vec<_>>(), codes, "{name}");
    }
}

#[test]
fn the_table_of_io_errors_is_what_the_code_decides() {
    let document = read("failures.md");
    let actions = [
        During::Open,
        During::Read,
        During::Write,
        During::Lock,
        During::Unlock,
        During::Commit,
        During::Size,
        During::Delete,
        During::Access,
        During::Control,
    ];
    let cause = Cause::ConnectionLost("x".into());
    let expected: Vec<Vec<String>> = actions
        .map(|during| vec![format!("{during:?}").to_lowercase(), name_of(sqlite_code(&cause, during)).to_owned()])
        .to_vec();
    assert_eq!(table(&document, "io"), expected);
}

#[test]
fn the_tests_that_the_documents_name_exist() {
    let mut sources = String::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    directories.extend(["../tests", "../shell"].map(|part| Path::new(env!("CARGO_MANIFEST_DIR")).join(part)));
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let named = |document: &str, marker: &str, column: usize| -> Vec<String> {
        let cells = table(&read(document), marker).into_iter().map(|row| row[column].clone());
        cells
            .flat_map(|cell| cell.split(", ").map(|name| name.trim_matches('`').to_owned()).collect::<Vec<_>>())
            .collect()
    };
    let mut tests = named("failures.md", "events", 3);
    tests.extend(named("recovery.md", "events", 3));
    tests.extend(named("damaged-data.md", "events", 3));
    tests.extend(named("design.md", "invariants", 1));
    tests.extend(named("correctness.md", "guarantees", 2));
    tests.extend(named("testing.md", "broken", 2));
    assert!(tests.len() >= 30);
    for test in tests {
        assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}");
    }
}

#[test]
fn the_paths_in_the_design_are_short_and_their_functions_exist() {
    let document = read("design.md");
    for (path, most) in [("path of a page miss", 6), ("path of a commit", 7)] {
        let rows = table(&document, path);
        assert!(!rows.is_empty() && rows.len() <= most, "{path}: {} files", rows.len());
        for row in rows {
            let (file, function) = (first_code(&row[0]), first_code(&row[1]));
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
            let source = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(source.contains(&format!("fn {function}(")), "no function {function} in {}", file.display());
        }
    }
}

/// Read once, from top to bottom. Generated results and the log of changes are not for that.
#[test]
fn no_page_of_the_documentation_is_longer_than_2000_words() {
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut long = Vec::new();
    for entry in std::fs::read_dir(documents).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "md") {
            let words = std::fs::read_to_string(&path).unwrap().split_whitespace().count();
            if words > 2000 {
                long.push(format!("{}: {words} words", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// The sources of the crate, with their paths.
fn sources() -> Vec<(std::path::PathBuf, String)> {
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut sources = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let source = std::fs::read_to_string(&path).unwrap();
                sources.push((path, source));
            }
        }
    }
    sources
}

/// `docs/correctness.md` says that no decision depends on the clock of a client.
#[test]
fn only_the_logs_time_field_uses_the_wall_clock() {
    let (clock, mut uses) = (["System", "Time::now()"].concat(), Vec::new());
    for (path, source) in sources() {
        uses.extend(source.lines().filter(|line| line.contains(&clock)).map(|_| path.clone()));
        assert!(!source.contains("now_ms()") || source.matches("now_ms()").count() == 2, "{}", path.display());
    }
    assert_eq!(uses.len(), 1, "{uses:?}");
    assert!(uses[0].ends_with("store/redis/commit.rs"));
}

/// [`crate::process::sync`] says why. A fork in the wrong moment is too rare for a test to wait for.
#[test]
fn all_locks_are_fit_for_a_fork() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(!manifest.contains(&["parking", "_lot"].concat()));
    for (path, source) in sources().iter().filter(|(path, _)| !path.ends_with("sync.rs")) {
        for lock in ["Mutex", "Condvar", "RwLock"] {
            let foreign = ["sync::", lock, ";"].concat();
            let ours = source.matches(&format!("crate::process::{foreign}")).count();
            assert_eq!(source.matches(&foreign).count(), ours, "{lock} in {}", path.display());
        }
    }
}

#[test]
fn a_message_names_its_cause_and_what_to_do() {
    let place: Arc<str> = "database `shop` on redis://h:1".into();
    for (name, cause) in causes() {
        let message = crate::model::error::Error::from(cause).at(&place).to_string();
        assert!(message.starts_with("database `shop` on redis://h:1: "), "{name}: {message}");
    }
}

/// A key in which placeholders stand for what differs.
fn shown_key(key: Vec<u8>) -> String {
    String::from_utf8(key).expect("placeholders are text")
}

#[test]
fn the_keys_of_virtual_tables_are_those_of_the_code() {
    let document = read("virtual-table-format.md");
    let named =
        |marker| -> Vec<String> { table(&document, marker).iter().map(|row| first_code(&row[0]).to_owned()).collect() };
    let keys = crate::vtab::layout::keys::Keys::new("prefix", "db", "table");
    let row = shown_key(keys.row(7)).replace('7', "{rowid}");
    let published =
        [keys.counter(), keys.rowids(), keys.indices(), keys.values("{x}"), keys.rows_with("{x}", b"{val}")];
    assert_eq!(named("published keys"), [vec![row], published.map(shown_key).to_vec()].concat());
    let commit = shown_key(keys.commit(7)).replace("0000000000000007", "{client}");
    let added = [
        keys.nulls("{x}"),
        keys.others("{x}"),
        keys.building(),
        keys.uniques(),
        keys.unique("{constraint}", b"{values}"),
    ];
    let (hold, staged) = (shown_key(keys.hold()), shown_key(keys.staged("{change}")));
    assert_eq!(named("added keys"), [added.map(shown_key).to_vec(), vec![commit, hold, staged]].concat());
    let (mark, patience) = (crate::vtab::commit::mark::MARK_SECONDS, crate::vtab::commit::mark::PATIENCE.as_secs());
    for said in
        [format!("string, {mark} s to live"), format!("hash | slices of a large change until it is done; {mark} s")]
    {
        assert!(document.contains(&said), "{said}");
    }
    let document = read("large-changes.md");
    for said in [
        format!("waits for {patience} seconds at most"),
        format!("It lives {} seconds", crate::vtab::commit::hold::HELD.as_secs()),
    ] {
        assert!(document.contains(&said), "{said}");
    }
}

#[test]
fn the_functions_of_virtual_tables_are_those_of_the_code() {
    let document = read("virtual-table.md");
    let calls: Vec<(String, usize)> = table(&document, "functions")
        .iter()
        .map(|row| {
            let (name, arguments) = first_code(&row[0]).split_once('(').expect("a call");
            (name.to_owned(), arguments.split(',').count())
        })
        .collect();
    let scalar = crate::ffi::function::FUNCTIONS.iter().map(|(name, count, _)| (*name, *count as usize));
    let looks = crate::vtab::browse::Look::ALL.iter().map(|look| (look.name(), 2));
    let known: Vec<(String, usize)> =
        scalar.chain(looks).map(|(name, count)| (name.to_str().expect("ASCII").to_owned(), count)).collect();
    assert_eq!(calls, known);
    for (look, row) in crate::vtab::browse::Look::ALL.iter().zip(table(&document, "functions").iter().skip(3)) {
        let declared = look.declaration().to_str().expect("ASCII");
        let columns: Vec<&str> = row[1].split('`').skip(1).step_by(2).collect();
        assert_eq!(columns.len(), look.columns(), "{}", row[1]);
        assert!(columns.iter().all(|column| declared.contains(column)), "{declared}");
    }
}
