//! SQL cut into tokens, for the few questions that SQLite does not answer.

use std::ops::Range;

/// A piece of SQL that is neither blank nor comment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token<'a> {
    pub text: &'a str,
    pub at: Range<usize>,
    /// Parentheses around it.
    pub depth: usize,
}

impl Token<'_> {
    pub(crate) fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    /// The name that it is, without quotes.
    pub(crate) fn name(&self) -> String {
        match self.text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner.to_owned(),
            None => crate::vtab::declare::address::unquoted(self.text),
        }
    }
}

/// Never fails: what is no SQL gives tokens of one character.
pub(crate) fn tokens(sql: &str) -> Vec<Token<'_>> {
    let bytes = sql.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    while at < bytes.len() {
        let end = end_of_token(bytes, at);
        let comment = bytes[at..].starts_with(b"--") || bytes[at..].starts_with(b"/*");
        if !comment && !bytes[at].is_ascii_whitespace() {
            if bytes[at] == b')' {
                depth = depth.saturating_sub(1);
            }
            // `end` stands on a character's border: it follows an ASCII byte, or ends the text.
            found.push(Token { text: sql.get(at..end).unwrap_or_default(), at: at..end, depth });
            if bytes[at] == b'(' {
                depth += 1;
            }
        }
        at = end;
    }
    found
}

fn end_of_token(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || !b.is_ascii();
    let until = |end: &[u8], from: usize| {
        rest[from..]
            .windows(end.len())
            .position(|window| window == end)
            .map_or(bytes.len(), |n| at + from + n + end.len())
    };
    match rest[0] {
        b'-' if rest.starts_with(b"--") => until(b"\n", 2),
        b'/' if rest.starts_with(b"/*") => until(b"*/", 2),
        b'[' => until(b"]", 1),
        quote @ (b'\'' | b'"' | b'`') => {
            let mut end = 1;
            while end < rest.len() {
                if rest[end] != quote {
                    end += 1;
                } else if rest.get(end + 1) == Some(&quote) {
                    end += 2;
                } else {
                    return at + end + 1;
                }
            }
            bytes.len()
        }
        byte if is_word(&byte) => at + rest.iter().position(|b| !is_word(b)).unwrap_or(rest.len()),
        _ => at + 1,
    }
}

/// A name as SQL writes it, whatever it is.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strings_names_and_comments_are_told_apart() {
        let sql = "a \"b \"\" c\" 'd, (' -- e\n/* f */ [g h](i)";
        let texts: Vec<_> = tokens(sql).into_iter().map(|token| (token.text, token.depth)).collect();
        let expected = [("a", 0), ("\"b \"\" c\"", 0), ("'d, ('", 0), ("[g h]", 0), ("(", 0), ("i", 1), (")", 0)];
        assert_eq!(texts, expected);
        assert_eq!(tokens("\"b \"\" c\"")[0].name(), "b \" c");
    }

    proptest! {
        #[test]
        fn anything_can_be_cut(sql in "\\PC{0,40}") {
            tokens(&sql);
        }
    }
}
