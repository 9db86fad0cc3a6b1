//! `ls`, `info`, `rm`: lists, describes and removes databases.

use std::io::{IsTerminal, Write, stderr, stdin, stdout};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use sqlite_redis::admin::{Holder, Info};
use sqlite_redis::hide_secrets;

use crate::database::Server;
use crate::shown::{self, one_line};

/// `ls`: the databases as a table, or as a JSON array.
pub fn ls(server: &Server, as_json: bool) -> Result<()> {
    let all = server.admin()?.list()?;
    if as_json {
        let all: Vec<_> = all
            .iter()
            .map(|(name, info)| match info {
                Ok(info) => to_json(info),
                Err(error) => json!({ "name": name, "error": error.to_string() }),
            })
            .collect();
        return print(&shown::json(&serde_json::to_string_pretty(&all)?));
    }
    if all.is_empty() {
        if stdout().is_terminal() {
            note!("No databases yet. `sqlite-redis NAME` makes one.");
        }
        return Ok(());
    }
    let head = ["NAME", "PAGES", "PAGE SIZE", "IN REDIS", "VERSION", "LEASE"].map(str::to_owned);
    let rows = all.iter().map(|(name, info)| match info {
        Ok(info) => [
            name.clone(),
            info.page_count.to_string(),
            info.page_size.to_string(),
            bytes(info.redis_bytes),
            info.version.to_string(),
            info.lease.as_ref().map_or("-", |lease| &lease.token).to_owned(),
        ],
        Err(error) => [name, "?", "?", "?", "?", &error.cause.to_string()].map(str::to_owned),
    });
    print(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

/// `info`: one database in detail.
pub fn info(server: &Server, name: &str, as_json: bool) -> Result<()> {
    let info = server.admin()?.info(name)?.ok_or_else(|| server.missing(name))?;
    if as_json {
        return print(&shown::json(&serde_json::to_string_pretty(&to_json(&info))?));
    }
    let size = u64::from(info.page_size) * u64::from(info.page_count);
    let rows = [
        ("name", info.name.clone()),
        ("pages", format!("{} of {} bytes, {}", info.page_count, info.page_size, bytes(size))),
        ("in Redis", bytes(info.redis_bytes)),
        ("version", info.version.to_string()),
        ("lease", lease(info.lease.as_ref())),
        ("log", format!("{} commits, {}", info.log_length, bytes(info.log_bytes))),
    ];
    let lines: Vec<_> = rows.iter().map(|(key, value)| format!("{key:<9} {}", one_line(value))).collect();
    print(&lines.join("\n"))
}

/// `rm`: asks for confirmation on a terminal, and needs `--yes` elsewhere.
pub fn rm(server: &Server, name: &str, yes: bool) -> Result<()> {
    let admin = server.admin()?;
    if !yes {
        let info = admin.info(name)?.ok_or_else(|| server.missing(name))?;
        if !stdin().is_terminal() {
            bail!("rm removes a database for good; say --yes where nobody can be asked");
        }
        write!(stderr(), "Remove {} ({} pages) for good? [y/N] ", one_line(name), info.page_count)?;
        let mut answer = String::new();
        stdin().read_line(&mut answer)?;
        if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            bail!("{name} was kept");
        }
    }
    if admin.remove(name)? { Ok(()) } else { Err(server.missing(name)) }
}

/// The holder of a lease, as text.
pub fn lease(lease: Option<&Holder>) -> String {
    match lease {
        Some(lease) => format!("{} (for {:.1} s more)", one_line(&lease.token), lease.ttl_ms as f64 / 1000.0),
        None => "free".to_owned(),
    }
}

/// The holder of a lease, as JSON.
pub fn holder(lease: Option<&Holder>) -> Option<Value> {
    lease.map(|lease| json!({ "holder": lease.token, "ttl_ms": lease.ttl_ms }))
}

fn to_json(info: &Info) -> Value {
    json!({
        "name": info.name,
        "version": info.version,
        "page_size": info.page_size,
        "page_count": info.page_count,
        "redis_bytes": info.redis_bytes,
        "lease": holder(info.lease.as_ref()),
        "log_length": info.log_length,
        "log_bytes": info.log_bytes,
    })
}

/// Prints to stdout. A closed pipe is no error.
pub fn print(text: &str) -> Result<()> {
    match writeln!(stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(anyhow!(error)),
        _ => Ok(()),
    }
}

/// Formats rows as aligned columns, numbers to the right.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<_> =
        rows.iter().map(|row| row.each_ref().map(|cell| one_line(&hide_secrets(cell)).into_owned())).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().enumerate().map(|(i, cell)| match i {
            0 => format!("{cell:<0$}", widths[i]),
            _ if i + 1 == N => cell.clone(),
            _ => format!("{cell:>0$}", widths[i]),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A size with a unit, such as `1.2 MB`.
fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = [["NAME", "PAGES", "X"], ["a", "12345678", "-"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "NAME     PAGES  X\na     12345678  -");
    }
}
