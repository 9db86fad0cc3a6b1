//! Dot commands that change settings of the shell.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, anyhow};
use sqlite_redis::hide_secrets;

use crate::args::parse_switch;
use crate::dot::arguments::{Arguments, Misuse};
use crate::output::Mode;
use crate::shell::{Flow, Shell};

/// Reads a switch. One that is misspelt means off and does not fail, as in `sqlite3`.
fn switch(text: &str) -> bool {
    parse_switch(text).unwrap_or_else(|| {
        note!("ERROR: Not a boolean value: \"{text}\". Assuming \"no\".");
        false
    })
}

/// `.bail on|off`
pub fn bail(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    shell.bail = switch(&arguments.words[0]);
    Ok(Flow::Continue)
}

/// `.changes on|off`
pub fn changes(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    shell.changes = switch(&arguments.words[0]);
    Ok(Flow::Continue)
}

/// `.echo on|off`
pub fn echo(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    shell.echo = switch(&arguments.words[0]);
    Ok(Flow::Continue)
}

/// `.exit ?CODE?`
pub fn exit(_shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    // As in sqlite3, 0 is no code of its own: what failed before still counts.
    match arguments.first().map_or(0, integer) {
        0 => Ok(Flow::Quit),
        code => Ok(Flow::Exit(code)),
    }
}

/// An integer as `sqlite3` reads it: decimal or `0x` and hexadecimal, up to the first other character.
fn integer(text: &str) -> i32 {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = digits.strip_prefix("0x").map_or((digits, 10), |digits| (digits, 16));
    let value = digits.chars().map_while(|digit| digit.to_digit(radix));
    let value =
        value.fold(0_i32, |value, digit| value.wrapping_mul(radix.cast_signed()).wrapping_add(digit.cast_signed()));
    if negative { value.wrapping_neg() } else { value }
}

/// `.quit`
pub fn quit(_shell: &mut Shell, _arguments: &Arguments) -> Result<Flow> {
    Ok(Flow::Quit)
}

/// `.headers on|off`
pub fn headers(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    shell.settings.headers = Some(switch(&arguments.words[0]));
    Ok(Flow::Continue)
}

/// `.timer on|off`
pub fn timer(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    shell.timer = switch(&arguments.words[0]);
    Ok(Flow::Continue)
}

/// `.mode ?MODE? ?OPTIONS?`
pub fn mode(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let wrap = match arguments.value("wrap").map(str::parse) {
        None => None,
        Some(Ok(width)) => Some(width),
        Some(Err(_)) => return Err(Misuse.into()),
    };
    let table = arguments.words.get(1);
    let mode = match arguments.first() {
        None if wrap.is_some() => shell.settings.mode,
        None => {
            writeln!(shell.out, "current output mode: {}", shell.settings.mode.name())?;
            return Ok(Flow::Continue);
        }
        Some(name) => Mode::parse(name).ok_or_else(|| {
            let names: Vec<_> = Mode::NAMES.iter().map(|(name, _)| *name).collect();
            anyhow!("mode should be one of: {}", names.join(" "))
        })?,
    };
    shell.settings.set_mode_by_command(mode);
    if let Some(width) = wrap {
        shell.settings.wrap = width;
    }
    if mode == Mode::Insert && arguments.first().is_some() {
        shell.settings.insert_table = table.map_or("table", String::as_str).to_owned();
    }
    Ok(Flow::Continue)
}

/// `.nullvalue STRING`
pub fn nullvalue(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    shell.settings.null.clone_from(&arguments.words[0]);
    Ok(Flow::Continue)
}

/// `.separator COL ?ROW?`
pub fn separator(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    shell.settings.column_separator.clone_from(&arguments.words[0]);
    if let Some(row) = arguments.words.get(1) {
        shell.settings.row_separator.clone_from(row);
    }
    Ok(Flow::Continue)
}

/// `.print STRING...`
pub fn print(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    writeln!(shell.out, "{}", arguments.words.join(" "))?;
    Ok(Flow::Continue)
}

/// `.timeout MS`
pub fn timeout(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let Ok(milliseconds) = arguments.words[0].parse::<i32>() else {
        return Err(Misuse.into());
    };
    // A negative time turns the timeout off, as in `sqlite3`.
    shell.db.busy_timeout(Duration::from_millis(milliseconds.try_into().unwrap_or(0)))?;
    Ok(Flow::Continue)
}

/// `.show`
pub fn show(shell: &mut Shell, _arguments: &Arguments) -> Result<Flow> {
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
        ("filename", hide_secrets(shell.location.name())),
    ];
    for (name, value) in lines {
        writeln!(shell.out, "{name:>12}: {value}")?;
    }
    Ok(Flow::Continue)
}

/// The text in double quotes with backslash escapes, as `.separator` accepts it.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}
