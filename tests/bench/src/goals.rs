//! The goals of the benchmark, as ratios within one run.

use serde::Serialize;

use crate::measure::Results;
use crate::setting::Setting;
use crate::system::System::{self, *};

/// The result of one goal in one setting.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub measure: String,
    pub setting: Option<Setting>,
    pub goal: String,
    pub reached: f64,
    pub met: bool,
}

#[derive(Clone, Copy)]
enum Need {
    AtMost(f64),
    AtLeast(f64),
}

impl Need {
    fn outcome(self, measure: &str, setting: Option<Setting>, reached: f64) -> Outcome {
        let (goal, met) = match self {
            Need::AtMost(most) => (format!("at most {most}"), reached <= most),
            Need::AtLeast(least) => (format!("at least {least}"), reached >= least),
        };
        Outcome { measure: measure.to_owned(), setting, goal, reached, met }
    }
}

type Cell = (&'static str, System);

/// A goal: a bound for the time of the cell `long` divided by the time of the cell `short`.
struct Goal {
    measure: &'static str,
    need: Need,
    long: Cell,
    short: Cell,
    settings: &'static [Setting],
}

const PLACEMENTS: &[Setting] = &[Setting::OneCore, Setting::TwoCores];
const ALL: &[Setting] = &Setting::TIMED;
const ONE: &[Setting] = &[Setting::OneCore];
const SLOW: &[Setting] = &[Setting::TwoMs];

const fn goal(measure: &'static str, need: Need, long: Cell, short: Cell, settings: &'static [Setting]) -> Goal {
    Goal { measure, need, long, short, settings }
}

/// A goal for a rate, "at least n times the rate of the other", divides the other's time by ours.
const GOALS: &[Goal] = &[
    goal("point select: time by that of GET", Need::AtMost(1.25), ("point", SqliteRedis), ("point", Redis), PLACEMENTS),
    goal(
        "point select in a transaction: rate by that of the WAL file's",
        Need::AtLeast(0.8),
        ("point-in-transaction", FileWal),
        ("point-in-transaction", SqliteRedis),
        ONE,
    ),
    goal(
        "point select, relaxed: rate by that of the WAL file's",
        Need::AtLeast(0.8),
        ("point", FileWal),
        ("point", SqliteRedisRelaxed),
        ONE,
    ),
    goal(
        "point select, relaxed: rate by that of PostgreSQL",
        Need::AtLeast(4.0),
        ("point", PostgresAsync),
        ("point", SqliteRedisRelaxed),
        PLACEMENTS,
    ),
    goal(
        "autocommit insert: time by that of SET",
        Need::AtMost(4.5),
        ("insert", SqliteRedis),
        ("insert", Redis),
        PLACEMENTS,
    ),
    goal(
        "autocommit insert, relaxed: time by that of SET",
        Need::AtMost(2.0),
        ("insert", SqliteRedisRelaxed),
        ("insert", Redis),
        PLACEMENTS,
    ),
    goal(
        "autocommit insert, relaxed: rate by that of PostgreSQL, async",
        Need::AtLeast(1.0),
        ("insert", PostgresAsync),
        ("insert", SqliteRedisRelaxed),
        ALL,
    ),
    goal(
        "point select: rate by that of PostgreSQL",
        Need::AtLeast(1.2),
        ("point", PostgresAsync),
        ("point", SqliteRedis),
        PLACEMENTS,
    ),
    goal("load: rate by that of a file, sync off", Need::AtLeast(0.6), ("load", FileOff), ("load", SqliteRedis), ONE),
    goal(
        "cold scan: rate by that of HMGET in a loop",
        Need::AtLeast(0.8),
        ("scan", Redis),
        ("scan", SqliteRedis),
        PLACEMENTS,
    ),
    goal(
        "cold scan: rate by that of the textbook",
        Need::AtLeast(10.0),
        ("scan", Textbook),
        ("scan", SqliteRedis),
        PLACEMENTS,
    ),
    goal(
        "load: rate by that of the textbook",
        Need::AtLeast(10.0),
        ("load", Textbook),
        ("load", SqliteRedis),
        PLACEMENTS,
    ),
];

/// At 2 ms, every workload must be at least this many times faster than the textbook.
const BY_TEXTBOOK: Need = Need::AtLeast(20.0);

/// The result of each goal that was measured.
pub fn outcomes(results: &Results) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for goal in GOALS {
        for &setting in goal.settings {
            let reached = results.ratio(setting, goal.long, goal.short);
            outcomes.extend(reached.map(|reached| goal.need.outcome(goal.measure, Some(setting), reached)));
        }
    }
    // PostgreSQL needs one round trip for each read, inside of a transaction as outside of one.
    for &setting in PLACEMENTS {
        let reached = results.ratio(setting, ("point", PostgresAsync), ("point-in-transaction", SqliteRedis));
        let measure = "point select in a transaction: rate by that of PostgreSQL";
        outcomes.extend(reached.map(|reached| Need::AtLeast(4.0).outcome(measure, Some(setting), reached)));
    }
    for workload in crate::workload::WORKLOADS {
        for &setting in SLOW {
            for (system, measure) in [
                (SqliteRedis, format!("{} by the textbook's", workload.name)),
                (SqliteRedisRelaxed, format!("{}, relaxed, by the textbook's", workload.name)),
            ] {
                let reached = results.ratio(setting, (workload.name, Textbook), (workload.name, system));
                outcomes.extend(reached.map(|reached| BY_TEXTBOOK.outcome(&measure, Some(setting), reached)));
            }
        }
    }
    outcomes.extend(contention(results));
    if let Some(stored) = &results.stored {
        outcomes.push(Need::AtMost(1.1).outcome("bytes in Redis by those of the file", None, stored.plain));
        let measure = "bytes in Redis by those of the file, compressed";
        outcomes.push(Need::AtMost(0.6).outcome(measure, None, stored.compressed));
    }
    if let Some(large) = &results.large {
        let measure = "large transaction: longest wait of another client, ms";
        outcomes.push(Need::AtMost(100.0).outcome(measure, None, large.blocked_ms));
        let megabytes = (large.peak - large.before.min(large.peak)) as f64 / 1e6;
        outcomes.push(Need::AtMost(LARGE_MEMORY).outcome(
            "large transaction: memory of the client, MB",
            None,
            megabytes,
        ));
    }
    outcomes
}

