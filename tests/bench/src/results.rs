//! Summaries over the rounds of a run.

use crate::measure::{Results, Round};
use crate::setting::Setting;
use crate::stats::{median, spread};
use crate::system::System;
use crate::workload::{Manner, WORKLOADS};

/// A cell over all its rounds. Times are in nanoseconds.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Summary {
    /// Median over the rounds: of one operation's time, or, where several processes work, of elapsed time divided by
    /// operations, so that the rate is its inverse.
    pub time: f64,
    /// See [`spread`].
    pub spread: f64,
    pub p50: f64,
    pub p99: f64,
    pub worst: f64,
    pub mean: f64,
    pub fairness: f64,
    pub rounds: usize,
}

/// The time that represents a round.
fn time(workload: &str, round: &Round) -> f64 {
    let together = |manner| matches!(manner, Manner::Together(_));
    let several = WORKLOADS.iter().any(|known| known.name == workload && together(known.manner));
    if several { round.mean } else { round.median }
}

impl Results {
    /// The summary of a cell, if it was measured.
    pub fn summary(&self, workload: &'static str, system: System, setting: Setting) -> Option<Summary> {
        let rounds = self.cells.get(&(workload, system, setting))?;
        let times: Vec<f64> = rounds.iter().map(|round| time(workload, round)).collect();
        let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
        Some(Summary {
            time: median(times.iter().copied())?,
            spread: spread(&times),
            p50: of(|round| round.median)?,
            p99: of(|round| round.p99)?,
            worst: rounds.iter().map(|round| round.worst).fold(0.0, f64::max),
            mean: of(|round| round.mean)?,
            fairness: of(|round| round.fairness)?,
            rounds: rounds.len(),
        })
    }

    /// The time of the first cell divided by that of the second: the median over the rounds.
    pub fn ratio(
        &self,
        setting: Setting,
        first: (&'static str, System),
        second: (&'static str, System),
    ) -> Option<f64> {
        let rounds = |(workload, system)| self.cells.get(&(workload, system, setting));
        let pairs = rounds(first)?.iter().zip(rounds(second)?);
        median(pairs.map(|(one, two)| time(first.0, one) / time(second.0, two)))
    }
}
