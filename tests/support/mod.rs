//! What tests start and stop.

pub(crate) mod collector;
pub(crate) mod envoy;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod tollgate;
