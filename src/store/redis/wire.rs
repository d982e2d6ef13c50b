//! The socket of a connection: writes and reads side by side.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{io, mem};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::client::Io;

/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;

/// A connected socket.
pub(super) struct Wire {
    io: Io,
    /// Read, and not decoded yet.
    pub(super) inbox: BytesMut,
    unflushed: bool,
}

impl Wire {
    pub(super) fn new(io: Io) -> Self {
        Self { io, inbox: BytesMut::with_capacity(READ_BYTES), unflushed: false }
    }

    /// Writes `out` as far as there is room, until something was read. May be dropped at any time.
    pub(super) async fn turn(&mut self, out: &mut BytesMut) -> io::Result<()> {
        poll_fn(|context| self.poll_turn(out, context)).await
    }

    fn poll_turn(&mut self, out: &mut BytesMut, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !out.is_empty() {
            match Pin::new(&mut self.io).poll_write(context, out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(len)) => {
                    out.advance(len);
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if self.unflushed && out.is_empty() {
            match Pin::new(&mut self.io).poll_flush(context) {
                Poll::Ready(flushed) => {
                    flushed?;
                    self.unflushed = false;
                }
                Poll::Pending => {}
            }
        }
        self.poll_read(context)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let len = {
            let mut room = [mem::MaybeUninit::<u8>::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut read))?;
            self.inbox.put_slice(read.filled());
            read.filled().len()
        };
        match len {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}
