//! gRPC: the rate limit service, health and reflection on one connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tower::Service;
use tower::util::BoxCloneSyncService;
use tracing::Instrument as _;

use super::answer::Answerer;
use super::wire;
use crate::pb;
use crate::telemetry::traces;

/// Bytes of one request, at the most. Sixty-four descriptors of ordinary size are a hundredth of it.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// How long before its caller gives up an answer must leave, at the most.
const MAX_WAY_BACK: Duration = Duration::from_millis(3);

type HttpRequest = http::Request<Incoming>;
type HttpResponse = http::Response<Body>;
type Other = BoxCloneSyncService<HttpRequest, HttpResponse, Infallible>;

/// The services of a gRPC connection, told apart by the path of a request.
#[derive(Clone)]
pub(super) struct Grpc {
    rate_limits: RateLimits,
    /// The name of each, which its paths begin with. This is cloned for every request.
    others: Arc<[(&'static str, Other)]>,
}

impl Grpc {
    /// The services that answer with `answerer` and tell of `health`.
    pub(super) fn new(answerer: Arc<Answerer>, health: HealthService) -> Self {
        let mut others = vec![named(HealthServer::new(health))];
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::REFLECTION)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // They fail where a descriptor is none; those are compiled in, and a test asks for them.
        others.extend(reflection().build_v1().ok().map(named));
        others.extend(reflection().build_v1alpha().ok().map(named));
        Self { rate_limits: RateLimits { answerer }, others: others.into() }
    }
}

fn named<S>(service: S) -> (&'static str, Other)
where
    S: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + NamedService,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    (S::NAME, BoxCloneSyncService::new(service))
}

impl Service<HttpRequest> for Grpc {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse, Infallible>>;

    /// Every service here is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let path = request.uri().path();
        if path == pb::SHOULD_RATE_LIMIT {
            let mut grpc = tonic::server::Grpc::new(wire::Raw).max_decoding_message_size(MAX_REQUEST_BYTES);
            let service = self.rate_limits.clone();
            return Box::pin(async move { Ok(grpc.unary(service, request).await) });
        }
        let service = path.strip_prefix('/').and_then(|path| path.split('/').next()).unwrap_or_default();
        match self.others.iter().find(|(name, _)| *name == service) {
            Some((_, other)) => other.clone().call(request),
            None => Box::pin(async { Ok(Status::unimplemented("there is no such method here").into_http()) }),
        }
    }
}

/// By when the answer must leave to be of use: a little before its caller gives up.
fn deadline(asked: Instant, metadata: &MetadataMap) -> Option<Instant> {
    let timeout = read_timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    let way_back = MAX_WAY_BACK.min(timeout / 4);
    asked.checked_add(timeout - way_back)
}

/// `grpc-timeout`: up to eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). What is none asks for nothing.
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

/// The one method of Envoy's `RateLimitService`.
#[derive(Clone)]
struct RateLimits {
    answerer: Arc<Answerer>,
}

impl UnaryService<Bytes> for RateLimits {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let answerer = Arc::clone(&self.answerer);
        Box::pin(async move {
            let asked = Instant::now();
            let span = tracing::info_span!("ShouldRateLimit Execution");
            traces::set_parent(&span, request.metadata().as_ref());
            let deadline = deadline(asked, request.metadata());
            let answer = answerer.answer(request.get_ref(), asked, deadline, wire::encode);
            Ok(Response::new(answer.instrument(span).await?))
        })
    }
}

#[cfg(test)]
mod tests {
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
}
