//! Prints results: the modes, their settings, and the target of the output.

mod columns;
mod json;
mod rows;
mod real;
mod sink;
pub mod value;

use std::io::{self, Write};

use rusqlite::Row;

pub use sink::Sink;

/// The format of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Aligned, framed with box-drawing characters.
    Box,
    /// Aligned, no frame.
    Column,
    /// Comma-separated values.
    Csv,
    /// SQL `INSERT` statements.
    Insert,
    /// An array of objects.
    Json,
    /// One value a line.
    Line,
    /// Values with a separator between them.
    List,
    /// A Markdown table.
    Markdown,
    /// SQL literals.
    Quote,
    /// Aligned, framed with ASCII.
    Table,
    /// Tab-separated values.
    Tabs,
}

impl Mode {
    /// Every mode with the name that `.mode` and the command line use.
    pub const NAMES: [(&'static str, Mode); 11] = [
        ("box", Mode::Box),
        ("column", Mode::Column),
        ("csv", Mode::Csv),
        ("insert", Mode::Insert),
        ("json", Mode::Json),
        ("line", Mode::Line),
        ("list", Mode::List),
        ("markdown", Mode::Markdown),
        ("quote", Mode::Quote),
        ("table", Mode::Table),
        ("tabs", Mode::Tabs),
    ];

    /// The mode of that name. Abbreviations and plurals of `sqlite3` are accepted.
    pub fn parse(name: &str) -> Option<Mode> {
        let plural = |full: &str| matches!(full, "column" | "line");
        Self::NAMES
            .into_iter()
            .find(|(full, _)| {
                !name.is_empty() && (full.starts_with(name) || (plural(full) && name == format!("{full}s")))
            })
            .map(|(_, mode)| mode)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|(_, mode)| *mode == self).map_or("list", |(name, _)| name)
    }
}

/// The settings of the output.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The format of rows.
    pub mode: Mode,
    /// Whether to print column names; `None` if the user has not chosen.
    pub headers: Option<bool>,
    /// The text between values.
    pub column_separator: String,
    /// The text after a row.
    pub row_separator: String,
    /// The text for NULL.
    pub null: String,
    /// The table name in insert mode.
    pub insert_table: String,
    /// The width at which aligned modes wrap values; 0 for none.
    pub wrap: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mode: Mode::List,
            headers: None,
            column_separator: "|".to_owned(),
            row_separator: "\n".to_owned(),
            null: String::new(),
            insert_table: "table".to_owned(),
            wrap: 0,
        }
    }
}

impl Settings {
    /// Changes the mode as a command-line option does. It keeps the row separator, so `-csv` ends lines with `
    /// `.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        match mode {
            Mode::Csv => self.column_separator = ",".to_owned(),
            Mode::List => self.column_separator = "|".to_owned(),
            Mode::Tabs => self.column_separator = "\t".to_owned(),
            Mode::Quote => self.column_separator = ",".to_owned(),
            _ => {}
        }
    }

    /// Changes the mode as `.mode` does, with separators and wrapping.
    pub fn set_mode_by_command(&mut self, mode: Mode) {
        self.set_mode(mode);
        match mode {
            Mode::Csv => self.row_separator = "\r\n".to_owned(),
            Mode::Column => {
                self.row_separator = "\n".to_owned();
                self.headers.get_or_insert(true);
            }
            Mode::Line | Mode::List | Mode::Tabs | Mode::Quote => {
                self.row_separator = "\n".to_owned();
            }
            _ => {}
        }
        self.wrap = 60;
    }

    /// Whether modes with optional column names print them.
    pub fn show_headers(&self) -> bool {
        self.headers.unwrap_or(false)
    }
}

/// Prints one result.
pub trait Renderer {
    /// Prints one row.
    fn row(&mut self, row: &Row<'_>, out: &mut dyn Write) -> Result<(), RenderError>;
    /// Prints the end, after the last row.
    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

/// A row could not be printed.
#[derive(Debug)]
pub enum RenderError {
    /// The value could not be read.
    Value(rusqlite::Error),
    /// The output could not be written.
    Output(io::Error),
}

impl From<rusqlite::Error> for RenderError {
    fn from(error: rusqlite::Error) -> Self {
        RenderError::Value(error)
    }
}

impl From<io::Error> for RenderError {
    fn from(error: io::Error) -> Self {
        RenderError::Output(error)
    }
}

/// The renderer for a result with these columns.
pub fn renderer(settings: &Settings, columns: Vec<String>) -> Box<dyn Renderer> {
    let settings = settings.clone();
    match settings.mode {
        Mode::Json => Box::new(json::Json::new(columns)),
        Mode::Box | Mode::Column | Mode::Markdown | Mode::Table => Box::new(columns::Columns::new(settings, columns)),
        Mode::Csv | Mode::Insert | Mode::Line | Mode::List | Mode::Quote | Mode::Tabs => {
            Box::new(rows::Rows::new(settings, columns))
        }
    }
}
