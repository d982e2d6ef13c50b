//! Publication of rules: compiles the sources that providers find, keeps the last good version of those with
//! errors, swaps the rules in force as a whole, and reports the outcome.
//!
//! A source that has errors by itself keeps its last good version, so one error delays no other change. Files
//! that have errors only together (two of one domain) change nothing at all. A resource of a management server
//! gives way to a file, and to a resource whose name comes before its own. While a *new* file has errors, files
//! that are gone stay in force, since one of them may have been renamed.
//!
//! Rules of files that vanish are an error unless `descriptors: []` says so: a half-written file is valid YAML,
//! and an unmounted directory is an empty one. One of several files that is removed takes its rules with it. A
//! management server that sends no rules means it.
//!
//! At start there is no last good version: the good sources serve, and without any rule there are none in
//! force, which health reports as not ready.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::origin::{self, FoundSources, Origin, Source};
use super::{Role, Status};
use crate::clock::Clock;
use crate::engine::rules::{
    CompileOptions, RuleError, RuleErrors, RuleSource as _, Rules, SourceSummary, compile,
};

/// Errors that a log line shows. `tollgate check` shows more.
const LOGGED_ERRORS: usize = 10;
/// Warnings that a load logs.
const LOGGED_WARNINGS: usize = 20;
/// Attempts at a set without sources that conflict with others. A source gives way to its last good version,
/// and then altogether.
const COMPILE_ATTEMPTS: usize = 8;

/// Callback for every load.
pub type OnLoad = Box<dyn Fn(&Status) + Send>;

/// Use and compilation of rules.
#[derive(Clone, Debug)]
pub struct PublishSettings {
    /// Use of the rules, for the log.
    pub role: Role,
    /// Options of the compiler.
    pub compile: CompileOptions,
    /// Origins of the rules.
    pub origins: Vec<Origin>,
}

/// Keeps rules in force. Clones publish into the same rules.
#[derive(Clone)]
pub struct Publisher {
    state: Arc<Mutex<State>>,
    status: watch::Receiver<Status>,
}

struct State {
    settings: PublishSettings,
    rules: Arc<ArcSwapOption<Rules>>,
    clock: Arc<dyn Clock>,
    status: watch::Sender<Status>,
    on_load: OnLoad,
    files: Option<FoundSources>,
    resources: Option<FoundSources>,
    /// Sources of the rules in force, in the order of [`Rules::sources`].
    in_force: Vec<Source>,
}

/// Result of compiling sources.
struct Update {
    /// Rules to put in force and their sources; `None` keeps those in force.
    good: Option<(Vec<Source>, Rules)>,
    errors: RuleErrors,
}

impl Publisher {
    /// Publisher into `rules`.
    pub fn new(
        settings: PublishSettings,
        rules: Arc<ArcSwapOption<Rules>>,
        clock: Arc<dyn Clock>,
        on_load: OnLoad,
    ) -> Self {
        let (status, receiver) = watch::channel(Status { is_partial: true, ..Status::default() });
        let (files, resources, in_force) = (None, None, Vec::new());
        let state = State { settings, rules, clock, status, on_load, files, resources, in_force };
        Self { state: Arc::new(Mutex::new(state)), status: receiver }
    }

    /// Status after every load.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Puts the good part of `found` in force, beside the latest sources of the other origin. Blocks the thread
    /// while it compiles. Returns the errors of both origins.
    pub fn publish(&self, origin: Origin, found: FoundSources) -> RuleErrors {
        let mut state = self.state.lock();
        match origin {
            Origin::Files => state.files = Some(found),
            Origin::Xds => state.resources = Some(found),
        }
        state.publish()
    }

    /// Sources of the rules in force that come from `origin`.
    pub fn in_force(&self, origin: Origin) -> Vec<Source> {
        self.state.lock().of_origin(origin).cloned().collect()
    }
}

impl State {
    fn publish(&mut self) -> RuleErrors {
        let previous = self.rules.load_full();
        let update = self.update(previous.as_deref());
        let before = self.status.borrow().clone();
        let error = (!update.errors.is_empty()).then(|| Arc::new(update.errors.clone()));
        let is_partial = self.settings.origins.iter().any(|origin| self.found(*origin).is_none());
        let mut status = Status { error, is_partial, ..before };
        if let Some((sources, mut rules)) = update.good {
            rules.is_partial = is_partial;
            warn(self.settings.role, &rules.warnings);
            status.domains = rules.domains().count();
            status.rules = rules.len();
            status.loaded_at = Some(self.clock.now());
            status.rules_hash = origin::hash(&sources);
            self.rules.store(Some(Arc::new(rules)));
            self.in_force = sources;
        }
        log(self.settings.role, &before, &status);
        (self.on_load)(&status);
        self.status.send_replace(status);
        update.errors
    }

