//! Replies that a server might give to each command if it kept a database, and made mistakes.

use rand::RngExt;
use rand::rngs::StdRng;
use rusqlite::Connection;

use super::reply::Reply;

/// What there is to lie about: the pages of a real database.
pub struct Material {
    pages: Vec<Vec<u8>>,
}

impl Material {
    /// A small database as stock SQLite writes it.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn new() -> Material {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("material.db");
        let db = Connection::open(&path).expect("a database");
        db.execute_batch(super::SCHEMA).expect("a table");
        db.close().expect("closed");
        let bytes = std::fs::read(&path).expect("a file");
        Material { pages: bytes.chunks(4096).map(<[u8]>::to_vec).collect() }
    }

    /// A reply to a command that has these arguments, its name first. `wrong` in a hundred
    /// details are not as they ought to be.
    pub fn answer(&self, random: &mut StdRng, wrong: u32, command: &[Vec<u8>]) -> Reply {
        let slips = |random: &mut StdRng| random.random_ratio(wrong, 100);
        let name = command.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        match name.as_slice() {
            b"TYPE" => {
                let log = command.get(1).is_some_and(|key| key.ends_with(b":log") || key.ends_with(b":undo"));
                Reply::line(match (slips(random), log) {
                    (true, _) => ["+none", "+string", "+list"][random.random_range(0..3)],
                    (false, true) => "+stream",
                    (false, false) => "+hash",
                })
            }
            b"INFO" if slips(random) => Reply::bulk("redis_version:x.y\r\nmaxmemory_policy:allkeys-lru\r\n"),
            b"INFO" => Reply::bulk("redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\n"),
            b"HMGET" => {
                let fields = command.get(2..).unwrap_or_default();
                let mut values: Vec<Reply> = fields.iter().map(|field| self.field(random, wrong, field)).collect();
                if slips(random) {
                    values.truncate(random.random_range(0..=values.len()));
                }
                Reply::array(values)
            }
            b"XRANGE" if command.get(1).is_some_and(|key| key.ends_with(b":undo")) => {
                let id = command.get(2).cloned().unwrap_or_default();
                let pieces = random.random_range(0..3);
                Reply::array((0..pieces).map(|_| self.piece(random, wrong, &id)).collect::<Vec<_>>())
            }
            b"XRANGE" => {
                let entries = random.random_range(0..4u64);
                let first: u64 = if slips(random) { random.random() } else { random.random_range(1..5) };
                Reply::array((0..entries).map(|n| self.entry(random, wrong, first.wrapping_add(n))).collect::<Vec<_>>())
            }
            b"SET" | b"WATCH" | b"MULTI" | b"CLIENT" | b"SELECT" | b"DISCARD" => Reply::line("+OK"),
            b"HSET" | b"HDEL" | b"DEL" | b"XADD" | b"XTRIM" => Reply::line("+QUEUED"),
            b"EVAL" | b"EXISTS" => Reply::line(":1"),
            b"EXEC" if slips(random) => Reply::Array(None),
            b"EXEC" => Reply::array([Reply::line(":1"), Reply::bulk("5-0")]),
            _ => Reply::Bulk(None),
        }
    }

    fn field(&self, random: &mut StdRng, wrong: u32, field: &[u8]) -> Reply {
        if random.random_ratio(wrong, 100) {
            return match random.random_range(0..4) {
                0 => Reply::Bulk(None),
                1 => Reply::any(random, 2),
                2 => Reply::bulk(random.random::<u64>().to_string()),
                _ => Reply::bulk(vec![random.random(); random.random_range(0..5000)]),
            };
        }
        let slips = |random: &mut StdRng| random.random_ratio(wrong, 100);
        match field {
            b"version" if slips(random) => Reply::bulk(random.random_range(1..u64::MAX / 2).to_string()),
            b"version" => Reply::bulk(if slips(random) { "4" } else { "3" }),
            b"commit" => Reply::bulk(if slips(random) { "00000000000000cd" } else { "00000000000000ab" }),
            b"page_size" => Reply::bulk(if slips(random) { "512" } else { "4096" }),
            b"page_count" if slips(random) => {
                Reply::bulk([1, 3, 1_000_000, 4_294_967_294_u64][random.random_range(0..4)].to_string())
            }
            b"page_count" => Reply::bulk(self.pages.len().to_string()),
            b"format" => Reply::bulk("1"),
            _ => Reply::Bulk(self.page(random, wrong, field)),
        }
    }

    fn page(&self, random: &mut StdRng, wrong: u32, field: &[u8]) -> Option<Vec<u8>> {
        let number: usize = std::str::from_utf8(field.strip_prefix(b"page")?).ok()?.parse().ok()?;
        let mut page = self.pages.get(number - 1)?.clone();
        if random.random_ratio(wrong, 100) {
            for _ in 0..random.random_range(1..20) {
                let at = random.random_range(0..page.len());
                page[at] = random.random();
            }
        }
        Some(page)
    }

    /// A piece of undo data from the page on that `id` names.
    fn piece(&self, random: &mut StdRng, wrong: u32, id: &[u8]) -> Reply {
        let slips = |random: &mut StdRng| random.random_ratio(wrong, 100);
        let page = id.iter().rposition(|byte| *byte == b'-').map_or(&[][..], |dash| &id[dash + 1..]);
        let page = std::str::from_utf8(page).ok().and_then(|page| page.parse::<u8>().ok()).unwrap_or(1);
        let undo = match random.random_range(0..3) {
            0 => (0..random.random_range(0..40)).map(|_| random.random()).collect(),
            _ => vec![page & 0x7f, 4, 24, 2, 9, 9],
        };
        let commit = if slips(random) { "00000000000000cd" } else { "00000000000000ab" };
        let id = if slips(random) { b"3-0".to_vec() } else { id.to_vec() };
        let mut fields = vec![Reply::bulk("commit"), Reply::bulk(commit), Reply::bulk("undo"), Reply::bulk(undo)];
        if slips(random) {
            fields.truncate(random.random_range(0..fields.len()));
        }
        Reply::array([Reply::bulk(id), Reply::array(fields)])
    }

    fn entry(&self, random: &mut StdRng, wrong: u32, version: u64) -> Reply {
        let slips = |random: &mut StdRng| random.random_ratio(wrong, 100);
        let commit = |random: &mut StdRng| {
            Reply::bulk(if slips(random) {
                format!("{:016x}", random.random::<u64>())
            } else {
                "00000000000000ab".into()
            })
        };
        let undo: Vec<u8> = match random.random_range(0..3) {
            0 => vec![1, 4, 24, 2, 9, 9],
            1 => (0..random.random_range(0..40)).map(|_| random.random_range(0..6)).collect(),
            _ => (0..random.random_range(0..40)).map(|_| random.random()).collect(),
        };
        let mut fields = vec![Reply::bulk("commit"), commit(random), Reply::bulk("base"), commit(random)];
        fields.extend([Reply::bulk("page_count"), Reply::bulk(self.pages.len().to_string())]);
        let (name, value) = match random.random_range(0..3) {
            0 => ("pages", vec![random.random_range(0..4), random.random_range(1..9)]),
            _ => ("undo", undo),
        };
        fields.extend([Reply::bulk(name), Reply::bulk(value)]);
        if slips(random) {
            fields.truncate(random.random_range(0..fields.len()));
        }
        Reply::array([Reply::bulk(format!("{version}-0")), Reply::array(fields)])
    }
}

impl Default for Material {
    fn default() -> Self {
        Material::new()
    }
}
