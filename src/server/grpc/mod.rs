//! gRPC: the rate limit service, health and reflection on one connection.

mod kuadrant;
mod protocol;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tower::Service;
use tower::util::BoxCloneSyncService;
use tracing::Instrument as _;

use self::protocol::{
    AnswerBody, PREFIX_BYTES, check_encoding, check_message, deadline, declared, framed, is_grpc,
};
use super::connections::{Connection, OpenRequest};
use super::service::{CallError, RateLimitService};
use super::streams::Streams;
use super::tracked_body::TrackedBody;
use super::wire;
use crate::pb;
use crate::telemetry::traces;

/// Upper bound, in bytes, on a message: a hundred times the size of 64 typical descriptors.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Upper bound, in bytes, on a message to the health and reflection services, which contains only a name.
const MAX_NAME_MESSAGE_BYTES: usize = 4 * 1024;
const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// The answer to a report: a `RateLimitResponse` with the code OK. What has passed cannot be denied any more.
const REPORTED: Bytes = Bytes::from_static(&[0x08, pb::Code::Ok as u8]);
type HttpRequest<B> = http::Request<B>;
type HttpResponse = http::Response<TrackedBody<AnswerBody>>;
type Other = BoxCloneSyncService<HttpRequest<Body>, http::Response<Body>, Infallible>;

/// gRPC services of a core, selected by the path of a request.
pub(super) struct Grpc {
    service: Arc<RateLimitService>,
    /// Health and reflection services by name, the first segment of their paths.
    others: Vec<(&'static str, Other)>,
    long: LongStreams,
}

/// Long-lived streams of the process.
#[derive(Clone)]
pub(super) struct LongStreams {
    pub(super) watches: Arc<Streams>,
    pub(super) reflections: Arc<Streams>,
}

impl Grpc {
    /// Decides rate-limit requests with `service`, and answers health checks with `health`.
    pub(super) fn new(service: Arc<RateLimitService>, health: HealthService, long: LongStreams) -> Arc<Self> {
        let health = HealthServer::new(health).max_decoding_message_size(MAX_NAME_MESSAGE_BYTES);
        let mut others = vec![named(health)];
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::REFLECTION)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // Building fails only for invalid descriptor sets. These are compiled in, and a test reads them.
        let v1 = reflection().build_v1().ok();
        others.extend(v1.map(|server| named(server.max_decoding_message_size(MAX_NAME_MESSAGE_BYTES))));
        let v1alpha = reflection().build_v1alpha().ok();
        others.extend(v1alpha.map(|server| named(server.max_decoding_message_size(MAX_NAME_MESSAGE_BYTES))));
        Arc::new(Self { service, others, long })
    }

    /// Service of one connection.
    pub(super) const fn on(self: Arc<Self>, connection: Arc<Connection>) -> GrpcConnection {
        GrpcConnection { grpc: self, connection }
    }

    /// Answers a call of a rate-limit service.
    async fn rate_limit(
        &self,
        method: Method,
        request: HttpRequest<Incoming>,
        open: &OpenRequest,
        asked: Instant,
    ) -> Result<(Bytes, Option<HeaderValue>), Status> {
        let call = self.service.begin(asked)?;
        check_encoding(request.headers())?;
        let (parts, body) = request.into_parts();
        let message = self.receive(body, MAX_MESSAGE_BYTES).await?;
        open.received();
        let message = message.get(PREFIX_BYTES..).unwrap_or_default();
        let span = tracing::info_span!("ShouldRateLimit Execution");
        traces::set_parent(&span, &parts.headers);
        let deadline = deadline(asked, &parts.headers);
        let answer = async {
            let rules = call.snapshot();
            match method {
                Method::Reserve => return Ok((kuadrant::reserve(&call, &rules, message).await?, None)),
                Method::Commit => return Ok((kuadrant::commit(&call, &rules, message).await?, None)),
                Method::Report => {
                    let request = call.accept(wire::decode(message))?;
                    call.report(&rules, &request, deadline).await?;
                    return Ok((REPORTED, None));
                }
                Method::ShouldRateLimit | Method::Explained | Method::CheckRateLimit => {}
            }
            let request = call.accept(wire::decode(message))?;
            let decision = match method {
                Method::CheckRateLimit => call.check(&rules, &request, deadline).await?,
                _ => call.decide(&rules, &request, deadline).await?,
            };
            let is_explained = method == Method::Explained;
            let rules =
                is_explained.then(|| HeaderValue::try_from(wire::applied_rules(&decision)).ok()).flatten();
            Ok::<_, CallError>((wire::encode(&request, &decision, self.service.settings()), rules))
        };
        let (message, rules) = answer.instrument(span).await?;
        Ok((framed(&message), rules))
    }

    /// Receives `body`, which must be one message, with its prefix.
    async fn receive(&self, mut body: Incoming, max: usize) -> Result<Bytes, Status> {
        let fits = |received: &[u8]| declared(received).is_none_or(|length| length <= max);
        let received = self.service.receive(&mut body, PREFIX_BYTES + max, fits).await?;
        check_message(&received)?;
        Ok(received)
    }

