//! Dot commands that work on files.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::Connection;

use crate::copy;
use crate::database::Location;
use crate::input::Reader;
use crate::output::Sink;
use crate::session::{AlreadyReported, Flow, Shell};

/// How deep files may read files.
const MAX_DEPTH: usize = 25;

/// `.backup ?DB? FILE`
pub fn backup(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    let (schema, file) = schema_and_file(arguments);
    let mut target = Connection::open(file).with_context(|| format!("cannot open \"{file}\""))?;
    copy::copy((&shell.db, schema), (&mut target, "main"), &|_, _| ())?;
    Ok(Flow::Continue)
}

/// `.restore ?DB? FILE`
pub fn restore(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    let (schema, file) = schema_and_file(arguments);
    let directory = tempfile::tempdir()?;
    let copied = directory.path().join("copy.sqlite");
    let source = copy::settled_copy(Path::new(file), &copied, &|_, _| ())?;
    let Some(target) = Rc::get_mut(&mut shell.db) else {
        bail!("the database is in use by this shell");
    };
    copy::copy((&source, "main"), (target, schema), &|_, _| ())?;
    Ok(Flow::Continue)
}

fn schema_and_file(arguments: &[String]) -> (&str, &str) {
    match arguments {
        [schema, file] => (schema, file),
        [file] => ("main", file),
        _ => ("main", ""),
    }
}

/// `.open ?OPTIONS? ?NAME?`
pub fn open(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    // What the command line forbids stays forbidden.
    let mut readonly = shell.readonly;
    let mut name = None;
    for argument in arguments {
        match argument.as_str() {
            "--readonly" | "-readonly" => readonly = true,
            option if option.starts_with('-') => bail!("unknown option: {option}"),
            text => name = Some(text),
        }
    }
    let location = Location::parse(name.unwrap_or_default());
    shell.open(location, readonly)?;
    Ok(Flow::Continue)
}

/// `.output ?FILE?`
pub fn output(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    let sink = match arguments.first() {
        None => Sink::stdout(),
        Some(target) => open_sink(target)?,
    };
    shell.redirect(sink)?;
    Ok(Flow::Continue)
}

/// `.once FILE`
pub fn once(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    let sink = open_sink(&arguments[0])?;
    shell.redirect(sink)?;
    shell.once = true;
    Ok(Flow::Continue)
}

fn open_sink(target: &str) -> Result<Sink> {
    Sink::open(target).map_err(|error| anyhow!("cannot open \"{target}\": {error}"))
}

/// `.read FILE`
pub fn read(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    let name = &arguments[0];
    let file = File::open(name).map_err(|error| anyhow!("cannot open \"{name}\": {error}"))?;
    if shell.depth >= MAX_DEPTH {
        bail!("files read each other {MAX_DEPTH} deep");
    }
    // Messages are about lines of that file now.
    let interactive = std::mem::replace(&mut shell.interactive, false);
    shell.depth += 1;
    let outcome = shell.run(&mut Reader::new(BufReader::new(file)));
    shell.depth -= 1;
    shell.interactive = interactive;
    match outcome.exit {
        Some(code) => Ok(Flow::Exit(code)),
        None if outcome.failed => Err(AlreadyReported.into()),
        None => Ok(Flow::Continue),
    }
}
