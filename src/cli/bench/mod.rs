//! `tollgate bench`: loads a running service with requests, and measures how it answers.
//!
//! A generator that is slower than the service would measure itself. So each thread has a runtime,
//! connections and counts of its own, requests are encoded without building messages first, and HTTP/2 is
//! spoken without a gRPC client on top. Where that is not enough, the report says so.
//!
//! It knows nothing of the service but its protocol, and does not look at limits: an answer is admitted,
//! denied or an error.

mod connection;
mod crew;
mod keys;
mod options;
mod pacer;
mod people;
mod plan;
mod progress;
mod report;
mod schedule;
mod tally;
mod target;
mod window;
mod worker;

use std::sync::Arc;

use anyhow::anyhow;

use self::crew::Crew;
pub(super) use self::options::{BenchArgs, Misused};
use self::plan::Plan;
use self::report::Report;
use super::{Exit, print};

/// What `--help` says of reading the report.
pub(super) const READING: &str = "\
A closed loop says how much the service can do: it sends as fast as answers come. An open loop says how long \
callers wait at a given load: it sends when they would, and latencies count from when a request was due, so \
that a service that stalls does not hide the requests that had to wait.

The generator takes about as much of a processor as a fast service. Where it was the slower of the two the \
report says so: in a closed loop when its threads had something to do for 90 % of the time or more, in an open \
loop when requests were sent late (over 1 ms at the 99th percentile, and over a tenth of the latency there). \
Then give it more cores, on another machine at best.

Ctrl-C ends it early, with the report of what was measured by then. It exits with 0 where the service decided \
at least one request.";

/// Runs the load, and reports.
pub(super) fn run(args: BenchArgs) -> anyhow::Result<Exit> {
    let descriptors = args.descriptors_per_request()?;
    let plan = Plan::new(&args.domain, &args.templates, descriptors, args.hits);
    let args = Arc::new(args);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async { Crew::start(&args, &plan)?.work(&args).await })?;
    let report = Report::new(&args, descriptors, &measured);
    if args.json {
        print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        print(&people::show(&report))?;
    }
    report.failure().map_or(Ok(Exit::Done), |failure| Err(anyhow!(failure)))
}
