//! The results as tables for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::goals::{self, Outcome};
use crate::measure::Results;
use crate::once::{LARGE, Large, STORED, Stored};
use crate::setting::Setting;
use crate::system::System;
use crate::workload::{Manner, WORKLOADS, Workload};

/// All tables: one for each workload, then the goals.
pub fn tables(results: &Results, systems: &[System], settings: &[Setting]) -> String {
    let mut text = String::from(
        "Median of the rounds, ± half of the way from the lowest to the highest; in brackets by that of sqlite-redis.\n",
    );
    for workload in WORKLOADS.iter().filter(|workload| results.cells.keys().any(|(name, ..)| *name == workload.name)) {
        text += &table(results, workload, systems, settings);
    }
    if let Some(Stored { plain, compressed }) = &results.stored {
        let _ = writeln!(
            text,
            "\n{STORED}: bytes in Redis by those of the SQLite file: {} plain, {} compressed",
            digits(*plain),
            digits(*compressed)
        );
    }
    if let Some(large) = &results.large {
        let _ = writeln!(text, "\n{LARGE}: {}", large_transaction(large));
    }
    text + &goals_table(&goals::outcomes(results))
}

fn table(results: &Results, workload: &Workload, systems: &[System], settings: &[Setting]) -> String {
    let mut text = format!("\n{}: {}\n", workload.name, workload.about);
    let mut header = format!("  {:<22}", "");
    for setting in settings {
        let _ = write!(header, "{:>25}", setting.name());
    }
    match workload.manner {
        Manner::Warm => header += "   trips  commands      sent  received  server",
        Manner::Together(_) => header += "       p50       p99     worst  fairness",
        Manner::Cold { .. } => {}
    }
    let _ = writeln!(text, "{}", header.trim_end());
    for &system in systems {
        let cells: Vec<_> = settings.iter().map(|&setting| results.summary(workload.name, system, setting)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let mut line = format!("  {:<22}", system.name());
        for (&setting, cell) in settings.iter().zip(&cells) {
            let ratio = results.ratio(setting, (workload.name, system), (workload.name, System::SqliteRedis));
            let cell = cell.map_or_else(String::new, |cell| {
                let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({})", digits(ratio)));
                format!("{} ±{:.0}%{ratio}", duration(cell.time), cell.spread * 100.0)
            });
            let _ = write!(line, "{cell:>25}");
        }
        let _ = writeln!(text, "{}", (line + &extra(results, workload, system, settings)).trim_end());
    }
    text
}

/// Remarks on a line of a table.
fn extra(results: &Results, workload: &Workload, system: System, settings: &[Setting]) -> String {
    if let Some(per_op) = results.per_op.get(&(workload.name, system)) {
        let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), digits);
        let server = per_op.server_us.map_or_else(|| "–".to_owned(), |us| duration(us * 1000.0));
        let (trips, commands) = (digits(per_op.trips), optional(per_op.commands));
        let (sent, received) = (bytes(per_op.sent), bytes(per_op.received));
        return format!("{trips:>8}{commands:>10}{sent:>10}{received:>10}{server:>8}");
    }
    if !matches!(workload.manner, Manner::Together(_)) {
        return String::new();
    }
    let last = settings.iter().rev().find_map(|&setting| {
        if setting.delay().is_some() { None } else { results.summary(workload.name, system, setting) }
    });
    last.map_or_else(String::new, |cell| {
        let (p50, p99, worst) = (duration(cell.p50), duration(cell.p99), duration(cell.worst));
        format!("{p50:>10}{p99:>10}{worst:>10}{:>10.2}", cell.fairness)
    })
}

fn goals_table(outcomes: &[Outcome]) -> String {
    let mut text = format!("\n{:<66} {:<10} {:>13} {:>8}\n", "Goal", "", "", "reached");
    for outcome in outcomes {
        let setting = outcome.setting.map_or("", Setting::name);
        let met = if outcome.met { "yes" } else { "no" };
        let reached = digits(outcome.reached);
        let _ = writeln!(text, "{:<66} {setting:<10} {:>13} {reached:>8}  {met}", outcome.measure, outcome.goal);
    }
    text
}

/// The large transaction as text.
pub fn large_transaction(large: &Large) -> String {
    format!(
        "a transaction of {} MB took {}; another client waited {} at most; memory of the client {} MB at most, {} MB before",
        large.bytes >> 20,
        duration(large.seconds * 1e9),
        duration(large.blocked_ms * 1e6),
        large.peak / 1_000_000,
        large.before / 1_000_000
    )
}

/// All measurements and the goals.
pub fn json(results: &Results) -> Value {
    let cells: Vec<Value> = results
        .cells
        .iter()
        .map(|((workload, system, setting), rounds)| {
            json!({
                "workload": workload,
                "system": system,
                "setting": setting,
                "summary": results.summary(workload, *system, *setting),
                "per_operation": results.per_op.get(&(*workload, *system)),
                "rounds": rounds,
            })
        })
        .collect();
    json!({ "unit": "nanoseconds", "cells": cells, "stored": results.stored, "large": results.large, "goals": goals::outcomes(results) })
}

/// A time in nanoseconds, in a unit that leaves up to three digits before the point.
pub fn duration(ns: f64) -> String {
    let (value, unit) = match ns {
        0.0..1e3 => (ns, "ns"),
        1e3..1e6 => (ns / 1e3, "µs"),
        1e6..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{} {unit}", digits(value))
}

pub fn bytes(count: f64) -> String {
    if count < 10_000.0 { format!("{count:.0}") } else { format!("{} kB", digits(count / 1000.0)) }
}

pub fn digits(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
