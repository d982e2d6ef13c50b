//! Load, which `tollgate bench` makes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

/// Descriptors in a request that only makes counters.
const FILLING: u32 = 60;
/// Requests in flight then: few, since each is long.
const FILLING_IN_FLIGHT: u32 = 8;

/// All keys are equally frequent.
pub(crate) const UNIFORM: &str = "uniform";

/// Requests, and how they are sent.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) pace: Pace,
    pub(crate) connections: u32,
    pub(crate) domain: &'static str,
    /// Each `key=value,…`; `{}` in a value is the number of a key.
    pub(crate) templates: &'static [&'static str],
    /// Descriptors in each request: the templates, or several times all of them.
    pub(crate) descriptors: u32,
    pub(crate) keys: u32,
    /// Frequency of each key.
    pub(crate) distribution: &'static str,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many are always in flight.
    Closed { in_flight: u32 },
    /// So many each second.
    Open { per_second: u32 },
}

/// The report of `tollgate bench`, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) admitted: u64,
    pub(crate) denied: u64,
    /// By the name of gRPC's code.
    pub(crate) errors_by_code: BTreeMap<String, Errors>,
    pub(crate) unsent: u64,
    /// The service's bound on requests per connection, if requests had to wait for it.
    pub(crate) connection_bound: Option<u64>,
    pub(crate) latency_us: Latency,
    pub(crate) generator_saturated: bool,
}

/// Requests that were not decided.
#[derive(Debug, Deserialize)]
pub(crate) struct Errors {
    pub(crate) count: u64,
    /// Message of the first one.
    pub(crate) example: String,
}

/// In microseconds.
#[derive(Debug, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Report {
    /// Requests that were admitted or denied.
    pub(crate) const fn decided(&self) -> u64 {
        self.admitted + self.denied
    }
}

impl Shape {
    /// The part of one of `processes` that share the requests.
    pub(crate) fn divided_by(self, processes: usize) -> Self {
        let processes = u32::try_from(processes).unwrap_or(1).max(1);
        let part = |number: u32| (number / processes).max(1);
        let pace = match self.pace {
            Pace::Closed { in_flight } => Pace::Closed { in_flight: part(in_flight) },
            Pace::Open { per_second } => Pace::Open { per_second: part(per_second) },
        };
        Self { pace, connections: part(self.connections), ..self }
    }

    /// Sends requests to `address` for so long. Every one that is sent is in the report: there is no warm-up.
    pub(crate) async fn send(&self, program: &Path, address: &str, lasting: Duration) -> Report {
        let mut command = Command::new(program);
        command.env_clear().args(["bench", "--json", "--warmup", "0s", "--address", address]);
        command.args(["--domain", self.domain]).args(self.templates);
        let (flag, pace) = match self.pace {
            Pace::Closed { in_flight } => ("--concurrency", in_flight),
            Pace::Open { per_second } => ("--rate", per_second),
        };
        for (flag, number) in [
            (flag, pace),
            ("--connections", self.connections),
            ("--descriptors", self.descriptors),
            ("--keys", self.keys),
        ] {
            command.args([flag, &number.to_string()]);
        }
        command.args(["--distribution", self.distribution]);
        // Another seed each time: the same one asks for the same keys, and so not for all of them.
        command.args(["--seed", &fastrand::u32(..).to_string()]);
        command.args(["--duration", &format!("{}ms", lasting.as_millis())]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("the program runs");
        let failed = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {failed}"))
    }

    /// Sends as fast as it goes until nearly every key was asked for, and at least a second: a counter
    /// that is there costs less than one that must be made.
    pub(crate) async fn fill(&self, program: &Path, address: &str) {
        let round = u32::try_from(self.templates.len()).unwrap_or(FILLING);
        let filling = Self {
            pace: Pace::Closed { in_flight: FILLING_IN_FLIGHT },
            descriptors: FILLING / round * round,
            distribution: UNIFORM,
            ..self.clone()
        };
        let keys_per_request = u64::from(filling.descriptors / round);
        // All but a twentieth of the keys come up in three times as many draws as there are keys.
        let mut missing = 3 * u64::from(self.keys);
        while missing > 0 {
            let report = filling.send(program, address, Duration::from_secs(1)).await;
            missing = missing.saturating_sub(report.decided() * keys_per_request);
        }
    }
}
