//! gRPC over HTTP/2: the framing of messages, and the headers of a call
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue};
use hyper::body::Frame;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

/// Bytes of the prefix of a message: compression flag and length.
pub(super) const PREFIX_BYTES: usize = 5;
/// Upper bound on the share of the caller's deadline that is reserved for the response to travel back.
const MAX_RESPONSE_MARGIN: Duration = Duration::from_millis(3);

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_STATUS_OK: HeaderValue = HeaderValue::from_static("0");

/// `message` with its prefix.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// Length in the prefix of a message, if the prefix has arrived.
pub(super) fn declared(received: &[u8]) -> Option<usize> {
    let length = received.get(1..PREFIX_BYTES)?;
    Some(u32::from_be_bytes(length.try_into().ok()?) as usize)
}

/// Checks that `received` is exactly one uncompressed message.
///
/// The codes are those of <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
pub(super) fn check_message(received: &[u8]) -> Result<(), Status> {
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
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
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

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// Time by which the answer must leave: slightly before the caller's deadline.
pub(super) fn deadline(asked: Instant, headers: &HeaderMap) -> Option<Instant> {
    let timeout = read_timeout(headers.get("grpc-timeout")?.to_str().ok()?)?;
    let margin = MAX_RESPONSE_MARGIN.min(timeout / 4);
    asked.checked_add(timeout - margin)
}

/// Parses `grpc-timeout`: up to eight digits and a unit. An invalid value is ignored.
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

/// Body of a response.
pub(in crate::server) enum AnswerBody {
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
    fn a_request_is_one_message_of_the_length_in_its_prefix() {
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
