//! Metrics for an OpenTelemetry collector, over OTLP.
//!
//! The OpenTelemetry SDK is not used: its exporters send only values of its own instruments, and tollgate counts once
//! for all exporters.

mod client;
mod encode;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Uri};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use self::client::Client;
use self::encode::Encoder;
use super::Metrics;
use crate::clock::Clock;
use crate::telemetry::collector::Connector;
use crate::telemetry::traces::{Protocol, Service, resource};
use crate::tls::ClientTls;

/// Settings of the OTLP exporter of metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpSettings {
    /// Collector: the whole URL that metrics are posted to, or the server for [`Protocol::Grpc`].
    pub endpoint: Uri,
    /// Protocol of the collector.
    pub protocol: Protocol,
    /// TLS to the collector; `None` for plain text.
    pub tls: Option<ClientTls>,
    /// Headers of each request.
    pub headers: HeaderMap,
    /// Time between two exports, above zero.
    pub interval: Duration,
    /// Upper bound on one export.
    pub timeout: Duration,
    /// Attributes of the service.
    pub service: Service,
}

/// Sends metrics over connections of `connector` at each interval, and a last time once `stop` is cancelled. Values are
/// cumulative, so no value is lost if an export fails.
pub async fn run(
    settings: OtlpSettings,
    connector: Connector,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let encoder = Encoder::new(&resource(&settings.service), clock.now());
    let server = settings.endpoint.authority().map(ToString::to_string).unwrap_or_default();
    let mut turn = interval_at(Instant::now() + settings.interval, settings.interval);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = Client::new(settings, connector);
    let mut is_failing = false;
    loop {
        let is_last = tokio::select! {
            _ = turn.tick() => false,
            () = stop.cancelled() => true,
        };
        let request = encoder.encode(&metrics.snapshot(), clock.now());
        match client.export(request).await {
            Ok(()) if is_failing => {
                is_failing = false;
                tracing::warn!(server, "metrics are exported again");
            }
            Err(error) if !is_failing => {
                is_failing = true;
                tracing::warn!(server, %error, "cannot export metrics");
            }
            Ok(()) | Err(_) => {}
        }
        if is_last {
            return;
        }
    }
}
