//! Bounds on the work that a management server can cause: loads of changed content, and NACKs for content that was
//! refused before.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::jittered;

/// Number of loads that may follow each other at once.
const BURST: u32 = 20;
/// Time between further loads.
const INTERVAL: Duration = Duration::from_millis(100);

/// First wait before a NACK for content that was refused before. The wait doubles each time.
const REFUSAL_MIN: Duration = Duration::from_secs(1);
/// Longest wait before a NACK.
const REFUSAL_MAX: Duration = Duration::from_secs(30);
/// Number of refused contents that are remembered.
const REFUSED_MAX: usize = 32;

/// Pace of loads: at most [`BURST`] at once, and one each [`INTERVAL`] in the long run.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Time from which a full burst is available again.
    whole_at: Option<Instant>,
}

impl Pace {
    /// Time at which a load that is due at `now` may begin.
    pub(super) fn next(&mut self, now: Instant) -> Instant {
        let whole_at = self.whole_at.map_or(now, |whole_at| whole_at.max(now)) + INTERVAL;
        self.whole_at = Some(whole_at);
        whole_at.checked_sub(INTERVAL * BURST).map_or(now, |earliest| earliest.max(now))
    }
}

/// Digests of refused contents, and the wait before each NACK for one of them.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    digests: VecDeque<u64>,
    repeats: u32,
}

impl Refusals {
    /// Records refused content. Returns the wait before the NACK: zero for new content.
    pub(super) fn wait(&mut self, digest: u64, random: f64) -> Duration {
        if !self.digests.contains(&digest) {
            self.digests.truncate(REFUSED_MAX - 1);
            self.digests.push_front(digest);
            self.repeats = 0;
            return Duration::ZERO;
        }
        let wait = REFUSAL_MIN.saturating_mul(1 << self.repeats.min(16)).min(REFUSAL_MAX);
        self.repeats += 1;
        jittered(wait, random)
    }

    /// Forgets all refusals, since content was accepted.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn loads_have_a_burst_and_then_a_pace() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let mut begins = || (pace.next(start) - start).as_millis();
        let first: Vec<_> = (0..23).map(|_| begins()).collect();
        assert!(first[..20].iter().all(|wait| *wait == 0), "{first:?}");
        assert_eq!(first[20..], [100, 200, 300]);
        assert_eq!(pace.next(start + Duration::from_secs(60)), start + Duration::from_secs(60));
    }

    #[test]
    fn refused_content_is_answered_at_once_and_then_ever_more_slowly() {
        let mut refusals = Refusals::default();
        let mut wait = |digest| refusals.wait(digest, 1.0).as_secs();
        assert_eq!([1, 1, 1, 1, 1, 1, 1, 1].map(&mut wait), [0, 1, 2, 4, 8, 16, 30, 30]);
        // Other content is answered at once. Alternating between two contents does not shorten the wait.
        assert_eq!([2, 1, 2, 1].map(&mut wait), [0, 1, 2, 4]);
        refusals.clear();
        assert_eq!(refusals.wait(1, 1.0), Duration::ZERO);
    }
}
