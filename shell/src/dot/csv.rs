//! `.import`: rows from a file of separated values.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, bail, ensure};
use csv::{ByteRecord, ReaderBuilder, Terminator};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};

use crate::dot::arguments::{Arguments, Misuse};
use crate::output::Mode;
use crate::shell::{AlreadyReported, Flow, Shell};
use crate::source::Source;
use crate::{database, dump, names, signals};

struct Request {
    file: String,
    table: String,
    schema: Option<String>,
    skip: u64,
    separator: u8,
    /// Rows end with `\\x1e`, and quotes are nothing special.
    ascii: bool,
}

/// `.import ?OPTIONS? FILE TABLE`
pub fn import(shell: &mut Shell, arguments: &Arguments) -> Result<Flow> {
    let request = request(shell, arguments)?;
    let own = shell.db.is_autocommit();
    if own {
        // One commit for all rows instead of one for each.
        shell.db.execute_batch("BEGIN")?;
    }
    let result = rows(&shell.db, &request);
    if own && !shell.db.is_autocommit() {
        let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
        shell.db.execute_batch(end)?;
    }
    // As in `sqlite3`, accepted rows are kept, but the command fails.
    if result? { Err(AlreadyReported.into()) } else { Ok(Flow::Continue) }
}

fn request(shell: &Shell, arguments: &Arguments) -> Result<Request> {
    let [file, table] = arguments.words.as_slice() else {
        return Err(Misuse.into());
    };
    let skip = match arguments.value("skip").map(str::parse) {
        None => 0,
        Some(Ok(lines)) => lines,
        Some(Err(_)) => return Err(Misuse.into()),
    };
    let ascii = arguments.has("ascii");
    let csv = arguments.has("csv") || shell.settings.mode == Mode::Csv;
    let separator = match shell.settings.column_separator.as_bytes() {
        _ if ascii => b'\x1f',
        _ if csv => b',',
        [byte] => *byte,
        _ => bail!("import takes a column separator of one byte; see .separator and --csv"),
    };
    let schema = arguments.value("schema").map(str::to_owned);
    Ok(Request { file: file.clone(), table: table.clone(), schema, skip, separator, ascii })
}

/// Imports all rows. Returns whether some were refused.
fn rows(db: &Connection, request: &Request) -> Result<bool> {
    let name = &request.file;
    let mut file = BufReader::new(Source::open(name)?);
    let end = if request.ascii { b'\x1e' } else { b'\n' };
    for _ in 0..request.skip {
        let mut line = Vec::new();
        file.read_until(end, &mut line)?;
    }
    let mut format = ReaderBuilder::new();
    format.has_headers(false).flexible(true).delimiter(request.separator);
    if request.ascii {
        format.terminator(Terminator::Any(end)).quoting(false);
    }
    let mut reader = format.from_reader(file);
    let mut record = ByteRecord::new();
    let schema = request.schema.as_deref().unwrap_or("main");
    let mut columns = dump::columns(db, schema, &request.table)?.len();
    if columns == 0 {
        if !reader.read_byte_record(&mut record)? {
            bail!("{name}: empty file");
        }
        columns = create(db, request, &record)?;
    }
    let target = target(request);
    let marks = vec!["?"; columns].join(",");
    let mut insert = db.prepare(&format!("INSERT INTO {target} VALUES({marks})"))?;
    let mut refused = false;
    while reader.read_byte_record(&mut record).with_context(|| name.clone())? {
        let line = record.position().map_or(0, csv::Position::line) + request.skip;
        ensure!(!signals::stop(), "interrupted");
        complain_about_width(name, line, columns, record.len());
        let fields = (0..columns).map(|i| record.get(i).map(Field));
        if let Err(error) = insert.execute(params_from_iter(fields)) {
            note!("{name}:{line}: INSERT failed: {}", database::message(&error));
            if db.is_autocommit() {
                // The failure rolled back the whole transaction.
                bail!("the import was rolled back");
            }
            refused = true;
        }
    }
    Ok(refused)
}

fn complain_about_width(name: &str, line: u64, expected: usize, found: usize) {
    if found < expected {
        note!("{name}:{line}: expected {expected} columns but found {found} - filling the rest with NULL");
    } else if found > expected {
        note!("{name}:{line}: expected {expected} columns but found {found} - extras ignored");
    }
}

/// A field as a TEXT value, even if it is not UTF-8.
struct Field<'a>(&'a [u8]);

impl ToSql for Field<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

fn target(request: &Request) -> String {
    let table = names::quoted(&request.table);
    match &request.schema {
        Some(schema) => format!("{}.{table}", names::quoted(schema)),
        None => table,
    }
}

/// Creates the table. The first record names its columns.
fn create(db: &Connection, request: &Request, header: &ByteRecord) -> Result<usize> {
    let names: Vec<_> = header.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let unique = distinct(&names);
    let renamed: Vec<_> = names
        .iter()
        .zip(&unique)
        .filter(|(old, new)| old != new && !old.is_empty())
        .map(|(old, new)| format!("\"{old}\" to \"{new}\""))
        .collect();
    if !renamed.is_empty() {
        note!("Columns renamed during .import {} due to duplicates:\n{}", request.file, renamed.join(",\n"));
    }
    let columns: Vec<_> = unique.iter().map(|name| format!("{} TEXT", names::quoted(name))).collect();
    // Four columns to a line, as in `sqlite3`.
    let lines: Vec<_> = columns.chunks(4).map(|line| line.join(", ")).collect();
    db.execute_batch(&format!("CREATE TABLE {}(\n{})", target(request), lines.join(",\n ")))
        .with_context(|| format!("the table {} can't be made", request.table))?;
    Ok(unique.len())
}

/// Makes column names distinct: all names that occur more than once get their position appended.
fn distinct(names: &[String]) -> Vec<String> {
    let names: Vec<_> = names.iter().map(|name| if name.is_empty() { "?" } else { name }).collect();
    let mut taken: HashSet<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    let one = |(i, name): (usize, &&str)| {
        if names.iter().filter(|other| other.eq_ignore_ascii_case(name)).count() < 2 {
            return (*name).to_owned();
        }
        let mut numbered = format!("{name}_{}", i + 1);
        while !taken.insert(numbered.to_ascii_lowercase()) {
            numbered.push('_');
        }
        numbered
    };
    names.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_columns_get_their_position() {
        let names = ["a", "b", "A", "", "a_3"].map(str::to_owned);
        assert_eq!(distinct(&names), ["a_1", "b", "A_3_", "?", "a_3"]);
    }
}
