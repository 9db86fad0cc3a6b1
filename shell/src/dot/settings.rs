//! Dot commands that change how the shell works.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};

use super::misuse;
use crate::args::parse_switch;
use crate::output::Mode;
use crate::session::{Flow, Shell};

fn switch(text: &str) -> Result<bool> {
    match parse_switch(text) {
        Some(on) => Ok(on),
        None => bail!("not a boolean value: \"{text}\"; say on or off"),
    }
}

/// `.bail on|off`
pub fn bail(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    shell.bail = switch(&arguments[0])?;
    Ok(Flow::Continue)
}

/// `.changes on|off`
pub fn changes(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    shell.changes = switch(&arguments[0])?;
    Ok(Flow::Continue)
}

/// `.echo on|off`
pub fn echo(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    shell.echo = switch(&arguments[0])?;
    Ok(Flow::Continue)
}

/// `.exit ?CODE?`
pub fn exit(_shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    match arguments.first().map(|code| code.parse()) {
        None => Ok(Flow::Exit(None)),
        Some(Ok(code)) => Ok(Flow::Exit(Some(code))),
        Some(Err(_)) => Err(misuse("exit")),
    }
}

/// `.quit`
pub fn quit(_shell: &mut Shell, _arguments: &[String]) -> Result<Flow> {
    Ok(Flow::Exit(None))
}

/// `.headers on|off`
pub fn headers(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    shell.settings.headers = Some(switch(&arguments[0])?);
    Ok(Flow::Continue)
}

/// `.timer on|off`
pub fn timer(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    shell.timer = switch(&arguments[0])?;
    Ok(Flow::Continue)
}

/// `.mode ?MODE? ?OPTIONS?`
pub fn mode(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    let Some((name, options)) = arguments.split_first() else {
        writeln!(shell.out, "current output mode: {}", shell.settings.mode.name())?;
        return Ok(Flow::Continue);
    };
    let Some(mode) = Mode::parse(name) else {
        let names: Vec<_> = Mode::NAMES.iter().map(|(name, _)| *name).collect();
        bail!("mode should be one of: {}", names.join(" "));
    };
    let (mut wrap, mut table) = (None, None);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match option.trim_start_matches('-') {
            "wrap" if option.starts_with('-') => {
                let Some(Ok(width)) = options.next().map(|width| width.parse()) else {
                    return Err(misuse("mode"));
                };
                wrap = Some(width);
            }
            _ if option.starts_with('-') => bail!("unknown option: {option}"),
            _ => table = Some(option.clone()),
        }
    }
    shell.settings.set_mode_by_command(mode);
    if let Some(width) = wrap {
        shell.settings.wrap = width;
    }
    if mode == Mode::Insert {
        shell.settings.insert_table = table.unwrap_or_else(|| "table".to_owned());
    }
    Ok(Flow::Continue)
}

/// `.nullvalue STRING`
pub fn nullvalue(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    shell.settings.null.clone_from(&arguments[0]);
    Ok(Flow::Continue)
}

/// `.separator COL ?ROW?`
pub fn separator(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    shell.settings.column_separator.clone_from(&arguments[0]);
    if let Some(row) = arguments.get(1) {
        shell.settings.row_separator.clone_from(row);
    }
    Ok(Flow::Continue)
}

/// `.print STRING...`
pub fn print(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    writeln!(shell.out, "{}", arguments.join(" "))?;
    Ok(Flow::Continue)
}

/// `.timeout MS`
pub fn timeout(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    let Ok(milliseconds) = arguments[0].parse() else {
        return Err(misuse("timeout"));
    };
    shell.db.busy_timeout(Duration::from_millis(milliseconds))?;
    Ok(Flow::Continue)
}

/// `.show`
pub fn show(shell: &mut Shell, _arguments: &[String]) -> Result<Flow> {
    let on_off = |on| if on { "on" } else { "off" }.to_owned();
    let settings = &shell.settings;
    let lines = [
        ("echo", on_off(shell.echo)),
        ("bail", on_off(shell.bail)),
        ("changes", on_off(shell.changes)),
        ("timer", on_off(shell.timer)),
        ("headers", on_off(settings.show_headers())),
        ("mode", settings.mode.name().to_owned()),
        ("nullvalue", quoted(&settings.null)),
        ("output", shell.out.name().to_owned()),
        ("colseparator", quoted(&settings.column_separator)),
        ("rowseparator", quoted(&settings.row_separator)),
        ("filename", shell.location.name().to_owned()),
    ];
    for (name, value) in lines {
        writeln!(shell.out, "{name:>12}: {value}")?;
    }
    Ok(Flow::Continue)
}

/// In double quotes with backslash escapes, as `.separator` takes it.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}
