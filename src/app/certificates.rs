//! The certificates and keys of the process: reloaded, and shown in metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Clock;
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::{Metrics, definitions as defined};
use crate::tls::Reloader;

/// A reloader without files.
pub(super) fn reloader(clock: &Arc<dyn Clock>) -> Arc<Reloader> {
    let clock = Arc::clone(clock);
    Reloader::new(move || clock.now())
}

/// Reloads the files of `certificates` for as long as the service runs, and shows their state. Does nothing if no
/// client or listener uses TLS.
pub(super) fn supervise(certificates: Arc<Reloader>, supervisor: &Supervisor, metrics: &Metrics) {
    if certificates.is_empty() {
        return;
    }
    let shown = Arc::clone(&certificates);
    metrics.register(move |snapshot| {
        // Two connections with the same files have one series.
        let mut expiries = BTreeMap::new();
        for status in shown.statuses() {
            let user = [status.user];
            snapshot.add(&defined::TLS_RELOADS, user, status.reloads);
            snapshot.add(&defined::TLS_RELOAD_FAILURES, user, status.failures);
            snapshot.add(&defined::TLS_STALE_FILES, user, !status.last_reload_successful);
            if status.is_listener {
                snapshot.add(&defined::TLS_HANDSHAKE_FAILURES, user, status.handshake_failures);
            }
            for certificate in status.certificates {
                expiries.insert((status.user, certificate.path), certificate.not_after);
            }
        }
        for ((user, path), not_after) in expiries {
            let labels = [user, &*path.to_string_lossy()];
            snapshot.add(&defined::TLS_CERTIFICATE_EXPIRY, labels, not_after.as_secs());
        }
    });
    supervisor.spawn("certificate reloader", async move {
        let Err(error) = certificates.run().await;
        tracing::error!(%error, "certificate reloader ended");
    });
}
