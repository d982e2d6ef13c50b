//! Connections to an OpenTelemetry collector: for gRPC or HTTP, with or without TLS.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint};

use crate::tls::{ClientTls, LiveClient, Reloader, TlsError};

/// Upper bound on the body of a collector's response, in bytes.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

type Io = Either<TlsStream<TcpStream>, TcpStream>;

/// Protocol of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP as protobuf over HTTP.
    Http,
}

/// Opens connections to a collector. Each uses the certificates as they are then.
#[derive(Clone, Debug)]
pub struct Connector {
    tls: Option<LiveClient>,
}

impl Connector {
    /// A connector with the files of `tls`, which `certificates` reloads; `user` names them in logs and metrics.
    ///
    /// # Errors
    /// [`TlsError`] with the first file that cannot be used, and why.
    pub fn new(
        tls: Option<&ClientTls>,
        protocol: Protocol,
        user: &'static str,
        certificates: &Reloader,
    ) -> Result<Self, TlsError> {
        let alpn: &[&[u8]] = match protocol {
            Protocol::Grpc => &[b"h2"],
            Protocol::Http => &[b"http/1.1"],
        };
        Ok(Self { tls: tls.map(|tls| certificates.client(user, tls, alpn)).transpose()? })
    }

    /// A channel for gRPC that connects with its first call, and anew when the connection is lost.
    pub(super) fn channel(&self, collector: &Uri, timeout: Duration) -> Channel {
        let connector = self.clone();
        let connect = move |collector: Uri| {
            let connector = connector.clone();
            async move { connector.dial(&collector).await.map(TokioIo::new) }
        };
        // tonic refuses `https` unless its own TLS is compiled in.
        let authority = collector.authority().map_or("", |authority| authority.as_str());
        let target = Uri::builder().scheme("http").authority(authority).path_and_query("/").build();
        Endpoint::from(target.unwrap_or_else(|_| collector.clone()))
            .origin(collector.clone())
            .connect_timeout(timeout)
            .timeout(timeout)
            .connect_with_connector_lazy(tower::service_fn(connect))
    }

    async fn dial(&self, collector: &Uri) -> io::Result<Io> {
        let host = collector.host().unwrap_or_default().trim_matches(['[', ']']);
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        let stream = TcpStream::connect((host, collector.port_u16().unwrap_or(default_port))).await?;
        let Some(client) = &self.tls else { return Ok(Either::Right(stream)) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let handshake = TlsConnector::from(client.config()).connect(name, stream).await;
        handshake.map(Either::Left).map_err(|error| {
            let error = client.explain(error.to_string());
            io::Error::other(format!("TLS handshake failed: {error}"))
        })
    }
}

/// A client for HTTP. Exports are rare: each has a connection of its own, and so the latest certificates.
#[derive(Debug)]
pub(super) struct CollectorClient {
    connector: Connector,
    timeout: Duration,
}

impl CollectorClient {
    /// A client whose requests take at most `timeout`.
    pub(super) const fn new(connector: Connector, timeout: Duration) -> Self {
        Self { connector, timeout }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut head, body) = request.into_parts();
        let io = self.connector.dial(&head.uri).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let authority = head.uri.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        head.headers.insert(HOST, HeaderValue::from_str(host)?);
        let path = head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        head.uri = path.into();
        let response = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

#[tonic::async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        timeout(self.timeout, self.send(request)).await?
    }
}
