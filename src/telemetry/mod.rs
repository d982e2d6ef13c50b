//! Telemetry: logs, traces and metrics.

pub mod collector;
pub mod logs;
pub mod metrics;
pub mod traces;

use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use logs::{LogSettings, Logs};
use traces::{TraceSettings, Traces};

use crate::tls::TlsError;

/// Failure to set up logs and traces.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The trace exporter rejects its settings.
    #[error("cannot export traces: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// A file of TLS to the collector cannot be used.
    #[error("cannot export traces: {0}")]
    Tls(#[from] TlsError),
    /// A thread cannot be started.
    #[error("cannot start a thread for logs or traces: {0}")]
    Thread(#[from] std::io::Error),
    /// The process already has a subscriber.
    #[error("logs are set up already: {0}")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Logs and traces of a process. Dropping it sends the last spans and writes the last lines.
#[derive(Debug)]
pub struct Telemetry {
    /// Spans on their way to a collector. Dropped before the log, so that errors of the last ones are logged.
    pub traces: Option<Traces>,
    /// The log.
    pub logs: Logs,
}

/// Installs the log of the process, which includes panics, on stderr and, with `traces`, the export of spans to
/// a collector. Call it once and keep the result until the process ends.
///
/// # Errors
/// [`TelemetryError`]. An unreachable collector is not an error: it is logged, and nothing waits for it.
pub fn install(logs: &LogSettings, traces: Option<&TraceSettings>) -> Result<Telemetry, TelemetryError> {
    let traces = traces.map(Traces::start).transpose()?;
    let (layer, logs) = logs::layer(logs)?;
    let registry = Registry::default().with(layer);
    // A layer that is `None` would count as one that wants every span.
    match &traces {
        Some(traces) => registry.with(traces.layer()).try_init()?,
        None => registry.try_init()?,
    }
    logs::log_panics();
    Ok(Telemetry { traces, logs })
}
