//! The machine and the date of a measurement.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use chrono::DateTime;
use tollgate::clock::{Clock as _, SystemClock};

use crate::options::Options;

/// Cores that this process may use, and those it starts.
pub(crate) fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// The version of the `redis-server` that would be started; `None` where there is none.
pub(crate) fn redis_version() -> Option<String> {
    let output = Command::new("redis-server").arg("--version").output().ok()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(printed.split_whitespace().find_map(|word| word.strip_prefix("v="))?.to_owned())
}

/// A paragraph on both.
pub(crate) fn describe(options: &Options, redis: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()))
        .unwrap_or_else(|| "an unknown processor".to_owned());
    let now = i64::try_from(SystemClock.now().as_secs()).unwrap_or_default();
    format!(
        "{date}; {processor}, {cores} cores, shared by service, load and Redis; Linux {kernel}; tollgate {version}, \
         Redis {redis}. Medians; rounds: {rounds}, each measurement: {seconds} s.",
        date = DateTime::from_timestamp(now, 0).unwrap_or_default().date_naive(),
        cores = cores(),
        kernel = read("/proc/sys/kernel/osrelease").trim(),
        version = env!("CARGO_PKG_VERSION"),
        rounds = options.rounds,
        seconds = options.seconds,
    )
}
