//! Kernel notifications of changes in directories.
//!
//! They make reloads prompt, but are not reliable: network file systems send none, and kernels have limits.
//! Users of this module poll as well.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Watched directories.
pub(super) struct Watches {
    /// `None` if the kernel provides none.
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    has_warned: bool,
}

impl Watches {
    /// Watches that notify `wake` of changes.
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        let on_event = move |event: notify::Result<Event>| {
            // An error means that changes were lost.
            if event.is_ok_and(|event| !is_change(event.kind)) {
                return;
            }
            wake.notify_one();
        };
        let mut watches = Self { watcher: None, watched: HashSet::new(), has_warned: false };
        match notify::recommended_watcher(on_event) {
            Ok(watcher) => watches.watcher = Some(watcher),
            Err(error) => watches.warn_once(&error),
        }
        watches
    }

    /// Calls `look` and from then on watches exactly the directories that it names. A directory must be named
    /// before it is read, so that no change is missed.
    pub(super) fn during<T>(&mut self, look: impl FnOnce(&mut dyn FnMut(&Path)) -> T) -> T {
        let mut named = HashSet::new();
        let found = look(&mut |dir| {
            // Watch it again even if it is watched: another directory may have taken its name.
            self.watch(dir);
            named.insert(dir.to_owned());
        });
        for gone in self.watched.difference(&named) {
            // This fails if the directory is gone, and its watch with it.
            self.watcher.as_mut().map(|watcher| watcher.unwatch(gone).ok());
        }
        self.watched = named;
        found
    }

    fn watch(&mut self, dir: &Path) {
        let result = self.watcher.as_mut().map(|watcher| watcher.watch(dir, RecursiveMode::NonRecursive));
        if let Some(Err(error)) = result {
            self.warn_once(&error);
        }
    }

    fn warn_once(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(%error, "rule files cannot be watched; changes are found by polling");
        }
    }
}

/// True if an event is a change. Opening and reading are events too, and a load must not cause another one.
const fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}
