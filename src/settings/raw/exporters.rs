//! Settings of metrics exporters as typed.

use clap::Args;
use secrecy::SecretString;

/// Exporters of metrics.
#[derive(Args, Debug)]
pub(in crate::settings) struct RawExporters {
    /// Switch off every exporter of metrics and the listener at `PROMETHEUS_ADDR`. The debug port keeps
    /// `/metrics` and `/stats`.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(in crate::settings) disable_stats: String,
    /// Send metrics to statsd. Unset: if `STATSD_HOST` is set and `USE_DOG_STATSD` is not.
    #[arg(long, env, value_name = "BOOL")]
    pub(in crate::settings) use_statsd: Option<String>,
    /// Send metrics to DogStatsD, over UDP. Excludes `USE_STATSD`.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(in crate::settings) use_dog_statsd: String,
    /// Host of statsd or DogStatsD. Unset: `localhost`.
    #[arg(long, env, value_name = "HOST")]
    pub(in crate::settings) statsd_host: Option<String>,
    /// Port of statsd or DogStatsD.
    #[arg(long, env, default_value = "8125", value_name = "PORT")]
    pub(in crate::settings) statsd_port: String,
    /// Transport to statsd: `tcp` or `udp`.
    #[arg(long, env, default_value = "tcp", value_name = "PROTOCOL")]
    pub(in crate::settings) statsd_protocol: String,
    /// Time between two flushes to statsd or DogStatsD, 100ms to 1h.
    #[arg(long, env, default_value = "10s", value_name = "DURATION")]
    pub(in crate::settings) stats_flush_interval: String,
    /// Names of mogrifiers, `name,name`, which turn parts of a metric's name into tags of DogStatsD. Each is set
    /// by `DOG_STATSD_MOGRIFIER_<name>_PATTERN`, `_NAME` and `_TAGS`.
    #[arg(long, env, default_value = "", value_name = "NAMES")]
    pub(in crate::settings) use_dog_statsd_mogrifiers: String,
    /// Mapping file of statsd_exporter, as envoyproxy/ratelimit takes it. Metrics keep their names; a file that maps
    /// them to others is reported at the start.
    #[arg(long, env, value_name = "PATH")]
    pub(in crate::settings) prometheus_mapper_yaml: Option<String>,
    /// Serve `ratelimit_service_response_time_seconds` in milliseconds, as old versions of envoyproxy/ratelimit
    /// did.
    #[arg(long, env, default_value = "false", value_name = "BOOL")]
    pub(in crate::settings) prometheus_response_time_as_milliseconds: String,
    /// Exporters of metrics by OpenTelemetry's names: `otlp` sends them to a collector; `prometheus` and `none`
    /// do not. Unset: `otlp` if `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` is set.
    #[arg(long, env, value_name = "NAMES")]
    pub(in crate::settings) otel_metrics_exporter: Option<String>,
    /// Collector for metrics only: the complete URL. Unset: from `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[arg(long, env, value_name = "URL")]
    pub(in crate::settings) otel_exporter_otlp_metrics_endpoint: Option<String>,
    /// Protocol for metrics only: `grpc` or `http/protobuf`. Unset: `OTEL_EXPORTER_OTLP_PROTOCOL`, else
    /// `http/protobuf`.
    #[arg(long, env, value_name = "PROTOCOL")]
    pub(in crate::settings) otel_exporter_otlp_metrics_protocol: Option<String>,
    /// Headers of requests to the collector, for all signals: `name=value,name=value`, percent-encoded.
    #[arg(long, env, value_name = "SECRET")]
    pub(in crate::settings) otel_exporter_otlp_headers: Option<SecretString>,
    /// Headers for metrics, besides those for all signals.
    #[arg(long, env, value_name = "SECRET")]
    pub(in crate::settings) otel_exporter_otlp_metrics_headers: Option<SecretString>,
    /// Upper bound on one request to the collector, in milliseconds.
    #[arg(long, env, default_value = "10000", value_name = "MILLISECONDS")]
    pub(in crate::settings) otel_exporter_otlp_timeout: String,
    /// Upper bound on one request with metrics, in milliseconds. Unset: `OTEL_EXPORTER_OTLP_TIMEOUT`.
    #[arg(long, env, value_name = "MILLISECONDS")]
    pub(in crate::settings) otel_exporter_otlp_metrics_timeout: Option<String>,
    /// Upper bound on one request with traces, in milliseconds. Unset: `OTEL_EXPORTER_OTLP_TIMEOUT`.
    #[arg(long, env, value_name = "MILLISECONDS")]
    pub(in crate::settings) otel_exporter_otlp_traces_timeout: Option<String>,
    /// Kind of the exported sums: `cumulative` is the only one so far.
    #[arg(long, env, default_value = "cumulative", value_name = "KIND")]
    pub(in crate::settings) otel_exporter_otlp_metrics_temporality_preference: String,
    /// Time between two exports to the collector, in milliseconds, 100 to 86,400,000.
    #[arg(long, env, default_value = "60000", value_name = "MILLISECONDS")]
    pub(in crate::settings) otel_metric_export_interval: String,
    /// Upper bound on one export, in milliseconds.
    #[arg(long, env, default_value = "30000", value_name = "MILLISECONDS")]
    pub(in crate::settings) otel_metric_export_timeout: String,
}
