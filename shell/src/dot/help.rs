//! `.help`, made from the table of commands.

use std::io::Write;

use anyhow::Result;

use super::{COMMANDS, Command, find};
use crate::session::{Flow, Shell};

/// `.help ?PATTERN?`
pub fn help(shell: &mut Shell, arguments: &[String]) -> Result<Flow> {
    match arguments.first() {
        None => {
            for command in COMMANDS {
                writeln!(shell.out, "{}", line(command))?;
            }
        }
        Some(name) => {
            let command = find(name.trim_start_matches('.'))?;
            writeln!(shell.out, "{}", line(command))?;
            if !command.more.is_empty() {
                writeln!(shell.out, "{}", command.more)?;
            }
        }
    }
    Ok(Flow::Continue)
}

fn line(command: &Command) -> String {
    format!("{:<24} {}", format!(".{} {}", command.name, command.usage).trim_end(), command.about)
}
