//! What stands between a client and a server, and may get in their way.

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// How many pieces may be on their way at once in one direction of a connection.
const PIECES: usize = 1024;

/// What becomes of what a client and the server say to each other.
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
}

/// A TCP proxy on a free port of 127.0.0.1. It ends with this value.
///
/// A direction of a connection on which something was lost brings nothing any more, whatever the proxy is
/// told later: TCP has no gaps.
pub(crate) struct Proxy {
    port: u16,
    passage: watch::Sender<Passage>,
    resets: watch::Sender<()>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// An open one in front of a port of 127.0.0.1.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let passage = watch::Sender::new(Passage::Open);
        let resets = watch::Sender::new(());
        let task = tokio::spawn(accept(listener, target, passage.subscribe(), resets.subscribe()));
        Self { port, passage, resets, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
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

/// Ends, and every connection with it, when it is aborted.
async fn accept(
    listener: TcpListener,
    target: u16,
    passage: watch::Receiver<Passage>,
    mut resets: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a connection");
        resets.mark_unchanged();
        connections.spawn(carry(client, target, passage.clone(), resets.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(
    mut client: TcpStream,
    target: u16,
    passage: watch::Receiver<Passage>,
    mut resets: watch::Receiver<()>,
) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target)).await;
    let Ok(mut server) = server else { return client.set_zero_linger() };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let requests = || match *passage.borrow() {
        Passage::Open | Passage::OneWay => Some(Duration::ZERO),
        Passage::Slow { requests, .. } => Some(requests),
        Passage::Shut => None,
    };
    let replies = || match *passage.borrow() {
        Passage::Open => Some(Duration::ZERO),
        Passage::Slow { replies, .. } => Some(replies),
        Passage::Shut | Passage::OneWay => None,
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

/// Carries one direction to its end: each piece after the delay that holds when it comes. `None` loses it,
/// and all that follows.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    delay: impl Fn() -> Option<Duration>,
) -> io::Result<()> {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        let mut lost = false;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).await;
            let delay = delay();
            lost |= delay.is_none();
            match (read, delay) {
                // Nor does it arrive that there is no more.
                (Ok(0) | Err(_), _) if lost => pending().await,
                (Ok(0), _) => return Ok(()),
                (Ok(len), Some(delay)) if !lost => {
                    // The other half ends before this one only where both end.
                    drop(sender.send((Instant::now() + delay, buffer[..len].to_vec())).await);
                }
                (Ok(_), _) => {}
                (Err(error), _) => return Err(error),
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}
