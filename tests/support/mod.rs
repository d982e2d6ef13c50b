//! What tests start and stop.

pub(crate) mod redis;