    /// Answers a request to one of the other services.
    async fn other(
        &self,
        mut service: Other,
        request: HttpRequest<Incoming>,
        open: &mut OpenRequest,
    ) -> Result<http::Response<Body>, Status> {
        let path = request.uri().path();
        let is_watch = path.ends_with("/Watch");
        if path.ends_with("/ServerReflectionInfo") {
            let slot = self.long.reflections.open(open.connection());
            let request = request.map(|body| Body::new(slot.limit(body)));
            let Ok(response) = service.call(request).await;
            return Ok(response.map(|body| Body::new(slot.hold(body))));
        }
        let in_flight = self.service.admit()?;
        let (parts, body) = request.into_parts();
        let message = self.receive(body, MAX_NAME_MESSAGE_BYTES).await?;
        open.received();
        drop(in_flight);
        let request = http::Request::from_parts(parts, Body::new(Full::new(message)));
        let slot = is_watch.then(|| self.long.watches.open(open.connection()));
        let Ok(response) = service.call(request).await;
        Ok(match slot {
            Some(slot) => response.map(|body| Body::new(slot.hold(body))),
            None => {
                open.answered(0);
                response
            }
        })
    }

    fn service(&self, path: &str) -> Option<Other> {
        let name = path.strip_prefix('/')?.split('/').next()?;
        self.others.iter().find(|(other, _)| *other == name).map(|(_, other)| other.clone())
    }
}

fn named<S>(service: S) -> (&'static str, Other)
where
    S: Service<HttpRequest<Body>, Response = http::Response<Body>, Error = Infallible> + NamedService,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    (S::NAME, BoxCloneSyncService::new(service))
}

/// Method of a rate-limit service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// `ShouldRateLimit` of Envoy's service.
    ShouldRateLimit,
    /// `ShouldRateLimit` for `tollgate query`: the response also has the rules that applied.
    Explained,
    /// Of Kuadrant's service: decides without counting.
    CheckRateLimit,
    /// Of Kuadrant's service: counts without deciding.
    Report,
    /// Of Kuadrant's service: holds an amount.
    Reserve,
    /// Of Kuadrant's service: settles what is held.
    Commit,
}

impl Method {
    fn of(path: &str) -> Option<Self> {
        match path {
            pb::SHOULD_RATE_LIMIT => Some(Self::ShouldRateLimit),
            pb::EXPLAINED_RATE_LIMIT => Some(Self::Explained),
            pb::CHECK_RATE_LIMIT => Some(Self::CheckRateLimit),
            pb::REPORT => Some(Self::Report),
            pb::RESERVE => Some(Self::Reserve),
            pb::COMMIT => Some(Self::Commit),
            _ => None,
        }
    }
}

/// The services of a core on one connection.
pub(super) struct GrpcConnection {
    grpc: Arc<Grpc>,
    connection: Arc<Connection>,
}

impl hyper::service::Service<HttpRequest<Incoming>> for GrpcConnection {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse, Infallible>>;

    fn call(&self, request: HttpRequest<Incoming>) -> Self::Future {
        let asked = Instant::now();
        let mut open = self.connection.open(asked);
        let grpc = Arc::clone(&self.grpc);
        if !is_grpc(request.headers()) {
            return Box::pin(async move { Ok(unsupported_media_type(open)) });
        }
        let path = request.uri().path();
        if let Some(method) = Method::of(path) {
            return Box::pin(async move {
                let answer = grpc.rate_limit(method, request, &open, asked).await;
                let bytes = answer.as_ref().map_or(0, |(message, _)| message.len());
                open.answered(bytes as u64);
                let (answer, rules) =
                    answer.map_or_else(|status| (Err(status), None), |(message, rules)| (Ok(message), rules));
                let mut response = respond(answer.map(AnswerBody::Message), open);
                if let Some(rules) = rules {
                    response.headers_mut().insert(pb::RULES_HEADER, rules);
                }
                Ok(response)
            });
        }
        Box::pin(async move {
            let Some(service) = grpc.service(request.uri().path()) else {
                let status = Status::unimplemented("unknown method");
                return Ok(respond(Err(status), open));
            };
            Ok(match grpc.other(service, request, &mut open).await {
                Ok(response) => {
                    open.received();
                    response.map(|body| TrackedBody::new(AnswerBody::Other(body), open))
                }
                Err(status) => respond(Err(status), open),
            })
        })
    }
}

/// Response with a message, or with a status only.
fn respond(answer: Result<AnswerBody, Status>, open: OpenRequest) -> HttpResponse {
    open.received();
    match answer {
        Ok(body) => {
            let mut response = http::Response::new(TrackedBody::new(body, open));
            response.headers_mut().insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
            response
        }
        Err(status) => status.into_http::<Body>().map(|body| TrackedBody::new(AnswerBody::Other(body), open)),
    }
}

fn unsupported_media_type(open: OpenRequest) -> HttpResponse {
    open.received();
    let mut response = http::Response::new(TrackedBody::new(AnswerBody::End, open));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}
