//! Rules from files, watched.
//!
//! The kernel tells of changes; a look at every file from time to time finds what it does not tell. What
//! counts is the content: where that is as it was, nothing is loaded.
//!
//! A file that is wrong by itself goes on with the last text of it that was good, so one mistake holds up
//! nobody else's changes. Files that are wrong only together (two of one domain) change nothing at
//! all. While a *new* file is wrong, files that went away stay in force, since it may be one of them under
//! a new name. At start there is no last good text: the good files serve, and the error is told; without
//! any good file there are no rules.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::sources::{Sources, read_watched};
use super::watches::Watches;
use super::{Handle, Status};
use crate::clock::Clock;
use crate::engine::rules::{CompileOptions, RuleError, RuleErrors, Rules, SourceFile, compile};

/// Changes come in bursts, and one load serves them all: it begins when nothing has changed for so long.
const QUIET: Duration = Duration::from_millis(100);
/// It begins after so long even where changes do not end.
const UNQUIET_MAX: Duration = Duration::from_secs(1);

/// What rules are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Requests are decided by them.
    Live,
    /// They are compared with those that requests are decided by.
    Candidate,
}

/// Where rules are, and how they are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// A directory of files, or a file.
    pub path: PathBuf,
    /// What for, which the log tells.
    pub role: Role,
    /// How files are put together.
    pub compile: CompileOptions,
    /// How often to look at the files even where nothing was told of a change. More than zero.
    pub poll_interval: Duration,
}

/// Keeps the rules in force as the files say.
pub struct FileProvider {
    loader: Loader,
    wake: Arc<Notify>,
    poll_interval: Duration,
}

impl FileProvider {
    /// Loads the rules for the first time, blocking the thread while it reads, and puts them into
    /// `rules`. What came of it is in the handle's status, as it is for every later load; `on_load` is
    /// told too.
    pub fn load(
        settings: FileSettings,
        rules: Arc<ArcSwapOption<Rules>>,
        clock: Arc<dyn Clock>,
        on_load: impl Fn(&Status) + Send + 'static,
    ) -> (Self, Handle) {
        let wake = Arc::new(Notify::new());
        let (status, seen) = watch::channel(Status::default());
        let FileSettings { path, role, compile: options, poll_interval } = settings;
        let mut loader = Loader {
            path,
            role,
            options,
            rules,
            clock,
            status,
            on_load: Box::new(on_load),
            watches: Watches::new(Arc::clone(&wake)),
            in_force: Vec::new(),
            digest: None,
        };
        loader.load();
        let handle = Handle { status: seen, wake: Arc::clone(&wake) };
        (Self { loader, wake, poll_interval }, handle)
    }

    /// Loads the rules whenever the files change or [`Handle::reload`] asks for it. Runs until it is
    /// dropped, or the runtime ends.
    pub async fn run(self) {
        let Self { mut loader, wake, poll_interval } = self;
        loop {
            tokio::select! {
                () = wake.notified() => settle(&wake).await,
                () = sleep(poll_interval) => (),
            }
            let loading = tokio::task::spawn_blocking(move || {
                loader.load();
                loader
            });
            match loading.await {
                Ok(again) => loader = again,
                Err(error) => return tracing::error!(%error, "rules are not read any more"),
            }
        }
    }
}

/// Waits until changes pause.
async fn settle(wake: &Notify) {
    let quiet = async { while timeout(QUIET, wake.notified()).await.is_ok() {} };
    // Either way it is time to load.
    timeout(UNQUIET_MAX, quiet).await.ok();
}

struct Loader {
    path: PathBuf,
    role: Role,
    options: CompileOptions,
    rules: Arc<ArcSwapOption<Rules>>,
    clock: Arc<dyn Clock>,
    status: watch::Sender<Status>,
    on_load: Box<dyn Fn(&Status) + Send>,
    watches: Watches,
    /// The text of the rules in force, in the order of the files' names.
    in_force: Vec<SourceFile>,
    /// Of what was found last.
    digest: Option<u64>,
}

