//! The load test: sends requests to any service that speaks Envoy's `RateLimitService`, and measures the answers.
//!
//! A generator that is slower than the service would measure itself. So threads share nothing, requests are
//! encoded without building messages first, and HTTP/2 is spoken without a gRPC client on top. The report
//! says when that was not enough.
//!
//! It uses nothing but the protocol and does not read limits: an answer is admitted, denied or an error.

mod connection;
mod keys;
mod options;
mod pacer;
mod plan;
mod progress;
mod report;
mod schedule;
mod summary;
mod target;
mod text_report;
mod threads;
mod window;
mod worker;

use std::sync::Arc;

pub use self::options::{BenchArgs, UsageError};
use self::plan::Plan;
use self::report::Report;
use self::threads::SendingThreads;

/// Text of `--help` on reading the report.
pub const READING: &str = "\
A closed loop measures capacity: it sends as fast as answers arrive. An open loop measures latency at a given \
load: requests are sent at their due times, and latencies count from these, so that a service that stalls does \
not hide the requests that had to wait.

The generator uses about as much CPU as a fast service. The report says if the generator was the bottleneck: \
in a closed loop if its threads were busy for 90 % of the time, in an open loop if requests were sent late \
(over 1 ms at the 99th percentile, and over a tenth of the latency there). Then give it more cores, best on \
another machine.

Ctrl-C ends it early and prints the report so far. The exit code is 0 if the service decided at least one \
request.";

/// A finished load test.
#[derive(Debug)]
pub struct Measurement {
    /// The report, as text or as JSON.
    pub report: String,
    /// Error message if nothing was decided, so that the measurement says nothing.
    pub failure: Option<String>,
}

/// Runs the load test until its duration is over or SIGINT arrives.
///
/// # Errors
/// Arguments that contradict each other ([`UsageError`]); no connection to the service.
pub fn run(args: BenchArgs) -> anyhow::Result<Measurement> {
    let descriptors = args.descriptors_per_request()?;
    let plan = Plan::new(&args.domain, &args.templates, descriptors, args.hits);
    let args = Arc::new(args);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async { SendingThreads::start(&args, &plan)?.work(&args).await })?;
    let report = Report::new(&args, descriptors, &measured);
    let text =
        if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { text_report::show(&report) };
    Ok(Measurement { report: text, failure: report.failure() })
}
