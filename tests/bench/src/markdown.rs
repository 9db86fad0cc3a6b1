//! Writes `docs/results/performance.md`.

use std::fmt::Write;

use crate::goals;
use crate::measure::Results;
use crate::report::{bytes, digits, duration, large_transaction};
use crate::setting::Setting;
use crate::system::System;
use crate::workload::{Manner, WORKLOADS, Workload};

/// The first lines of each generated page.
const HEAD: &str = "# Results of `scripts/bench`

Generated: `scripts/bench --rounds 5 --document docs/results/performance.md`. [How it is measured](../performance.md#how-it-is-measured)
and [what it means](../performance.md#what-the-results-mean).

![Times of all workloads and systems](performance.svg)

";

/// The whole page.
pub fn document(results: &Results, systems: &[System], settings: &[Setting]) -> String {
    let mut text = HEAD.to_owned() + &goals(results);
    for &setting in settings {
        text += &times(results, systems, setting);
    }
    text + &together(results, systems, settings) + &wire(results, systems) + &once(results)
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    format!("| {} |\n", cells.into_iter().collect::<Vec<_>>().join(" | "))
}

/// The head of a table.
fn head<S: Into<String>>(cells: impl IntoIterator<Item = S>) -> String {
    let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
    let rule = row(cells.iter().map(|_| "---".to_owned()));
    row(cells) + &rule
}

fn goals(results: &Results) -> String {
    let mut text = "## Goals\n\n".to_owned() + &head(["Goal", "Where", "Wanted", "Reached", "Met"]);
    for outcome in goals::outcomes(results) {
        let setting = outcome.setting.map_or("", Setting::name);
        let met = if outcome.met { "yes" } else { "**no**" };
        text += &row([&outcome.measure, setting, &outcome.goal, &digits(outcome.reached), met].map(str::to_owned));
    }
    text
}

/// The time of an operation, and in brackets its ratio to that of sqlite-redis.
fn times(results: &Results, systems: &[System], setting: Setting) -> String {
    let cell = |workload: &Workload, system| {
        let summary = results.summary(workload.name, system, setting)?;
        let ratio = results.ratio(setting, (workload.name, system), (workload.name, System::SqliteRedis));
        let ratio = ratio.filter(|_| system != System::SqliteRedis);
        Some(duration(summary.time) + &ratio.map_or_else(String::new, |ratio| format!(" ({})", digits(ratio))))
    };
    let measured = |system: &System| WORKLOADS.iter().any(|workload| cell(workload, *system).is_some());
    let systems: Vec<System> = systems.iter().copied().filter(measured).collect();
    if systems.is_empty() {
        return String::new();
    }
    let mut text = format!("\n## Times, {}\n\n", setting.name());
    text += &head(std::iter::once("").chain(systems.iter().map(|system| system.name())));
    for workload in WORKLOADS {
        let cells: Vec<_> = systems.iter().map(|&system| cell(workload, system)).collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(Option::unwrap_or_default);
            text += &row(std::iter::once(workload.name.to_owned()).chain(cells));
        }
    }
    text
}

/// Several processes: the rate of all together, and how long each waited.
fn together(results: &Results, systems: &[System], settings: &[Setting]) -> String {
    let mut lines = String::new();
    for workload in WORKLOADS.iter().filter(|workload| matches!(workload.manner, Manner::Together(_))) {
        for &setting in settings {
            for &system in systems {
                let Some(cell) = results.summary(workload.name, system, setting) else { continue };
                let rate = format!("{:.0}/s", 1e9 / cell.time);
                let names = [workload.name, setting.name(), system.name(), &rate].map(str::to_owned);
                let times = [cell.p50, cell.p99, cell.worst].map(duration);
                lines += &row(names.into_iter().chain(times).chain([format!("{:.2}", cell.fairness)]));
            }
        }
    }
    if lines.is_empty() {
        return lines;
    }
    let columns = ["", "", "", "Rate", "p50", "p99", "Worst", "Fairness"];
    "\n## Several processes\n\n".to_owned() + &head(columns) + &lines
}

/// Traffic of one operation.
fn wire(results: &Results, systems: &[System]) -> String {
    let mut lines = String::new();
    for workload in WORKLOADS {
        for &system in systems {
            let Some(per_op) = results.per_op.get(&(workload.name, system)) else { continue };
            let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), digits);
            let server = per_op.server_us.map_or_else(|| "–".to_owned(), |us| duration(us * 1000.0));
            let counts = [digits(per_op.trips), optional(per_op.commands), bytes(per_op.sent), bytes(per_op.received)];
            let names = [workload.name, system.name()].map(str::to_owned);
            lines += &row(names.into_iter().chain(counts).chain([server]));
        }
    }
    if lines.is_empty() {
        return lines;
    }
    let columns = ["", "", "Trips", "Commands", "Sent", "Received", "Server"];
    "\n## Over the wire, for one operation\n\n".to_owned() + &head(columns) + &lines
}

fn once(results: &Results) -> String {
    let mut text = String::new();
    if let Some(stored) = &results.stored {
        let (plain, compressed) = (digits(stored.plain), digits(stored.compressed));
        let _ = writeln!(text, "\nBytes in Redis by those of the SQLite file: {plain} plain, {compressed} compressed.");
    }
    if let Some(large) = &results.large {
        let words = large_transaction(large);
        let _ = writeln!(text, "\nA large transaction: {}.", words.trim_start_matches("a transaction "));
    }
    text
}