impl Loader {
    /// Reads the files and, where they are not as they were, puts what is good of them in force.
    fn load(&mut self) {
        let sources = self.watches.during(|watch| read_watched(&self.path, watch));
        let digest = digest(&sources);
        if self.digest.replace(digest) == Some(digest) {
            return tracing::debug!("rule files are as they were");
        }
        let previous = self.rules.load_full();
        let update = update(sources, &self.in_force, self.options, previous.as_deref());
        let error = (!update.errors.0.is_empty()).then(|| update.errors.to_string());
        let mut status = Status { error, ..self.status.borrow().clone() };
        if let Some((files, rules)) = update.good {
            for warning in &rules.warnings {
                match self.role {
                    Role::Live => tracing::warn!(%warning, "a rule may not mean what it says"),
                    Role::Candidate => tracing::warn!(%warning, "a candidate rule may not mean what it says"),
                }
            }
            status.domains = rules.domains().count();
            status.rules = rules.len();
            status.loaded_at = Some(self.clock.now());
            self.rules.store(Some(Arc::new(rules)));
            self.in_force = files;
        }
        tell(self.role, &status, update.errors.0.len());
        (self.on_load)(&status);
        self.status.send_replace(status);
    }
}

fn tell(role: Role, status: &Status, mistakes: usize) {
    let Status { domains, rules, .. } = *status;
    match (&status.error, role) {
        (None, Role::Live) => tracing::info!(domains, rules, "rules are in force"),
        (None, Role::Candidate) => {
            tracing::info!(domains, rules, "candidate rules are compared with those in force");
        }
        (Some(error), Role::Live) => tracing::error!(
            domains,
            rules,
            mistakes,
            %error,
            "not all rules as written can be used; in place of the others the last good ones are in force"
        ),
        (Some(error), Role::Candidate) => tracing::error!(
            domains,
            rules,
            mistakes,
            %error,
            "not all candidate rules as written can be used; in place of the others the last good ones are \
             compared. What is in force is not touched by this"
        ),
    }
}

/// What is to change.
struct Update {
    /// Rules to put in force, and their text; `None` where those in force stay.
    good: Option<(Vec<SourceFile>, Rules)>,
    /// Everything wrong with the rules as they are written now.
    errors: RuleErrors,
}

fn update(
    sources: Sources,
    in_force: &[SourceFile],
    options: CompileOptions,
    previous: Option<&Rules>,
) -> Update {
    let Sources { files, unread } = sources;
    if unread.is_empty()
        && let Ok(rules) = compile(&files, options, previous)
    {
        return Update { good: Some((files, rules)), errors: RuleErrors::default() };
    }
    let (files, mut errors) = with_last_good(files, unread, in_force, options);
    if files.is_empty() || files == in_force {
        return Update { good: None, errors: RuleErrors(errors) };
    }
    match compile(&files, options, previous) {
        Ok(rules) => Update { good: Some((files, rules)), errors: RuleErrors(errors) },
        Err(together) => {
            errors.extend(together.0);
            Update { good: None, errors: RuleErrors(errors) }
        }
    }
}

/// The files to use in place of those that were found, some of which are wrong, and what is wrong with
/// each one by itself.
fn with_last_good(
    found: Vec<SourceFile>,
    unread: Vec<RuleError>,
    in_force: &[SourceFile],
    options: CompileOptions,
) -> (Vec<SourceFile>, Vec<RuleError>) {
    let mut errors = unread;
    let mut files = Vec::with_capacity(found.len());
    for file in found {
        match compile(std::slice::from_ref(&file), options, None) {
            Ok(_) => files.push(file),
            Err(mistakes) => errors.extend(mistakes.0),
        }
    }
    let good: HashSet<_> = files.iter().map(|file| file.name.clone()).collect();
    let wrong: HashSet<_> = errors.iter().map(|error| &*error.file).collect();
    let known: HashSet<_> = in_force.iter().map(|file| &*file.name).collect();
    let is_new_one_wrong = !wrong.is_subset(&known);
    let is_kept = |name: &str| !good.contains(name) && (is_new_one_wrong || wrong.contains(name));
    files.extend(in_force.iter().filter(|file| is_kept(&file.name)).cloned());
    files.sort_by(|a, b| a.name.cmp(&b.name));
    (files, errors)
}

fn digest(Sources { files, unread }: &Sources) -> u64 {
    let mut hasher = DefaultHasher::new();
    for SourceFile { name, text } in files {
        (name, text).hash(&mut hasher);
    }
    for RuleError { file, message, .. } in unread {
        (file, message).hash(&mut hasher);
    }
    hasher.finish()
}
