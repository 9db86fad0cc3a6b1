//! Completion of dot commands and their arguments, keywords, functions, and the tables and columns of the open
//! database.

use std::rc::Rc;

use rusqlite::Connection;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::{Context, Helper, Highlighter, Hinter, Validator};

use crate::output::Mode;
use crate::shown::commands_terminal;
use crate::{dot, names};

/// The helper of the line editor.
#[derive(Helper, Highlighter, Hinter, Validator)]
pub struct Completion {
    /// The open database, while a line is being edited.
    pub db: Option<Rc<Connection>>,
    files: FilenameCompleter,
}

impl Default for Completion {
    fn default() -> Self {
        Completion { db: None, files: FilenameCompleter::new() }
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        if let Some((command, _)) = typed.split_once(' ').filter(|_| typed.starts_with('.')) {
            let wanted = match dot::find(command.trim_start_matches('.')) {
                Ok(command) => command.completes,
                Err(_) => dot::arguments::Completes::Nothing,
            };
            return match wanted {
                dot::arguments::Completes::Files => {
                    let (start, mut files) = self.files.complete(line, pos, context)?;
                    files.retain(|file| !file.display.contains(commands_terminal));
                    Ok((start, files))
                }
                other => Ok(words(typed, &self.arguments(other))),
            };
        }
        if typed.starts_with('.') {
            let names: Vec<_> = dot::COMMANDS.iter().map(|c| format!(".{}", c.name)).collect();
            return Ok((0, pairs(names.iter().filter(|name| name.starts_with(typed)))));
        }
        Ok(self.sql(typed))
    }
}

impl Completion {
    fn arguments(&self, wanted: dot::arguments::Completes) -> Vec<String> {
        match wanted {
            dot::arguments::Completes::Tables => self.tables(),
            dot::arguments::Completes::Modes => Mode::NAMES.iter().map(|(name, _)| (*name).to_owned()).collect(),
            dot::arguments::Completes::Switch => vec!["on".to_owned(), "off".to_owned()],
            dot::arguments::Completes::Files | dot::arguments::Completes::Nothing => Vec::new(),
        }
    }

    fn sql(&self, typed: &str) -> (usize, Vec<Pair>) {
        let start = word_start(typed);
        if let Some(before) = typed[..start].strip_suffix('.') {
            let owner = &before[word_start(before)..];
            return words(typed, &self.members(owner));
        }
        if start == typed.len() {
            return (start, Vec::new());
        }
        let mut candidates = self.tables();
        candidates.extend(self.columns());
        candidates.extend(self.query("SELECT DISTINCT name FROM pragma_function_list", []));
        let lower = typed[start..].chars().all(|c| !c.is_ascii_uppercase());
        candidates.extend(names::keywords().iter().map(|keyword| match lower {
            true => keyword.to_ascii_lowercase(),
            false => keyword.clone(),
        }));
        words(typed, &candidates)
    }

    /// What may follow `owner.`: columns of a table, tables of a schema, or any column, because `owner` may be an
    /// alias.
    fn members(&self, owner: &str) -> Vec<String> {
        let columns = self.query("SELECT name FROM pragma_table_info(?1)", [owner]);
        if !columns.is_empty() {
            return columns;
        }
        let is_schema = self.schemas().iter().any(|name| name.eq_ignore_ascii_case(owner));
        if is_schema { self.tables_of(owner) } else { self.columns() }
    }

    fn schemas(&self) -> Vec<String> {
        self.query("SELECT name FROM pragma_database_list", [])
    }

    fn tables(&self) -> Vec<String> {
        self.schemas().iter().flat_map(|schema| self.tables_of(schema)).collect()
    }

    fn tables_of(&self, schema: &str) -> Vec<String> {
        let schema = names::quoted(schema);
        let sql = format!("SELECT name FROM {schema}.sqlite_schema WHERE type IN ('table', 'view')");
        self.query(&sql, [])
    }

    fn columns(&self) -> Vec<String> {
        self.query(
            "SELECT DISTINCT c.name FROM sqlite_schema AS s, pragma_table_info(s.name) AS c
             WHERE s.type IN ('table', 'view')",
            [],
        )
    }

    /// The names that a query returns; none if it fails, because completion must not report errors.
    fn query<const N: usize>(&self, sql: &str, params: [&str; N]) -> Vec<String> {
        let Some(db) = &self.db else {
            return Vec::new();
        };
        let names = db.prepare(sql).and_then(|mut statement| {
            let rows = statement.query_map(rusqlite::params_from_iter(params), |row| row.get(0))?;
            rows.collect()
        });
        names.unwrap_or_default()
    }
}

fn word_start(typed: &str) -> usize {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    typed.trim_end_matches(word).len()
}

/// The candidates that begin with the last word of `typed`.
fn words(typed: &str, candidates: &[String]) -> (usize, Vec<Pair>) {
    let start = word_start(typed);
    let prefix = typed[start..].to_lowercase();
    let mut fitting: Vec<&String> = candidates.iter().filter(|name| name.to_lowercase().starts_with(&prefix)).collect();
    fitting.sort_by_key(|name| name.to_lowercase());
    fitting.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
    (start, pairs(fitting.into_iter()))
}

/// Turns names into candidates. Names with control characters are left out: the terminal would obey them.
fn pairs<'a>(names: impl Iterator<Item = &'a String>) -> Vec<Pair> {
    let names = names.filter(|name| !name.contains(commands_terminal));
    names.map(|name| Pair { display: name.clone(), replacement: name.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(typed: &str) -> Vec<String> {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE albums(title, artist); CREATE TABLE songs(length);
                          CREATE TABLE \"songs\u{1b}]0;x\u{7}\"(x)",
        )
        .unwrap();
        let completion = Completion { db: Some(Rc::new(db)), ..Completion::default() };
        let history = rustyline::history::DefaultHistory::new();
        let context = Context::new(&history);
        let (_, pairs) = completion.complete(typed, typed.len(), &context).unwrap();
        pairs.into_iter().map(|pair| pair.replacement).collect()
    }

    #[test]
    fn sql_completes_tables_columns_and_keywords() {
        assert_eq!(completed("SELECT titl"), ["title"]);
        assert!(completed("select * from al").contains(&"albums".to_owned()));
        assert!(completed("sele").contains(&"select".to_owned()));
        assert!(completed("SELE").contains(&"SELECT".to_owned()));
        assert_eq!(completed("select songs."), ["length"]);
        assert_eq!(completed("select a.ti"), ["title"]);
        assert_eq!(completed("select main.s"), ["songs"]);
    }

    #[test]
    fn dot_commands_complete_with_their_arguments() {
        assert_eq!(completed(".tab"), [".tables"]);
        assert_eq!(completed(".mode js"), ["json"]);
        assert_eq!(completed(".schema so"), ["songs"]);
        assert_eq!(completed(".headers o"), ["off", "on"]);
    }
}
