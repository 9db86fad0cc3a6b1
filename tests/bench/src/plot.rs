//! The picture: a line for each workload, with a dot for each system at its time.

use std::fmt::Write;

use crate::measure::Results;
use crate::report::duration;
use crate::setting::Setting;
use crate::system::System;
use crate::workload::{Manner, WORKLOADS, Workload};

const LINE: f64 = 24.0;
const LABELS: f64 = 170.0;
const PANEL: f64 = 380.0;
const GAP: f64 = 40.0;
const TOP: f64 = 70.0;

/// The systems in the picture, with their colours.
const SHOWN: [(System, &str); 7] = [
    (System::Textbook, "#b8b8b8"),
    (System::FileWal, "#8c6d1f"),
    (System::PostgresSync, "#9ec3ee"),
    (System::PostgresAsync, "#2f6fb7"),
    (System::Redis, "#2b8a3e"),
    (System::SqliteRedisRelaxed, "#f08cae"),
    (System::SqliteRedis, "#d6336c"),
];

/// An SVG with a panel for each setting.
pub fn svg(results: &Results, settings: &[Setting]) -> String {
    let measured = |workload: &&Workload| results.cells.keys().any(|(name, ..)| *name == workload.name);
    let workloads: Vec<&Workload> = WORKLOADS.iter().filter(measured).collect();
    let width = LABELS + settings.len() as f64 * (PANEL + GAP);
    let height = TOP + workloads.len() as f64 * LINE + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut x = LABELS;
    for (system, colour) in SHOWN.iter().rev() {
        let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"16\" r=\"5\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"20\">{}</text>", x + 10.0, system.name());
        // An estimate of the text's width.
        x += 30.0 + 6.6 * system.name().len() as f64;
    }
    for (n, workload) in workloads.iter().enumerate() {
        let y = TOP + n as f64 * LINE + 4.0;
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{}</text>", LABELS - 12.0, workload.name);
    }
    for (n, &setting) in settings.iter().enumerate() {
        svg += &panel(results, &workloads, setting, LABELS + n as f64 * (PANEL + GAP));
    }
    svg + "</svg>\n"
}

fn panel(results: &Results, workloads: &[&Workload], setting: Setting, left: f64) -> String {
    let time = |workload: &Workload, system| results.summary(workload.name, system, setting).map(|cell| cell.time);
    // Systems without a server are measured in one placement only. Where latency is added, cold workloads use smaller
    // tables.
    let anywhere = |workload: &Workload, system: System| {
        let is_another = setting.delay().is_some() && matches!(workload.manner, Manner::Cold { .. });
        let alone = || results.summary(workload.name, system, Setting::OneCore).map(|cell| cell.time);
        time(workload, system).or_else(|| if system.is_remote() || is_another { None } else { alone() })
    };
    let all: Vec<f64> = workloads.iter().flat_map(|w| SHOWN.iter().filter_map(|(s, _)| anywhere(w, *s))).collect();
    let first = all.iter().copied().fold(1e12, f64::min).log10().floor();
    let last = all.iter().copied().fold(1.0, f64::max).log10().ceil().max(first + 1.0);
    let x = |ns: f64| left + (ns.log10() - first) / (last - first) * PANEL;
    let bottom = TOP + workloads.len() as f64 * LINE;
    let mut svg =
        format!("<text x=\"{left}\" y=\"44\" font-weight=\"bold\">{}, time of an operation</text>\n", setting.name());
    for decade in first as i32..=last as i32 {
        let (at, label) = (x(10f64.powi(decade)), duration(10f64.powi(decade)).replace(".00", "").replace(".0", ""));
        let _ = writeln!(svg, "<path d=\"M{at:.1} {} V{bottom}\" stroke=\"#e4e4e4\"/>", TOP - 14.0);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{label}</text>",
            bottom + 16.0
        );
    }
    for (n, workload) in workloads.iter().enumerate() {
        let y = TOP + n as f64 * LINE;
        let _ = writeln!(svg, "<path d=\"M{left} {y} h{PANEL}\" stroke=\"#f0f0f0\"/>");
        for (system, colour) in SHOWN {
            if let Some(ns) = anywhere(workload, system) {
                let text = format!("{}, {}: {}", workload.name, system.name(), duration(ns));
                let at = x(ns);
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{at:.1}\" cy=\"{y}\" r=\"5\" fill=\"{colour}\"><title>{text}</title></circle>"
                );
            }
        }
    }
    svg
}
