//! Spoils the replies of a real server in ways that a client must notice.
//!
//! A page with other bytes of the right length is not among them, nor is a `nil` from `EXEC`:
//! pages carry no checksum, and a server that lies in well-chosen words is believed. See
//! `docs/correctness.md`, "What is assumed".

use rand::RngExt;
use rand::rngs::StdRng;

use super::reply::Reply;

/// The reply with something wrong in it.
pub fn spoil(random: &mut StdRng, command: &str, reply: &Reply) -> Reply {
    match (command, reply) {
        ("HMGET", Reply::Array(Some(values))) => Reply::array(fields(random, values.clone())),
        ("XRANGE", Reply::Array(Some(entries))) => Reply::array(log(random, entries.clone())),
        // What the commit's commands did is in the reply to EXEC; that they were queued is not news.
        ("EXEC", Reply::Array(Some(_))) => match random.random_range(0..4) {
            0 => Reply::line(":1"),
            1 => Reply::bulk("OK"),
            2 => Reply::array([]),
            _ => Reply::line("+OK"),
        },
        ("EXEC", _) => reply.clone(),
        _ => Reply::any(random, 2),
    }
}

/// Spoils what an `HMGET` answered: five fields of metadata, then pages.
fn fields(random: &mut StdRng, mut values: Vec<Reply>) -> Vec<Reply> {
    let number = |value: &Reply| match value {
        Reply::Bulk(Some(digits)) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    let at = random.random_range(0..values.len());
    match random.random_range(0..8) {
        0 => {
            values.remove(at);
        }
        1 => values.insert(at, values[at].clone()),
        2 => values[at] = Reply::line(":7"),
        3 if values.contains(&Reply::Bulk(None)) => values[at] = Reply::line("+x"),
        3 => values[at] = Reply::Bulk(None),
        4 => {
            let version = number(&values[0]).unwrap_or(1);
            let jump = random.random_range(1..10);
            values[0] =
                Reply::bulk(if random.random() { version + jump } else { version.saturating_sub(jump) }.to_string());
        }
        5 => values[1] = Reply::bulk(format!("{:016x}", random.random::<u64>())),
        6 => values[2] = Reply::bulk([512, 1024, 4096, 8192, 65536, 3][random.random_range(0..6)].to_string()),
        _ => {
            let count = number(&values[3]).unwrap_or(1);
            let other = [count + 1, count.saturating_sub(1), 1, 1_000_000, 4_294_967_294];
            values[3] = Reply::bulk(other[random.random_range(0..5)].to_string());
        }
    }
    if let (Some(Reply::Bulk(Some(page))), 0) = (values.get_mut(5), random.random_range(0..4)) {
        page.truncate(page.len() / 2);
    }
    values
}

/// Spoils what an `XRANGE` answered.
fn log(random: &mut StdRng, mut entries: Vec<Reply>) -> Vec<Reply> {
    if entries.is_empty() {
        return vec![Reply::any(random, 2)];
    }
    let at = random.random_range(0..entries.len());
    match random.random_range(0..5) {
        0 => {
            entries.remove(at);
        }
        1 => entries.insert(at, entries[at].clone()),
        2 => entries[at] = Reply::any(random, 2),
        3 => entries.clear(),
        _ => {
            if let Reply::Array(Some(entry)) = &mut entries[at]
                && let [Reply::Bulk(Some(id)), Reply::Array(Some(fields))] = entry.as_mut_slice()
            {
                match random.random_range(0..4) {
                    0 => *id = format!("{}-0", random.random::<u64>()).into_bytes(),
                    1 => fields[1] = Reply::bulk(format!("{:016x}", random.random::<u64>())),
                    2 => fields[3] = Reply::bulk(format!("{:016x}", random.random::<u64>())),
                    _ => fields.truncate(fields.len() / 2),
                }
            }
        }
    }
    entries
}
