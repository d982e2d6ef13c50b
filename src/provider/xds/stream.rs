//! A stream of encoded messages over gRPC.

use std::future::Future;
use std::pin::Pin;

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::stream;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// Requests on their way. More wait for a server that does not read them.
const REQUESTS_QUEUED: usize = 1;

/// Messages as bytes: what they take in memory is checked before they are decoded.
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

/// Responses of an open stream.
pub(super) enum Responses {
    /// A server may send its headers with the first response only.
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<Bytes>, Status>> + Send>>),
    Open(Box<Streaming<Bytes>>),
}

impl Responses {
    /// The next response; `None` if the server has closed the stream. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The status that the stream ends with.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            match self {
                Self::Opening(opening) => *self = Self::Open(Box::new(opening.as_mut().await?)),
                Self::Open(stream) => return stream.message().await,
            }
        }
    }
}

/// Opens a stream for messages up to `max_bytes`. Requests go to the sender.
///
/// # Errors
/// The status of a connection that is not ready.
pub(super) async fn open(
    channel: Channel,
    path: &'static str,
    headers: &[(HeaderName, HeaderValue)],
    max_bytes: usize,
) -> Result<(mpsc::Sender<Bytes>, Responses), Status> {
    let (sender, mut requests) = mpsc::channel(REQUESTS_QUEUED);
    let mut grpc = Grpc::new(channel).max_decoding_message_size(max_bytes);
    grpc.ready().await.map_err(|error| Status::unavailable(super::connect::chain(&error)))?;
    let mut request = Request::new(stream::poll_fn(move |context| requests.poll_recv(context)));
    *request.metadata_mut() = MetadataMap::from_headers(headers.iter().cloned().collect::<HeaderMap>());
    let opening = async move {
        let response = grpc.streaming(request, PathAndQuery::from_static(path), Encoded).await?;
        Ok(response.into_inner())
    };
    Ok((sender, Responses::Opening(Box::pin(opening))))
}
