//! Results look as those of the stock `sqlite3` 3.40, in every mode.

mod common;

use common::{Home, sqlite3};

/// NULL, numbers of all sorts, quotes, separators, line ends, Unicode, blobs, odd column names,
/// results without rows, several results.
const QUERIES: &str = "
SELECT 1 a, 2.5 b, NULL c, 'it''s \"q\"' d, 'a,b' f, 'l1
l2' g, '' h, 'tab\tx' i, 1e20 j, 0.1 k, -0.375 l, 123456789012345678 m, 'é' n, char(1,127) o, 'a|b' p,
'CR'||char(13)||char(10)||'x' q, 1e15 r, 3.0 u, 100.0 v, 0.0625 w, x'' y, x'41' z, 12345678.5 aa, 9.75 bb;
SELECT 1 WHERE 0;
SELECT 'x' AS \"weird name\"\"\", 'y' AS \"select\" UNION ALL SELECT 'longer value', NULL;
SELECT 5;
SELECT 'long ' || printf('%.*c', 70, 'x') long, 'ünï' y;
";

const MODES: [&str; 10] = ["list", "csv", "json", "line", "markdown", "box", "table", "column", "quote", "tabs"];

#[track_caller]
fn same(args: &[&str], input: &str) {
    let Some(stock) = sqlite3("3.40") else { return };
    let home = Home::new();
    assert_eq!(home.run(args, input), stock.run(home.dir.path(), args, input), "{args:?} {input}");
}

#[test]
fn modes_given_as_options_print_as_in_sqlite3() {
    for mode in MODES {
        let mode = format!("-{mode}");
        for more in [&[][..], &["-header"], &["-noheader"], &["-nullvalue", "NUL"]] {
            let mut args = vec![mode.as_str()];
            args.extend(more);
            args.push(":memory:");
            same(&args, QUERIES);
        }
    }
}

#[test]
fn modes_given_by_command_print_as_in_sqlite3() {
    for mode in MODES.into_iter().chain(["insert", "insert t", "insert \"or der\"", "box --wrap 10"]) {
        for before in ["", ".headers on\n", ".nullvalue NUL\n", ".headers off\n"] {
            same(&[":memory:"], &format!("{before}.mode {mode}\n{QUERIES}"));
        }
    }
}

#[test]
fn separators_apply_as_in_sqlite3() {
    same(&["-separator", ";", "-newline", "!\n", ":memory:"], QUERIES);
    same(&["-csv", ":memory:"], &format!(".separator ; X\n{QUERIES}"));
    same(&[":memory:"], ".separator \\t \\n\nSELECT 1, 2;");
}

#[test]
fn blobs_and_infinity_print_as_in_sqlite3() {
    let sql = "SELECT x'00ff41' a, x'4142' b, 1e999 c, -1e999 d;";
    for mode in ["list", "csv", "line", "box", "insert"] {
        same(&[":memory:"], &format!(".mode {mode}\n{sql}"));
    }
}

#[test]
fn numbers_have_the_digits_of_sqlite3() {
    let mut seed: u64 = 42;
    let mut random = || {
        // Knuth's MMIX generator: enough to get digits from.
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        seed >> 11
    };
    let mut sql = String::new();
    for _ in 0..500 {
        sql += &format!("SELECT {}.{:02};\n", random() % 1_000_000, random() % 100);
    }
    // Of 20 digits, as the modes have them that are read back, its last ones are rounding errors.
    same(&["-list", ":memory:"], &sql);
}

#[test]
fn json_is_json_for_any_content() {
    let home = Home::new();
    let out = home.ok(&["-json", ":memory:", "SELECT x'00ff41' a, char(0, 34, 92, 31) b, 'é' c, 0.1 d, NULL e"], "");
    let parsed: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(parsed[0]["a"], "\u{0}\u{ff}A");
    assert_eq!(parsed[0]["d"], 0.1);
    assert!(parsed[0]["e"].is_null());
}

#[test]
fn aligned_modes_count_wide_characters_twice() {
    let out = Home::new().ok(&["-table", ":memory:", "SELECT '漢字' a UNION ALL SELECT 'abcd'"], "");
    assert_eq!(out, "+------+\n|  a   |\n+------+\n| 漢字 |\n| abcd |\n+------+\n");
}

#[test]
fn query_plans_are_trees_as_in_sqlite3() {
    same(
        &[":memory:"],
        "CREATE TABLE t(a, b); CREATE TABLE u(a PRIMARY KEY);
         EXPLAIN QUERY PLAN SELECT * FROM t UNION SELECT 1, a FROM u ORDER BY 1;",
    );
}
