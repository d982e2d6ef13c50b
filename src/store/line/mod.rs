//! Calls that wait for a server which carries them out in batches: a bounded queue, deadlines, and a
//! circuit breaker.
//!
//! Nothing here does I/O or knows what a job is, so all of it is tested in paused time.

mod breaker;
mod queue;
mod stall;

pub(super) use breaker::{Breaker, Due};
pub(super) use queue::{Closed, Job, Queue, Rejection};
pub(super) use stall::overslept;
