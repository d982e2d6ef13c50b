//! Publication of rules: compiles what a provider finds, keeps the last good version of whatever has errors,
//! swaps the rules in force as a whole, and reports the outcome.
//!
//! A source that has errors by itself keeps its last good version, so one error delays nobody else's changes.
//! Sources that have errors only together (two of one domain) change nothing at all. While a *new* source has
//! errors, sources that went away stay in force, since it may be one of them under a new name.
//!
//! Rules that vanish are an error unless `descriptors: []` says so: a half-written file is valid YAML, and an
//! unmounted directory is an empty one. One of several sources that goes away takes its rules with it.
//!
//! At start there is no last good version: the good sources serve, and without any rule there are none in
//! force, which health reports as not ready.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::{Role, Status};
use crate::clock::Clock;
use crate::engine::rules::{
    CompileOptions, RuleError, RuleErrors, RuleSource, Rules, SourceSummary, compile,
};

/// Errors that a log line shows. `tollgate check` shows more.
const LOGGED_ERRORS: usize = 10;
/// Warnings that a load logs.
const LOGGED_WARNINGS: usize = 20;

/// Sources that a provider found.
#[derive(Clone, Debug)]
pub struct FoundSources<S> {
    /// Sources in the order of their names.
    pub sources: Vec<S>,
    /// Errors of unreadable sources. The name of a directory covers everything in it.
    pub unreadable: Vec<RuleError>,
}

/// Callback for every load.
pub type OnLoad = Box<dyn Fn(&Status) + Send>;

/// Use, origin and compilation of the sources of a publisher.
#[derive(Clone, Debug)]
pub struct PublishSettings {
    /// Use of the rules, for the log.
    pub role: Role,
    /// Place that all sources come from, for errors that concern none of them.
    pub origin: String,
    /// Options of the compiler.
    pub compile: CompileOptions,
}

/// Keeps rules in force.
pub struct Publisher<S> {
    settings: PublishSettings,
    rules: Arc<ArcSwapOption<Rules>>,
    clock: Arc<dyn Clock>,
    status: watch::Sender<Status>,
    on_load: OnLoad,
    /// Sources of the rules in force.
    in_force: Vec<S>,
}

/// Result of compiling sources.
struct Update<S> {
    /// Rules to put in force and their sources; `None` keeps those in force.
    good: Option<(Vec<S>, Rules)>,
    errors: RuleErrors,
}

impl<S: RuleSource + Clone + PartialEq> Publisher<S> {
    /// Publisher into `rules`.
    pub fn new(
        settings: PublishSettings,
        rules: Arc<ArcSwapOption<Rules>>,
        clock: Arc<dyn Clock>,
        on_load: OnLoad,
    ) -> Self {
        let (status, in_force) = (watch::Sender::new(Status::default()), Vec::new());
        Self { settings, rules, clock, status, on_load, in_force }
    }

    /// Status after every load.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Puts the good part of `found` in force.
    pub fn publish(&mut self, found: FoundSources<S>) {
        let previous = self.rules.load_full();
        let update = self.update(found, previous.as_deref());
        let before = self.status.borrow().clone();
        let error = (!update.errors.is_empty()).then(|| Arc::new(update.errors));
        let mut status = Status { error, ..before };
        if let Some((sources, rules)) = update.good {
            warn(self.settings.role, &rules.warnings);
            status.domains = rules.domains().count();
            status.rules = rules.len();
            status.loaded_at = Some(self.clock.now());
            self.rules.store(Some(Arc::new(rules)));
            self.in_force = sources;
        }
        log(self.settings.role, &before, &status);
        (self.on_load)(&status);
        self.status.send_replace(status);
    }

