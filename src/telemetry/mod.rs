//! What the operator can see: logs, traces and metrics.

pub mod logs;
pub mod metrics;
pub mod traces;

use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use logs::LogSettings;
use traces::{TraceSettings, Traces};

/// Why logs and traces cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter of traces does not take its settings.
    #[error("traces cannot be exported")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// No thread could be had to export traces on.
    #[error("traces have no thread to be exported on")]
    Thread(#[from] std::io::Error),
    /// The process already has a subscriber.
    #[error("logs are set up already")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends the process' logs to stderr and, where there are settings for it, its spans to a collector. To
/// be called once, and kept: dropping what it returns sends the last spans.
///
/// # Errors
/// See [`TelemetryError`]. A collector that cannot be reached is no error: that is logged, and nothing
/// waits for it.
pub fn install(logs: &LogSettings, traces: Option<&TraceSettings>) -> Result<Option<Traces>, TelemetryError> {
    let traces = traces.map(Traces::start).transpose()?;
    Registry::default().with(traces.as_ref().map(Traces::layer)).with(logs::layer(logs)).try_init()?;
    Ok(traces)
}
