//! Exporters that send metrics by themselves.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::settings::Settings;
use crate::supervisor::{Supervisor, Task};
use crate::telemetry::collector::Connector;
use crate::telemetry::metrics::{Metrics, otlp, statsd};

/// Upper bound on sending the last metrics at exit. Shorter than the grace that is left after a full drain in
/// Kubernetes.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Running exporters.
pub(super) struct Exporters {
    stop: CancellationToken,
    tasks: Vec<Task>,
}

impl Exporters {
    /// Starts those that `settings` ask for, in the current runtime. `collector` connects to that of metrics.
    pub(super) fn start(
        settings: &Settings,
        collector: Connector,
        metrics: &Arc<Metrics>,
        clock: &Arc<dyn Clock>,
        supervisor: &Supervisor,
    ) -> Self {
        let stop = CancellationToken::new();
        let statsd = settings.statsd.clone().map(|settings| {
            let exporter = statsd::run(settings, Arc::clone(metrics), stop.clone());
            supervisor.spawn("statsd exporter", exporter)
        });
        let otlp = settings.otlp.clone().map(|settings| {
            let exporter =
                otlp::run(settings, collector, Arc::clone(metrics), Arc::clone(clock), stop.clone());
            supervisor.spawn("OTLP metrics exporter", exporter)
        });
        Self { stop, tasks: statsd.into_iter().chain(otlp).collect() }
    }

    /// Sends the counts since the last export.
    pub(super) async fn finish(self) {
        self.stop.cancel();
        let ended = join_all(self.tasks.into_iter().map(Task::ended));
        if timeout(FLUSH_TIMEOUT, ended).await.is_err() {
            tracing::warn!("the last metrics were not sent in time");
        }
    }
}
