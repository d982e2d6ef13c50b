//! Settings of traces as typed.

use clap::Args;

/// Traces.
#[derive(Args, Debug)]
pub(in crate::settings) struct RawTraces {
    /// Export traces over OTLP. Unset: if an `OTEL_EXPORTER_OTLP_` endpoint is set.
    #[arg(long, env, value_name = "BOOL")]
    pub(in crate::settings) tracing_enabled: Option<String>,
    /// Name of the service in traces. Unset: `OTEL_SERVICE_NAME`, else `RateLimit`.
    #[arg(long, env, value_name = "TEXT")]
    pub(in crate::settings) tracing_service_name: Option<String>,
    /// Namespace of the service in traces.
    #[arg(long, env, value_name = "TEXT")]
    pub(in crate::settings) tracing_service_namespace: Option<String>,
    /// Name of the replica in traces.
    #[arg(long, env, value_name = "TEXT")]
    pub(in crate::settings) tracing_service_instance_id: Option<String>,
    /// Share of new traces that is exported, 0 to 1.
    #[arg(long, env, default_value = "1", value_name = "RATIO")]
    pub(in crate::settings) tracing_sampling_rate: String,
    /// Protocol of the collector: `grpc` or `http`. Unset: `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`, else
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`, else `http`.
    #[arg(long, env, value_name = "PROTOCOL")]
    pub(in crate::settings) tracing_exporter_protocol: Option<String>,
    /// Protocol for traces only: `grpc` or `http/protobuf`.
    #[arg(long, env, value_name = "PROTOCOL")]
    pub(in crate::settings) otel_exporter_otlp_traces_protocol: Option<String>,
    /// Protocol for all signals: `grpc` or `http/protobuf`.
    #[arg(long, env, value_name = "PROTOCOL")]
    pub(in crate::settings) otel_exporter_otlp_protocol: Option<String>,
    /// Collector for traces only: the complete URL.
    #[arg(long, env, value_name = "URL")]
    pub(in crate::settings) otel_exporter_otlp_traces_endpoint: Option<String>,
    /// Collector for all signals; over HTTP, traces go to `/v1/traces` below it. Unset:
    /// `http://localhost:4318`, or port 4317 over gRPC.
    #[arg(long, env, value_name = "URL")]
    pub(in crate::settings) otel_exporter_otlp_endpoint: Option<String>,
    /// Name of the service in traces, if `TRACING_SERVICE_NAME` is unset.
    #[arg(long, env, value_name = "TEXT")]
    pub(in crate::settings) otel_service_name: Option<String>,
}
