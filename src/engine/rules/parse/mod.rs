//! From YAML to rules as written. Checks the form — which fields stand where, and what kind of value
//! each takes — and goes on after every mistake.

mod descriptor;
mod fields;
mod matching;
mod on_deny;
mod penalty;
mod rate_limit;

use self::descriptor::DESCRIPTOR_FIELDS;
use self::on_deny::{BODY_FIELDS, ON_DENY_FIELDS};
use self::penalty::PENALTY_FIELDS;
use self::rate_limit::RATE_LIMIT_FIELDS;
use super::error::{RuleError, SourceSpan};
use super::source::{Defaults, Descriptor, Document, Located, SourceFile};
use super::yaml::{self, Raw, Yaml};
use crate::engine::{Algorithm, ChargeMode, FailurePolicy};

/// Levels of the rule tree, at the most.
const MAX_DEPTH: usize = 16;

const FILE_FIELDS: &[&str] = &["domain", "hash_tag", "enabled", "defaults", "descriptors"];
const DEFAULTS_FIELDS: &[&str] = &["algorithm", "charge", "on_backend_failure"];

/// Where fields stand, for those that stand elsewhere.
const PLACES: &[(&str, &[&str])] = &[
    ("at the top of the file", FILE_FIELDS),
    ("in a descriptor, beside 'key'", DESCRIPTOR_FIELDS),
    ("inside 'rate_limit'", RATE_LIMIT_FIELDS),
    ("inside 'penalty'", PENALTY_FIELDS),
    ("inside 'on_deny'", ON_DENY_FIELDS),
    ("inside 'body' of 'on_deny'", BODY_FIELDS),
];

/// The documents of `file` as far as they can be read, and what is wrong with the rest.
pub(super) fn parse(file: &SourceFile) -> (Vec<Document>, Vec<RuleError>) {
    let mut parser = Parser { file, errors: Vec::new() };
    let documents = match yaml::parse(&file.text) {
        Ok(documents) => documents.iter().filter_map(|document| parser.document(document)).collect(),
        Err(error) => {
            let span = error.location().map(|at| yaml::location(&at)).unwrap_or_default();
            parser.error(span, format!("error loading config file: {}", first_line(&error)));
            Vec::new()
        }
    };
    if documents.is_empty() && parser.errors.is_empty() {
        parser.error(
            SourceSpan::default(),
            "config file cannot have empty domain: the file is empty".to_owned(),
        );
    }
    (documents, parser.errors)
}

/// Without the span, which is told apart.
fn first_line(error: &serde_yaml::Error) -> String {
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    let message =
        line.split_once(": ").filter(|(prefix, _)| prefix.contains("line ")).map_or(line, |(_, m)| m);
    message.trim_start_matches("error: ").to_owned()
}

struct Parser<'f> {
    file: &'f SourceFile,
    errors: Vec<RuleError>,
}

impl Parser<'_> {
    fn error(&mut self, span: SourceSpan, message: String) {
        self.errors.push(RuleError::new(&self.file.name, &self.file.text, span, message));
    }

    fn document(&mut self, yaml: &Yaml) -> Option<Document> {
        if matches!(yaml.value, Raw::Null) {
            return None;
        }
        let (mut domain, mut hash_tag, mut enabled) = (None, false, true);
        let (mut defaults, mut descriptors) = (Defaults::default(), Vec::new());
        for (name, value) in self.fields(yaml, "a rule file", FILE_FIELDS)? {
            match name {
                "domain" => domain = self.text(name, value),
                "hash_tag" => hash_tag = self.truth(name, value),
                "enabled" => enabled = self.truth(name, value),
                "defaults" => defaults = self.defaults(value),
                "descriptors" => descriptors = self.descriptors(name, value, 1),
                _ => {}
            }
        }
        let domain = domain.unwrap_or(Located { value: String::new(), span: yaml::span(yaml) });
        if domain.value.is_empty() {
            let hint = "write 'domain: NAME', the domain of Envoy's rate limit filter";
            self.error(domain.span, format!("config file cannot have empty domain: {hint}"));
        }
        Some(Document { domain, hash_tag, enabled, defaults, descriptors })
    }

    /// What holds for every rule of the document that says nothing else.
    fn defaults(&mut self, yaml: &Yaml) -> Defaults {
        let mut defaults = Defaults::default();
        for (name, value) in self.fields(yaml, "'defaults'", DEFAULTS_FIELDS).unwrap_or_default() {
            match name {
                "algorithm" => defaults.algorithm = self.algorithm(name, value),
                "charge" => defaults.charge = self.charge_mode(name, value),
                "on_backend_failure" => defaults.on_backend_failure = self.failure_policy(name, value),
                _ => {}
            }
        }
        defaults
    }

    fn algorithm(&mut self, name: &str, yaml: &Yaml) -> Option<Algorithm> {
        let expected = "fixed_window, sliding_window, sliding_log, token_bucket, gcra or leaky_bucket";
        self.choice(name, yaml, expected, Algorithm::from_name)
    }

    fn charge_mode(&mut self, name: &str, yaml: &Yaml) -> Option<ChargeMode> {
        self.choice(name, yaml, "always, if_allowed or overdraft", ChargeMode::from_name)
    }

    fn failure_policy(&mut self, name: &str, yaml: &Yaml) -> Option<FailurePolicy> {
        self.choice(name, yaml, "error, allow, deny or local", FailurePolicy::from_name)
    }

    fn descriptors(&mut self, name: &str, yaml: &Yaml, depth: usize) -> Vec<Descriptor> {
        let Some(items) = self.list(name, yaml) else { return Vec::new() };
        if depth > MAX_DEPTH && !items.is_empty() {
            self.error(yaml::span(yaml), format!("descriptors nest {MAX_DEPTH} levels deep at the most"));
            return Vec::new();
        }
        items.iter().filter_map(|item| self.descriptor(item, depth)).collect()
    }
}
