//! Process settings of the operating system, and return of freed memory.

use std::hint::black_box;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{MissedTickBehavior, interval};

/// Interval at which the allocator gets a chance to return memory.
const RETURN_INTERVAL: Duration = Duration::from_secs(1);
/// Size of an allocation with pages of its own, which mimalloc does not serve from free memory: more than 512
/// KiB.
const OWN_PAGES_BYTES: usize = 1024 * 1024;

/// Raises the soft limit on open files to the hard one, and disables transparent huge pages, with which each
/// small buffer can take 2 MiB. The service works without either, so failures are only logged.
pub(super) fn prepare() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, ?maximum, "open file limit cannot be raised");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "transparent huge pages cannot be turned off");
    }
}

/// Makes the allocator return freed memory to the system. mimalloc returns pages a second after they became
/// free, but only when a thread frees further ones, which may not happen for a long time after a burst. Never
/// returns.
pub(super) async fn return_memory() {
    let mut ticks = interval(RETURN_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        drop(black_box(Vec::<u8>::with_capacity(OWN_PAGES_BYTES)));
    }
}
