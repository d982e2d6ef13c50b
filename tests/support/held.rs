//! A rate-limit service that admits everything, but only when it is let: the effect of slow answers can be
//! caused so, and need not be hoped for.

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Requests to answer. All others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answered {
    Nothing,
    /// Requests for nothing, by which it is found out what listens.
    Probes,
    Everything,
}

/// The service. It ends when dropped.
pub(crate) struct Held {
    /// Address of the service.
    pub(crate) address: String,
    answered: watch::Sender<Answered>,
    asked: watch::Receiver<usize>,
    _connections: JoinSet<()>,
}

/// State of the service of a connection.
#[derive(Clone)]
struct Shared {
    streams: u32,
    answered: watch::Receiver<Answered>,
    asked: watch::Sender<usize>,
}

impl Held {
    /// A service that lets so many requests be under way on a connection.
    pub(crate) async fn start(streams: u32, answered: Answered) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let (answered, let_through) = watch::channel(answered);
        let (asked, heard) = watch::channel(0);
        let shared = Shared { streams, answered: let_through, asked };
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(shared.clone().serve(socket));
            }
        });
        Self { address, answered, asked: heard, _connections: connections }
    }

    /// Answers this from now on.
    pub(crate) fn answer(&self, answered: Answered) {
        self.answered.send_replace(answered);
    }

    /// Waits until it was asked something, apart from probes.
    pub(crate) async fn is_asked(&mut self) {
        self.asked.wait_for(|asked| *asked > 0).await.expect("it listens");
    }
}

impl Shared {
    async fn serve(self, socket: TcpStream) {
        let mut builder = Builder::new();
        builder.max_concurrent_streams(self.streams);
        let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
        let mut requests = JoinSet::new();
        while let Some(Ok((request, answer))) = connection.accept().await {
            requests.spawn(self.clone().admit(request, answer));
        }
    }

    /// Admits a request when it may. The client may have gone meanwhile.
    async fn admit(mut self, request: Request<RecvStream>, mut answer: SendResponse<Bytes>) {
        // gRPC's prefix is all there is of an empty message.
        let is_probe = length(request.into_body()).await <= 5;
        let least = if is_probe { Answered::Probes } else { Answered::Everything };
        if !is_probe {
            self.asked.send_modify(|asked| *asked += 1);
        }
        if self.answered.wait_for(|answered| *answered >= least).await.is_err() {
            return answer.send_reset(Reason::CANCEL);
        }
        let head = Response::builder().header("content-type", "application/grpc").body(());
        let Ok(mut body) = answer.send_response(head.expect("an answer"), false) else { return };
        // The overall code is OK.
        let message = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]);
        let status = ("grpc-status".parse().expect("a name"), "0".parse().expect("a value"));
        drop(body.send_data(message, false));
        drop(body.send_trailers(HeaderMap::from_iter([status])));
    }
}

async fn length(mut body: RecvStream) -> usize {
    let mut length = 0;
    while let Some(Ok(data)) = body.data().await {
        drop(body.flow_control().release_capacity(data.len()));
        length += data.len();
    }
    length
}
