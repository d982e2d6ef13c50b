//! Metrics of leases, by the names of their rules.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::engine::Rules;
use crate::store::redis::{LeaseFigures, Leases};
use crate::telemetry::metrics::{Metrics, definitions as defined};

/// Reports the figures of every leased rule in force to each snapshot of `metrics`.
pub(super) fn register(leases: Arc<Leases>, rules: Arc<ArcSwapOption<Rules>>, metrics: &Metrics) {
    metrics.register(move |snapshot| {
        let rules = rules.load();
        for (id, domain, rule) in rules.iter().flat_map(|rules| rules.leased()) {
            let LeaseFigures { credits, asks, granted, spent, returned, stranded } = leases.figures(id);
            let labels = [domain, rule];
            snapshot.add(&defined::LEASE_CREDITS, labels, credits);
            snapshot.add(&defined::LEASE_ASKS, labels, asks);
            snapshot.add(&defined::LEASE_GRANTED, labels, granted);
            snapshot.add(&defined::LEASE_SPENDS, labels, spent);
            snapshot.add(&defined::LEASE_RETURNED, labels, returned);
            snapshot.add(&defined::LEASE_STRANDED, labels, stranded);
        }
    });
}
