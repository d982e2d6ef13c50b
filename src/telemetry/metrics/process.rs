//! Resources that the process uses, under the names that every Prometheus client has for them.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::definitions::{
    PROCESS_CPU, PROCESS_MAX_FDS, PROCESS_MAX_VIRTUAL_MEMORY, PROCESS_OPEN_FDS, PROCESS_RESIDENT_MEMORY,
    PROCESS_START_TIME, PROCESS_THREADS, PROCESS_VIRTUAL_MEMORY,
};
use super::snapshot::Snapshot;

/// Adds those that can be read: a sandbox may hide `/proc`.
pub(super) fn collect(snapshot: &mut Snapshot) {
    let read = |path| fs::read_to_string(path).ok();
    if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) {
        let secs = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
        snapshot.add(&PROCESS_CPU, [], secs(stat.cpu_ticks));
        snapshot.add(&PROCESS_VIRTUAL_MEMORY, [], stat.virtual_bytes);
        snapshot.add(&PROCESS_RESIDENT_MEMORY, [], stat.resident_pages * page_size() as u64);
        snapshot.add(&PROCESS_THREADS, [], stat.threads);
        if let Some(boot_time) = read("/proc/stat").as_deref().and_then(parse_boot_time) {
            snapshot.add(&PROCESS_START_TIME, [], boot_time as f64 + secs(stat.start_ticks));
        }
    }
    for (metric, resource) in
        [(&PROCESS_MAX_FDS, Resource::Nofile), (&PROCESS_MAX_VIRTUAL_MEMORY, Resource::As)]
    {
        // Unlimited is the largest number, as other clients show it.
        snapshot.add(metric, [], getrlimit(resource).current.unwrap_or(u64::MAX) as f64);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        snapshot.add(&PROCESS_OPEN_FDS, [], open.count() as u64);
    }
}

/// Fields of `/proc/self/stat`, described in proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    /// Since the system booted.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the name of the program in parentheses, which may contain spaces and parentheses.
        let (_, from_third) = text.rsplit_once(") ")?;
        let fields: Vec<_> = from_third.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Time of the boot in `/proc/stat`, in seconds since 1970.
fn parse_boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_name_of_the_program_contains() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194304 5 0 0 0 31 11 0 0 20 0 4 0 900 123456 789 18446744073709551615 1\n";
        let expected =
            Stat { cpu_ticks: 42, threads: 4, start_ticks: 900, virtual_bytes: 123_456, resident_pages: 789 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(parse_boot_time("cpu 1 2\nbtime 1700000000\nprocesses 3\n"), Some(1_700_000_000));
    }
}
