//! The ceiling: a service that decides nothing and answers OK. A request costs every service on this stack as much
//! before it does anything of its own: unmodified tonic, generated messages, tollgate's allocator, and one runtime
//! for each core, which is the cheapest way to run it.

use std::net::{self, Ipv4Addr};
use std::thread;

use envoy_types::pb::envoy::service::ratelimit::v3 as pb;
use pb::rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit};
use pb::rate_limit_service_server::{RateLimitService, RateLimitServiceServer};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::machine;

const MAX_CONCURRENT_STREAMS: u32 = 2_048;

struct Nothing;

#[tonic::async_trait]
impl RateLimitService for Nothing {
    async fn should_rate_limit(
        &self,
        request: Request<pb::RateLimitRequest>,
    ) -> Result<Response<pb::RateLimitResponse>, Status> {
        let limit = RateLimit {
            requests_per_unit: 1_000_000,
            unit: rate_limit::Unit::Minute.into(),
            ..RateLimit::default()
        };
        let status = DescriptorStatus {
            code: Code::Ok.into(),
            current_limit: Some(limit),
            limit_remaining: 999_999,
            ..DescriptorStatus::default()
        };
        Ok(Response::new(pb::RateLimitResponse {
            overall_code: Code::Ok.into(),
            statuses: vec![status; request.get_ref().descriptors.len()],
            ..pb::RateLimitResponse::default()
        }))
    }
}

/// Serves on this port of 127.0.0.1 until the process is ended. Cores get connections in turn.
pub(crate) fn serve(port: u16) {
    let start_core = |_| {
        let (hand_over, accepted) = unbounded_channel();
        thread::spawn(move || serve_on_core(accepted));
        hand_over
    };
    let cores: Vec<_> = (0..machine::cores()).map(start_core).collect();
    let listener = net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
    for (stream, core) in listener.incoming().zip(cores.iter().cycle()) {
        let stream = stream.expect("a connection");
        stream.set_nodelay(true).expect("it is open");
        stream.set_nonblocking(true).expect("it is open");
        core.send(stream).expect("its core serves");
    }
}

fn serve_on_core(accepted: UnboundedReceiver<net::TcpStream>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let incoming = UnboundedReceiverStream::new(accepted).map(TcpStream::from_std);
        // As many as the program takes: with hyper's own 200 it would be asked less at once.
        let mut server = Server::builder().max_concurrent_streams(MAX_CONCURRENT_STREAMS);
        let router = server.add_service(RateLimitServiceServer::new(Nothing));
        router.serve_with_incoming(incoming).await.expect("it serves");
    });
}
