//! Requests to a collector, over gRPC or HTTP.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, StatusCode, Uri};
use opentelemetry_http::HttpClient as _;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message as _;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::OtlpSettings;
use crate::engine::text::one_line;
use crate::telemetry::collector::{CollectorClient, Connector};
use crate::telemetry::traces::Protocol;

/// Bytes of a collector's message that are logged.
const MESSAGE_BYTES_MAX: usize = 200;

/// Client of one collector.
pub(super) struct Client {
    transport: Transport,
    headers: HeaderMap,
    timeout: Duration,
}

enum Transport {
    Grpc(MetricsServiceClient<Channel>),
    Http { client: CollectorClient, endpoint: Uri },
}

/// Why metrics did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{}: {}", .0.code(), one_line(&cause(.0), MESSAGE_BYTES_MAX))]
    Status(#[from] tonic::Status),
    #[error("{0}")]
    Http(opentelemetry_http::HttpError),
    #[error("the collector answered {0}")]
    HttpStatus(StatusCode),
    #[error("the collector rejected {rejected} values: {message}")]
    Rejected { rejected: i64, message: String },
}

impl Client {
    /// A client that connects with the first export. Must be called inside a runtime, which owns the connection.
    pub(super) fn new(settings: OtlpSettings, connector: Connector) -> Self {
        let OtlpSettings { endpoint, protocol, headers, timeout, .. } = settings;
        let transport = match protocol {
            Protocol::Grpc => {
                Transport::Grpc(MetricsServiceClient::new(connector.channel(&endpoint, timeout)))
            }
            Protocol::Http => Transport::Http { client: CollectorClient::new(connector, timeout), endpoint },
        };
        Self { transport, headers, timeout }
    }

    /// Sends `request`, once.
    pub(super) async fn export(&mut self, request: ExportMetricsServiceRequest) -> Result<(), ExportError> {
        let headers = self.headers.clone();
        let answer = async {
            match &mut self.transport {
                Transport::Grpc(client) => export_grpc(client, request, headers).await,
                Transport::Http { client, endpoint } => {
                    export_http(client, endpoint.clone(), &request, headers).await
                }
            }
        };
        let answer =
            timeout(self.timeout, answer).await.map_err(|_| ExportError::Timeout(self.timeout))??;
        match answer.partial_success {
            Some(ExportMetricsPartialSuccess { rejected_data_points: rejected @ 1.., error_message }) => {
                let message = one_line(&error_message, MESSAGE_BYTES_MAX).into_owned();
                Err(ExportError::Rejected { rejected, message })
            }
            Some(_) | None => Ok(()),
        }
    }
}

async fn export_grpc(
    client: &mut MetricsServiceClient<Channel>,
    request: ExportMetricsServiceRequest,
    headers: HeaderMap,
) -> Result<ExportMetricsServiceResponse, ExportError> {
    let mut request = tonic::Request::new(request);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    Ok(client.export(request).await?.into_inner())
}

async fn export_http(
    client: &CollectorClient,
    endpoint: Uri,
    request: &ExportMetricsServiceRequest,
    headers: HeaderMap,
) -> Result<ExportMetricsServiceResponse, ExportError> {
    let mut post = Request::post(endpoint).body(Bytes::from(request.encode_to_vec())).map_err(boxed)?;
    *post.headers_mut() = headers;
    post.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/x-protobuf"));
    let response = client.send_bytes(post).await.map_err(ExportError::Http)?;
    if !response.status().is_success() {
        return Err(ExportError::HttpStatus(response.status()));
    }
    // Some servers answer with nothing, or with JSON: they have the metrics all the same.
    Ok(ExportMetricsServiceResponse::decode(response.into_body()).unwrap_or_default())
}

/// Message of a status, with the innermost cause: of a connection that failed the message says only that it did.
fn cause(status: &tonic::Status) -> String {
    let mut innermost: &dyn Error = status;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let (message, cause) = (status.message(), innermost.to_string());
    let is_known = status.source().is_none() || message.contains(&cause);
    if is_known { message.to_owned() } else { format!("{message}: {cause}") }
}

fn boxed(error: http::Error) -> ExportError {
    ExportError::Http(Box::new(error))
}
