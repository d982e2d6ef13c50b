//! A management server (aggregated discovery service) that a test controls.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::stream;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use prost_types::Any;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tollgate::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use tollgate::pb::ratelimit::config::ratelimit::v3::{
    RateLimitConfig, RateLimitDescriptor, RateLimitPolicy, RateLimitUnit,
};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::PATIENCE;

pub(crate) const TYPE_URL: &str = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig";

/// Treatment of new connections and streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// [`AdsServer::stream`] returns them to the test.
    Serve,
    /// Connections are closed as soon as they are accepted.
    Close,
    /// Methods of this variant are unknown: `Stream…` or `Delta…`.
    Unimplemented(&'static str),
}

/// A server on a free port of 127.0.0.1. It ends when dropped.
pub(crate) struct AdsServer {
    pub(crate) port: u16,
    streams: mpsc::UnboundedReceiver<AdsStream>,
    dials: Arc<AtomicUsize>,
    mode: watch::Sender<Mode>,
    /// Ends connections; true with a GOAWAY.
    ends: watch::Sender<Option<bool>>,
    _task: AbortOnDropHandle<()>,
}

impl AdsServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// A server, with TLS if there is a configuration, which the test may replace.
    pub(crate) async fn start_with(tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (sender, streams) = mpsc::unbounded_channel();
        let (mode, ends, dials) =
            (watch::Sender::new(Mode::Serve), watch::Sender::new(None), Arc::<AtomicUsize>::default());
        let accepting = accept(
            listener,
            tls,
            Parts { sender, mode: mode.clone(), ends: ends.clone(), dials: Arc::clone(&dials) },
        );
        let task = AbortOnDropHandle::new(tokio::spawn(accepting));
        Self { port, streams, dials, mode, ends, _task: task }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Connections so far.
    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Closes all connections: with a GOAWAY and time for streams, or at once.
    pub(crate) fn end_connections(&self, with_goaway: bool) {
        self.ends.send_replace(Some(with_goaway));
    }

    /// The next stream, whose first request has not been read.
    pub(crate) async fn stream(&mut self) -> AdsStream {
        let stream = timeout(PATIENCE, self.streams.recv()).await.expect("a stream in time");
        stream.expect("the server runs")
    }
}

#[derive(Clone)]
struct Parts {
    sender: mpsc::UnboundedSender<AdsStream>,
    mode: watch::Sender<Mode>,
    ends: watch::Sender<Option<bool>>,
    dials: Arc<AtomicUsize>,
}

async fn accept(
    listener: TcpListener,
    tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
    parts: Parts,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        parts.dials.fetch_add(1, Ordering::Relaxed);
        if *parts.mode.borrow() == Mode::Close {
            continue;
        }
        let tls = tls.as_ref().map(|tls| Arc::clone(&tls.borrow()));
        connections.spawn(shake_hands(stream, tls, parts.clone()));
    }
}

async fn shake_hands(stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>, parts: Parts) {
    match tls {
        None => serve(stream, parts).await,
        Some(config) => {
            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                serve(stream, parts).await;
            }
        }
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, parts: Parts) {
    let mut ends = parts.ends.subscribe();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let parts = parts.clone();
        async move { Ok::<_, Infallible>(answer(request, parts).await) }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            changed = ends.changed() => match (changed, *ends.borrow()) {
                (Ok(()), Some(true)) => connection.as_mut().graceful_shutdown(),
                (Ok(()), Some(false)) | (Err(_), _) => return,
                (Ok(()), None) => {}
            },
        }
    }
}

async fn answer(request: hyper::Request<Incoming>, parts: Parts) -> http::Response<tonic::body::Body> {
    let path = request.uri().path().to_owned();
    let method = path.rsplit('/').next().unwrap_or_default();
    let is_known = path.starts_with("/envoy.service.discovery.v3.AggregatedDiscoveryService/");
    let is_refused =
        matches!(*parts.mode.borrow(), Mode::Unimplemented(prefix) if method.starts_with(prefix));
    if !is_known || is_refused {
        return Status::unimplemented("unknown service").into_http();
    }
    let handler = Handler { headers: request.headers().clone(), method: method.to_owned(), parts };
    Grpc::new(Encoded).streaming(handler, request.map(tonic::body::Body::new)).await
}

struct Handler {
    headers: http::HeaderMap,
    method: String,
    parts: Parts,
}

type Responses = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, Status>> + Send>>;

impl StreamingService<Bytes> for Handler {
    type Response = Bytes;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<Response<Responses>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (responses, mut sent) = mpsc::unbounded_channel();
        let stream = AdsStream {
            method: self.method.clone(),
            headers: self.headers.clone(),
            requests: request.into_inner(),
            responses,
            current: BTreeMap::new(),
            changed: Vec::new(),
            removed: Vec::new(),
        };
        // The test may have ended.
        drop(self.parts.sender.send(stream));
        let responses: Responses = Box::pin(stream::poll_fn(move |context| sent.poll_recv(context)));
        std::future::ready(Ok(Response::new(responses)))
    }
}

/// A stream of one client.
pub(crate) struct AdsStream {
    method: String,
    pub(crate) headers: http::HeaderMap,
    requests: Streaming<Bytes>,
    responses: mpsc::UnboundedSender<Result<Bytes, Status>>,
    /// Resources by their names, encoded.
    current: BTreeMap<String, Any>,
    changed: Vec<String>,
    removed: Vec<String>,
}

