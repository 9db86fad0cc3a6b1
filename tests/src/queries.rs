//! The queries in `tests/queries`. The suites run them from Rust, in the shell and with the extension.

use std::path::{Path, PathBuf};

/// One query with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The text after `-- name:`.
    pub name: String,
    /// One SQL statement.
    pub sql: String,
}

/// Path of the Chinook queries.
pub fn chinook_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("queries/chinook.sql")
}

/// The Chinook queries.
pub fn chinook() -> Vec<Query> {
    parse(include_str!("../queries/chinook.sql"))
}

fn parse(text: &str) -> Vec<Query> {
    let parts = text.split("-- name:").skip(1).filter_map(|part| part.split_once('\n'));
    parts.map(|(name, sql)| Query { name: name.trim().to_owned(), sql: sql.trim().to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_query_has_a_name_and_one_statement() {
        let queries = chinook();
        assert!(queries.len() >= 30, "{}", queries.len());
        for query in &queries {
            assert!(query.sql.ends_with(';') && query.sql.matches(';').count() == 1, "{}", query.name);
        }
        let mut names: Vec<_> = queries.iter().map(|query| &query.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), queries.len(), "names are unique");
    }
}
