//! Rules from files, watched.
//!
//! The kernel reports changes; polling finds what it does not report, as on network file systems. The content
//! decides: files with the content of the last load are not loaded again.

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Role;
use super::origin::{FoundSources, Origin, Source};
use super::publish::Publisher;
use super::sources::{Sources, read_watched};
use crate::engine::rules::{CompileOptions, RuleError, SourceFile};
use crate::file_watch::Watches;

/// Time without a change after which a load begins: changes come in bursts, and one load serves them all.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Longest time that a load waits for changes to pause.
const DEBOUNCE_MAX: Duration = Duration::from_secs(1);

/// Location of rule files and how they are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// Directory of rule files, or one file.
    pub path: PathBuf,
    /// Use of the rules, for the log.
    pub role: Role,
    /// Options of the compiler.
    pub compile: CompileOptions,
    /// Interval of polling. More than zero.
    pub poll_interval: Duration,
}

/// Failure that ends the reloading of rules.
#[derive(Debug, thiserror::Error)]
#[error("loading rules from {path} failed: {reason}", path = .path.display())]
pub struct FileProviderError {
    path: PathBuf,
    reason: tokio::task::JoinError,
}

/// Keeps the rules in force up to date with their files.
pub struct FileProvider {
    loader: Loader,
    wake: Arc<Notify>,
    poll_interval: Duration,
}

impl FileProvider {
    /// Loads the rules for the first time, blocking the thread while it reads. A notification of `wake` has them
    /// loaded again, unless the files are unchanged.
    pub fn load(settings: &FileSettings, publisher: Publisher, wake: Arc<Notify>) -> Self {
        let FileSettings { path, poll_interval, .. } = settings.clone();
        let watches = Watches::new("rule files", Arc::clone(&wake));
        let mut loader = Loader { path, publisher, watches, digest: None, ignored: HashSet::new() };
        loader.load();
        Self { loader, wake, poll_interval }
    }

    /// Loads the rules whenever the files change or `wake` is notified.
    ///
    /// # Errors
    /// Never returns unless a load panics; the rules in force stay as they are then.
    pub async fn run(self) -> Result<Infallible, FileProviderError> {
        let Self { mut loader, wake, poll_interval } = self;
        loop {
            tokio::select! {
                () = wake.notified() => debounce(&wake).await,
                () = sleep(poll_interval) => (),
            }
            let path = loader.path.clone();
            let loading = tokio::task::spawn_blocking(move || {
                loader.load();
                loader
            });
            loader = loading.await.map_err(|reason| FileProviderError { path, reason })?;
        }
    }
}

/// Waits until changes pause.
async fn debounce(wake: &Notify) {
    let quiet = async { while timeout(DEBOUNCE, wake.notified()).await.is_ok() {} };
    // Either way it is time to load.
    timeout(DEBOUNCE_MAX, quiet).await.ok();
}

struct Loader {
    path: PathBuf,
    publisher: Publisher,
    watches: Watches,
    /// Hash of the last files.
    digest: Option<u64>,
    /// Files that are not rule files and have been logged.
    ignored: HashSet<PathBuf>,
}

impl Loader {
    /// Reads the files and publishes them, unless they are unchanged.
    fn load(&mut self) {
        let Sources { files, unreadable, ignored } =
            self.watches.during(|watch| read_watched(&self.path, watch));
        for path in &ignored {
            if !self.ignored.contains(path) {
                tracing::debug!(path = %path.display(), "not a rule file; rule files end in .yaml or .yml");
            }
        }
        self.ignored = ignored.into_iter().collect();
        let digest = digest(&files, &unreadable);
        if self.digest.replace(digest) == Some(digest) {
            return tracing::debug!("rule files are unchanged");
        }
        let found = FoundSources {
            place: self.path.display().to_string(),
            sources: files.into_iter().map(|file| Source::File(Arc::new(file))).collect(),
            unreadable,
            has_nameless: false,
        };
        self.publisher.publish(Origin::Files, found);
    }
}

fn digest(files: &[SourceFile], unreadable: &[RuleError]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for SourceFile { name, text } in files {
        (name, text).hash(&mut hasher);
    }
    for RuleError { source, message, .. } in unreadable {
        (source, message).hash(&mut hasher);
    }
    hasher.finish()
}
