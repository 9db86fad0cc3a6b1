//! Runs SQL: prepares, steps, prints.

use std::fmt;
use std::io::Write;
use std::rc::Rc;

use anyhow::Result;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Statement};

use crate::database;
use crate::output::{self, Mode, RenderError, Sink};
use crate::shell::Shell;
use crate::timer::Timer;

/// The phase in which a statement failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It could not be prepared.
    Prepare,
    /// It failed while running.
    Step,
}

impl Phase {
    /// The phase as `sqlite3` names it for lines of input.
    pub fn title(self) -> &'static str {
        match self {
            Phase::Prepare => "Parse error",
            Phase::Step => "Runtime error",
        }
    }

    /// The phase as `sqlite3` names it for arguments.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Prepare => "in prepare",
            Phase::Step => "stepping",
        }
    }
}

/// A SQL error with the wording of `sqlite3`.
#[derive(Debug)]
pub struct SqlFailure {
    /// Where it failed.
    pub phase: Phase,
    /// SQLite's primary result code.
    pub code: i32,
    /// Message, code, and a pointer to the place in the statement.
    pub text: String,
}

impl SqlFailure {
    fn new(phase: Phase, error: &rusqlite::Error) -> Self {
        let mut text = database::message(error);
        let code = database::code(error);
        // Code 1 (SQLITE_ERROR) adds nothing to the message.
        if code > 1 {
            text += &format!(" ({code})");
        }
        if let rusqlite::Error::SqlInputError { sql, offset, .. } = error
            && let Ok(offset) = usize::try_from(*offset)
        {
            let statement = sql.trim_ascii_start();
            text += &point_at(statement, offset.saturating_sub(sql.len() - statement.len()));
        }
        SqlFailure { phase, code, text }
    }
}

impl fmt::Display for SqlFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SqlFailure {}

/// Two lines: the part of `sql` around `offset`, and an arrow.
fn point_at(sql: &str, mut offset: usize) -> String {
    if offset >= sql.len() || !sql.is_char_boundary(offset) {
        return String::new();
    }
    let mut begin = 0;
    for c in sql.chars() {
        if offset <= 50 {
            break;
        }
        begin += c.len_utf8();
        offset -= c.len_utf8();
    }
    let rest = &sql[begin..];
    let code: String =
        rest[..rest.floor_char_boundary(78)].chars().map(|c| if c.is_ascii_whitespace() { ' ' } else { c }).collect();
    if offset < 25 {
        format!("\n  {code}\n  {:offset$}^--- error here", "")
    } else {
        format!("\n  {code}\n  {:1$}error here ---^", "", offset - 14)
    }
}

/// Runs all statements in `text`. Stops at the first that fails.
pub fn sql(shell: &mut Shell, text: &str) -> Result<()> {
    shell.server.ensure_for(text)?;
    let timer = shell.timer.then(Timer::start);
    let result = statements(shell, text);
    if let Some(timer) = timer {
        writeln!(shell.out, "{}", timer.report())?;
    }
    if result.is_ok() && shell.changes {
        let (changes, total) = (shell.db.changes(), shell.db.total_changes());
        writeln!(shell.out, "changes: {changes}   total_changes: {total}")?;
    }
    result
}

fn statements(shell: &mut Shell, text: &str) -> Result<()> {
    let db = Rc::clone(&shell.db);
    let mut batch = Batch::new(&db, text);
    loop {
        match batch.next() {
            Ok(Some(statement)) => print(shell, statement)?,
            Ok(None) => return Ok(()),
            Err(error) => return Err(SqlFailure::new(Phase::Prepare, &error).into()),
        }
    }
}

fn print(shell: &mut Shell, mut statement: Statement<'_>) -> Result<()> {
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let failure = |error| anyhow::Error::from(SqlFailure::new(Phase::Step, &error));
    let mut settings = shell.settings.clone();
    match statement.is_explain() {
        2 => return query_plan(statement, &mut shell.out),
        1 => {
            settings.mode = Mode::Column;
            settings.headers = Some(true);
        }
        _ => {}
    }
    let mut renderer = output::renderer(&settings, columns);
    let mut rows = statement.raw_query();
    let mut result = Ok(());
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error) => {
                result = Err(failure(error));
                break;
            }
        };
        if row.as_ref().column_count() == 0 {
            continue;
        }
        match renderer.row(row, &mut shell.out) {
            Ok(()) => {}
            Err(RenderError::Output(error)) => return Err(error.into()),
            Err(RenderError::Value(error)) => return Err(failure(error)),
        }
    }
    // Rows before the failure are printed, as in `sqlite3`.
    renderer.finish(&mut shell.out)?;
    result
}

/// EXPLAIN QUERY PLAN as a tree.
fn query_plan(mut statement: Statement<'_>, out: &mut Sink) -> Result<()> {
    let mut nodes: Vec<(i64, i64, String)> = Vec::new();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(|error| SqlFailure::new(Phase::Step, &error))? {
        nodes.push((row.get(0)?, row.get(1)?, row.get(3)?));
    }
    if !nodes.is_empty() {
        writeln!(out, "QUERY PLAN")?;
        branch(&nodes, 0, "", out)?;
    }
    Ok(())
}

fn branch(nodes: &[(i64, i64, String)], parent: i64, prefix: &str, out: &mut Sink) -> std::io::Result<()> {
    let children: Vec<_> = nodes.iter().filter(|(_, above, _)| *above == parent).collect();
    for (i, (id, _, text)) in children.iter().enumerate() {
        let last = i + 1 == children.len();
        writeln!(out, "{prefix}{}{text}", if last { "`--" } else { "|--" })?;
        // Damaged output could name a node as its own parent.
        if *id != parent {
            branch(nodes, *id, &format!("{prefix}{}", if last { "   " } else { "|  " }), out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_point_at_their_place() {
        assert_eq!(point_at("selct 1;\n", 0), "\n  selct 1; \n  ^--- error here");
        let late = format!("select {}, x", "1, ".repeat(30));
        let pointed = point_at(&late, late.len() - 1);
        let lines: Vec<&str> = pointed.lines().collect();
        assert_eq!(lines[1].chars().nth(lines[2].find('^').unwrap()), Some('x'));
        assert_eq!(point_at("é", 1), "");
    }
}
