//! The run: rounds over settings, workloads and systems, with a short slice for each, so that disturbances of the
//! machine affect all alike.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::count::{self, PerOp};
use crate::data::{self, Sizes};
use crate::once::{Large, Stored};
use crate::servers::Servers;
use crate::setting::Setting;
use crate::stats;
use crate::system::System;
use crate::workers;
use crate::workload::{BENCH, LOADED, Manner, Session, Workload};

/// What to measure, and for how long.
pub struct Plan {
    pub workloads: Vec<&'static Workload>,
    pub systems: Vec<System>,
    pub settings: Vec<Setting>,
    pub sizes: Sizes,
    pub rounds: u32,
    /// Rounds of the long workloads: cold ones, and those of several processes.
    pub long_rounds: u32,
    pub slice: Duration,
    /// Slice of a workload of several processes.
    pub together: Duration,
}

/// One round of one cell (a workload, system and setting). Times are in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Round {
    pub operations: u64,
    pub median: f64,
    /// Elapsed time divided by operations. The rate is its inverse.
    pub mean: f64,
    pub p99: f64,
    pub worst: f64,
    /// Operations of the slowest process divided by those of the fastest.
    pub fairness: f64,
}

impl Round {
    /// `sessions` holds the times of the operations of each process; `elapsed` is the time of all.
    pub fn new(sessions: Vec<Vec<u64>>, elapsed: Duration) -> Round {
        let count = |session: &Vec<u64>| session.len() as f64;
        let most = sessions.iter().map(count).fold(1.0, f64::max);
        let fewest = sessions.iter().map(count).fold(most, f64::min);
        let mut all: Vec<u64> = sessions.into_iter().flatten().collect();
        all.sort_unstable();
        Round {
            operations: all.len() as u64,
            median: stats::quantile(&all, 0.5),
            mean: elapsed.as_nanos() as f64 / (all.len() as f64).max(1.0),
            p99: stats::quantile(&all, 0.99),
            worst: stats::quantile(&all, 1.0),
            fairness: fewest / most,
        }
    }
}

/// The key of a cell.
pub type Key = (&'static str, System, Setting);

/// Everything that was measured.
#[derive(Default)]
pub struct Results {
    pub cells: BTreeMap<Key, Vec<Round>>,
    pub per_op: BTreeMap<(&'static str, System), PerOp>,
    pub stored: Option<Stored>,
    pub large: Option<Large>,
}

/// Repeats the operation until the time is up, and returns the time of each.
pub fn slice(workload: &Workload, session: &mut Session, time: Duration) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    let start = Instant::now();
    let mut last = start;
    while (times.len() as u64) < workload.most && (times.is_empty() || last - start < time) {
        workload.op(session)?;
        let now = Instant::now();
        times.push((now - last).as_nanos() as u64);
        last = now;
    }
    Ok(times)
}

/// Reads the tables of the workloads into the session's cache.
pub fn warm(session: &mut Session) -> Result<()> {
    if session.system.is_floor() {
        return Ok(());
    }
    for table in ["item", "stock"] {
        session.sql()?.query(&format!("SELECT count(*), sum(length(note)) FROM {table}"), &[])?;
    }
    session.sql()?.query("SELECT count(*) FROM item WHERE category >= 0", &[])?;
    session.sql()?.query("SELECT sum(length(v)) FROM usertable WHERE k >= ''", &[])?;
    Ok(())
}

/// A run in progress.
struct Run<'a> {
    plan: &'a Plan,
    servers: &'a Servers,
    sessions: HashMap<(System, Setting), Session>,
    /// The sessions whose cache was filled in this round. It is filled in each round, because other sessions may have
    /// written more than a cache can catch up with.
    warmed: HashSet<(System, Setting)>,
    /// Number of sessions so far; each gets the next number.
    workers: i64,
}

