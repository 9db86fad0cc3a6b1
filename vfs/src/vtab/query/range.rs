//! Ranges of values, cut into ranges of the sorted sets of an index.

use std::cmp::Ordering;

use redis::{Cmd, cmd};

use crate::sqlite::value::{Affinity, Value};
use crate::vtab::layout::index::{Part, member, parts, score, sortable, value_of};
use crate::vtab::layout::keys::Keys;
use crate::vtab::query::operand::Reach;

/// Integers beyond this share scores, so that order and limits have to be looked at again.
pub(crate) const EXACT: f64 = 9_007_199_254_740_992.0;

/// As many integers can share a score. Other programs may give one to more members.
const SHARING: usize = 2048;

/// A piece of a sorted set, read window by window.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub part: Part,
    key: Vec<u8>,
    low: Vec<u8>,
    high: Vec<u8>,
    descending: bool,
    /// Members at the border score that were read already.
    skip: usize,
    /// More members to ask for, where many share a score.
    extra: usize,
    /// Its members are numbers that are their own scores, or so it seems. Scores cost the server more
    /// than members, so only the last two are asked for ([`Window::border`]).
    pub bare: bool,
}

/// A member of a sorted set with its score.
pub(crate) type Member = (Vec<u8>, f64);

/// The windows for some of a column's values, in order.
pub(crate) fn windows(keys: &Keys, column: &str, affinity: Affinity, reach: &Reach, descending: bool) -> Vec<Window> {
    let of_part = |part: Part| {
        let (low, high) = limits(part, reach)?;
        Some(Window::new(part, part.key(keys, column), (low, high), descending))
    };
    let mut windows: Vec<Window> = parts(affinity).into_iter().filter_map(of_part).collect();
    if descending {
        windows.reverse();
    }
    windows
}

/// The window of some rowids.
pub(crate) fn rowids(keys: &Keys, reach: &Reach, descending: bool) -> Vec<Window> {
    let limits = limits(Part::Numbers, reach);
    limits.map(|limits| Window::new(Part::Numbers, keys.rowids(), limits, descending)).into_iter().collect()
}

/// The windows of text that begins with one of some prefixes, which are in order.
pub(crate) fn prefixes(keys: &Keys, column: &str, prefixes: &[Vec<u8>], descending: bool) -> Vec<Window> {
    let mut windows: Vec<Window> = prefixes
        .iter()
        .map(|prefix| {
            let mut end = prefix.clone();
            while end.last() == Some(&0xff) {
                end.pop();
            }
            let high = match end.last_mut() {
                Some(last) => {
                    *last += 1;
                    [b"(", end.as_slice()].concat()
                }
                None => b"+".to_vec(),
            };
            let low = [b"[", prefix.as_slice()].concat();
            Window::new(Part::Texts, Part::Texts.key(keys, column), (low, high), descending)
        })
        .collect();
    // Numbers and blobs are like text to LIKE.
    let other = |part: Part| Window::new(part, part.key(keys, column), whole(part), descending);
    windows.insert(0, other(Part::OtherNumbers));
    windows.push(other(Part::OtherBlobs));
    if descending {
        windows.reverse();
    }
    windows
}

/// All of a part.
fn whole(part: Part) -> (Vec<u8>, Vec<u8>) {
    match part {
        Part::Nulls => Default::default(),
        Part::Numbers => (b"-inf".to_vec(), b"+inf".to_vec()),
        Part::Texts => (b"-".to_vec(), b"+".to_vec()),
        Part::OtherNumbers => (b"[n".to_vec(), b"(o".to_vec()),
        Part::OtherTexts => (b"[t".to_vec(), b"(u".to_vec()),
        Part::OtherBlobs => (b"[b".to_vec(), b"(c".to_vec()),
    }
}

/// The borders of a part's values, as `ZRANGEBYSCORE` or `ZRANGEBYLEX` take them. May be a little
/// wide: SQLite looks at every row again.
fn limits(part: Part, reach: &Reach) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut from, mut to) = whole(part);
    let (low, high) = match part {
        Part::Nulls => return reach.nulls.then_some((from, to)),
        Part::Numbers | Part::OtherNumbers => reach.numbers.as_ref()?,
        Part::Texts | Part::OtherTexts => reach.texts.as_ref()?,
        Part::OtherBlobs => reach.blobs.as_ref()?,
    };
    if let Some((value, included)) = low {
        from = border(part, value, *included, true);
    }
    if let Some((value, included)) = high {
        to = border(part, value, *included, false);
    }
    Some((from, to))
}

fn border(part: Part, value: &Value, included: bool, low: bool) -> Vec<u8> {
    match part {
        Part::Numbers => {
            let text = score(value);
            let exact = text.parse::<f64>().is_ok_and(|score| score.abs() < EXACT);
            if included || !exact { text.into_bytes() } else { format!("({text}").into_bytes() }
        }
        // Whether integer or real is told by what follows.
        Part::OtherNumbers if low => format!("[n{}", sortable(value)).into_bytes(),
        Part::OtherNumbers => format!("(n{}s", sortable(value)).into_bytes(),
        _ => [if included { b"[".as_slice() } else { b"(" }, &member(part, value)].concat(),
    }
}

