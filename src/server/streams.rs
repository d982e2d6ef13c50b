//! Bounds on long-lived streams, health watches and reflection, which a peer could otherwise open without
//! limit.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hashbrown::HashMap;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::connections::Connection;

/// Upper bound on open streams of one kind in the process. A client needs one of each kind per connection.
pub(super) const MAX_STREAMS: usize = 100;

/// Open streams of one kind.
#[derive(Debug)]
pub(super) struct Streams {
    /// Ends all of them.
    drain: CancellationToken,
    listed: Mutex<OpenStreams>,
}

/// Oldest first.
#[derive(Debug, Default)]
struct OpenStreams {
    next_id: u64,
    open: Vec<OpenStream>,
}

#[derive(Debug)]
struct OpenStream {
    id: u64,
    connection: Arc<Connection>,
    end: CancellationToken,
}

/// Slot of a stream. A newer stream may take it over, which cancels `end`.
#[derive(Debug)]
pub(super) struct StreamSlot {
    streams: Arc<Streams>,
    id: u64,
    end: CancellationToken,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.streams.listed.lock().open.retain(|open| open.id != self.id);
        // The other half of the stream ends with this one.
        self.end.cancel();
    }
}

impl Streams {
    /// Streams that all end with `drain`.
    pub(super) fn new(drain: CancellationToken) -> Arc<Self> {
        Arc::new(Self { drain, listed: Mutex::default() })
    }

    /// Opens a stream on `connection`. At the bound, the oldest stream of the connection with the most of them
    /// ends.
    pub(super) fn open(self: &Arc<Self>, connection: &Arc<Connection>) -> StreamSlot {
        let end = self.drain.child_token();
        let mut listed = self.listed.lock();
        let id = listed.next_id;
        listed.next_id += 1;
        listed.open.push(OpenStream { id, connection: Arc::clone(connection), end: end.clone() });
        if listed.open.len() > MAX_STREAMS
            && let Some(index) = listed.to_displace()
        {
            listed.open.remove(index).end.cancel();
        }
        StreamSlot { streams: Arc::clone(self), id, end }
    }
}

impl OpenStreams {
    /// Index of the stream to end for a new one.
    fn to_displace(&self) -> Option<usize> {
        let mut of_connection = HashMap::<_, usize>::new();
        for open in &self.open {
            *of_connection.entry(Arc::as_ptr(&open.connection)).or_default() += 1;
        }
        let most = of_connection.values().copied().max()?;
        self.open.iter().position(|open| of_connection.get(&Arc::as_ptr(&open.connection)) == Some(&most))
    }
}

impl StreamSlot {
    /// Limits the request's `body` to the life of the stream.
    pub(super) fn limit<B>(&self, body: B) -> Limited<B> {
        Limited { body, ended: self.ended(), has_ended: false, slot: None }
    }

    /// Limits the response's `body` to the life of the stream. Dropping it frees the slot.
    pub(super) fn hold<B>(self, body: B) -> Limited<B> {
        Limited { body, ended: self.ended(), has_ended: false, slot: Some(self) }
    }

    fn status(&self) -> Status {
        if self.streams.drain.is_cancelled() {
            Status::unavailable("server is shutting down")
        } else {
            Status::resource_exhausted("stream closed for a newer one: too many are open")
        }
    }

    fn ended(&self) -> Pin<Box<WaitForCancellationFutureOwned>> {
        Box::pin(self.end.clone().cancelled_owned())
    }
}

/// A body of a stream that may have to end early, with a status.
pub(super) struct Limited<B> {
    body: B,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    has_ended: bool,
    slot: Option<StreamSlot>,
}

impl<B> Body for Limited<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        if this.ended.as_mut().poll(cx).is_ready() {
            this.has_ended = true;
            // A request just ends; a response has the status.
            let status = this.slot.as_ref().map(StreamSlot::status);
            return Poll::Ready(status.map(|status| Ok(Frame::trailers(trailers(&status)))));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Both parts are text that headers can carry.
    status.add_header(&mut trailers).unwrap_or_default();
    trailers
}
