//! The report of a run. No I/O, no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::options::{BenchArgs, Loop};
use super::summary::{Failures, Summary, Times, code_name};

/// Busy share from which the generator counts as saturated. It never reaches 1, because some time passes
/// between two polls of the sockets.
const SATURATED_BUSY: f64 = 0.9;
/// Schedule lag from which the generator counts as saturated, if it is significant compared with the latencies.
const SATURATED_LAG_US: f64 = 1_000.0;
/// Share of the requested rate below which decisions count as falling behind. Requests in flight at the ends of
/// the window explain small differences.
const KEPT_RATE: f64 = 0.9;

/// Combined measurements of all threads.
#[derive(Debug)]
pub(super) struct Measured {
    /// Outcomes.
    pub(super) summary: Summary,
    /// Measured time.
    pub(super) length: Duration,
    /// Busy share of that time, from 0 to 1, on average.
    pub(super) busy: f64,
    /// True if a signal ended the run early.
    pub(super) stopped_early: bool,
}

/// Report. Its JSON is documented: fields may be added, but keep their names and meanings.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) address: String,
    #[serde(rename = "loop")]
    pub(super) kind: &'static str,
    pub(super) concurrency: Option<usize>,
    pub(super) rate_per_second: Option<u32>,
    pub(super) max_in_flight: Option<usize>,
    pub(super) connections: usize,
    pub(super) threads: usize,
    pub(super) domain: String,
    pub(super) descriptors: Vec<String>,
    pub(super) descriptors_per_request: usize,
    pub(super) hits: u32,
    pub(super) keys: u64,
    pub(super) distribution: String,
    pub(super) seed: u64,
    pub(super) timeout_seconds: f64,
    pub(super) warmup_seconds: f64,
    pub(super) duration_seconds: f64,
    pub(super) stopped_early: bool,
    pub(super) requests: u64,
    pub(super) requests_per_second: f64,
    pub(super) decisions_per_second: f64,
    pub(super) admitted: u64,
    pub(super) denied: u64,
    pub(super) errors: u64,
    pub(super) errors_by_code: BTreeMap<&'static str, ErrorsOfCode>,
    pub(super) unsent: u64,
    pub(super) connection_bound: Option<usize>,
    pub(super) lost_connections: u64,
    pub(super) latency_us: Percentiles,
    pub(super) schedule_lag_us: Option<Percentiles>,
    pub(super) generator_busy: f64,
    pub(super) generator_saturated: bool,
}

/// Count of one gRPC code, and the message of its first occurrence.
#[derive(Debug, Serialize)]
pub(super) struct ErrorsOfCode {
    pub(super) count: u64,
    pub(super) example: String,
}

/// Latencies in microseconds; `null` if nothing was measured.
#[derive(Debug, Serialize)]
pub(super) struct Percentiles {
    pub(super) mean: Option<f64>,
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) p999: Option<f64>,
    pub(super) max: Option<f64>,
}

impl Percentiles {
    fn of(times: &Times) -> Self {
        let at = |percentile| times.percentile_us(percentile).map(|us| rounded(us, 10.0));
        Self {
            mean: times.mean_us().map(|us| rounded(us, 10.0)),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: times.max_us().map(|us| rounded(us, 10.0)),
        }
    }
}

impl Report {
    /// Report of a run with valid options.
    pub(super) fn new(args: &BenchArgs, descriptors_per_request: usize, measured: &Measured) -> Self {
        let Measured { summary, length, busy, stopped_early } = measured;
        let (concurrency, rate, max_in_flight) = match args.loop_kind() {
            Loop::Closed { concurrency } => (Some(concurrency), None, None),
            Loop::Open { per_second, max_in_flight } => (None, Some(per_second), Some(max_in_flight)),
        };
        let seconds = length.as_secs_f64();
        let latency = Percentiles::of(&summary.latency);
        let lag = rate.map(|_| Percentiles::of(&summary.lag));
        let saturated = match &lag {
            Some(lag) => keeps_no_schedule(lag, &latency),
            None => *busy >= SATURATED_BUSY,
        };
        let of_code = |(code, failures): (&i32, &Failures)| {
            let Failures { count, example } = failures.clone();
            (code_name(*code), ErrorsOfCode { count, example })
        };
        Self {
            address: args.address.to_string(),
            kind: if rate.is_some() { "open" } else { "closed" },
            concurrency,
            rate_per_second: rate,
            max_in_flight,
            connections: args.connections(),
            threads: args.threads(),
            domain: args.domain.clone(),
            descriptors: args.templates.iter().map(|template| template.text.clone()).collect(),
            descriptors_per_request,
            hits: args.hits,
            keys: args.keys,
            distribution: args.distribution.to_string(),
            seed: args.seed,
            timeout_seconds: args.timeout.as_secs_f64(),
            warmup_seconds: args.warmup.as_secs_f64(),
            duration_seconds: rounded(seconds, 1_000.0),
            stopped_early: *stopped_early,
            requests: summary.requests(),
            requests_per_second: rounded(ratio(summary.ended, seconds), 10.0),
            decisions_per_second: rounded(ratio(summary.decided, seconds), 10.0),
            admitted: summary.admitted,
            denied: summary.denied,
            errors: summary.errors(),
            errors_by_code: summary.failures.iter().map(of_code).collect(),
            unsent: summary.unsent,
            connection_bound: summary.connection_bound,
            lost_connections: summary.lost_connections,
            latency_us: latency,
            schedule_lag_us: lag,
            generator_busy: rounded(*busy, 1_000.0),
            generator_saturated: saturated,
        }
    }

