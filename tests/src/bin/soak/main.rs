//! Works on shared databases while faults are injected, and checks that nothing was lost, torn or
//! done twice. See `scripts/soak`.

#[cfg(target_os = "linux")]
mod clock;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlite_redis::Options;
use sqlite_redis_tests::soak::Workload;
use sqlite_redis_tests::soak::run::{Plan, run};
use sqlite_redis_tests::soak::worker::{self, Orders, Role};

const USAGE: &str = "usage: soak SECONDS [SEED]";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["work", workload, role, id, number, seed, lease, server, replicas @ ..] => {
            let role = Role::named(role).context("no such role")?;
            let workload = Workload::named(workload).context("no such workload")?;
            let lease = Duration::from_millis(lease.parse()?);
            let options = |name: &str| {
                let options = Options::new(name)
                    .server(*server)
                    .lease(lease)
                    .timeout(Duration::from_secs(3))
                    .log_bytes(8 << 20)
                    .wait(u32::from(role == Role::Waiting), Duration::from_millis(300));
                replicas.iter().fold(options, |options, replica| options.replica(*replica))
            };
            let (number, seed, id) = (number.parse()?, seed.parse()?, (*id).to_owned());
            let server = (*server).to_owned();
            worker::work(&Orders { workload, server, options, role, id, number, seed })
        }
        [seconds] => soak(seconds.parse().context(USAGE)?, rand::random::<u32>().into()),
        [seconds, seed] => soak(seconds.parse().context(USAGE)?, seed.parse().context(USAGE)?),
        _ => bail!(USAGE),
    }
}

fn soak(seconds: u64, seed: u64) -> Result<()> {
    println!("soak: {seconds} s with seed {seed}; again with: scripts/soak {seconds} {seed}");
    let plan = Plan { duration: Duration::from_secs(seconds), seed, workers: 2, program: std::env::current_exe()? };
    let verdict = run(&plan, |elapsed, faults| {
        if faults % 50 == 0 {
            println!("soak: {} of {seconds} s, {faults} faults", elapsed.as_secs());
        }
    })?;
    println!(
        "soak: {} transactions acknowledged, {} failed, {} unknown; {} reads",
        verdict.acknowledged, verdict.failed, verdict.unknown, verdict.read
    );
    for (workload, acknowledged) in &verdict.acknowledged_by {
        println!("soak: {acknowledged:>6} acknowledged by {workload}");
    }
    for (fault, times) in &verdict.faults {
        println!("soak: {times:>6} x {fault:?}");
    }
    for violation in &verdict.violations {
        println!("VIOLATION {violation}");
    }
    if !verdict.violations.is_empty() {
        bail!("{} violations; again with: scripts/soak {seconds} {seed}", verdict.violations.len());
    }
    println!("soak: no violation");
    Ok(())
}
