//! Layers: sides of a request that limits protect by themselves, each under a name of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// A layer of one domain, and how many requests it denied. Kept over reloads.
#[derive(Debug)]
pub struct Layer {
    name: Box<str>,
    denied: CachePadded<AtomicU64>,
}

impl Layer {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), denied: CachePadded::default() }
    }

    /// Its name: `user`, `ip`, `endpoint`, or any other.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a request that it denied.
    pub fn add_denied(&self) {
        self.denied.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that it denied, since it was first loaded.
    pub fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }
}
