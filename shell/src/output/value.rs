//! Formats single values as plain text, SQL literals or JSON.
//!
//! The rules are those of `sqlite3` 3.40, so that scripts can switch between the two. `shell/tests/output.rs`
//! compares them.

use rusqlite::types::ValueRef;

use super::real;

/// Digits that `sqlite3` prints for people (`%!.15g`).
const DISPLAY_DIGITS: usize = 15;
/// Digits that `sqlite3` prints to be read back (`%!.20g`).
const EXACT_DIGITS: usize = 20;

/// A value in the text modes; `None` for NULL.
///
/// As in `sqlite3`, text and blobs end at the first NUL byte. Modes whose output is read back (insert, quote, json)
/// write blobs whole.
pub fn display(value: ValueRef<'_>) -> Option<Vec<u8>> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(i) => Some(i.to_string().into_bytes()),
        ValueRef::Real(r) => Some(shown_real(r).into_bytes()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(until_nul(bytes).to_vec()),
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

/// A number with 20 significant digits, for insert, quote and json. It is correctly rounded; the last digits of
/// `sqlite3` 3.40, which computes with fewer bits, may differ.
pub fn exact_real(r: f64) -> String {
    if r.is_infinite() {
        // A literal that every SQLite parses as infinity.
        return if r > 0.0 { "1e999" } else { "-1e999" }.to_owned();
    }
    real::general(r, EXACT_DIGITS)
}

fn shown_real(r: f64) -> String {
    if r.is_infinite() {
        return if r > 0.0 { "Inf" } else { "-Inf" }.to_owned();
    }
    real::general(r, DISPLAY_DIGITS)
}

/// A blob literal in lower case, as `sqlite3` prints it.
pub fn blob_literal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2 + 3);
    out.push_str("X'");
    push_hex(&mut out, bytes);
    out.push('\'');
    out
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
}

/// A text in single quotes, quotes doubled.
pub fn quoted(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'\'');
    for &byte in text {
        if byte == b'\'' {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(b'\'');
    out
}

/// A text literal on one line: line ends become `replace(..., char(10))`.
///
/// SQL ends at a NUL byte, so a text that contains one is written as a blob and cast back.
pub fn escaped(text: &[u8]) -> Vec<u8> {
    if text.contains(&0) {
        return format!("CAST({} AS TEXT)", blob_literal(text)).into_bytes();
    }
    let newline = text.contains(&b'\n').then(|| unused(text, "\\n", "\\012"));
    let ret = text.contains(&b'\r').then(|| unused(text, "\\r", "\\015"));
    let mut out = Vec::with_capacity(text.len() + 2);
    for _ in newline.iter().chain(&ret) {
        out.extend_from_slice(b"replace(");
    }
    out.push(b'\'');
    for &byte in text {
        match (byte, &newline, &ret) {
            (b'\n', Some(mark), _) | (b'\r', _, Some(mark)) => {
                out.extend_from_slice(mark.as_bytes());
            }
            (b'\'', ..) => out.extend_from_slice(b"''"),
            _ => out.push(byte),
        }
    }
    out.push(b'\'');
    for (mark, code) in [(ret, 13), (newline, 10)] {
        if let Some(mark) = mark {
            out.extend_from_slice(format!(",'{mark}',char({code}))").as_bytes());
        }
    }
    out
}

/// A placeholder for a line end that does not occur in `text`.
fn unused(text: &[u8], first: &str, second: &str) -> String {
    let absent = |mark: &str| !text.windows(mark.len()).any(|w| w == mark.as_bytes());
    let numbered = (0u64..).map(|i| format!("({first}{i})"));
    [first.to_owned(), second.to_owned()].into_iter().chain(numbered).find(|mark| absent(mark)).unwrap_or_default()
}

/// The SQL literal of a value, on one line.
pub fn literal(value: ValueRef<'_>) -> Vec<u8> {
    match value {
        ValueRef::Text(text) => escaped(text),
        other => literal_as_is(other),
    }
}

/// The SQL literal of a value, with its line ends.
pub fn literal_as_is(value: ValueRef<'_>) -> Vec<u8> {
    match value {
        ValueRef::Null => b"NULL".to_vec(),
        ValueRef::Integer(i) => i.to_string().into_bytes(),
        ValueRef::Real(r) => exact_real(r).into_bytes(),
        ValueRef::Text(text) if text.contains(&0) => escaped(text),
        ValueRef::Text(text) => quoted(text),
        ValueRef::Blob(bytes) => blob_literal(bytes).into_bytes(),
    }
}

/// A JSON string. Bytes that are not UTF-8 become `\u00XX`, so the result is always valid JSON.
pub fn json_string(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                _ => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\u{byte:04x}"));
        }
    }
    out.push('"');
    out
}

/// The JSON form of a value.
pub fn json(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(r) => exact_real(r),
        ValueRef::Text(text) => json_string(until_nul(text)),
        ValueRef::Blob(bytes) => json_string(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reals_look_like_those_of_sqlite3() {
        for (r, shown, exact) in [
            (0.1, "0.1", "0.10000000000000000555"),
            (-0.0, "0.0", "0.0"),
            (2.0, "2.0", "2.0"),
            (1e15, "1.0e+15", "1000000000000000.0"),
            (123456.789e3, "123456789.0", "123456789.0"),
            (1e-5, "1.0e-05", "1.0000000000000000818e-05"),
            (0.0001, "0.0001", "0.00010000000000000000479"),
            (-1.5e300, "-1.5e+300", "-1.5000000000000000788e+300"),
            (f64::INFINITY, "Inf", "1e999"),
        ] {
            assert_eq!(shown_real(r), shown);
            assert_eq!(exact_real(r), exact);
        }
    }

    #[test]
    fn line_ends_are_escaped_with_a_mark_that_does_not_occur() {
        let sql = |t: &str| String::from_utf8(escaped(t.as_bytes())).unwrap();
        assert_eq!(sql("it's"), "'it''s'");
        assert_eq!(sql("a\nb"), "replace('a\\nb','\\n',char(10))");
        assert_eq!(sql("\\n\n"), "replace('\\n\\012','\\012',char(10))");
        assert_eq!(sql("a\r\nb"), "replace(replace('a\\r\\nb','\\r',char(13)),'\\n',char(10))");
        assert_eq!(sql("a\0b"), "CAST(X'610062' AS TEXT)");
    }

    #[test]
    fn json_is_valid_for_any_bytes() {
        assert_eq!(json_string(b"a\"\x01\xff\n"), r#""a\"\u0001\u00ff\n""#);
    }
}
