//! Measures sqlite-redis beside other systems. `scripts/bench` runs this program.
//!
//! - `setting`: placement of client and server, and the latency between them; `relay`: adds latency, counts traffic
//! - `system`: the compared systems; `client`: one interface to all; `textbook`, `postgres`: two of the systems
//! - `data`, `workload`: tables and operations; `servers`: private servers with the data
//! - `measure`: the rounds; `workers`: worker processes; `count`: traffic per operation
//! - `once`: bytes in Redis, and one large transaction
//! - `stats`, `results`: medians and ratios; `report`, `markdown`, `plot`, `goals`: output

mod setting;
mod relay;
mod system;
mod client;
mod textbook;
mod postgres;
mod data;
mod workload;
mod servers;
mod measure;
mod workers;
mod count;
mod once;
mod stats;
mod results;
mod report;
mod markdown;
mod plot;
mod goals;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use data::Sizes;
use measure::{Plan, Results};
use once::{LARGE, STORED};
use servers::Servers;
use setting::Setting;
use system::System;
use workload::{Manner, WORKLOADS, Workload};

#[derive(Parser)]
#[command(name = "bench", about = "Measures sqlite-redis beside other systems")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct Run {
    /// Only workloads whose name begins with one of these
    filter: Vec<String>,
    /// A short run that only checks that everything works; its figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Only these systems, and sqlite-redis, to which the others are compared
    #[arg(long, value_delimiter = ',')]
    systems: Vec<System>,
    /// Only these settings
    #[arg(long, value_delimiter = ',')]
    settings: Vec<Setting>,
    /// Number of rounds; cold workloads and those of several processes get half as many
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Time for one workload, system and setting in one round, in milliseconds
    #[arg(long, default_value_t = 80)]
    slice_ms: u64,
    /// Directory for results.json, performance.md and performance.svg
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
    /// Also write the tables to this file, and the picture beside it
    #[arg(long)]
    document: Option<PathBuf>,
}

/// Parts of the benchmark that run in separate processes.
#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Worker { job: String },
    #[command(hide = true)]
    InsertLarge { url: String, bytes: u64 },
    #[command(hide = true)]
    Relay {
        #[arg(long)]
        delay_us: u64,
        #[arg(long)]
        listen: PathBuf,
        #[arg(long)]
        target: PathBuf,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::Worker { job }) => workers::work(&job),
        Some(Part::InsertLarge { url, bytes }) => once::insert_large(&url, bytes),
        Some(Part::Relay { delay_us, listen, target }) => {
            relay::start(&listen, &target, Duration::from_micros(delay_us))?;
            println!("ready");
            // The relay ends when its parent closes the pipe.
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
            Ok(())
        }
        None => run(&arguments.run),
    }
}

fn chosen(filter: &[String]) -> Result<Vec<&'static Workload>> {
    let named = |workload: &&Workload| filter.iter().any(|filter| workload.name.starts_with(filter.as_str()));
    let workloads: Vec<_> = WORKLOADS.iter().filter(|workload| filter.is_empty() || named(workload)).collect();
    let names = || WORKLOADS.iter().map(|workload| workload.name).chain([STORED, LARGE]);
    let one = |filter: &String| names().any(|name| name.starts_with(filter.as_str()));
    let all = || names().collect::<Vec<_>>().join(", ");
    if let Some(unknown) = filter.iter().find(|filter| !one(filter)) {
        bail!("no workload begins with {unknown}; there are {}", all());
    }
    Ok(workloads)
}

/// Whether the filter selects a measurement that is made once.
fn is_chosen(filter: &[String], name: &str) -> bool {
    filter.is_empty() || filter.iter().any(|filter| name.starts_with(filter.as_str()))
}

fn plan(run: &Run) -> Result<Plan> {
    let wanted =
        |system: &System| run.systems.is_empty() || *system == System::SqliteRedis || run.systems.contains(system);
    let settings = match (run.settings.as_slice(), run.quick) {
        ([], true) => vec![Setting::OneCore, Setting::TwoMs],
        ([], false) => Setting::TIMED.to_vec(),
        (settings, _) => settings.to_vec(),
    };
    let slice = Duration::from_millis(if run.quick { 2 } else { run.slice_ms });
    Ok(Plan {
        workloads: chosen(&run.filter)?,
        systems: System::value_variants().iter().copied().filter(wanted).collect(),
        settings: settings.into_iter().filter(|setting| setting.possible()).collect(),
        sizes: if run.quick { Sizes::QUICK } else { Sizes::FULL },
        rounds: if run.quick { 1 } else { run.rounds },
        long_rounds: (run.rounds / 2).max(1),
        slice,
        together: slice * 10,
    })
}

fn run(run: &Run) -> Result<()> {
    let plan = plan(run)?;
    let mut results = if plan.workloads.is_empty() { Results::default() } else { measured(&plan)? };
    if is_chosen(&run.filter, STORED) {
        eprintln!("bytes in Redis");
        results.stored = Some(once::stored()?);
    }
    if is_chosen(&run.filter, LARGE) {
        let bytes = once::large_bytes(run.quick);
        eprintln!("a transaction of {} MB", bytes >> 20);
        results.large = Some(once::large(bytes)?);
    }
    println!("{}", report::tables(&results, &plan.systems, &plan.settings));
    fs::create_dir_all(&run.output)?;
    let write = |name: &str, content: String| fs::write(run.output.join(name), content);
    write("results.json", serde_json::to_string_pretty(&report::json(&results))?)?;
    let shown: Vec<Setting> =
        [Setting::TwoCores, Setting::TwoMs].into_iter().filter(|s| plan.settings.contains(s)).collect();
    let (picture, tables) = (plot::svg(&results, &shown), markdown::document(&results, &plan.systems, &plan.settings));
    write("performance.svg", picture.clone())?;
    write("performance.md", tables.clone())?;
    if let Some(document) = &run.document {
        fs::write(document, tables)?;
        fs::write(document.with_extension("svg"), picture)?;
    }
    println!("results.json, performance.md and performance.svg are in {}", run.output.display());
    Ok(())
}

/// Starts and fills the servers, and measures all workloads.
fn measured(plan: &Plan) -> Result<Results> {
    let postgres = plan.systems.iter().any(|system| system.is_remote() && !system.asks_redis());
    let servers = Servers::start(postgres)?;
    let scanned = plan.workloads.iter().any(|workload| matches!(workload.manner, Manner::Cold { .. }));
    for &system in &plan.systems {
        eprintln!("filling {}", system.name());
        servers.build(system, plan.sizes, scanned)?;
    }
    measure::run(plan, &servers)
}