    fn update(
        &self,
        FoundSources { sources, unreadable }: FoundSources<S>,
        previous: Option<&Rules>,
    ) -> Update<S> {
        if unreadable.is_empty()
            && let Ok(rules) = compile(&sources, self.settings.compile, previous)
            && vanished(&rules.sources, previous).is_none()
        {
            match self.without_rules(&rules, previous) {
                Some(error) => return Update { good: None, errors: error.into() },
                None => return Update { good: Some((sources, rules)), errors: RuleErrors::default() },
            }
        }
        let (sources, mut errors) = self.with_last_good(sources, unreadable, previous);
        if sources.is_empty() || sources == self.in_force {
            return Update { good: None, errors };
        }
        match compile(&sources, self.settings.compile, previous) {
            Ok(rules) => match self.without_rules(&rules, previous) {
                Some(error) => {
                    errors.push(error);
                    Update { good: None, errors }
                }
                None => Update { good: Some((sources, rules)), errors },
            },
            Err(together) => {
                errors.extend(together);
                Update { good: None, errors }
            }
        }
    }

    /// Sources to use in place of those that were found, some of which have errors, and the errors of each
    /// by itself.
    fn with_last_good(
        &self,
        found: Vec<S>,
        unreadable: Vec<RuleError>,
        previous: Option<&Rules>,
    ) -> (Vec<S>, RuleErrors) {
        let mut faulty: HashSet<String> = unreadable.iter().map(|error| error.source.clone()).collect();
        let mut errors = RuleErrors::default();
        unreadable.into_iter().for_each(|error| errors.push(error));
        let mut sources = Vec::with_capacity(found.len());
        for source in found {
            let compiled = compile(std::slice::from_ref(&source), self.settings.compile, None);
            let found = match compiled {
                Ok(rules) => vanished(&rules.sources, previous).map(RuleErrors::from),
                Err(errors) => Some(errors),
            };
            match found {
                None => sources.push(source),
                Some(found) => {
                    faulty.insert(source.name().to_owned());
                    errors.extend(found);
                }
            }
        }
        let good: HashSet<_> = sources.iter().map(|source| source.name().to_owned()).collect();
        let known: HashSet<_> = self.in_force.iter().map(|source| source.name().to_owned()).collect();
        let has_faulty_new_source = !faulty.is_subset(&known);
        let is_kept = |name: &str| !good.contains(name) && (has_faulty_new_source || faulty.contains(name));
        sources.extend(self.in_force.iter().filter(|source| is_kept(source.name())).cloned());
        sources.sort_by(|a, b| a.name().cmp(b.name()));
        (sources, errors)
    }

    /// Error of a set without any rule, unless every source says `descriptors: []`.
    fn without_rules(&self, rules: &Rules, previous: Option<&Rules>) -> Option<RuleError> {
        let is_intended = !rules.sources.is_empty() && rules.sources.iter().all(|source| source.says_none);
        if written(&rules.sources) > 0 || is_intended {
            return None;
        }
        let message = match previous.map_or(0, |previous| written(&previous.sources)) {
            0 => "there are no rules: write at least one, or 'descriptors: []' if that is what you want",
            _ => {
                "every rule is gone, and the last good ones stay in force: write 'descriptors: []' if that is \
                 what you want"
            }
        };
        Some(RuleError::of_source(&self.settings.origin, message))
    }
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
        tracing::warn!(role, %warning, "rule file has a probable mistake");
    }
    let unlogged = warnings.count().saturating_sub(LOGGED_WARNINGS);
    if unlogged > 0 {
        tracing::warn!(role, unlogged, "rule files have further probable mistakes");
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
                "rule files have errors; keeping the last good version of the affected files"
            );
        }
        None if before.error.is_some() => {
            tracing::warn!(role, domains, rules, "rule files are valid again; rules in force");
        }
        None => tracing::info!(role, domains, rules, "rules in force"),
    }
    if status.error.is_none() && rules == 0 && (before.rules > 0 || before.loaded_at.is_none()) {
        tracing::warn!(role, domains, "no rules in force; every request passes");
    }
}
