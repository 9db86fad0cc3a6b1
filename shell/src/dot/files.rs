//! Dot commands that work on files.

use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::Connection;

use crate::copy;
use crate::database::Location;
use crate::dot::arguments::Arguments;
use crate::output::Sink;
use crate::shell::{Flow, Shell};

/// `.backup ?OPTIONS? ?DB? FILE`
pub fn backup(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let (schema, file) = schema_and_file(&arguments.words);
    need_schema(&shell.db, schema)?;
    let mut target = Connection::open(file).with_context(|| format!("cannot open \"{file}\""))?;
    if arguments.has("async") {
        target.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
    }
    copy::copy((&shell.db, schema), (&mut target, "main"), &|_, _| ())?;
    Ok(Flow::Continue)
}

/// `.restore ?DB? FILE`
pub fn restore(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let (schema, file) = schema_and_file(&arguments.words);
    need_schema(&shell.db, schema)?;
    let directory = tempfile::tempdir()?;
    let copied = directory.path().join("copy.sqlite");
    let source = copy::settled_copy(Path::new(file), &copied, &|_, _| ())?;
    let Some(target) = Rc::get_mut(&mut shell.db) else {
        bail!("the database is in use by this shell");
    };
    copy::copy((&source, "main"), (target, schema), &|_, _| ())?;
    Ok(Flow::Continue)
}

fn need_schema(db: &Connection, schema: &str) -> Result<()> {
    if db.is_readonly(schema).is_err() {
        bail!("unknown database {schema}");
    }
    Ok(())
}

fn schema_and_file(words: &[String]) -> (&str, &str) {
    match words {
        [schema, file] => (schema, file),
        [file] => ("main", file),
        _ => ("main", ""),
    }
}

/// `.open ?OPTIONS? ?NAME?`
pub fn open(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    // A read-only shell stays read-only.
    let readonly = shell.readonly || arguments.has("readonly");
    shell.open(Location::parse(arguments.first().unwrap_or_default()), readonly)?;
    Ok(Flow::Continue)
}

/// `.output ?OPTIONS? ?FILE?`
pub fn output(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    redirect(shell, arguments)?;
    Ok(Flow::Continue)
}

/// `.once ?OPTIONS? ?FILE?`
pub fn once(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    redirect(shell, arguments)?;
    shell.once = true;
    Ok(Flow::Continue)
}

fn redirect(shell: &mut Shell, arguments: &Arguments) -> Result<()> {
    let target = arguments.first().unwrap_or("stdout");
    let sink = Sink::open(target).map_err(|error| anyhow!("cannot open \"{target}\": {error}"))?;
    shell.redirect(sink)?;
    if arguments.has("bom") {
        shell.out.write_all("\u{feff}".as_bytes())?;
    }
    Ok(())
}

/// `.read FILE`
pub fn read(_shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    Ok(Flow::Read(arguments.words[0].clone()))
}
