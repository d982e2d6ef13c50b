//! Options of a load test, and combinations that contradict each other.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::keys::Distribution;
use super::plan::Template;
use super::target::Target;
use crate::engine::duration;
use crate::tls::TlsFlags;

/// Upper bound on keys: the range in which floats are exact.
const KEYS_MAX: u64 = 1 << 53;

/// Options of `bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Domain of the rules.
    #[arg(short, long, default_value = "example")]
    pub(super) domain: String,
    // clap replaces an n in braces by a line break, so the help shows the form without it.
    /// Descriptors of each request, each one `key=value[,key=value…]`. `{}` in a value is replaced by the
    /// number of a key.
    #[arg(value_name = "KEY=VALUE", default_value = "user={}")]
    pub(super) templates: Vec<Template>,
    /// gRPC address of the service: `host:port`, `http://host:port` or `unix:/path/of/a.sock`.
    #[arg(long, visible_alias = "target", default_value = "127.0.0.1:8081")]
    pub(super) address: Target,
    #[command(flatten)]
    pub(super) tls: TlsFlags,

    /// Closed loop: requests in flight at all times, 1 to 100,000.
    #[arg(long, value_name = "COUNT", default_value = "64", conflicts_with = "rate")]
    #[arg(value_parser = count(1..=100_000))]
    pub(super) concurrency: usize,
    /// Open loop: requests per second, 1 to 10,000,000, whether earlier ones were answered or not. Latencies
    /// count from when a request was due.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: Option<u32>,
    /// Open loop: upper bound on requests in flight, 1 to 1,000,000. Requests that are due beyond it are
    /// not sent; the report counts them.
    #[arg(long, value_name = "COUNT", default_value = "10000", requires = "rate")]
    #[arg(value_parser = count(1..=1_000_000))]
    pub(super) max_in_flight: usize,

    /// Length of the measurement, 1ms to 24h.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    #[arg(value_parser = |text: &str| duration(text, Duration::from_millis(1), DAY))]
    pub(super) duration: Duration,
    /// Length of the warm-up before it, up to 24h.
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    #[arg(value_parser = |text: &str| duration(text, Duration::ZERO, DAY))]
    pub(super) warmup: Duration,
    /// Deadline of each request, 1ms to 1m; a request without an answer by then is an error.
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    #[arg(value_parser = |text: &str| duration(text, Duration::from_millis(1), Duration::from_secs(60)))]
    pub(super) timeout: Duration,

    /// Connections, 1 to 10,000; in a closed loop at most one per request in flight. The service bounds the
    /// requests in flight on each; the report says if requests had to wait for that.
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = count(1..=10_000))]
    pub(super) connections: usize,
    /// Threads that send, 1 to 1,024, no more than there are connections. Unset: one for each core that
    /// the process may use.
    #[arg(long, value_name = "COUNT", value_parser = count(1..=1_024))]
    pub(super) threads: Option<usize>,

    /// Number of keys, 1 to 2^53.
    #[arg(long, value_name = "COUNT", default_value = "100000")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub(super) keys: u64,
    /// Frequency of each key: `uniform`, or `zipf:EXPONENT`, where the first keys are the most frequent. `zipf`
    /// alone has the exponent 1.
    #[arg(long, value_name = "LAW", default_value = "uniform")]
    pub(super) distribution: Distribution,
    /// Descriptors in each request, up to 10,000: the given descriptors, repeated with other keys until there are this
    /// many. Unset: the given descriptors once.
    #[arg(long, value_name = "COUNT", value_parser = count(1..=10_000))]
    pub(super) descriptors: Option<usize>,
    /// Hits of each request; 0 checks without counting, if the service supports it.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(super) hits: u32,
    /// Seed of the sequence of keys: the same seed draws the same keys.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) seed: u64,

    /// Print the report as JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Print progress every second, even if stderr is not a terminal.
    #[arg(long)]
    pub(super) progress: bool,
}

/// Options that contradict each other.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// `--descriptors` is smaller than the number of given descriptors.
    #[error("--descriptors: expected {given} or more, as many as are given, found {found}")]
    FewDescriptors {
        /// Descriptors given.
        given: usize,
        /// Descriptors requested.
        found: usize,
    },
}