/// Measures everything in the plan.
///
/// # Errors
/// A workload fails.
pub fn run(plan: &Plan, servers: &Servers) -> Result<Results> {
    let mut run = Run { plan, servers, sessions: HashMap::new(), warmed: HashSet::new(), workers: 0 };
    let mut results = Results::default();
    for round in 0..plan.rounds {
        run.warmed.clear();
        for &setting in &plan.settings {
            eprintln!("round {} of {}, {}", round + 1, plan.rounds, setting.name());
            setting.arrange(&servers.pids()?)?;
            for &workload in &plan.workloads {
                let long = workload.manner != Manner::Warm;
                for &system in plan.systems.iter().filter(|&&system| workload.runs_on(system, setting)) {
                    if !long || round < plan.long_rounds {
                        let outcome = run.cell(workload, system, setting);
                        let what = || format!("{} of {}, {}", workload.name, system.name(), setting.name());
                        results
                            .cells
                            .entry((workload.name, system, setting))
                            .or_default()
                            .push(outcome.with_context(what)?);
                    }
                }
            }
        }
    }
    for &workload in &plan.workloads {
        for &system in plan.systems.iter().filter(|&&system| workload.runs_on(system, Setting::Counted)) {
            let session = run.session(system, Setting::Counted)?;
            results.per_op.insert((workload.name, system), count::per_op(workload, session, servers)?);
        }
    }
    Ok(results)
}

impl Run<'_> {
    fn session(&mut self, system: System, setting: Setting) -> Result<&mut Session> {
        if !self.sessions.contains_key(&(system, setting)) {
            self.workers += 1;
            let (places, sizes) = (&self.servers.places, self.plan.sizes);
            let mut session = Session::open(places, system, setting, sizes, BENCH, self.workers)?;
            if system == System::Memory {
                data::build(session.sql()?, sizes)?;
                data::copy_chinook(session.sql()?)?;
            }
            self.sessions.insert((system, setting), session);
            // PostgreSQL started a process for the connection: it belongs on the server's core.
            setting.arrange(&self.servers.pids()?)?;
        }
        let session = self.sessions.get_mut(&(system, setting)).context("the session just opened")?;
        if self.warmed.insert((system, setting)) && system.has_cache() {
            warm(session)?;
        }
        Ok(session)
    }

    fn cell(&mut self, workload: &'static Workload, system: System, setting: Setting) -> Result<Round> {
        let plan = self.plan;
        match workload.manner {
            Manner::Warm => {
                let session = self.session(system, setting)?;
                workload.before(session)?;
                let spare = Duration::from_micros(if workload.most < u64::MAX { 0 } else { 1 });
                slice(workload, session, spare.max(plan.slice / 10))?;
                workload.after(session)?;
                workload.before(session)?;
                let start = Instant::now();
                let times = slice(workload, session, plan.slice)?;
                let elapsed = start.elapsed();
                workload.after(session)?;
                Ok(Round::new(vec![times], elapsed))
            }
            Manner::Cold { database } => {
                if database == LOADED {
                    self.servers.places.clear(system, LOADED)?;
                }
                self.together(workload, system, setting, 1, Duration::ZERO)
            }
            Manner::Together(processes) => self.together(workload, system, setting, processes, plan.together),
        }
    }

    fn together(
        &mut self,
        workload: &'static Workload,
        system: System,
        setting: Setting,
        processes: u32,
        time: Duration,
    ) -> Result<Round> {
        let sizes = match system {
            // `WATCH` compares a key with all keys that the connection watches already, which takes time.
            System::VirtualTable => self.plan.sizes.tenth().tenth(),
            _ if setting.delay().is_some() => self.plan.sizes.tenth(),
            _ => self.plan.sizes,
        };
        let first = self.workers + 1;
        self.workers += i64::from(processes);
        let job = workers::Job {
            workload: workload.name.to_owned(),
            system,
            setting,
            sizes,
            time,
            worker: first,
            places: self.servers.places.clone(),
        };
        let times = workers::run(&job, processes, || setting.arrange(&self.servers.pids()?))?;
        let longest = times.iter().map(|times| Duration::from_nanos(times.iter().sum())).max().unwrap_or_default();
        Ok(Round::new(times, longest))
    }
}