    /// Requested rate, if decisions fell clearly below it.
    pub(super) fn missed_rate(&self) -> Option<u32> {
        let is_missed = |rate: &u32| self.decisions_per_second < KEPT_RATE * f64::from(*rate);
        self.rate_per_second.filter(is_missed)
    }

    /// Error if no request was decided.
    pub(super) fn failure(&self) -> Option<String> {
        if self.admitted + self.denied > 0 {
            return None;
        }
        let error = self.errors_by_code.iter().max_by_key(|(_, errors)| errors.count);
        Some(match error {
            Some((code, errors)) => format!("no request got a decision: {code}: {}", errors.example),
            None if self.stopped_early => "stopped before any request was measured".to_owned(),
            None => "nothing could be sent".to_owned(),
        })
    }
}

/// True if requests were sent so late that latencies are distorted.
fn keeps_no_schedule(lag: &Percentiles, latency: &Percentiles) -> bool {
    let (lag, latency) = (lag.p99.unwrap_or_default(), latency.p99.unwrap_or_default());
    lag > SATURATED_LAG_US && lag > latency / 10.0
}

/// Count as a float.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
pub(super) fn as_float(count: u64) -> f64 {
    count as f64
}

/// Ratio; 0 if the denominator is 0.
pub(super) fn ratio(count: u64, of: f64) -> f64 {
    if of > 0.0 { as_float(count) / of } else { 0.0 }
}

fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;
    use tonic::Code;

    use super::super::summary::{CallOutcome, Failure};
    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }

    pub(in crate::bench) fn report(args: &[&str], fill: impl FnOnce(&mut Measured)) -> Report {
        let args = ["bench", "--threads", "2"].iter().chain(args).copied();
        let args = Cli::parse_from(args).args;
        let mut measured = Measured {
            summary: Summary::new(),
            length: Duration::from_secs(2),
            busy: 0.25,
            stopped_early: false,
        };
        fill(&mut measured);
        Report::new(&args, args.templates.len(), &measured)
    }

    pub(in crate::bench) fn some_of_everything(measured: &mut Measured) {
        let summary = &mut measured.summary;
        for ms in 1..=10 {
            let outcome = if ms < 4 { CallOutcome::Admitted } else { CallOutcome::Denied };
            summary.record(outcome, Duration::from_micros(100) * ms);
        }
        for message in ["no store", "no rules"] {
            let failure = Failure::new(Code::Unavailable, message);
            summary.record(CallOutcome::Failed(failure), Duration::ZERO);
        }
        (summary.ended, summary.decided) = (12, 10);
    }

    #[test]
    fn json_has_the_same_fields_whatever_was_measured() {
        let fields = |report: &Report| {
            let json = serde_json::to_value(report).expect("JSON");
            json.as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
        };
        let (nothing, much) = (report(&[], |_| {}), report(&["--rate", "9"], some_of_everything));
        assert_eq!(fields(&nothing), fields(&much));
        let json = serde_json::to_value(&much).expect("JSON");
        assert_eq!((&json["loop"], &json["ratePerSecond"]), (&"open".into(), &9.into()));
        assert_eq!(json["errorsByCode"]["UNAVAILABLE"]["example"], "no store");
        let median = json["latencyUs"]["p50"].as_f64().expect("a number");
        assert!(json["requests"] == 12 && (median - 500.0).abs() <= 0.5, "{json}");
        let json = serde_json::to_value(&nothing).expect("JSON");
        assert!(json["scheduleLagUs"].is_null() && json["latencyUs"]["p50"].is_null(), "{json}");
    }

    #[test]
    fn a_generator_that_is_itself_the_limit_says_so() {
        for (args, busy, lag_us, expected) in [
            (&[][..], 0.5, 0, false),
            (&[], 0.95, 0, true),
            // An open loop may be busy, as long as it keeps its schedule.
            (&["--rate", "9"], 0.95, 100, false),
            (&["--rate", "9"], 0.1, 50_000, true),
        ] {
            let report = report(args, |measured| {
                some_of_everything(measured);
                measured.busy = busy;
                measured.summary.lag.record(Duration::from_micros(lag_us));
            });
            assert_eq!(report.generator_saturated, expected, "{args:?} {busy} {lag_us}");
        }
    }

    #[test]
    fn a_rate_is_that_of_requests_that_ended_and_not_of_those_asked_for() {
        // Two seconds in which 60,000 were due: as many as can be are answered, the others much later.
        for (ended, decided, missed) in
            [(60_000, 60_000, None), (60_000, 4_000, Some(30_000)), (4_000, 4_000, Some(30_000))]
        {
            let report = report(&["--rate", "30000"], |measured| {
                measured.summary.admitted = 60_000;
                (measured.summary.ended, measured.summary.decided) = (ended, decided);
            });
            let rates = (report.requests_per_second, report.decisions_per_second);
            assert_eq!(rates, (as_float(ended) / 2.0, as_float(decided) / 2.0));
            assert_eq!((report.requests, report.missed_rate()), (60_000, missed), "{ended} {decided}");
        }
        assert_eq!(report(&[], |_| {}).missed_rate(), None);
    }

    #[test]
    fn a_run_without_a_decision_is_a_failure() {
        let error = CallOutcome::Failed(Failure::new(Code::Unimplemented, "no such method"));
        let failed = report(&[], |measured| measured.summary.record(error, Duration::ZERO)).failure();
        assert_eq!(failed.as_deref(), Some("no request got a decision: UNIMPLEMENTED: no such method"));
        assert_eq!(report(&[], |_| {}).failure().as_deref(), Some("nothing could be sent"));
        let stopped = report(&[], |measured| measured.stopped_early = true).failure();
        assert_eq!(stopped.as_deref(), Some("stopped before any request was measured"));
        assert_eq!(report(&[], some_of_everything).failure(), None);
    }
}
