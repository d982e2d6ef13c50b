//! Outcomes of requests, counted: one summary per thread, merged at the end. No I/O, no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;
use tonic::Code;

use super::window::Window;

/// Outcome of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallOutcome {
    /// Admitted.
    Admitted,
    /// Denied.
    Denied,
    /// No decision.
    Failed(Failure),
}

impl CallOutcome {
    fn is_decision(&self) -> bool {
        matches!(self, Self::Admitted | Self::Denied)
    }
}

/// Error of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// gRPC code.
    pub(super) code: Code,
    /// The answer of the service, or the error.
    pub(super) message: String,
}

impl Failure {
    /// Failure on the client's side.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Requests that failed with one code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failures {
    /// Number of failures.
    pub(super) count: u64,
    /// Message of the first one.
    pub(super) example: String,
}

/// Counts and times of requests.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    /// Requests that may pass.
    pub(super) admitted: u64,
    /// Requests that are over a limit.
    pub(super) denied: u64,
    /// Requests without a decision, by gRPC's code.
    pub(super) failures: BTreeMap<i32, Failures>,
    /// Requests that ended within the measurement, whenever they began; the rate is computed from these.
    /// Requests counted above began within the measurement and may have ended later.
    pub(super) ended: u64,
    /// Those of them that were admitted or denied.
    pub(super) decided: u64,
    /// Requests that were due and not sent: too many were in flight, no connection was up, or their deadline
    /// passed first.
    pub(super) unsent: u64,
    /// Smallest bound of the service on requests in flight per connection, if requests had to wait for it.
    pub(super) connection_bound: Option<usize>,
    /// Connections that were lost.
    pub(super) lost_connections: u64,
    /// Latencies of decisions, and the waiting time of requests that timed out.
    pub(super) latency: Times,
    /// Delay between the due time of a request and the time it was sent.
    pub(super) lag: Times,
}

impl Summary {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self {
            admitted: 0,
            denied: 0,
            failures: BTreeMap::new(),
            ended: 0,
            decided: 0,
            unsent: 0,
            connection_bound: None,
            lost_connections: 0,
            latency: Times::new(),
            lag: Times::new(),
        }
    }

    /// Counts a request that was due at `since` and ended at `now`.
    pub(super) fn end(&mut self, window: Window, since: Instant, now: Instant, outcome: CallOutcome) {
        if window.contains(now) {
            self.ended += 1;
            self.decided += u64::from(outcome.is_decision());
        }
        if window.counts(since) {
            self.record(outcome, now.saturating_duration_since(since));
        }
    }

    /// Counts an outcome after the time `took`.
    pub(super) fn record(&mut self, outcome: CallOutcome, took: Duration) {
        match outcome {
            CallOutcome::Admitted => self.admitted += 1,
            CallOutcome::Denied => self.denied += 1,
            CallOutcome::Failed(Failure { code, message }) => {
                let first = || Failures { count: 0, example: message };
                self.failures.entry(code as i32).or_insert_with(first).count += 1;
                // An error may be immediate and would make the service look fast.
                if code != Code::DeadlineExceeded {
                    return;
                }
            }
        }
        self.latency.record(took);
    }

    /// Records that a request had to wait, because the service allows at most `most` on a connection.
    pub(super) fn record_wait(&mut self, most: usize) {
        self.connection_bound = Some(self.connection_bound.map_or(most, |least| least.min(most)));
    }

    /// Requests that were sent.
    pub(super) fn requests(&self) -> u64 {
        self.admitted + self.denied + self.errors()
    }

    /// Requests without a decision.
    pub(super) fn errors(&self) -> u64 {
        self.failures.values().map(|failures| failures.count).sum()
    }

    /// Adds the summary of another thread.
    pub(super) fn join(&mut self, other: Self) {
        self.admitted += other.admitted;
        self.denied += other.denied;
        self.ended += other.ended;
        self.decided += other.decided;
        self.unsent += other.unsent;
        other.connection_bound.into_iter().for_each(|most| self.record_wait(most));
        self.lost_connections += other.lost_connections;
        for (code, Failures { count, example }) in other.failures {
            self.failures.entry(code).or_insert(Failures { count: 0, example }).count += count;
        }
        self.latency.join(&other.latency);
        self.lag.join(&other.lag);
    }
}

/// Histogram of times, with a relative error of a thousandth, or of a tenth of a microsecond.
#[derive(Clone, Debug)]
pub(super) struct Times(Histogram<u64>);

/// Resolution and upper bound of recorded times; longer ones count as the bound.
const LEAST_NS: u64 = 100;
const MOST_NS: u64 = 3_600_000_000_000;

