//! gRPC: the rate limit service, health and reflection on one connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::Full;
use hyper::body::{Frame, Incoming};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tower::Service;
use tower::util::BoxCloneSyncService;
use tracing::Instrument as _;

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
/// Bytes of the prefix of a message: compression flag and length
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
const PREFIX_BYTES: usize = 5;

/// Upper bound on the share of the caller's deadline that is reserved for the response to travel back.
const MAX_RESPONSE_MARGIN: Duration = Duration::from_millis(3);

const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_STATUS_OK: HeaderValue = HeaderValue::from_static("0");

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

    async fn should_rate_limit(
        &self,
        request: HttpRequest<Incoming>,
        open: &OpenRequest,
        asked: Instant,
        is_explained: bool,
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
            let request = call.accept(wire::decode(message))?;
            let rules = call.snapshot();
            let decision = call.decide(&rules, &request, deadline).await?;
            let rules =
                is_explained.then(|| HeaderValue::try_from(wire::rule_names(&decision)).ok()).flatten();
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
        if path == pb::SHOULD_RATE_LIMIT || path == pb::EXPLAINED_RATE_LIMIT {
            let is_explained = path.len() != pb::SHOULD_RATE_LIMIT.len();
            return Box::pin(async move {
                let answer = grpc.should_rate_limit(request, &open, asked, is_explained).await;
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

/// Body of a response.
pub(super) enum AnswerBody {
    /// A framed message, followed by the status OK.
    Message(Bytes),
    /// The status OK, in trailers.
    Ok,
    /// End of the body.
    End,
    /// Body from tonic.
    Other(Body),
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Message(message) => {
                let message = std::mem::take(message);
                *self = Self::Ok;
                Poll::Ready(Some(Ok(Frame::data(message))))
            }
            Self::Ok => {
                *self = Self::End;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, GRPC_STATUS_OK);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Self::End => Poll::Ready(None),
            Self::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(_) | Self::Ok => false,
            Self::End => true,
            Self::Other(body) => body.is_end_stream(),
        }
    }
}

/// `message` with its prefix.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// Length in the prefix of a message, if the prefix has arrived.
fn declared(received: &[u8]) -> Option<usize> {
    let length = received.get(1..PREFIX_BYTES)?;
    Some(u32::from_be_bytes(length.try_into().ok()?) as usize)
}

/// Checks that `received` is exactly one uncompressed message.
///
/// The codes are those of <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
fn check_message(received: &[u8]) -> Result<(), Status> {
    let Some(declared) = declared(received) else {
        return Err(match received {
            [] => Status::unimplemented("request has no message; this method takes one"),
            _ => Status::invalid_argument("request ends within the prefix of its message"),
        });
    };
    let length = received.len() - PREFIX_BYTES;
    match received[0] {
        0 if length == declared => Ok(()),
        0 if length < declared => {
            Err(Status::invalid_argument(format!("message has {length} bytes, its prefix says {declared}")))
        }
        0 => Err(Status::unimplemented("request has several messages; this method takes one")),
        // Required by the protocol for a compression flag without an encoding.
        1 => Err(Status::internal("message is compressed, but grpc-encoding names no compression")),
        flag => Err(Status::invalid_argument(format!("compression flag must be 0 or 1, found {flag}"))),
    }
}

/// Checks that the request is not compressed: no encoding is supported.
fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => {
            let mut status = Status::unimplemented("message compression is not supported");
            let identity = tonic::metadata::MetadataValue::from_static("identity");
            status.metadata_mut().insert("grpc-accept-encoding", identity);
            Err(status)
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

fn unsupported_media_type(open: OpenRequest) -> HttpResponse {
    open.received();
    let mut response = http::Response::new(TrackedBody::new(AnswerBody::End, open));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Time by which the answer must leave: slightly before the caller's deadline.
fn deadline(asked: Instant, headers: &HeaderMap) -> Option<Instant> {
    let timeout = read_timeout(headers.get("grpc-timeout")?.to_str().ok()?)?;
    let margin = MAX_RESPONSE_MARGIN.min(timeout / 4);
    asked.checked_add(timeout - margin)
}

/// Parses `grpc-timeout`: up to eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). An invalid value is ignored.
fn read_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u32 = digits.parse().ok().filter(|_| digits.len() <= 8 && !digits.starts_with('+'))?;
    let one = match unit {
        "H" => Duration::from_secs(3_600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    one.checked_mul(number)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("20m", Some(Duration::from_millis(20))),
            ("5S", Some(Duration::from_secs(5))),
            ("1H", Some(Duration::from_secs(3_600))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("1n", Some(Duration::from_nanos(1))),
            ("0m", Some(Duration::ZERO)),
            ("100000000m", None),
            ("+1m", None),
            ("-1m", None),
            ("1.5S", None),
            ("20", None),
            ("m", None),
            ("", None),
            ("20ms", None),
            ("20µ", None),
        ] {
            assert_eq!(read_timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn a_request_is_one_message_as_long_as_its_prefix_says() {
        for (received, expected) in [
            (&b"\0\0\0\0\0"[..], None),
            (b"\0\0\0\0\x02ab", None),
            (b"", Some(Code::Unimplemented)),
            (b"\0\0\0", Some(Code::InvalidArgument)),
            (b"\0\0\0\0\x02a", Some(Code::InvalidArgument)),
            (b"\0\0\0\0\x02ab\0\0\0\0\0", Some(Code::Unimplemented)),
            (b"\x01\0\0\0\x02ab", Some(Code::Internal)),
            (b"\x07\0\0\0\x02ab", Some(Code::InvalidArgument)),
        ] {
            assert_eq!(check_message(received).err().map(|status| status.code()), expected, "{received:?}");
        }
    }

    #[test]
    fn only_content_types_of_grpc_are_taken() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