/// A request of the client, in either variant of the protocol.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DiscoveryCall {
    /// Version that the client accepted last; empty in the delta variant.
    pub(crate) version: String,
    pub(crate) nonce: String,
    /// Code and message of a refusal.
    pub(crate) refusal: Option<(i32, String)>,
    pub(crate) node: tollgate::pb::envoy::config::core::v3::Node,
    pub(crate) type_url: String,
    /// Versions of the resources that the client has; empty in the state-of-the-world variant.
    pub(crate) initial: BTreeMap<String, String>,
}

impl AdsStream {
    pub(crate) fn is_delta(&self) -> bool {
        self.method.starts_with("Delta")
    }

    /// The next request; `None` if the client has closed the stream.
    pub(crate) async fn try_request(&mut self) -> Option<DiscoveryCall> {
        let bytes = self.requests.message().await.ok()??;
        let refusal = |status: tollgate::pb::google::rpc::Status| (status.code, status.message);
        Some(if self.is_delta() {
            let request = DeltaDiscoveryRequest::decode(bytes).expect("a request");
            DiscoveryCall {
                version: String::new(),
                nonce: request.response_nonce,
                refusal: request.error_detail.map(refusal),
                node: request.node.expect("a node"),
                type_url: request.type_url,
                initial: request.initial_resource_versions.into_iter().collect(),
            }
        } else {
            let request = DiscoveryRequest::decode(bytes).expect("a request");
            assert!(request.resource_names.is_empty(), "a wildcard");
            DiscoveryCall {
                version: request.version_info,
                nonce: request.response_nonce,
                refusal: request.error_detail.map(refusal),
                node: request.node.expect("a node"),
                type_url: request.type_url,
                initial: BTreeMap::new(),
            }
        })
    }

    /// The next request.
    pub(crate) async fn request(&mut self) -> DiscoveryCall {
        timeout(PATIENCE, self.try_request()).await.expect("a request in time").expect("an open stream")
    }

    /// Puts `config` into the next response.
    pub(crate) fn put(&mut self, config: &RateLimitConfig) -> &mut Self {
        self.put_any(&config.name, Any { type_url: TYPE_URL.to_owned(), value: config.encode_to_vec() })
    }

    /// Puts a resource of any type into the next response.
    pub(crate) fn put_any(&mut self, name: &str, resource: Any) -> &mut Self {
        self.current.insert(name.to_owned(), resource);
        self.changed.push(name.to_owned());
        self
    }

    /// Removes the resource `name` with the next response.
    pub(crate) fn remove(&mut self, name: &str) -> &mut Self {
        self.current.remove(name);
        self.changed.retain(|changed| changed != name);
        self.removed.push(name.to_owned());
        self
    }

    /// Sends a response: all resources, or those that changed.
    pub(crate) fn respond(&mut self, version: &str, nonce: &str) {
        let message = self.message(version, nonce);
        self.send(message);
    }

    /// The response that [`Self::respond`] would send.
    pub(crate) fn message(&mut self, version: &str, nonce: &str) -> Bytes {
        let (changed, removed) = (std::mem::take(&mut self.changed), std::mem::take(&mut self.removed));
        let (type_url, nonce) = (TYPE_URL.to_owned(), nonce.to_owned());
        let bytes = if self.is_delta() {
            let resource = |name: String| {
                let resource = self.current[&name].clone();
                // As in go-control-plane: a digest of the content.
                let version = xxhash_rust::xxh3::xxh3_64(&resource.value).to_string();
                Resource { version, resource: Some(resource), name }
            };
            DeltaDiscoveryResponse {
                system_version_info: version.to_owned(),
                resources: changed.into_iter().map(resource).collect(),
                type_url,
                nonce,
                removed_resources: removed,
            }
            .encode_to_vec()
        } else {
            DiscoveryResponse {
                version_info: version.to_owned(),
                resources: self.current.values().cloned().collect(),
                type_url,
                nonce,
            }
            .encode_to_vec()
        };
        bytes.into()
    }

    /// Sends bytes as a response. The client may have gone.
    pub(crate) fn send(&self, message: impl Into<Bytes>) {
        drop(self.responses.send(Ok(message.into())));
    }

    /// Ends the stream.
    pub(crate) fn end(self, status: Status) {
        drop(self.responses.send(Err(status)));
    }
}

/// Rules of one domain: each key with its requests per hour.
pub(crate) fn config(name: &str, keys: &[(&str, u32)]) -> RateLimitConfig {
    RateLimitConfig {
        name: name.to_owned(),
        domain: name.to_owned(),
        descriptors: keys.iter().map(|(key, requests)| descriptor(key, *requests)).collect(),
    }
}

/// A rule for every value of `key`.
pub(crate) fn descriptor(key: &str, requests_per_unit: u32) -> RateLimitDescriptor {
    let unit = RateLimitUnit::Hour.into();
    RateLimitDescriptor {
        key: key.to_owned(),
        rate_limit: Some(RateLimitPolicy { unit, requests_per_unit, ..RateLimitPolicy::default() }),
        ..RateLimitDescriptor::default()
    }
}

/// Codec that passes messages as bytes, so that a test can send invalid ones.
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
