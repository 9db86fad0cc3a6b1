//! Expected data loss. A run is a sequence of *eras*, separated by cuts: all data is removed, or a replica that lacks
//! the last commits takes over. Within an era nothing may be lost. At a cut, an operation is lost exactly if the next
//! era does not begin with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;

use super::history::{Operation, Outcome};
use super::worker::Role;

/// Ids of the operations in a database, in order. `append` has several lists, the other workloads one.
pub type Lists = BTreeMap<i64, Vec<String>>;

/// The end of an era and the beginning of the next.
#[derive(Debug)]
pub struct Cut {
    /// The next era sent no reply before this time; see [`super::clock::now`].
    pub ends: u64,
    /// The previous era sent no reply after this time.
    pub begins: u64,
    /// Content at the end of the previous era.
    pub left: Lists,
    /// Content at the beginning of the next era.
    pub kept: Lists,
    /// Whether a replica took over. It must have the commits that waited for it.
    pub failover: bool,
}

/// The eras of one database.
#[derive(Debug, Default)]
pub struct Eras {
    cuts: Vec<Cut>,
    last: Lists,
    /// Whether a transaction can publish rows and undo them later, as a virtual table does.
    pub takes_back: bool,
}

/// Nanoseconds before a failover in which the replica may have missed an undo.
const TAKEN_BACK_LATE: u64 = 5_000_000_000;

impl Eras {
    /// Adds the end of an era.
    pub fn cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
    }

    /// Sets the content at the end of the last era.
    pub fn end(&mut self, left: Lists) {
        self.last = left;
    }

    /// The eras that may have executed an operation. Without a recorded end, that may be any later one: a command may
    /// still be in flight.
    pub fn touched(&self, operation: &Operation) -> RangeInclusive<usize> {
        self.between(operation.began, operation)
    }

    /// The eras whose versions an operation may have read.
    pub fn shown(&self, operation: &Operation) -> RangeInclusive<usize> {
        self.between(operation.as_of(), operation)
    }

    fn between(&self, from: u64, operation: &Operation) -> RangeInclusive<usize> {
        let first = self.cuts.iter().take_while(|cut| cut.begins <= from).count();
        let last = match operation.ended {
            Some(ended) => self.cuts.iter().take_while(|cut| cut.ends < ended).count(),
            None => self.cuts.len(),
        };
        first..=last
    }

    /// Content at the end of an era.
    fn left(&self, era: usize) -> &Lists {
        self.cuts.get(era).map_or(&self.last, |cut| &cut.left)
    }

    /// A list at the end of an era.
    pub fn at_the_end_of(&self, era: usize, list: i64) -> &[String] {
        self.left(era).get(&list).map_or(&[], Vec::as_slice)
    }

    /// Checks each era: acknowledged operations are there once, failed ones are not, unknown ids do not appear, and an
    /// operation lost at a cut stays lost.
    pub fn check_presence(&self, workload: &str, operations: &[Operation]) -> Vec<String> {
        let mut times: Vec<HashMap<&str, u32>> = (0..=self.cuts.len()).map(|era| counts(self.left(era))).collect();
        let kept: Vec<HashSet<&str>> =
            self.cuts.iter().map(|cut| cut.kept.values().flatten().map(String::as_str).collect()).collect();
        let mut violations = Vec::new();
        for operation in operations {
            let id = operation.id.as_str();
            let there: Vec<u32> = times.iter_mut().map(|times| times.remove(id).unwrap_or(0)).collect();
            let kept: Vec<bool> = kept.iter().map(|kept| kept.contains(id)).collect();
            if let Some(wrong) = self.wrong(operation, &there, &kept) {
                let Operation { outcome, what, result, .. } = operation;
                violations.push(format!(
                    "{workload}: {outcome:?} operation {id} {wrong}: {there:?} times, kept {kept:?}; {what} {result}"
                ));
            }
        }
        violations.extend(times.iter().flat_map(HashMap::keys).map(|id| format!("{workload}: nobody began {id}")));
        violations
    }

    /// The violation of an operation, if any. `there` counts it at the end of each era, `kept` tells whether it
    /// survived each cut.
    fn wrong(&self, operation: &Operation, there: &[u32], kept: &[bool]) -> Option<&'static str> {
        let touched = self.touched(operation);
        if self.takes_back && self.is_back(operation, there, kept) {
            return None;
        }
        if there.iter().any(|&times| times > 1) {
            return Some("is doubled");
        }
        for (era, &times) in there.iter().enumerate() {
            let kept = era > 0 && kept[era - 1];
            match (kept, times) {
                (true, 0) => return Some("was kept and is lost"),
                (true, _) if there[era - 1] == 0 => return Some("was kept from nowhere"),
                (false, 1) if !touched.contains(&era) => return Some("is in an era that it did not meet"),
                _ => {}
            }
        }
        let last = *touched.end();
        match operation.outcome {
            Outcome::Failed | Outcome::Read if there[last..].contains(&1) => Some("changed nothing, yet is there"),
            Outcome::Acknowledged if !there[touched.clone()].contains(&1) => Some("is lost"),
            // An operation during a cut may be done in either era.
            Outcome::Acknowledged
                if operation.role == Role::Waiting && !touched.into_iter().any(|era| self.survives(there, era)) =>
            {
                Some("waited for the replica that took over, and is lost")
            }
            _ => None,
        }
    }

    /// Whether a failover lost the undo of an operation: the replica had its rows only.
    fn is_back(&self, operation: &Operation, there: &[u32], kept: &[bool]) -> bool {
        let was_late = |cut: &Cut| {
            let ended = operation.ended.unwrap_or(u64::MAX);
            cut.failover && operation.began < cut.begins && ended.saturating_add(TAKEN_BACK_LATE) >= cut.ends
        };
        let mut cuts = self.cuts.iter().enumerate();
        operation.outcome != Outcome::Acknowledged
            && cuts.any(|(n, cut)| {
                kept[n] && there[n] == 0 && there[n + 1..].iter().all(|&times| times <= 1) && was_late(cut)
            })
    }

    /// Whether an operation is there from an era on, through all failovers that follow it directly.
    fn survives(&self, there: &[u32], from: usize) -> bool {
        let failovers = self.cuts[from..].iter().take_while(|cut| cut.failover).count();
        there[from..=from + failovers].iter().all(|&times| times == 1)
    }
}

