//! The bytes of a connection: over TCP or a Unix socket, in plain text or TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::connections::{Closing, Connection};
use super::listen::Stream;
use crate::tls::LiveServer;

/// A connection that was accepted, before its first byte.
pub(super) struct Transport {
    pub(super) stream: Stream,
    /// `None` for plain text.
    pub(super) tls: Option<LiveServer>,
}

/// A connection with something to read.
pub(super) enum Io {
    Tcp(TokioIo<TcpStream>),
    Unix(TokioIo<UnixStream>),
    Tls(TokioIo<Box<TlsStream<Socket>>>),
}

/// Hands `transport` to the runtime of this core once there is something to read, as a connection without requests
/// takes no buffers, and completes the TLS handshake. `None` if the connection ends before; its listener ends it
/// when the time for its first request is over.
pub(super) async fn open(
    transport: Transport,
    connection: &Connection,
    drain: &CancellationToken,
) -> Option<Io> {
    tokio::select! {
        io = handshake(transport) => match io {
            Ok(io) => io,
            Err(error) => {
                tracing::debug!(%error, "connection lost before its first request");
                None
            }
        },
        _ = connection.closing(Closing::No) => None,
        () = drain.cancelled() => None,
    }
}

async fn handshake(Transport { stream, tls }: Transport) -> io::Result<Option<Io>> {
    let socket = match stream {
        Stream::Tcp(stream, _) => Socket::Tcp(TcpStream::from_std(stream)?),
        Stream::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
    };
    match &socket {
        Socket::Tcp(stream) => stream.readable().await?,
        Socket::Unix(stream) => stream.readable().await?,
    }
    Ok(match (tls, socket) {
        (None, Socket::Tcp(stream)) => Some(Io::Tcp(TokioIo::new(stream))),
        (None, Socket::Unix(stream)) => Some(Io::Unix(TokioIo::new(stream))),
        (Some(tls), socket) => tls.accept(socket).await.map(|stream| Io::Tls(TokioIo::new(Box::new(stream)))),
    })
}

/// A socket under TLS: one type for both kinds, so that HTTP over TLS is compiled once.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
