//! Pauses of this process, during which neither it nor its timers run: SIGSTOP, CFS throttling, a
//! virtual machine that migrates.
//!
//! Replies that arrived meanwhile are still in the socket, so a deadline that passed during a pause proves
//! nothing about the server. Deadlines are extended by the length of the pause, and by some time to read replies.

use std::time::Duration;

use tokio::time::Instant;

/// Timers have a resolution of one millisecond, and a busy core adds some.
const TIMER_SLACK: Duration = Duration::from_millis(2);
/// Time by which a timer that was due at `due` was late, if that reveals a pause.
pub(in crate::store) fn overslept(due: Instant, now: Instant) -> Option<Duration> {
    let late = now.saturating_duration_since(due);
    (late > TIMER_SLACK).then_some(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_fires_late_reveals_a_pause() {
        let due = Instant::now();
        for (late_ms, pause_ms) in [(0, None), (2, None), (3, Some(3)), (15, Some(15))] {
            let now = due + Duration::from_millis(late_ms);
            assert_eq!(overslept(due, now), pause_ms.map(Duration::from_millis), "{late_ms} ms late");
        }
        assert_eq!(overslept(due + Duration::from_secs(1), due), None, "not due yet");
    }
}