/// Arrival of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    /// A new request for each that ends.
    Closed {
        /// Requests in flight.
        concurrency: usize,
    },
    /// At a fixed rate.
    Open {
        /// Requests per second.
        per_second: u32,
        /// Upper bound on requests in flight.
        max_in_flight: usize,
    },
}

impl BenchArgs {
    /// Arrival of requests.
    pub(super) fn loop_kind(&self) -> Loop {
        match self.rate {
            Some(per_second) => Loop::Open { per_second, max_in_flight: self.max_in_flight },
            None => Loop::Closed { concurrency: self.concurrency },
        }
    }

    /// Descriptors in each request.
    pub(super) fn descriptors_per_request(&self) -> Result<usize, UsageError> {
        let given = self.templates.len();
        match self.descriptors {
            Some(found) if found < given => Err(UsageError::FewDescriptors { given, found }),
            found => Ok(found.unwrap_or(given)),
        }
    }

    /// Connections, at most one for each request in flight.
    pub(super) fn connections(&self) -> usize {
        let most = match self.loop_kind() {
            Loop::Closed { concurrency } => concurrency,
            Loop::Open { max_in_flight, .. } => max_in_flight,
        };
        self.connections.min(most)
    }

    /// Threads, at most one for each connection.
    pub(super) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(cores).min(self.connections())
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn count(range: std::ops::RangeInclusive<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    duration::parse(text)
        .filter(|duration| (least..=most).contains(duration))
        .ok_or_else(|| format!("expected a duration such as 300ms, 10s or 1m30s, from {least:?} to {most:?}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parsed(args: &[&str]) -> Result<BenchArgs, String> {
        let args = std::iter::once("bench").chain(args.iter().copied());
        Cli::try_parse_from(args).map(|cli| cli.args).map_err(|error| error.to_string())
    }

    #[test]
    fn without_options_there_is_a_closed_loop() {
        let args = parsed(&[]).expect("nothing is needed");
        assert_eq!(args.loop_kind(), Loop::Closed { concurrency: 64 });
        assert_eq!((args.connections(), args.descriptors_per_request().ok()), (4, Some(1)));
    }

    #[test]
    fn a_rate_makes_it_an_open_loop() {
        let args = parsed(&["--rate", "100", "--max-in-flight", "3"]).expect("a rate");
        assert_eq!(args.loop_kind(), Loop::Open { per_second: 100, max_in_flight: 3 });
        assert_eq!(args.connections(), 3);
    }

    #[test]
    fn there_is_no_connection_and_no_thread_with_nothing_to_do() {
        for (args, connections, threads) in [
            (&["--concurrency", "3", "--threads", "8"][..], 3, 3),
            (&["--connections", "9", "--threads", "2"], 9, 2),
            (&["--connections", "1", "--threads", "2"], 1, 1),
        ] {
            let parsed = parsed(args).expect("good options");
            assert_eq!((parsed.connections(), parsed.threads()), (connections, threads), "{args:?}");
        }
    }

    #[test]
    fn contradictory_options_are_rejected_by_name() {
        for (args, expected) in [
            (&["--rate", "0"][..], "--rate"),
            (&["--rate", "10", "--concurrency", "2"], "--concurrency"),
            (&["--max-in-flight", "2"], "--rate"),
            (&["--concurrency", "0"], "--concurrency"),
            (&["--connections", "0"], "--connections"),
            (&["--threads", "0"], "--threads"),
            (&["--keys", "0"], "--keys"),
            (&["--duration", "0s"], "from 1ms to 86400s"),
            (&["--duration", "10"], "expected a duration"),
            (&["--timeout", "2m"], "--timeout"),
            (&["--distribution", "normal"], "expected uniform"),
            (&["--address", "https://x"], "expected host:port"),
            (&["user"], "expected key=value"),
        ] {
            let refused = parsed(args).map(|_| ()).unwrap_err();
            assert!(refused.contains(expected), "{args:?}: {refused}");
        }
    }

    #[test]
    fn no_descriptor_that_is_given_is_left_out() {
        for (args, expected) in [
            (&["a=1", "b=2"][..], Some(2)),
            (&["a=1", "b=2", "--descriptors", "3"], Some(3)),
            (&["a=1", "b=2", "--descriptors", "1"], None),
        ] {
            let parsed = parsed(args).expect("good options");
            assert_eq!(parsed.descriptors_per_request().ok(), expected, "{args:?}");
        }
    }
}