/// Memory, in MB, that the default settings allow a client for a transaction of any size: `cache_size` and
/// `stage_bytes` for pages, half of `log_bytes` for deltas, and some for the process itself.
const LARGE_MEMORY: f64 = 200.0;

fn contention(results: &Results) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (system, rate_measure, worst_measure, fairness_measure) in [
        (
            SqliteRedis,
            "4 writers: total rate by that of one",
            "4 writers: worst wait by the mean",
            "4 writers: commits of the slowest by those of the fastest",
        ),
        (
            SqliteRedisRelaxed,
            "4 writers, relaxed: total rate by that of one",
            "4 writers, relaxed: worst wait by the mean",
            "4 writers, relaxed: commits of the slowest by those of the fastest",
        ),
    ] {
        for &setting in PLACEMENTS {
            let rate = results.ratio(setting, ("writer-1", system), ("writers-4", system));
            outcomes.extend(rate.map(|rate| Need::AtLeast(0.7).outcome(rate_measure, Some(setting), rate)));
            let Some(summary) = results.summary("writers-4", system, setting) else { continue };
            // The mean counts the operations of all four writers. Each writer's own mean is four times as long.
            let worst = summary.worst / (summary.mean * 4.0);
            outcomes.push(Need::AtMost(20.0).outcome(worst_measure, Some(setting), worst));
            outcomes.push(Need::AtLeast(0.5).outcome(fairness_measure, Some(setting), summary.fairness));
        }
    }
    outcomes
}
