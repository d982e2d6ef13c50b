//! statsd and DogStatsD: at each interval, what was counted since the last one.
//!
//! Counters are sent as differences, gauges as they are, and histograms as one value for each bucket that
//! grew, at the sample rate that stands for their number: a line for each call, as envoyproxy/ratelimit sends,
//! would cost more than the call. Differences that could not be sent are part of the next interval.

mod connection;
mod lines;
mod mogrifier;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::connection::Connection;
use self::lines::Lines;
use super::Metrics;

pub use self::mogrifier::{Mogrifier, MogrifierError};

/// Settings of the statsd exporter.
#[derive(Clone, Debug)]
pub struct StatsdSettings {
    /// Host of the server, resolved anew for each connection.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Transport.
    pub transport: StatsdTransport,
    /// Form of a line.
    pub dialect: StatsdDialect,
    /// Time between two flushes, above zero.
    pub flush_interval: Duration,
}

/// Transport of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsdTransport {
    /// One connection.
    Tcp,
    /// Datagrams of many lines each.
    Udp,
}

/// Form of a line.
#[derive(Clone, Debug)]
pub enum StatsdDialect {
    /// Tags are a part of the name: `name.__tag=value:1|c`.
    Statsd,
    /// Tags follow: `name:1|c|#tag:value`. The first mogrifier that matches a name changes it.
    DogStatsd(Vec<Mogrifier>),
}

/// Sends metrics until `stop` is cancelled, then the remaining ones.
pub async fn run(settings: StatsdSettings, metrics: Arc<Metrics>, stop: CancellationToken) {
    let StatsdSettings { host, port, transport, dialect, flush_interval } = settings;
    let mut connection = Connection::new(host, port, transport);
    let mut lines = Lines::new(dialect);
    let mut turn = interval(flush_interval);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once: counts since the start are sent as soon as there are any.
    loop {
        let is_last = tokio::select! {
            _ = turn.tick() => false,
            () = stop.cancelled() => true,
        };
        if connection.is_ready().await {
            let snapshot = metrics.snapshot();
            connection.send(&lines.since_last(&snapshot)).await;
        }
        if is_last {
            return;
        }
    }
}