    const fn found(&self, origin: Origin) -> Option<&FoundSources> {
        match origin {
            Origin::Files => self.files.as_ref(),
            Origin::Xds => self.resources.as_ref(),
        }
    }

    fn of_origin(&self, origin: Origin) -> impl Iterator<Item = &Source> {
        self.in_force.iter().filter(move |source| source.origin() == origin)
    }

    fn update(&self, previous: Option<&Rules>) -> Update {
        let found: Vec<&FoundSources> = self.files.iter().chain(&self.resources).collect();
        let sources: Vec<Source> = found.iter().flat_map(|found| found.sources.iter().cloned()).collect();
        if found.iter().all(|found| found.unreadable.is_empty())
            && let Ok(rules) = compile(&sources, self.settings.compile, previous)
            && vanished(&rules.sources, previous).is_none()
            && self.without_rules(&files_of(&sources, &rules.sources), previous).is_none()
        {
            return Update { good: Some((sources, rules)), errors: RuleErrors::default() };
        }
        let mut errors = RuleErrors::default();
        let mut sources = Vec::with_capacity(sources.len());
        for origin in [Origin::Files, Origin::Xds] {
            if let Some(found) = self.found(origin) {
                sources.extend(self.with_last_good(origin, found, previous, &mut errors));
            }
        }
        // An origin whose first sources all have errors has no last good version to fall back to.
        let is_unloaded = previous.is_none() && sources.is_empty() && !errors.is_empty();
        if is_unloaded || (previous.is_some() && sources == self.in_force) {
            return Update { good: None, errors };
        }
        let good = self.compile_together(sources, previous, &mut errors);
        Update { good: good.filter(|(sources, _)| *sources != self.in_force || previous.is_none()), errors }
    }

    /// Sources of `origin` to use in place of those that were found, some of which have errors. Adds the errors
    /// of each by itself.
    fn with_last_good(
        &self,
        origin: Origin,
        found: &FoundSources,
        previous: Option<&Rules>,
        errors: &mut RuleErrors,
    ) -> Vec<Source> {
        let mut faulty: HashSet<&str> = found.unreadable.iter().map(|error| error.source.as_str()).collect();
        found.unreadable.iter().for_each(|error| errors.push(error.clone()));
        let mut sources = Vec::with_capacity(found.sources.len());
        let mut summaries = Vec::with_capacity(found.sources.len());
        for source in &found.sources {
            let compiled = compile(std::slice::from_ref(source), self.settings.compile, None);
            let outcome = compiled.and_then(|rules| match vanished(&rules.sources, previous) {
                Some(error) => Err(error.into()),
                None => Ok(rules.sources),
            });
            match outcome {
                Ok(summary) => {
                    summaries.extend(summary);
                    sources.push(source.clone());
                }
                Err(found) => {
                    faulty.insert(source.name());
                    errors.extend(found);
                }
            }
        }
        let known: HashSet<_> = self.of_origin(origin).map(Source::name).collect();
        let may_be_renamed = match origin {
            Origin::Files => !faulty.is_subset(&known),
            Origin::Xds => found.has_nameless,
        };
        let good: HashSet<_> = sources.iter().map(|source| source.name().to_owned()).collect();
        let is_kept = |name: &str| !good.contains(name) && (may_be_renamed || faulty.contains(name));
        let before = previous.map_or(&[][..], |previous| &previous.sources);
        for (source, summary) in self.in_force.iter().zip(before) {
            if source.origin() == origin && is_kept(source.name()) {
                sources.push(source.clone());
                summaries.push(summary.clone());
            }
        }
        if origin == Origin::Files
            && let Some(error) = self.without_rules(&summaries, previous)
        {
            errors.push(error);
            return self.of_origin(origin).cloned().collect();
        }
        sources.sort_by(|a, b| a.name().cmp(b.name()));
        sources
    }

