//! Has the kernel tell when something changes in a set of directories.
//!
//! This makes reloads prompt, not certain: file systems over a network tell nothing, and kernels have
//! limits. Who uses it looks again from time to time all the same.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Watched directories.
pub(super) struct Watches {
    /// `None` where the kernel gives none.
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    has_warned: bool,
}

impl Watches {
    /// Notifies `wake` of changes in the directories to come.
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

    /// Watches what `look` names and nothing else from now on. A directory is named before it is looked
    /// into, so that no change falls between.
    pub(super) fn during<T>(&mut self, look: impl FnOnce(&mut dyn FnMut(&Path)) -> T) -> T {
        let mut named = HashSet::new();
        let found = look(&mut |dir| {
            // Again even where it is watched: another directory may have taken the name.
            self.watch(dir);
            named.insert(dir.to_owned());
        });
        for gone in self.watched.difference(&named) {
            // It fails where the directory is gone too, and its watch with it.
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
            tracing::warn!(%error, "rule files cannot be watched; they are looked at from time to time");
        }
    }
}

/// Opening and reading are events too, and reading rules must not be a reason to read them.
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
