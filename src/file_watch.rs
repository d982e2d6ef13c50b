//! Kernel notifications of changes in directories.
//!
//! They make reloads prompt, but are not reliable: network file systems send none, and kernels have limits.
//! Users of this module poll as well.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Upper bound on the symbolic links that [`name_path_of`] follows; Linux has the same.
const LINKS_MAX: usize = 40;

/// Watched directories.
pub struct Watches {
    /// `None` if the kernel provides none.
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    /// The files, for the log.
    what: &'static str,
    has_warned: bool,
}

impl Watches {
    /// Watches that notify `wake` of changes. `what` names the files in the log: "rule files".
    pub fn new(what: &'static str, wake: Arc<Notify>) -> Self {
        let on_event = move |event: notify::Result<Event>| {
            // An error means that changes were lost.
            if event.is_ok_and(|event| !is_change(event.kind)) {
                return;
            }
            wake.notify_one();
        };
        let mut watches = Self { watcher: None, watched: HashSet::new(), what, has_warned: false };
        match notify::recommended_watcher(on_event) {
            Ok(watcher) => watches.watcher = Some(watcher),
            Err(error) => watches.warn_once(&error),
        }
        watches
    }

    /// Calls `look` and from then on watches exactly the directories that it names. A directory must be named
    /// before it is read, so that no change is missed.
    pub fn during<T>(&mut self, look: impl FnOnce(&mut dyn FnMut(&Path)) -> T) -> T {
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
            tracing::warn!(%error, files = self.what, "files cannot be watched, polling them");
        }
    }
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watches").field("watched", &self.watched).finish_non_exhaustive()
    }
}

/// Names every directory in which a change may give the file at `path` another content: its own, and those of
/// the symbolic links on the way to it. Kubernetes swaps one of these links to replace a mounted Secret.
pub fn name_path_of(path: &Path, mut name: impl FnMut(&Path)) {
    let Ok(mut path) = std::path::absolute(path) else { return };
    for _ in 0..LINKS_MAX {
        for part in path.ancestors().filter(|part| part.is_symlink()) {
            part.parent().map(&mut name);
        }
        path.ancestors().skip(1).find(|part| part.is_dir()).map(&mut name);
        let Ok(target) = fs::read_link(&path) else { return };
        let Some(dir) = path.parent() else { return };
        path = dir.join(target);
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
