//! The ceiling: a service that decides nothing and answers OK. What a request costs it, it costs every service
//! on this stack before it does anything of its own: tonic as it comes, messages as anybody generates them, the
//! system's allocator; a runtime for each core, which is the cheapest way there is to run it.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use envoy_types::pb::envoy::service::ratelimit::v3 as pb;
use pb::rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit};
use pb::rate_limit_service_server::{RateLimitService, RateLimitServiceServer};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::machine;

const BACKLOG: i32 = 1_024;

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

/// Serves on this port of 127.0.0.1 until the process is ended.
pub(crate) fn serve(port: u16) {
    let threads: Vec<_> = (0..machine::cores()).map(|_| thread::spawn(move || serve_on_core(port))).collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
}

fn serve_on_core(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let incoming = TcpIncoming::from(listen(port)).with_nodelay(Some(true));
        let server = Server::builder().add_service(RateLimitServiceServer::new(Nothing));
        server.serve_with_incoming(incoming).await.expect("it serves");
    });
}

/// A socket of this core's own: the kernel spreads connections over them.
fn listen(port: u16) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("Linux");
    socket.set_nonblocking(true).expect("a socket that does not block");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("a free port");
    socket.listen(BACKLOG).expect("a listener");
    TcpListener::from_std(socket.into()).expect("a runtime")
}