impl Times {
    /// Empty histogram.
    pub(super) fn new() -> Self {
        #[expect(clippy::expect_used, reason = "the bounds are constants, and a test makes one")]
        Self(Histogram::new_with_bounds(LEAST_NS, MOST_NS, 3).expect("constants in order"))
    }

    /// Adds a time.
    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(MOST_NS));
    }

    fn join(&mut self, other: &Self) {
        let joined = self.0.add(&other.0);
        debug_assert!(joined.is_ok(), "both have the same bounds, so that nothing is out of them");
    }

    /// Percentile in microseconds; `None` if nothing was recorded.
    pub(super) fn percentile_us(&self, percentile: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| micros(self.0.value_at_quantile(percentile / 100.0)))
    }

    /// Mean in microseconds; `None` if nothing was recorded.
    pub(super) fn mean_us(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.mean() / 1_000.0)
    }

    /// Maximum in microseconds; `None` if nothing was recorded.
    pub(super) fn max_us(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| micros(self.0.max()))
    }
}

#[expect(clippy::cast_precision_loss, reason = "an hour of nanoseconds is below 2^53")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1_000.0
}

/// Name of a code in the gRPC specification.
pub(super) fn code_name(code: i32) -> &'static str {
    match Code::from_i32(code) {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn failed(code: Code, message: &str) -> CallOutcome {
        CallOutcome::Failed(Failure::new(code, message))
    }

    #[test]
    fn every_request_is_admitted_or_denied_or_an_error_and_errors_have_an_example() {
        let (mut one, mut other) = (Summary::new(), Summary::new());
        one.record(CallOutcome::Admitted, MS);
        one.record(failed(Code::Unavailable, "first"), MS);
        one.record(failed(Code::Unavailable, "second"), MS);
        other.record(CallOutcome::Denied, 2 * MS);
        other.record(failed(Code::Unavailable, "third"), MS);
        other.record(failed(Code::Internal, "odd"), MS);
        other.unsent = 3;
        one.join(other);
        assert_eq!((one.admitted, one.denied, one.errors(), one.requests(), one.unsent), (1, 1, 4, 6, 3));
        let failures: Vec<_> =
            one.failures.iter().map(|(code, it)| (code_name(*code), it.count, it.example.as_str())).collect();
        assert_eq!(failures, [("INTERNAL", 1, "odd"), ("UNAVAILABLE", 3, "first")]);
    }

    #[test]
    fn a_rate_counts_requests_that_ended_in_the_window_whenever_they_began() {
        let begun = Instant::now();
        let at = |second: u32| begun + 1_000 * MS * second;
        let window = Window::new(at(1), 2_000 * MS);
        let (mut one, mut other) = (Summary::new(), Summary::new());
        one.end(window, at(0), at(0), CallOutcome::Admitted);
        one.end(window, at(0), at(1), CallOutcome::Admitted);
        one.end(window, at(1), at(2), CallOutcome::Denied);
        other.end(window, at(1), at(2), failed(Code::Internal, "odd"));
        other.end(window, at(1), at(3), CallOutcome::Admitted);
        other.end(window, at(2), at(9), CallOutcome::Denied);
        one.join(other);
        assert_eq!((one.ended, one.decided), (3, 2));
        assert_eq!((one.admitted, one.denied, one.errors()), (1, 2, 1));
        let longest = one.latency.max_us().expect("some were recorded");
        assert!((longest - 7e6).abs() < 7e3, "{longest}");
    }

    #[test]
    fn neither_errors_nor_missing_answers_make_a_service_look_fast() {
        let mut summary = Summary::new();
        summary.record(failed(Code::Unavailable, ""), Duration::ZERO);
        assert_eq!(summary.latency.mean_us(), None);
        summary.record(failed(Code::DeadlineExceeded, ""), 1_000 * MS);
        let longest = summary.latency.max_us().expect("one was recorded");
        assert!((longest - 1e6).abs() < 1e3, "{longest}");
    }

    #[test]
    fn times_are_precise_to_two_thousandths() {
        let mut times = Times::new();
        (1..=1_000).for_each(|count| times.record(Duration::from_micros(10) * count));
        times.record(Duration::MAX);
        for (percentile, expected) in [(50.0, 5_010.0), (90.0, 9_010.0), (99.0, 9_910.0)] {
            let found = times.percentile_us(percentile).expect("some were recorded");
            assert!((found - expected).abs() <= expected / 500.0, "p{percentile}: {found}");
        }
        assert!(times.max_us().expect("some were recorded") >= 3.6e9);
    }
}
