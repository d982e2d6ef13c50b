//! tollgate, a rate-limit service for Envoy.

pub mod cli;
pub mod clock;
pub mod engine;
pub mod limiter;
pub mod pb;
pub mod provider;
pub mod settings;
pub mod store;
pub mod telemetry;
