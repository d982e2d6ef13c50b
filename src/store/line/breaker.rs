//! A circuit breaker: calls fail at once while the server does not answer.
//!
//! It opens when nothing was answered for a while though something was awaited. Then the server is probed at
//! random intervals, and any answer closes it. Probes that stay unanswered as well mean that the connection
//! is dead rather than the server slow, so it is replaced.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

/// Interval between probes, in milliseconds. Random, so that cores and replicas do not probe in step.
const PROBE_INTERVAL_MS: Range<u64> = 100..400;
/// Probes after which the connection is replaced if none was answered.
const MAX_PROBES: u32 = 3;

/// The breaker of one connection.
#[derive(Debug)]
pub(in crate::store) struct Breaker {
    /// Silence after which it opens.
    max_silence: Duration,
    /// When the silence began: at the last answer, or when something was first awaited after it.
    /// `None` while nothing is awaited.
    silent_since: Option<Instant>,
    /// `None` while it is closed.
    probing: Option<Probing>,
}

#[derive(Debug)]
struct Probing {
    sent: u32,
    next: Instant,
}

/// Action that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Due {
    /// Fail calls at once: the breaker has just opened.
    Open,
    /// Probe the server.
    Probe,
    /// Replace the connection.
    Replace,
}

impl Breaker {
    /// A closed breaker that opens after `max_silence`.
    pub(in crate::store) const fn new(max_silence: Duration) -> Self {
        Self { max_silence, silent_since: None, probing: None }
    }

    pub(in crate::store) const fn is_open(&self) -> bool {
        self.probing.is_some()
    }

    /// An answer is awaited from now on, if none was before.
    pub(in crate::store) fn awaits(&mut self, now: Instant) {
        self.silent_since.get_or_insert(now);
    }

    /// The server answered. `awaited` says whether there is more to come. Returns whether the breaker was
    /// open until now.
    pub(in crate::store) fn answered(&mut self, awaited: bool, now: Instant) -> bool {
        self.silent_since = awaited.then_some(now);
        self.probing.take().is_some()
    }

    /// This process was paused: for `pause`, silence was its own.
    pub(in crate::store) fn extend(&mut self, pause: Duration) {
        self.silent_since = self.silent_since.map(|since| since + pause);
    }

    /// When [`Breaker::due`] next has something to do.
    pub(in crate::store) fn next(&self) -> Option<Instant> {
        match &self.probing {
            Some(Probing { next, .. }) => Some(*next),
            None => self.silent_since.map(|since| since + self.max_silence),
        }
    }

    /// Action due at `now`, if any.
    pub(in crate::store) fn due(&mut self, now: Instant) -> Option<Due> {
        if self.next().is_none_or(|next| now < next) {
            return None;
        }
        let next = now + Duration::from_millis(fastrand::u64(PROBE_INTERVAL_MS));
        match &mut self.probing {
            None => {
                self.probing = Some(Probing { sent: 0, next });
                Some(Due::Open)
            }
            Some(probing) if probing.sent < MAX_PROBES => {
                *probing = Probing { sent: probing.sent + 1, next };
                Some(Due::Probe)
            }
            Some(_) => Some(Due::Replace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_SILENCE: Duration = Duration::from_millis(30);

    /// Actions, each as soon as it is due, and the time since `begun`.
    fn events(breaker: &mut Breaker, begun: Instant, len: usize) -> Vec<(Due, Duration)> {
        let mut events = Vec::new();
        while let Some(now) = breaker.next().filter(|_| events.len() < len) {
            assert_eq!(breaker.due(now - Duration::from_nanos(1)), None, "too early");
            events.push((breaker.due(now).expect("it is due"), now - begun));
        }
        events
    }

    #[test]
    fn silence_opens_it_and_unanswered_probes_replace_the_connection_within_seconds() {
        let (mut breaker, begun) = (Breaker::new(MAX_SILENCE), Instant::now());
        assert_eq!(breaker.next(), None, "nothing is awaited");
        breaker.awaits(begun);
        breaker.awaits(begun + Duration::from_millis(20));
        let events = events(&mut breaker, begun, 5);
        let expected = [Due::Open, Due::Probe, Due::Probe, Due::Probe, Due::Replace];
        assert_eq!(events.iter().map(|(due, _)| *due).collect::<Vec<_>>(), expected);
        assert_eq!(events[0].1, MAX_SILENCE);
        assert!(events[4].1 < Duration::from_secs(2), "{events:?}");
        assert!(breaker.is_open());
    }

    #[test]
    fn any_answer_closes_it_and_silence_begins_anew_while_more_is_awaited() {
        let (mut breaker, begun) = (Breaker::new(MAX_SILENCE), Instant::now());
        breaker.awaits(begun);
        assert!(!breaker.answered(true, begun + MAX_SILENCE / 2), "it was closed");
        assert_eq!(breaker.next(), Some(begun + MAX_SILENCE / 2 + MAX_SILENCE));
        let opened = begun + 2 * MAX_SILENCE;
        assert_eq!(breaker.due(opened), Some(Due::Open));
        assert!(breaker.answered(false, opened), "it was open");
        assert!(!breaker.is_open());
        assert_eq!(breaker.next(), None);
    }

    #[test]
    fn a_pause_of_this_process_is_not_the_servers_silence() {
        let (mut breaker, begun) = (Breaker::new(MAX_SILENCE), Instant::now());
        breaker.awaits(begun);
        breaker.extend(MAX_SILENCE);
        assert_eq!(breaker.due(begun + MAX_SILENCE), None);
        assert_eq!(breaker.due(begun + 2 * MAX_SILENCE), Some(Due::Open));
    }
}
