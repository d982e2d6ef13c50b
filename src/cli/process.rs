//! Settings of the process that the operating system keeps, and memory that goes back to it.

use std::hint::black_box;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{MissedTickBehavior, interval};

/// Time between two chances for the allocator to return memory.
const RETURN_INTERVAL: Duration = Duration::from_secs(1);
/// An allocation that gets pages of its own, whatever the allocator has free: more than 512 KiB in mimalloc.
const OWN_PAGES_BYTES: usize = 1024 * 1024;

/// Raises the soft limit on open files to the hard one, and turns transparent huge pages off, with which each
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

/// Has the allocator return freed memory to the system, for ever. mimalloc does so a second after pages became
/// free, but only when some thread frees further ones: after a burst, none might for long.
pub(super) async fn return_memory() {
    let mut ticks = interval(RETURN_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        drop(black_box(Vec::<u8>::with_capacity(OWN_PAGES_BYTES)));
    }
}
