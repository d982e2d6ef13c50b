//! Overrides as decisions see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};

use crate::engine::Overrides;

/// Overrides in force. Without any, a decision pays for one branch.
#[derive(Debug, Default)]
pub struct LiveOverrides {
    any: AtomicBool,
    set: ArcSwap<Overrides>,
}

impl LiveOverrides {
    /// Overrides in force; `None` without any.
    pub fn load(&self) -> Option<Guard<Arc<Overrides>>> {
        self.any.load(Ordering::Acquire).then(|| self.set.load())
    }

    /// Puts `overrides` in force, in place of all others.
    pub fn store(&self, overrides: Overrides) {
        let any = !overrides.is_empty();
        self.set.store(Arc::new(overrides));
        self.any.store(any, Ordering::Release);
    }
}
