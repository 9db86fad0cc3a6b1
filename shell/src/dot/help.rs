//! `.help`, made from the table of commands.

use std::io::Write;

use anyhow::Result;

use super::{Arguments, COMMANDS, Command, find};
use crate::session::{Flow, Shell};

/// `.help ?--all? ?PATTERN?`
pub fn help(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let all = arguments.has("all");
    match arguments.first() {
        None => {
            for command in COMMANDS {
                entry(shell, command, all)?;
            }
        }
        Some(name) => entry(shell, find(name.trim_start_matches('.'))?, true)?,
    }
    Ok(Flow::Continue)
}

/// Writes the line of a command, and `in_full` what else there is to know.
fn entry(shell: &mut Shell, command: &Command, in_full: bool) -> Result<()> {
    writeln!(shell.out, "{}", line(command))?;
    if in_full && !command.more.is_empty() {
        writeln!(shell.out, "{}", command.more)?;
    }
    Ok(())
}

fn line(command: &Command) -> String {
    format!("{:<24} {}", format!(".{} {}", command.name, command.usage).trim_end(), command.about)
}
