//! Settings of TLS to collectors as typed.

use clap::Args;

/// TLS to a collector of OpenTelemetry, where its URL begins with `https://`.
#[derive(Args, Debug)]
pub(in crate::settings) struct RawCollectorTls {
    /// CAs that sign the collector's certificate, for all signals. Unset: those of the system.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) otel_exporter_otlp_certificate: Option<String>,
    /// Certificate that identifies tollgate to the collector, for all signals.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) otel_exporter_otlp_client_certificate: Option<String>,
    /// Private key of `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) otel_exporter_otlp_client_key: Option<String>,
    /// CAs that sign the collector's certificate, for metrics only. Unset: `OTEL_EXPORTER_OTLP_CERTIFICATE`.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) otel_exporter_otlp_metrics_certificate: Option<String>,
    /// Certificate that identifies tollgate to the collector, for metrics only. Unset:
    /// `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) otel_exporter_otlp_metrics_client_certificate: Option<String>,
    /// Private key of `OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE`.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) otel_exporter_otlp_metrics_client_key: Option<String>,
    /// CAs that sign the collector's certificate, for traces only. Unset: `OTEL_EXPORTER_OTLP_CERTIFICATE`.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) otel_exporter_otlp_traces_certificate: Option<String>,
    /// Certificate that identifies tollgate to the collector, for traces only. Unset:
    /// `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) otel_exporter_otlp_traces_client_certificate: Option<String>,
    /// Private key of `OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE`.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) otel_exporter_otlp_traces_client_key: Option<String>,
}
