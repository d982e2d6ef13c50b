//! What the operator can see: logs, traces and metrics.

pub mod metrics;
