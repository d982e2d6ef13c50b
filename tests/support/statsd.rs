//! A statsd server that receives lines over TCP or UDP, and adds them up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::process::POLL;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A server. Dropping it ends the server and its connections.
pub(crate) struct Statsd {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Received>>,
    _tasks: JoinSet<()>,
}

/// Lines and datagrams received so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Lines in the order of their arrival.
    pub(crate) lines: Vec<String>,
    /// Lengths of datagrams.
    pub(crate) datagrams: Vec<usize>,
}

impl Statsd {
    pub(crate) async fn tcp() -> Self {
        Self::tcp_at(([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn tcp_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (received, mut tasks) = (Arc::<Mutex<Received>>::default(), JoinSet::new());
        let sink = Arc::clone(&received);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(take_lines(stream, Arc::clone(&sink)));
            }
        });
        Self { address, received, _tasks: tasks }
    }

    pub(crate) async fn udp() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("an address");
        let (received, mut tasks) = (Arc::<Mutex<Received>>::default(), JoinSet::new());
        let sink = Arc::clone(&received);
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok(length) = socket.recv(&mut buffer).await {
                let text = String::from_utf8(buffer[..length].to_vec()).expect("UTF-8");
                let mut received = sink.lock().expect("no panic");
                received.datagrams.push(length);
                received.lines.extend(text.lines().map(str::to_owned));
            }
        });
        Self { address, received, _tasks: tasks }
    }

    pub(crate) fn received(&self) -> Received {
        self.received.lock().expect("no panic").clone()
    }

    /// Waits until the series `name|type` adds up to `value`. Returns everything received.
    pub(crate) async fn wait_for(&self, series: &str, value: f64) -> Received {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let received = self.received();
            if received.sums().get(series) == Some(&value) {
                return received;
            }
            assert!(Instant::now() < deadline, "{series} is not {value}: {:#?}", received.sums());
            sleep(POLL).await;
        }
    }
}

impl Received {
    /// Series as `name|type`, and `|#tags` if there are any: sums of counters, number of times, last value of
    /// gauges.
    pub(crate) fn sums(&self) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for line in &self.lines {
            let (name, rest) = line.split_once(':').expect("name:value");
            let (tags, parts): (Vec<_>, Vec<_>) = rest.split('|').partition(|part| part.starts_with('#'));
            let value: f64 = parts[0].parse().expect("a number");
            let rate = parts.get(2).map_or(1.0, |rate| rate.trim_start_matches('@').parse().expect("a rate"));
            let tags = tags.first().map(|tags| format!("|{tags}")).unwrap_or_default();
            let sum = sums.entry(format!("{name}|{}{tags}", parts[1])).or_default();
            match parts[1] {
                "c" => *sum += value / rate,
                "ms" => *sum += (1.0_f64 / rate).round(),
                "g" => *sum = value,
                other => panic!("{other} in {line}"),
            }
        }
        sums
    }
}

async fn take_lines(stream: TcpStream, sink: Arc<Mutex<Received>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        sink.lock().expect("no panic").lines.push(line);
    }
}
