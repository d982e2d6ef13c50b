//! HTTP/2 frames written by hand, for clients that no library would be.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// A frame as the server sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// A client that answers nothing by itself: no PING, no SETTINGS.
pub(crate) struct RawClient {
    write: OwnedWriteHalf,
    frames: Arc<Mutex<Vec<Frame>>>,
    reader: JoinHandle<()>,
    next_stream: u32,
}

impl RawClient {
    /// Connects to this port of 127.0.0.1, and sends the preface and empty settings.
    pub(crate) async fn connect(port: u16) -> Self {
        Self::over(TcpStream::connect(("127.0.0.1", port)).await.expect("it listens")).await
    }

    /// Connects with an initial window of `bytes`: the server may send so many bytes of DATA on each stream.
    pub(crate) async fn connect_with_window(port: u16, bytes: u8) -> Self {
        let mut client = Self::connect(port).await;
        // SETTINGS_INITIAL_WINDOW_SIZE is the fourth.
        client.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, bytes])).await;
        client
    }

    /// Sends the preface and empty settings over `stream`.
    pub(crate) async fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        let (read, write) = stream.into_split();
        let frames = Arc::<Mutex<Vec<Frame>>>::default();
        let reader = tokio::spawn(read_frames(read, Arc::clone(&frames)));
        let mut client = Self { write, frames, reader, next_stream: 1 };
        client.send(PREFACE).await;
        client.send(&frame(SETTINGS, 0, 0, &[])).await;
        client
    }

    /// Sends bytes as they are. The server may have closed the connection.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        drop(self.write.write_all(bytes).await);
    }

    /// Opens streams with a call to `path` each, and with `body` as far as it goes. The first one's id.
    pub(crate) async fn open(&mut self, count: u32, path: &str, body: &[u8]) -> u32 {
        let first = self.next_stream;
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.extend(frame(HEADERS, END_HEADERS, self.next_stream, &grpc_headers(path)));
            // Many that are empty would be taken for an attack of another kind.
            if !body.is_empty() {
                bytes.extend(frame(DATA, 0, self.next_stream, body));
            }
            self.next_stream += 2;
        }
        self.send(&bytes).await;
        first
    }

    /// Makes one whole call to `path`.
    pub(crate) async fn call(&mut self, path: &str, body: &[u8]) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &grpc_headers(path));
        bytes.extend(frame(DATA, END_STREAM, stream, body));
        self.send(&bytes).await;
        stream
    }

    /// Asks for the page at `path`.
    pub(crate) async fn get(&mut self, path: &str) {
        let headers = headers("GET", path, &[]);
        self.send(&frame(HEADERS, END_HEADERS | END_STREAM, self.next_stream, &headers)).await;
        self.next_stream += 2;
    }

    /// Bytes that the server has sent so far.
    pub(crate) fn frames(&self) -> Vec<Frame> {
        self.frames.lock().clone()
    }

    /// Streams that the server has ended.
    pub(crate) fn ended_streams(&self) -> usize {
        let frames = self.frames.lock();
        let ends = frames.iter().filter(|frame| {
            frame.kind == RST_STREAM
                || (matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0)
        });
        ends.map(|frame| frame.stream).collect::<std::collections::HashSet<_>>().len()
    }

    /// True if the server has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.reader.is_finished()
    }
}

/// A stream from `from`, an address of the loopback network, to this port.
pub(crate) async fn connect_from(from: &str, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{from}:0").parse().expect("an address")).expect("a loopback address");
    socket.connect(([127, 0, 0, 1], port).into()).await.expect("it listens")
}

async fn read_frames(mut read: OwnedReadHalf, frames: Arc<Mutex<Vec<Frame>>>) {
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if read.read_exact(&mut vec![0; length]).await.is_err() {
            return;
        }
        frames.lock().push(Frame { kind: head[3], flags: head[4], stream });
    }
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of a gRPC call.
fn grpc_headers(path: &str) -> Vec<u8> {
    headers("POST", path, &[("content-type", "application/grpc"), ("te", "trailers")])
}

/// A header block, as literals that no table remembers.
fn headers(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "tollgate")];
    for (name, value) in pseudo.iter().chain(more) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|len| *len < 127).expect("a short header"));
            block.extend(text.as_bytes());
        }
    }
    block
}
