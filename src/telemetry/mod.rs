//! What the operator can see: logs, traces and metrics.

pub mod logs;
pub mod metrics;
pub mod traces;

use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use logs::{LogSettings, Logs};
use traces::{TraceSettings, Traces};

/// Why logs and traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The trace exporter rejects its settings.
    #[error("cannot export traces: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The operating system gives no thread.
    #[error("cannot start a thread for logs or traces: {0}")]
    Thread(#[from] std::io::Error),
    /// The process already has a subscriber.
    #[error("logs are set up already: {0}")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Logs and traces of a process. Dropping it sends the last spans and writes the last lines.
#[derive(Debug)]
pub struct Telemetry {
    /// Spans on their way to a collector. Dropped first: what goes wrong with the last ones is logged.
    pub traces: Option<Traces>,
    /// The log.
    pub logs: Logs,
}

/// Writes the process' logs and panics to stderr and, where there are settings for it, sends its spans to a
/// collector. Called once; the result is kept for as long as the process lives.
///
/// # Errors
/// See [`TelemetryError`]. A collector that cannot be reached is no error: that is logged, and nothing
/// waits for it.
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
