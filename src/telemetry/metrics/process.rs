//! Resources that the process uses, under the names that every Prometheus client has for them.

use procfs::process::{LimitValue, Process};
use procfs::{ProcResult, boot_time_secs, page_size, ticks_per_second};

use super::definitions::{
    PROCESS_CPU, PROCESS_MAX_FDS, PROCESS_MAX_VIRTUAL_MEMORY, PROCESS_OPEN_FDS, PROCESS_RESIDENT_MEMORY,
    PROCESS_START_TIME, PROCESS_THREADS, PROCESS_VIRTUAL_MEMORY,
};
use super::snapshot::Snapshot;

/// Adds those that can be read: a sandbox may hide `/proc`.
pub(super) fn collect(snapshot: &mut Snapshot) {
    if let Ok(process) = Process::myself() {
        add_usage(&process, snapshot).unwrap_or_default();
        add_descriptors(&process, snapshot).unwrap_or_default();
    }
}

fn add_usage(process: &Process, snapshot: &mut Snapshot) -> ProcResult<()> {
    let stat = process.stat()?;
    let secs = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
    snapshot.add(&PROCESS_CPU, [], secs(stat.utime + stat.stime));
    snapshot.add(&PROCESS_VIRTUAL_MEMORY, [], stat.vsize);
    snapshot.add(&PROCESS_RESIDENT_MEMORY, [], stat.rss * page_size());
    snapshot.add(&PROCESS_THREADS, [], u64::try_from(stat.num_threads).unwrap_or_default());
    snapshot.add(&PROCESS_START_TIME, [], boot_time_secs()? as f64 + secs(stat.starttime));
    Ok(())
}

fn add_descriptors(process: &Process, snapshot: &mut Snapshot) -> ProcResult<()> {
    let limits = process.limits()?;
    for (metric, limit) in [
        (&PROCESS_MAX_FDS, limits.max_open_files.soft_limit),
        (&PROCESS_MAX_VIRTUAL_MEMORY, limits.max_address_space.soft_limit),
    ] {
        // As other clients show it.
        let unlimited = u64::MAX as f64;
        snapshot.add(metric, [], if let LimitValue::Value(limit) = limit { limit as f64 } else { unlimited });
    }
    snapshot.add(&PROCESS_OPEN_FDS, [], process.fd_count()?);
    Ok(())
}
