//! The aligned modes: box, table, markdown, column.
//!
//! Widths are those on a terminal, where a CJK character takes two cells. `sqlite3` counts characters, so its output
//! is the same except for wide characters.

use std::io::{self, Write};

use rusqlite::Row;
use unicode_width::UnicodeWidthChar;

use super::{Mode, RenderError, Renderer, Settings, value};

pub struct Columns {
    settings: Settings,
    header: Vec<Cell>,
    /// Rows, each a list of printed lines.
    rows: Vec<Vec<Vec<Cell>>>,
}

/// A piece of text on one line, and its width.
#[derive(Clone, Default)]
struct Cell {
    text: String,
    width: usize,
}

impl Columns {
    pub fn new(settings: Settings, columns: Vec<String>) -> Self {
        let header =
            columns.iter().map(|name| lines(name, settings.wrap).into_iter().next().unwrap_or_default()).collect();
        Columns { settings, header, rows: Vec::new() }
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|cell| cell.width).collect();
        for line in self.rows.iter().flatten() {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.width);
            }
        }
        widths
    }
}

impl Renderer for Columns {
    fn row(&mut self, row: &Row<'_>, _out: &mut dyn Write) -> Result<(), RenderError> {
        let mut cells = Vec::with_capacity(self.header.len());
        for i in 0..self.header.len() {
            let text = match value::display(row.get_ref(i)?) {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => self.settings.null.clone(),
            };
            cells.push(lines(&text, self.settings.wrap));
        }
        let height = cells.iter().map(Vec::len).max().unwrap_or(1);
        let printed = (0..height).map(|n| {
            let nth = |cell: &Vec<Cell>| cell.get(n).cloned().unwrap_or_default();
            cells.iter().map(nth).collect()
        });
        self.rows.push(printed.collect());
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let frame = Frame::of(self.settings.mode);
        let widths = self.widths();
        if self.settings.mode == Mode::Column {
            if self.settings.show_headers() {
                frame.line(&self.header, &widths, left, out)?;
                let dashes: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
                writeln!(out, "{}", dashes.join("  "))?;
            }
        } else {
            frame.rule(frame.top, &widths, out)?;
            frame.line(&self.header, &widths, centred, out)?;
            frame.rule(frame.middle, &widths, out)?;
        }
        // A line separates rows if one of them has several lines.
        let divided = self.rows.iter().any(|row| row.len() > 1);
        for (i, row) in self.rows.iter().enumerate() {
            for line in row {
                frame.line(line, &widths, left, out)?;
            }
            if divided && i + 1 < self.rows.len() {
                match self.settings.mode {
                    Mode::Column => writeln!(out)?,
                    Mode::Markdown => {}
                    _ => frame.rule(frame.middle, &widths, out)?,
                }
            }
        }
        frame.rule(frame.bottom, &widths, out)
    }
}

/// The characters around cells. A rule is left corner, dash, crossing, right corner; `None` where the mode has no
/// such rule.
struct Frame {
    left: &'static str,
    between: &'static str,
    right: &'static str,
    top: Option<[&'static str; 4]>,
    middle: Option<[&'static str; 4]>,
    bottom: Option<[&'static str; 4]>,
}

impl Frame {
    fn of(mode: Mode) -> Frame {
        let ascii = Some(["+", "-", "+", "+"]);
        match mode {
            Mode::Box => Frame {
                left: "│ ",
                between: " │ ",
                right: " │",
                top: Some(["┌", "─", "┬", "┐"]),
                middle: Some(["├", "─", "┼", "┤"]),
                bottom: Some(["└", "─", "┴", "┘"]),
            },
            Mode::Table => Frame { left: "| ", between: " | ", right: " |", top: ascii, middle: ascii, bottom: ascii },
            Mode::Markdown => Frame {
                left: "| ",
                between: " | ",
                right: " |",
                top: None,
                middle: Some(["|", "-", "|", "|"]),
                bottom: None,
            },
            _ => Frame { left: "", between: "  ", right: "", top: None, middle: None, bottom: None },
        }
    }

    fn rule(&self, rule: Option<[&str; 4]>, widths: &[usize], out: &mut dyn Write) -> io::Result<()> {
        let Some([first, dash, crossing, last]) = rule else {
            return Ok(());
        };
        let dashes: Vec<_> = widths.iter().map(|width| dash.repeat(width + 2)).collect();
        writeln!(out, "{first}{}{last}", dashes.join(crossing))
    }

    fn line(
        &self,
        cells: &[Cell],
        widths: &[usize],
        align: fn(&Cell, usize) -> String,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let padded: Vec<_> = cells.iter().zip(widths).map(|(c, w)| align(c, *w)).collect();
        writeln!(out, "{}{}{}", self.left, padded.join(self.between), self.right)
    }
}

fn left(cell: &Cell, width: usize) -> String {
    format!("{}{}", cell.text, " ".repeat(width - cell.width))
}

fn centred(cell: &Cell, width: usize) -> String {
    let free = width - cell.width;
    format!("{}{}{}", " ".repeat(free / 2), cell.text, " ".repeat(free.div_ceil(2)))
}

/// Splits a value into lines: at line ends and other control characters, and where it exceeds `wrap`. Tabs become
/// spaces.
fn lines(text: &str, wrap: usize) -> Vec<Cell> {
    let limit = if wrap == 0 { usize::MAX } else { wrap };
    let mut out = vec![];
    let mut cell = Cell::default();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\t' {
            // A wide character may exceed the limit by one cell.
            let stop = (cell.width / 8 * 8 + 8).min(limit).max(cell.width);
            cell.text.extend(std::iter::repeat_n(' ', stop - cell.width));
            cell.width = stop;
        } else if c < ' ' {
            if c == '\r' {
                chars.next_if_eq(&'\n');
            }
            if chars.peek().is_some() {
                out.push(std::mem::take(&mut cell));
            }
            continue;
        } else {
            cell.text.push(c);
            cell.width += c.width().unwrap_or(1);
        }
        if cell.width >= limit && chars.peek().is_some_and(|next| *next >= ' ') {
            out.push(std::mem::take(&mut cell));
        }
    }
    out.push(cell);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str, wrap: usize) -> Vec<String> {
        lines(text, wrap).into_iter().map(|cell| cell.text).collect()
    }

    #[test]
    fn values_are_cut_at_line_ends_and_at_the_limit() {
        assert_eq!(texts("a\tb\nc", 0), ["a       b", "c"]);
        assert_eq!(texts("a\r\nb\n", 0), ["a", "b"]);
        assert_eq!(texts("abcde", 2), ["ab", "cd", "e"]);
        assert_eq!(texts("", 5), [""]);
        assert_eq!(texts("a漢\tb", 2), ["a漢", "b"], "wider than the limit");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(lines("é漢字", 0)[0].width, 5);
    }
}