fn counts(lists: &Lists) -> HashMap<&str, u32> {
    let mut times = HashMap::new();
    for id in lists.values().flatten() {
        *times.entry(id.as_str()).or_default() += 1;
    }
    times
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn operation(id: &str, times: (u64, u64), outcome: Outcome) -> Operation {
        Operation {
            id: id.into(),
            role: Role::Primary,
            began: times.0,
            ended: Some(times.1),
            outcome,
            what: Value::Null,
            result: Value::Null,
        }
    }

    fn lists(ids: &[&str]) -> Lists {
        Lists::from([(0, ids.iter().map(|id| (*id).to_owned()).collect())])
    }

    #[test]
    fn presence_is_judged_by_outcome() {
        let operations = [
            operation("a", (0, 1), Outcome::Acknowledged),
            operation("f", (0, 1), Outcome::Failed),
            operation("u", (0, 1), Outcome::Unknown),
        ];
        let check = |found: &[&str]| {
            let mut eras = Eras::default();
            eras.end(lists(found));
            eras.check_presence("test", &operations).len()
        };
        assert_eq!(check(&["a"]), 0);
        assert_eq!(check(&["a", "u"]), 0);
        assert_eq!(check(&[]), 1, "lost");
        assert_eq!(check(&["a", "a"]), 1, "doubled");
        assert_eq!(check(&["a", "f"]), 1, "failed, yet there");
        assert_eq!(check(&["a", "u", "u"]), 1, "doubled");
        assert_eq!(check(&["a", "x"]), 1, "from nowhere");
    }

    /// An era that ends between 10 and 20 with `left`, one that begins with `kept` and ends with `last`.
    fn two_eras(operation: Operation, left: &[&str], kept: &[&str], last: &[&str]) -> usize {
        let mut eras = Eras::default();
        eras.cut(Cut { ends: 10, begins: 20, left: lists(left), kept: lists(kept), failover: true });
        eras.end(lists(last));
        eras.check_presence("test", &[operation]).len()
    }

    #[test]
    fn what_a_cut_keeps_stays_and_what_it_does_not_keep_stays_away() {
        let done = |times| operation("a", times, Outcome::Acknowledged);
        assert_eq!(two_eras(done((1, 2)), &["a"], &["a"], &["a"]), 0);
        assert_eq!(two_eras(done((1, 2)), &["a"], &[], &[]), 0, "lost with the server");
        assert_eq!(two_eras(done((1, 2)), &[], &[], &[]), 1, "lost before");
        assert_eq!(two_eras(done((1, 2)), &["a"], &["a"], &[]), 1, "lost after");
        assert_eq!(two_eras(done((1, 2)), &["a"], &[], &["a"]), 1, "back again");
        assert_eq!(two_eras(done((1, 2)), &[], &["a"], &["a"]), 1, "kept from nowhere");
        assert_eq!(two_eras(done((21, 22)), &[], &[], &["a"]), 0);
        assert_eq!(two_eras(done((21, 22)), &["a"], &[], &[]), 1, "in the wrong era");
    }

    #[test]
    fn a_failover_may_lose_that_something_was_taken_back() {
        let check = |takes_back, outcome, times| {
            let mut eras = Eras { takes_back, ..Eras::default() };
            let ends = 2 * TAKEN_BACK_LATE;
            eras.cut(Cut { ends, begins: ends + 1, left: lists(&[]), kept: lists(&["a"]), failover: true });
            eras.end(lists(&["a"]));
            eras.check_presence("test", &[operation("a", times, outcome)]).len()
        };
        let soon = (TAKEN_BACK_LATE, TAKEN_BACK_LATE + 1);
        assert_eq!(check(true, Outcome::Failed, soon), 0);
        assert_eq!(check(true, Outcome::Failed, (0, 1)), 1, "long before");
        assert_eq!(check(true, Outcome::Acknowledged, soon), 1, "it was done");
        assert_eq!(check(false, Outcome::Failed, soon), 1, "nothing is taken back there");
    }

    #[test]
    fn what_goes_on_during_a_cut_may_be_in_either_era() {
        let done = || operation("a", (9, 21), Outcome::Acknowledged);
        assert_eq!((two_eras(done(), &["a"], &[], &[]), two_eras(done(), &[], &[], &["a"])), (0, 0));
        assert_eq!(two_eras(done(), &[], &[], &[]), 1, "but not in none");
        let failed = || operation("a", (9, 21), Outcome::Failed);
        assert_eq!(two_eras(failed(), &["a"], &[], &[]), 0, "refused by the next era");
        assert_eq!(two_eras(failed(), &[], &[], &["a"]), 1, "failed, yet there");
        let waited = |times| Operation { role: Role::Waiting, ..operation("a", times, Outcome::Acknowledged) };
        assert_eq!(two_eras(waited((1, 2)), &["a"], &["a"], &["a"]), 0);
        assert_eq!(two_eras(waited((1, 2)), &["a"], &[], &[]), 1, "waited for in vain");
        assert_eq!(two_eras(waited((9, 21)), &["a"], &[], &[]), 1, "waited for in vain, and told during the cut");
        assert_eq!(two_eras(waited((9, 21)), &[], &[], &["a"]), 0);
        let mut flushed = Eras::default();
        flushed.cut(Cut { ends: 10, begins: 20, left: lists(&["a"]), kept: Lists::new(), failover: false });
        flushed.end(Lists::new());
        assert_eq!(flushed.check_presence("test", &[waited((9, 21))]).len(), 0, "removed with everything");
    }
}
