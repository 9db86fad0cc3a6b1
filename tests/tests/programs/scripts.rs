//! The programs of `scripts/`, as far as they can be run without building anything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The programs of `scripts/`; the other files there are sourced by them.
fn scripts() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let is_program = |path: &PathBuf| path.is_file() && path.metadata().unwrap().permissions().mode() & 0o111 != 0;
    let scripts: Vec<PathBuf> = files.filter(is_program).collect();
    assert!(scripts.len() >= 10, "{scripts:?}");
    scripts
}

fn run(script: &Path, argument: &str) -> Output {
    Command::new(script).arg(argument).output().unwrap_or_else(|error| panic!("{}: {error}", script.display()))
}

#[test]
fn each_script_answers_help() {
    for script in scripts() {
        let output = run(&script, "--help");
        let help = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", script.display());
        assert!(help.lines().count() >= 3 && !help.contains("set -e"), "{}: {help}", script.display());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", script.display());
    }
}

#[test]
fn each_script_refuses_an_unknown_option() {
    for script in scripts() {
        let output = run(&script, "--frobnicate");
        let name = script.file_name().unwrap().to_str().unwrap();
        let message = format!("{name}: unknown option --frobnicate; see scripts/{name} --help\n");
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), message);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{name}");
    }
}
