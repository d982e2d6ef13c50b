//! Traces: spans of calls, sent in batches to an OpenTelemetry collector over OTLP.
//!
//! Spans are created with `tracing` where the work is done; this module exports them. Without traces no
//! subscriber enables spans, so none is created.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::uri::InvalidUri;
use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{
    ExporterBuildError, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use super::TelemetryError;
pub use super::collector::Protocol;
use super::collector::{CollectorClient, Connector};
use crate::clock::{Clock as _, SystemClock};
use crate::supervisor;
use crate::tls::{ClientTls, Reloader};

/// Upper bound on the export of the last spans at exit. It fits into the grace period that remains after a full
/// drain in Kubernetes.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Collector and sampling of traces.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// URL of the collector: complete for HTTP, the server for [`Protocol::Grpc`].
    pub endpoint: String,
    /// Protocol of the collector.
    pub protocol: Protocol,
    /// TLS to the collector; `None` for plain text.
    pub tls: Option<ClientTls>,
    /// Share of traces without a parent that is exported, 0 to 1. Others follow the caller's sampling decision.
    pub sampling_rate: f64,
    /// Upper bound on one export.
    pub timeout: Duration,
    /// Identity of the service in spans.
    pub service: Service,
}

/// Identity of the service in spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `service.name`
    pub name: String,
    /// `service.namespace`
    pub namespace: Option<String>,
    /// `service.instance.id`
    pub instance_id: Option<String>,
}

/// Exporter of spans. Dropping it exports the remaining ones.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    /// Resolves when the SDK's thread that sends batches has ended.
    ended: Option<oneshot::Receiver<()>>,
    /// Files of TLS to the collector.
    certificates: Arc<Reloader>,
    /// Runtime with a thread of its own, so that the cores do not export.
    runtime: Option<Runtime>,
}

impl Traces {
    /// Starts the exporter. It connects to the collector when there are spans to send.
    pub fn start(settings: &TraceSettings) -> Result<Self, TelemetryError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tollgate-traces")
            .enable_all()
            .build()?;
        let certificates = Reloader::new(|| SystemClock.now());
        let TraceSettings { tls, protocol, .. } = settings;
        let connector = Connector::new(tls.as_ref(), *protocol, "otlp_traces", &certificates)?;
        let (alive, ended) = oneshot::channel();
        let exporter = InRuntime {
            exporter: Arc::new(exporter(settings, connector, &runtime)?),
            runtime: runtime.handle().clone(),
            _alive: alive,
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sampling_rate))))
            .with_resource(resource(&settings.service))
            .build();
        Ok(Self { provider, ended: Some(ended), certificates, runtime: Some(runtime) })
    }

    /// Waits for the end of the thread that sends batches, which is unexpected: it runs until this is dropped.
    pub fn ended(&mut self) -> impl Future<Output = ()> + Send + use<> {
        supervisor::wait_for_drop(self.ended.take())
    }

    /// Reloader of the files of TLS to the collector, which must be run.
    pub fn certificates(&self) -> Arc<Reloader> {
        Arc::clone(&self.certificates)
    }

    /// Layer that exports the spans of this crate only.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let own_spans =
            filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with(env!("CARGO_PKG_NAME")));
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(own_spans.with_max_level_hint(LevelFilter::INFO))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last spans were not sent");
        }
        // An export that hangs is aborted. Waiting for it is not allowed on a thread that drives another
        // runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes `span` a child of the span that the caller names in its W3C `traceparent`, if it names one.
pub fn set_parent(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    if let Err(error) = span.set_parent(context) {
        tracing::debug!(%error, "a span did not take its caller's as its parent");
    }
}

fn exporter(
    settings: &TraceSettings,
    connector: Connector,
    runtime: &Runtime,
) -> Result<opentelemetry_otlp::SpanExporter, ExporterBuildError> {
    // A gRPC channel must be created inside the runtime that drives it.
    let _entered = runtime.enter();
    let exporter = opentelemetry_otlp::SpanExporter::builder();
    match settings.protocol {
        Protocol::Grpc => {
            let invalid = |error: InvalidUri| ExporterBuildError::InvalidConfiguration(error.to_string());
            let collector = settings.endpoint.parse().map_err(invalid)?;
            exporter.with_tonic().with_channel(connector.channel(&collector, settings.timeout)).build()
        }
        Protocol::Http => exporter
            .with_http()
            .with_http_client(CollectorClient::new(connector, settings.timeout))
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_endpoint(&settings.endpoint)
            .build(),
    }
}

/// Resource: `OTEL_RESOURCE_ATTRIBUTES`, overridden by the settings.
pub(super) fn resource(service: &Service) -> Resource {
    let Service { name, namespace, instance_id } = service;
    let attribute = |name, value: &Option<String>| Some(KeyValue::new(name, value.clone()?));
    Resource::builder()
        .with_service_name(name.clone())
        .with_attributes(attribute("service.namespace", namespace))
        .with_attributes(attribute("service.instance.id", instance_id))
        .build()
}

/// Runs an exporter in a runtime: batches come from a plain thread of the SDK, but the exporters' I/O and
/// timers need tokio. Each export is a task, so that a hanging one ends with the runtime instead of panicking
/// without it.
#[derive(Debug)]
struct InRuntime {
    exporter: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
    /// Dropped with the SDK's thread, which owns the exporter.
    _alive: oneshot::Sender<()>,
}

impl SpanExporter for InRuntime {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let exporter = Arc::clone(&self.exporter);
        let exporting = self.runtime.spawn(async move { exporter.export(batch).await });
        async {
            exporting
                .await
                .unwrap_or_else(|_| Err(OTelSdkError::InternalFailure("export aborted at exit".to_owned())))
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Called before the first export, while the exporter is not shared.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_thread_that_sends_batches_is_seen() {
        let settings = TraceSettings {
            endpoint: "http://127.0.0.1:1".to_owned(),
            protocol: Protocol::Http,
            tls: None,
            sampling_rate: 1.0,
            timeout: Duration::from_secs(1),
            service: Service { name: "limits".to_owned(), namespace: None, instance_id: None },
        };
        let mut traces = Traces::start(&settings).unwrap();
        let ended = traces.ended();
        traces.provider.shutdown_with_timeout(FLUSH_TIMEOUT).unwrap();
        ended.await;
    }
}