    /// Compiles sources of which each is good by itself. Files that conflict with each other are replaced by
    /// those in force; a resource that conflicts by its last good version, or left out. Adds the errors.
    fn compile_together(
        &self,
        mut sources: Vec<Source>,
        previous: Option<&Rules>,
        errors: &mut RuleErrors,
    ) -> Option<(Vec<Source>, Rules)> {
        for _ in 0..COMPILE_ATTEMPTS {
            let together = match compile(&sources, self.settings.compile, previous) {
                Ok(rules) => return Some((sources, rules)),
                Err(together) => together,
            };
            let names: HashSet<&str> = together.sources().collect();
            let is_wrong = |source: &Source| names.contains(source.name());
            let files_are_wrong =
                sources.iter().any(|source| source.origin() == Origin::Files && is_wrong(source));
            let mut next: Vec<Source> = Vec::with_capacity(sources.len());
            if files_are_wrong {
                next.extend(self.of_origin(Origin::Files).cloned());
            }
            for source in &sources {
                match source.origin() {
                    Origin::Files if files_are_wrong => {}
                    Origin::Xds if is_wrong(source) => next.extend(self.other_version(source)),
                    Origin::Files | Origin::Xds => next.push(source.clone()),
                }
            }
            errors.extend(together);
            if next == sources || next.is_empty() {
                return None;
            }
            sources = next;
        }
        None
    }

    /// The version of `source` that is in force, if that is another one.
    fn other_version(&self, source: &Source) -> Option<Source> {
        let known = self.of_origin(source.origin()).find(|known| known.name() == source.name())?;
        (known != source).then(|| known.clone())
    }

    /// Error of files without any rule, unless every one of them says `descriptors: []`.
    fn without_rules(&self, files: &[SourceSummary], previous: Option<&Rules>) -> Option<RuleError> {
        let place = &self.files.as_ref()?.place;
        let is_intended = !files.is_empty() && files.iter().all(|file| file.says_none);
        if written(files) > 0 || is_intended {
            return None;
        }
        let before = previous.map_or_else(Vec::new, |rules| files_of(&self.in_force, &rules.sources));
        let message = match written(&before) {
            0 => "there are no rules: write at least one, or 'descriptors: []' if that is what you want",
            _ => {
                "every rule is gone, and the last good ones stay in force: write 'descriptors: []' if that is \
                 what you want"
            }
        };
        Some(RuleError::of_source(place, message))
    }
}

/// Summaries of those of `sources` that are files.
fn files_of(sources: &[Source], summaries: &[SourceSummary]) -> Vec<SourceSummary> {
    let pairs = sources.iter().zip(summaries).filter(|(source, _)| source.origin() == Origin::Files);
    pairs.map(|(_, summary)| summary.clone()).collect()
}

fn written(sources: &[SourceSummary]) -> usize {
    sources.iter().map(|source| source.rules).sum()
}

/// Error of a source that had rules and has none, without saying so.
fn vanished(now: &[SourceSummary], previous: Option<&Rules>) -> Option<RuleError> {
    let had_rules = |name: &str| {
        let before = previous.into_iter().flat_map(|previous| &previous.sources);
        before.filter(|before| &*before.name == name).any(|before| before.rules > 0)
    };
    let lost = now.iter().find(|now| now.rules == 0 && !now.says_none && had_rules(&now.name))?;
    let message = "every rule of this file is gone, and its last good version stays in force: write \
                   'descriptors: []' if that is what you want";
    Some(RuleError::of_source(&lost.name, message))
}

fn warn(role: Role, warnings: &RuleErrors) {
    let role = role.name();
    for warning in warnings.reported.iter().take(LOGGED_WARNINGS) {
        tracing::warn!(role, %warning, "rules probably have a mistake");
    }
    let unlogged = warnings.count().saturating_sub(LOGGED_WARNINGS);
    if unlogged > 0 {
        tracing::warn!(role, unlogged, "rules probably have further mistakes");
    }
}

/// Logs the outcome of a load. Changes of state are visible at the default level, both ways.
fn log(role: Role, before: &Status, status: &Status) {
    let Status { domains, rules, .. } = *status;
    let role = role.name();
    match &status.error {
        Some(errors) => {
            let (count, error) = (errors.count(), errors.first(LOGGED_ERRORS));
            tracing::error!(
                role,
                domains,
                rules,
                errors = count,
                %error,
                "rules have errors; keeping the last good version of the affected sources"
            );
        }
        None if before.error.is_some() => {
            tracing::warn!(role, domains, rules, "rules are valid again; rules in force");
        }
        None => tracing::info!(role, domains, rules, "rules in force"),
    }
    if status.error.is_none() && rules == 0 && (before.rules > 0 || before.loaded_at.is_none()) {
        tracing::warn!(role, domains, "no rules in force; every request passes");
    }
}
