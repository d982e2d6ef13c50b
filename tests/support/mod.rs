//! What tests start and stop.

pub(crate) mod collector;
pub(crate) mod redis;
