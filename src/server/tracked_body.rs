//! Response bodies that keep their request open until they were sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::connections::OpenRequest;

/// Bytes of a response that may wait in the HTTP/2 library when it counts as sent. One frame, so that a peer that does
/// not read keeps little out of sight.
pub(super) const SEND_BUFFER_BYTES: usize = 16 * 1024;

/// Body of a response; its request is open until the body was sent.
///
/// The last byte of a large one comes by itself. The HTTP/2 library asks for the next piece as soon as the peer has
/// window for a byte of the one before, and drops the body with its last piece: a large response in one piece would be
/// kept out of sight for a peer that takes a byte of it.
pub(super) struct TrackedBody<B> {
    body: B,
    last_byte: Bytes,
    open: OpenRequest,
    is_event_stream: bool,
}

/// Extension of responses that never end and send something every few seconds. Such a response may take any time as
/// long as the peer reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventStream;

impl<B> TrackedBody<B> {
    pub(super) const fn new(body: B, open: OpenRequest) -> Self {
        Self { body, last_byte: Bytes::new(), open, is_event_stream: false }
    }

    /// The body of an [`EventStream`].
    pub(super) const fn of_events(body: B, open: OpenRequest) -> Self {
        Self { body, last_byte: Bytes::new(), open, is_event_stream: true }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.last_byte.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.last_byte)))));
        }
        let mut frame = Pin::new(&mut self.body).poll_frame(cx);
        // The HTTP library asks for more while its buffer has room, which is as long as the peer reads.
        if self.is_event_stream && frame.is_ready() {
            self.open.progressed(Instant::now());
        }
        if let Poll::Ready(Some(Ok(frame))) = &mut frame
            && let Some(data) = frame.data_mut()
            && data.len() > SEND_BUFFER_BYTES
        {
            self.last_byte = data.split_off(data.len() - 1);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.last_byte.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let more = self.last_byte.len() as u64;
        // The upper bound first: the lower one must not be above it.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + more);
        }
        hint.set_lower(hint.lower() + more);
        hint
    }
}
