//! Fixed windows: hits are counted from zero in every window.
//!
//! Exact within a window. Across the boundary of two windows twice the limit can pass in an instant;
//! that is the algorithm's nature, and envoyproxy/ratelimit's.

use crate::engine::{Hits, Timestamp, Window};

/// A counter: the window it counts in and the hits counted there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Beginning of the window, in seconds since the epoch.
    pub window_start_secs: u64,
    /// Hits counted in that window, denied ones included.
    pub used: u64,
}

impl State {
    /// Whether the state says nothing any more at `now`: the same as no state.
    pub const fn is_over(self, window: Window, now: Timestamp) -> bool {
        self.window_start_secs.saturating_add(window.secs() as u64) <= now.as_secs()
    }
}

/// The counter after `hits` at `now`.
///
/// A clock that steps back into an earlier window counts in the later one that is already open: hits
/// are never forgotten because a clock was set.
pub fn step(state: State, window: Window, hits: Hits, now: Timestamp) -> State {
    let window_start_secs = window.start_secs(now).max(state.window_start_secs);
    let used = if state.window_start_secs == window_start_secs { state.used } else { 0 };
    let used = match hits {
        Hits::Add(hits) => used.saturating_add(u64::from(hits)),
        Hits::Refund(hits) => used.saturating_sub(u64::from(hits)),
    };
    State { window_start_secs, used }
}
