//! Escapes terminal control characters in messages.

use std::fmt::{self, Display, Write};

/// Displays a text with its control characters escaped. Names and server replies may contain them.
pub(crate) struct Printable<'a, T>(pub &'a T);

impl<T: Display> Display for Printable<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|last| last.is_control()) {
                Some(last) => write!(self.0, "{}{}", &part[..part.len() - last.len_utf8()], last.escape_default())?,
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::model::error::{Cause, Error};

    #[test]
    fn control_characters_in_names_and_replies_are_escaped() {
        let error = Error {
            place: Some("database `a\u{1b}]0;title\u{7}` on redis://h".into()),
            cause: Cause::Server("é\u{9b}2J\r\nX".to_owned()),
        };
        let text = r"database `a\u{1b}]0;title\u{7}` on redis://h: the server answered: é\u{9b}2J\r\nX";
        assert_eq!(error.to_string(), text);
    }
}
