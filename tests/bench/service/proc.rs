//! Figures of a process from the kernel.

use std::fs;

/// `USER_HZ`: clock ticks per second in `/proc`, the same on all supported machines.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of a process and all its threads so far, in seconds, to a hundredth.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process that runs");
    // The name, in parentheses, may hold anything; the fields behind it are numbered from 3.
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = [14, 15].map(|number: usize| fields[number - 3].parse::<f64>().expect("a number of ticks"));
    (ticks[0] + ticks[1]) / TICKS_PER_SECOND
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux has it");
    let kibibytes = resident.trim().trim_end_matches(" kB").parse::<f64>().expect("a number");
    kibibytes * 1_024.0
}
