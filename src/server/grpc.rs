//! gRPC: the rate limit service, health and reflection on one connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tower::util::BoxCloneService;
use tower::{Service, ServiceExt as _};
use tracing::Instrument as _;

use super::answer::Answerer;
use crate::pb;
use crate::telemetry::traces;

/// Bytes of one request, at the most. Sixty-four descriptors of ordinary size are a hundredth of it.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

type HttpRequest = http::Request<Incoming>;
type HttpResponse = http::Response<Body>;
type Other = BoxCloneService<HttpRequest, HttpResponse, Infallible>;

/// The services of a gRPC connection, told apart by the path of a request.
#[derive(Clone)]
pub(super) struct Grpc {
    rate_limits: pb::RateLimitServiceServer<RateLimits>,
    /// The name of each, which its paths begin with.
    others: Vec<(&'static str, Other)>,
}

impl Grpc {
    /// The services that answer with `answerer` and tell of `health`.
    pub(super) fn new(answerer: Arc<Answerer>, health: HealthService) -> Self {
        let rate_limits = pb::RateLimitServiceServer::new(RateLimits { answerer });
        let mut others = vec![named(HealthServer::new(health))];
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::REFLECTION)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // They fail where a descriptor is none; those are compiled in, and a test asks for them.
        others.extend(reflection().build_v1().ok().map(named));
        others.extend(reflection().build_v1alpha().ok().map(named));
        Self { rate_limits: rate_limits.max_decoding_message_size(MAX_REQUEST_BYTES), others }
    }
}

fn named<S>(service: S) -> (&'static str, Other)
where
    S: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + NamedService,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    (S::NAME, service.boxed_clone())
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
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split('/').next());
        let service = service.unwrap_or_default();
        if service == <pb::RateLimitServiceServer<RateLimits> as NamedService>::NAME {
            return self.rate_limits.call(request);
        }
        match self.others.iter_mut().find(|(name, _)| *name == service) {
            Some((_, other)) => other.call(request),
            None => {
                Box::pin(async { Ok(Status::unimplemented("there is no such service here").into_http()) })
            }
        }
    }
}

/// Envoy's service.
struct RateLimits {
    answerer: Arc<Answerer>,
}

#[tonic::async_trait]
impl pb::RateLimitService for RateLimits {
    async fn should_rate_limit(
        &self,
        request: Request<pb::RateLimitRequest>,
    ) -> Result<Response<pb::RateLimitResponse>, Status> {
        let span = tracing::info_span!("ShouldRateLimit Execution");
        traces::set_parent(&span, request.metadata().as_ref());
        let answer = self.answerer.answer(request.get_ref()).instrument(span).await?;
        Ok(Response::new(answer))
    }
}
