//! `.schema --indent`: long CREATE statements with one column to a line, as `sqlite3` does it, which also counts
//! parentheses in quoted names.

/// Formats a statement as `sqlite3` does.
pub fn indented(sql: &str) -> String {
    let starts = |word: &str| sql.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if starts("CREATE VIEW") || starts("CREATE TRIG") {
        return sql.to_owned();
    }
    let sql = squeezed(sql);
    // `sqlite3` measures this in bytes too.
    if sql.len() < 79 { sql } else { broken(&sql) }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// Collapses white space to one space, and removes it around parentheses.
fn squeezed(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    for c in sql.trim_start_matches(is_space).chars() {
        if is_space(c) {
            if out.ends_with('\r') {
                out.pop();
                out.push('\n');
            }
            if out.ends_with(|last| is_space(last) || last == '(') {
                continue;
            }
        } else if matches!(c, '(' | ')') && out.ends_with(is_space) {
            out.pop();
        }
        out.push(c);
    }
    out.truncate(out.trim_end_matches(is_space).len());
    out
}

/// Puts each part between the outer parentheses on a line of its own.
fn broken(sql: &str) -> String {
    let (mut out, mut line) = (String::new(), String::new());
    let (mut depth, mut lines) = (0, 0);
    // The end of the open quoted text or comment.
    let mut end = None;
    let mut rest = sql.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let after = &sql[at + c.len_utf8()..];
        match c {
            _ if end == Some(c) => end = None,
            '"' | '\'' | '`' => end = Some(c),
            '[' => end = Some(']'),
            '-' if after.starts_with('-') => end = Some('\n'),
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if lines > 0 && depth == 0 && !line.is_empty() {
                    out += &line;
                    out.push('\n');
                    line.clear();
                }
            }
            _ => {}
        }
        line.push(c);
        let breaks = c == '(' || c == '\n' || (c == ',' && !is_blank_to_line_end(after));
        if depth == 1 && end.is_none() && breaks {
            out += line.trim_end_matches('\n');
            out += "\n  ";
            line.clear();
            lines += 1;
            while rest.next_if(|(_, next)| is_space(*next)).is_some() {}
        }
    }
    out + &line
}

/// Whether only a comment follows on this line.
fn is_blank_to_line_end(text: &str) -> bool {
    let text = text.trim_start_matches(|c| is_space(c) && c != '\n');
    text.is_empty() || text.starts_with('\n') || text.starts_with("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_statements_stay_on_one_line() {
        assert_eq!(indented("CREATE TABLE t (a,\n  b  )"), "CREATE TABLE t(a,\nb)");
        assert_eq!(indented("CREATE VIEW v AS\n  SELECT 1"), "CREATE VIEW v AS\n  SELECT 1");
    }

    #[test]
    fn long_statements_have_a_column_on_each_line() {
        let sql = "CREATE TABLE long(a integer, b text default (1+(2*3)), check (b in (1,2)), \"x,y\" text, é text)";
        let lines = [
            "CREATE TABLE long(",
            "  a integer,",
            "  b text default(1+(2*3)),",
            "  check(b in(1,2)),",
            "  \"x,y\" text,",
            "  é text",
            ")",
        ];
        assert_eq!(indented(sql), lines.join("\n"));
    }
}
