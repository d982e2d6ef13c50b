//! The arithmetic of limits: pure functions from a counter's state to its next one.
//!
//! The memory store runs these under its lock; the Redis store says the same in commands and scripts,
//! and `tests/store.rs` holds the two to each other.

pub mod fixed_window;
pub mod group;