impl Window {
    fn new(part: Part, key: Vec<u8>, (low, high): (Vec<u8>, Vec<u8>), descending: bool) -> Self {
        Window { part, key, low, high, descending, skip: 0, extra: 0, bare: false }
    }

    fn is_scored(&self) -> bool {
        self.part == Part::Numbers
    }

    /// The command for the next `limit` members. NULL has none, but a [set](crate::vtab::sets).
    pub(crate) fn command(&self, limit: usize) -> Cmd {
        let (name, from, to) = match (self.is_scored(), self.descending) {
            (true, false) => ("ZRANGEBYSCORE", &self.low, &self.high),
            (true, true) => ("ZREVRANGEBYSCORE", &self.high, &self.low),
            (false, false) => ("ZRANGEBYLEX", &self.low, &self.high),
            (false, true) => ("ZREVRANGEBYLEX", &self.high, &self.low),
        };
        let mut command = cmd(name);
        command.arg(&self.key).arg(from).arg(to);
        if self.is_scored() && !self.bare {
            command.arg("WITHSCORES");
        }
        command.arg("LIMIT").arg(self.skip).arg(limit + self.extra).to_owned()
    }

    /// Asks how many members its sorted set has.
    pub(crate) fn size(&self) -> Cmd {
        cmd("ZCARD").arg(&self.key).to_owned()
    }

    /// The same, to be read without scores.
    pub(crate) fn bare(self) -> Window {
        Window { bare: true, ..self }
    }

    /// The command for the last two of these members, with their scores.
    pub(crate) fn border(&self, limit: usize) -> Cmd {
        let last =
            Window { skip: self.skip + (limit + self.extra).saturating_sub(2), extra: 0, bare: false, ..self.clone() };
        last.command(2)
    }

    /// Gives bare members their scores, if what is at the border bears out that they are their own:
    /// the last two are the same in both replies, and differ in their scores, so that the next window
    /// begins behind the last. If not, the window has to be read again, with scores.
    pub(crate) fn scored(&mut self, members: Vec<Vec<u8>>, border: &[Member], limit: usize) -> Option<Vec<Member>> {
        let number = |member: &Vec<u8>| {
            let number: i64 = std::str::from_utf8(member).ok()?.parse().ok()?;
            Some(number as f64).filter(|score| score.abs() < EXACT)
        };
        let full = members.len() >= limit + self.extra;
        let scored: Option<Vec<Member>> =
            members.into_iter().map(|member| Some(number(&member)?).map(|score| (member, score))).collect();
        let borne_out = |scored: &Vec<Member>| {
            !full || scored.ends_with(border) && matches!(border, [(_, first), (_, last)] if first != last)
        };
        let scored = scored.filter(borne_out);
        self.bare = scored.is_some();
        scored
    }

    /// Moves on past the members of a reply: those that can be used now, and whether there may
    /// be more. Members whose scores are equal though their numbers are not are put in order.
    pub(crate) fn advance(&mut self, mut members: Vec<Member>, limit: usize) -> (Vec<Member>, bool) {
        let more = members.len() >= limit + self.extra;
        let Some((last, score)) = members.last().cloned() else { return (members, false) };
        if !self.is_scored() {
            let border = [b"(", last.as_slice()].concat();
            *(if self.descending { &mut self.high } else { &mut self.low }) = border;
            return (members, more);
        }
        let mut at_border = members.iter().filter(|(_, other)| *other == score).count();
        if score.abs() >= EXACT && more && at_border == members.len() {
            // Not even the first score is complete.
            self.extra = (self.extra * 2).max(SHARING);
            return (Vec::new(), true);
        }
        if score.abs() >= EXACT && more {
            // The rest of this score comes with the next window.
            members.retain(|(_, other)| *other != score);
            at_border = 0;
        }
        let border = redis_score(score);
        let side = if self.descending { &mut self.high } else { &mut self.low };
        let same = *side == border;
        self.skip = if same { self.skip + at_border } else { at_border };
        *side = border;
        if members.iter().any(|(_, score)| score.abs() >= EXACT) {
            let number = |(member, score): &Member| value_of(self.part, Affinity::Numeric, member, *score);
            let descending = self.descending;
            members.sort_by(|a, b| {
                let order = number(a).zip(number(b)).map_or(Ordering::Equal, |(a, b)| a.compare(&b));
                if descending { order.reverse() } else { order }
            });
        }
        (members, more)
    }
}

/// A score as Redis takes it, to the last bit.
fn redis_score(score: f64) -> Vec<u8> {
    crate::vtab::layout::index::score(&Value::Real(score)).into_bytes()
}
