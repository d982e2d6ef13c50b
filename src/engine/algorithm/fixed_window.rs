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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hits() -> impl Strategy<Value = Hits> {
        prop_oneof![
            3 => (0..5u32).prop_map(Hits::Add),
            1 => (1..5u32).prop_map(Hits::Refund),
            1 => Just(Hits::Add(1_000_000_000)),
        ]
    }

    proptest! {
        #[test]
        fn the_counter_is_what_a_list_of_the_windows_hits_adds_up_to(
            secs in prop_oneof![Just(1u32), Just(60), Just(3600)],
            steps in prop::collection::vec((0..4_000_000u64, hits()), 1..50),
        ) {
            let window = Window::of_secs(secs);
            let (mut state, mut now_us) = (State::default(), 1_000_000_000_000u64);
            let (mut current, mut used) = (0, 0u64);
            for (later_us, hits) in steps {
                now_us += later_us;
                let now = Timestamp::from_micros(now_us);
                if now_us / (u64::from(secs) * 1_000_000) != current {
                    (current, used) = (now_us / (u64::from(secs) * 1_000_000), 0);
                }
                used = match hits {
                    Hits::Add(hits) => used + u64::from(hits),
                    Hits::Refund(hits) => used - used.min(u64::from(hits)),
                };
                state = step(state, window, hits, now);
                prop_assert_eq!(state.used, used);
                prop_assert!(!state.is_over(window, now));
                let next_secs = window.start_secs(now) + u64::from(secs);
                prop_assert!(state.is_over(window, Timestamp::from_secs(next_secs)));
            }
        }
    }

    #[test]
    fn a_clock_that_steps_back_forgets_nothing() {
        let window = Window::of_secs(60);
        let state = step(State::default(), window, Hits::Add(7), Timestamp::from_secs(120));
        let state = step(state, window, Hits::Add(1), Timestamp::from_secs(119));
        assert_eq!(state, State { window_start_secs: 120, used: 8 });
    }

    #[test]
    fn the_counter_saturates() {
        let state = State { window_start_secs: 60, used: u64::MAX };
        assert_eq!(step(state, Window::of_secs(60), Hits::Add(1), Timestamp::from_secs(61)).used, u64::MAX);
    }
}
