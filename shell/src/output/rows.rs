//! The modes that print row by row: list, tabs, csv, line, quote, insert.

use std::io::{self, Write};

use rusqlite::Row;

use super::{Mode, RenderError, Renderer, Settings, value};
use crate::names;

pub struct Rows {
    settings: Settings,
    columns: Vec<String>,
    /// Width of the longest column name in line mode.
    label_width: usize,
    /// `INSERT INTO t(a,b) VALUES(` in insert mode.
    insert_head: String,
    count: u64,
}

impl Rows {
    pub fn new(settings: Settings, columns: Vec<String>) -> Self {
        let label_width = columns.iter().map(String::len).max().unwrap_or(0).max(5);
        let insert_head = insert_head(&settings, &columns);
        Rows { settings, columns, label_width, insert_head, count: 0 }
    }

    fn header(&self, out: &mut dyn Write) -> io::Result<()> {
        let names = self.columns.iter().map(|name| match self.settings.mode {
            Mode::Csv => self.csv_field(Some(name.as_bytes().to_vec())),
            Mode::Quote => value::quoted(name.as_bytes()),
            _ => name.as_bytes().to_vec(),
        });
        self.separated(names, out)
    }

    fn separated(&self, fields: impl Iterator<Item = Vec<u8>>, out: &mut dyn Write) -> io::Result<()> {
        for (i, field) in fields.enumerate() {
            if i > 0 {
                out.write_all(self.settings.column_separator.as_bytes())?;
            }
            out.write_all(&field)?;
        }
        out.write_all(self.settings.row_separator.as_bytes())
    }

    fn or_null(&self, text: Option<Vec<u8>>) -> Vec<u8> {
        text.unwrap_or_else(|| self.settings.null.clone().into_bytes())
    }

    fn csv_field(&self, text: Option<Vec<u8>>) -> Vec<u8> {
        let Some(text) = text else {
            return self.settings.null.clone().into_bytes();
        };
        let special = |&b: &u8| b <= b' ' || b == b'"' || b == b'\'' || b >= 0x7f;
        let separator = self.settings.column_separator.as_bytes();
        let separated = !separator.is_empty() && text.windows(separator.len()).any(|window| window == separator);
        if !text.is_empty() && !separated && !text.iter().any(special) {
            return text;
        }
        let mut out = vec![b'"'];
        for byte in text {
            if byte == b'"' {
                out.push(byte);
            }
            out.push(byte);
        }
        out.push(b'"');
        out
    }

    fn line(&self, row: &Row<'_>, out: &mut dyn Write) -> Result<(), RenderError> {
        let end = self.settings.row_separator.as_bytes();
        if self.count > 0 {
            out.write_all(end)?;
        }
        for (i, name) in self.columns.iter().enumerate() {
            // Padded by bytes, as in `sqlite3`.
            let pad = " ".repeat(self.label_width - name.len());
            write!(out, "{pad}{name} = ")?;
            out.write_all(&self.or_null(value::display(row.get_ref(i)?)))?;
            out.write_all(end)?;
        }
        Ok(())
    }
}

/// The beginning of each row in insert mode.
fn insert_head(settings: &Settings, columns: &[String]) -> String {
    let table = names::quoted_if_needed(&settings.insert_table);
    let mut head = format!("INSERT INTO {table}");
    if settings.show_headers() {
        let names: Vec<_> = columns.iter().map(|name| names::quoted_if_needed(name)).collect();
        head += &format!("({})", names.join(","));
    }
    head + " VALUES("
}

impl Renderer for Rows {
    fn row(&mut self, row: &Row<'_>, out: &mut dyn Write) -> Result<(), RenderError> {
        let mode = self.settings.mode;
        if self.count == 0 && self.settings.show_headers() && mode != Mode::Line && mode != Mode::Insert {
            self.header(out)?;
        }
        if mode == Mode::Line {
            self.line(row, out)?;
        } else if mode == Mode::Insert {
            out.write_all(self.insert_head.as_bytes())?;
            for i in 0..self.columns.len() {
                out.write_all(if i > 0 { b"," } else { b"" })?;
                out.write_all(&value::literal(row.get_ref(i)?))?;
            }
            out.write_all(b");\n")?;
        } else {
            let mut fields = Vec::with_capacity(self.columns.len());
            for i in 0..self.columns.len() {
                let value = row.get_ref(i)?;
                fields.push(match mode {
                    Mode::Quote => value::literal_as_is(value),
                    Mode::Csv => self.csv_field(value::display(value)),
                    _ => self.or_null(value::display(value)),
                });
            }
            self.separated(fields.into_iter(), out)?;
        }
        self.count += 1;
        Ok(())
    }

    fn finish(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
