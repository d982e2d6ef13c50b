//! A TCP proxy between a client and a server, which delays, stalls and loses bytes.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// Upper bound on pieces in flight in one direction of a connection.
const PIECES: usize = 1024;

/// Faults of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Passage {
    /// It arrives.
    Open,
    /// It arrives this much later.
    Slow { requests: Duration, replies: Duration },
    /// Nothing arrives.
    Shut,
    /// Requests arrive, replies do not.
    OneWay,
    /// Requests arrive, and this many bytes of replies on each connection, which then falls silent.
    Partial { reply_bytes: usize },
    /// Requests arrive, and this many bytes of replies on each connection, which is then reset.
    Cut { reply_bytes: usize },
}

/// Fate of one piece.
#[derive(Clone, Copy)]
enum Fate {
    /// It arrives after this delay.
    Arrives(Duration),
    /// It is lost, and all that follows it.
    Lost,
    /// No more than this many bytes arrive from now on.
    First { bytes: usize, then_reset: bool },
}

/// A TCP proxy on a free port of 127.0.0.1. It ends when dropped.
///
/// Once bytes of one direction of a connection are lost, later ones are lost too, whatever passage is set then: TCP
/// has no gaps.
pub(crate) struct Proxy {
    port: u16,
    target: Arc<AtomicU16>,
    passage: watch::Sender<Passage>,
    resets: watch::Sender<()>,
    request_bytes: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// An open one in front of a port of 127.0.0.1.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let passage = watch::Sender::new(Passage::Open);
        let resets = watch::Sender::new(());
        let request_bytes = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let target = Arc::new(AtomicU16::new(target));
        let route = Route {
            target: Arc::clone(&target),
            passage: passage.subscribe(),
            request_bytes: Arc::clone(&request_bytes),
            connections: Arc::clone(&connections),
        };
        let task = tokio::spawn(accept(listener, route, resets.subscribe()));
        Self {
            port,
            target,
            passage,
            resets,
            request_bytes,
            connections,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Carries connections to another port from now on.
    pub(crate) fn redirect(&self, target: u16) {
        self.target.store(target, Ordering::Relaxed);
    }

    /// Bytes of requests that have arrived so far.
    pub(crate) fn request_bytes(&self) -> usize {
        self.request_bytes.load(Ordering::Relaxed)
    }

    /// Connections that were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// From now on, for connections there are and those to come.
    pub(crate) fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }

    /// Resets every connection there is, on both sides.
    pub(crate) fn reset(&self) {
        self.resets.send_replace(());
    }
}

/// State that connections share.
#[derive(Clone)]
struct Route {
    target: Arc<AtomicU16>,
    passage: watch::Receiver<Passage>,
    request_bytes: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

/// Ends, and every connection with it, when it is aborted.
async fn accept(listener: TcpListener, route: Route, mut resets: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a connection");
        resets.mark_unchanged();
        route.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(carry(client, route.clone(), resets.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut client: TcpStream, route: Route, mut resets: watch::Receiver<()>) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", route.target.load(Ordering::Relaxed))).await;
    let Ok(mut server) = server else { return client.set_zero_linger() };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let requests = |len: usize| {
        let fate = match *route.passage.borrow() {
            Passage::Open | Passage::OneWay | Passage::Partial { .. } | Passage::Cut { .. } => {
                Fate::Arrives(Duration::ZERO)
            }
            Passage::Slow { requests, .. } => Fate::Arrives(requests),
            Passage::Shut => Fate::Lost,
        };
        if let Fate::Arrives(_) = fate {
            route.request_bytes.fetch_add(len, Ordering::Relaxed);
        }
        fate
    };
    let replies = |_: usize| match *route.passage.borrow() {
        Passage::Open => Fate::Arrives(Duration::ZERO),
        Passage::Slow { replies, .. } => Fate::Arrives(replies),
        Passage::Shut | Passage::OneWay => Fate::Lost,
        Passage::Partial { reply_bytes } => Fate::First { bytes: reply_bytes, then_reset: false },
        Passage::Cut { reply_bytes } => Fate::First { bytes: reply_bytes, then_reset: true },
    };
    let both = async {
        tokio::try_join!(pump(from_client, to_server, requests), pump(from_server, to_client, replies))
    };
    tokio::select! {
        ended = both => if ended.is_ok() { return Ok(()) },
        _ = resets.changed() => {}
    }
    client.set_zero_linger()?;
    server.set_zero_linger()
}

/// A piece on its way: when it is due, its bytes, and whether it is the last before a reset.
type Piece = (Instant, Vec<u8>, bool);

/// Carries one direction to its end. Each piece has the fate that holds when it comes.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, fate: impl Fn(usize) -> Fate) -> io::Result<()> {
    let (sender, mut pieces) = mpsc::channel::<Piece>(PIECES);
    let read = async move {
        let mut lost = false;
        let mut left = None;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).await;
            let fate = fate(*read.as_ref().unwrap_or(&0));
            lost |= matches!(fate, Fate::Lost);
            let len = match read {
                // Nor does it arrive that there is no more.
                Ok(0) | Err(_) if lost => pending().await,
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) => return Err(error),
            };
            if lost {
                continue;
            }
            let (delay, arrives, then_reset) = match fate {
                Fate::Arrives(delay) => (delay, len, false),
                Fate::Lost => continue,
                Fate::First { bytes, then_reset } => {
                    let left = left.get_or_insert(bytes);
                    let arrives = len.min(*left);
                    *left -= arrives;
                    lost = *left == 0;
                    (Duration::ZERO, arrives, lost && then_reset)
                }
            };
            // The other half ends before this one only where both end.
            drop(sender.send((Instant::now() + delay, buffer[..arrives].to_vec(), then_reset)).await);
        }
    };
    let write = async move {
        while let Some((due, piece, then_reset)) = pieces.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
            if then_reset {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}
