//! A small OpenTelemetry collector that receives spans and metrics over gRPC and HTTP, for tests to read.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;
use tonic::service::Routes;

/// Longest wait for a span; longer than the exporter delays any batch.
const PATIENCE: Duration = Duration::from_secs(30);

/// A collector. It ends when dropped.
pub(crate) struct Collector {
    /// Address for OTLP over gRPC.
    pub(crate) grpc: SocketAddr,
    /// Address for OTLP over HTTP.
    pub(crate) http: SocketAddr,
    spans: mpsc::UnboundedReceiver<Span>,
    exports: Arc<Mutex<Vec<Export>>>,
    _servers: JoinSet<()>,
}

/// A span that was sent, its ids in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) parent_span_id: String,
    /// Attributes of the service, `name=value`.
    pub(crate) resource: Vec<String>,
}

/// Metrics that were sent at one time.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    pub(crate) request: ExportMetricsServiceRequest,
    /// The header `api-key`.
    pub(crate) api_key: Option<String>,
}

impl Collector {
    /// Starts a collector on free ports of 127.0.0.1.
    pub(crate) async fn start() -> Self {
        Self::start_at(0).await
    }

    /// Starts a collector with this port for gRPC; 0 for a free one.
    pub(crate) async fn start_at(grpc_port: u16) -> Self {
        Self::start_with(grpc_port, None).await
    }

    /// Starts a collector with TLS on both ports.
    pub(crate) async fn start_tls(tls: Arc<ServerConfig>) -> Self {
        Self::start_with(0, Some(TlsAcceptor::from(tls))).await
    }

    async fn start_with(grpc_port: u16, tls: Option<TlsAcceptor>) -> Self {
        let (sender, spans) = mpsc::unbounded_channel();
        let mut servers = JoinSet::new();
        let (grpc, grpc_listener) = listen(grpc_port).await;
        let (http, http_listener) = listen(0).await;
        let exports = Arc::<Mutex<Vec<Export>>>::default();
        let services = Routes::new(TraceServiceServer::new(Receiver(sender.clone())))
            .add_service(MetricsServiceServer::new(MetricsReceiver(Arc::clone(&exports))));
        // Served by hyper: the library's own transport is not compiled in.
        servers.spawn(serve(grpc_listener, tls.clone(), services.prepare().into_axum_router()));
        let take = move |body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("spans in protobuf");
            send(&sender, request);
            async { ExportTraceServiceResponse::default().encode_to_vec() }
        };
        let of_http = Arc::clone(&exports);
        let take_metrics = move |headers: HeaderMap, body: Bytes| {
            let request = ExportMetricsServiceRequest::decode(body).expect("metrics in protobuf");
            let api_key = headers.get("api-key").map(|key| key.to_str().expect("text").to_owned());
            of_http.lock().expect("no panic").push(Export { request, api_key });
            async { ExportMetricsServiceResponse::default().encode_to_vec() }
        };
        let router = Router::new().route("/v1/traces", post(take)).route("/v1/metrics", post(take_metrics));
        servers.spawn(serve(http_listener, tls, router));
        Self { grpc, http, spans, exports, _servers: servers }
    }

    /// The next span of this name. Spans before it are discarded.
    pub(crate) async fn next(&mut self, name: &str) -> Span {
        let wanted = async {
            loop {
                let span = self.spans.recv().await.expect("the collector runs");
                if span.name == name {
                    return span;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wanted).await.unwrap_or_else(|_| panic!("no span {name:?} came"))
    }

    /// Metrics received so far.
    pub(crate) fn exports(&self) -> Vec<Export> {
        self.exports.lock().expect("no panic").clone()
    }

    /// Spans received and not yet returned or discarded.
    pub(crate) fn rest(&mut self) -> Vec<Span> {
        std::iter::from_fn(|| self.spans.try_recv().ok()).collect()
    }
}

async fn listen(port: u16) -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
    (listener.local_addr().expect("an address"), listener)
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, services: Router) {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto::Builder;
    use hyper_util::service::TowerToHyperService;
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (service, tls) = (TowerToHyperService::new(services.clone()), tls.clone());
        connections.spawn(async move {
            let stream = match tls {
                None => Either::Right(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Either::Left(stream),
                    Err(_) => return,
                },
            };
            let builder = Builder::new(TokioExecutor::new());
            // An error only means that the client has closed its connection.
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

struct MetricsReceiver(Arc<Mutex<Vec<Export>>>);

#[tonic::async_trait]
impl MetricsService for MetricsReceiver {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let api_key = request.metadata().get("api-key").map(|key| key.to_str().expect("text").to_owned());
        self.0.lock().expect("no panic").push(Export { request: request.into_inner(), api_key });
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

struct Receiver(mpsc::UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        send(&self.0, request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn send(sender: &mpsc::UnboundedSender<Span>, request: ExportTraceServiceRequest) {
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let resource: Vec<_> = attributes.iter().filter_map(text).collect();
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let span = Span {
                name: span.name,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_span_id: hex(&span.parent_span_id),
                resource: resource.clone(),
            };
            // The test may have ended.
            drop(sender.send(span));
        }
    }
}

fn text(attribute: &KeyValue) -> Option<String> {
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(value) => Some(format!("{}={value}", attribute.key)),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
