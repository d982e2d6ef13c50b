//! Layers: named aspects of a request, such as `user` or `ip`, that limits protect separately.

use crate::engine::per_core::CoreCount;

/// Layer of a domain and the number of requests that it denied. Kept over reloads.
#[derive(Debug)]
pub struct Layer {
    name: Box<str>,
    denied: CoreCount,
}

impl Layer {
    /// Upper bound on the characters of a name, which are printable ASCII.
    pub const MAX_NAME_BYTES: usize = 64;

    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), denied: CoreCount::new() }
    }

    /// Name: `user`, `ip`, `endpoint` or any other.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a denied request.
    pub fn add_denied(&self) {
        self.denied.add(1);
    }

    /// Denied requests since the layer was first loaded.
    pub fn denied(&self) -> u64 {
        self.denied.get()
    }
}
