//! One connection while a worker serves it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::exchange::{Exchange, Pipeline};
use super::ttl::Orphans;
use crate::store::line::Breaker;

/// Time that calls get after a further pause of this process.
const MIN_GRACE: Duration = Duration::from_millis(1);

/// One connection while it is served.
pub(super) struct Session {
    pub(super) pipeline: Pipeline,
    pub(super) exchange: Exchange,
    pub(super) orphans: Orphans,
    /// When the batch was written.
    pub(super) begun: Instant,
    pub(super) breaker: Breaker,
    pub(super) since: Instant,
    /// An error after which to reconnect, as soon as nothing is awaited, and not before this time.
    pub(super) stale: Option<(Instant, Arc<str>)>,
    /// True if the batch was given its [`Session::grace`].
    pub(super) is_graced: bool,
}

impl Session {
    /// Time that calls get after a pause of this process, in which replies are read; Redis may have been paused too,
    /// as by the same hypervisor. Long once for each batch: where every timer is late, a server that hangs must not be
    /// waited for without end.
    pub(super) fn grace(&mut self, call_timeout: Duration) -> Duration {
        match std::mem::replace(&mut self.is_graced, true) {
            false => call_timeout / 2,
            true => MIN_GRACE,
        }
    }
}

impl Drop for Session {
    /// The worker was dropped while commands were in flight.
    fn drop(&mut self) {
        while let Some((command, _)) = self.pipeline.next_lost() {
            if let Some(ttl) = self.exchange.unconfirmed_ttl(command) {
                self.orphans.send(ttl);
            }
        }
    }
}
