//! Parser: document trees to rules as written. Checks that fields are known, in the right place and of the
//! right type, and continues after every error.

mod descriptor;
mod fields;
mod matching;
mod on_deny;
mod penalty;
mod prices;
mod rate_limit;
mod reserve;
mod tables;

pub(super) use self::rate_limit::parse_short_form;
pub use self::tables::RULE_FILE;
use self::tables::{BODY, DEFAULTS, DESCRIPTOR, ON_DENY, PENALTY, PRICES_OF_MODEL, RATE_LIMIT, RESERVE};
use super::diagnostics::Diagnostics;
use super::document::{Documents, RuleSource, SourceNode, SourceValue};
use super::report::Report;
use super::source::{Defaults, Descriptor, Document};
use super::span::{Located, SourceSpan};
use crate::engine::schema::Object;
use crate::engine::{Algorithm, ChargeMode, FailurePolicy};

/// Upper bound on the levels of a rule tree.
const MAX_DEPTH: usize = 16;

/// Places of fields, for suggestions.
const PLACES: [(&str, &Object); 8] = [
    ("at the top of the file", &RULE_FILE),
    ("in a descriptor, beside 'key'", &DESCRIPTOR),
    ("inside 'rate_limit'", &RATE_LIMIT),
    ("inside 'penalty'", &PENALTY),
    ("inside 'reserve'", &RESERVE),
    ("in prices of a model", &PRICES_OF_MODEL),
    ("inside 'on_deny'", &ON_DENY),
    ("inside 'body' of 'on_deny'", &BODY),
];

/// Documents of `source` that could be parsed; problems of the others are in `report`.
pub(super) fn parse(source: &dyn RuleSource, index: usize, report: &mut Report<'_>) -> Vec<Document> {
    let Documents { nodes, errors, warnings, paths } = source.documents();
    report.set_paths(index, paths);
    report.warnings(index, warnings);
    let mut parser = Parser { errors };
    let documents: Vec<_> = nodes.iter().filter_map(|node| parser.document(node)).collect();
    if documents.is_empty() && parser.errors.is_empty() {
        let message = "config file cannot have empty domain: the file is empty";
        parser.error(SourceSpan::default(), message);
    }
    report.errors(index, parser.errors);
    documents
}

struct Parser {
    errors: Diagnostics,
}

impl Parser {
    fn error(&mut self, span: SourceSpan, message: impl Into<String>) {
        self.errors.push(span, message);
    }

    fn document(&mut self, node: &SourceNode) -> Option<Document> {
        if matches!(node.value, SourceValue::Null) {
            return None;
        }
        let (mut domain, mut hash_tag, mut enabled, mut prices) = (None, false, true, None);
        let (mut defaults, mut descriptors, mut says_none) = (Defaults::default(), Vec::new(), false);
        let read = |parser: &mut Self, name, value: &SourceNode| match name {
            "domain" => domain = parser.text(name, value),
            "hash_tag" => hash_tag = parser.truth(name, value),
            "enabled" => enabled = parser.truth(name, value),
            "prices" => prices = parser.prices(name, value),
            "defaults" => defaults = parser.defaults(value),
            "descriptors" => {
                says_none = matches!(&value.value, SourceValue::List(items) if items.is_empty());
                descriptors = parser.descriptors(name, value, 1);
            }
            _ => {}
        };
        let unreadable = self.fields(node, "a rule file", &RULE_FILE, read)?;
        let domain = domain.unwrap_or(Located { value: String::new(), span: node.span });
        if domain.value.is_empty() && !unreadable.has("domain") {
            let hint = "write 'domain: NAME', the domain of Envoy's rate limit filter";
            self.error(domain.span, format!("config file cannot have empty domain: {hint}"));
        }
        Some(Document { domain, hash_tag, enabled, prices, defaults, descriptors, says_none })
    }

    /// Defaults of the rules of a document.
    fn defaults(&mut self, node: &SourceNode) -> Defaults {
        let mut defaults = Defaults::default();
        let read = |parser: &mut Self, name, value: &SourceNode| match name {
            "algorithm" => defaults.algorithm = parser.algorithm(name, value),
            "charge" => defaults.charge = parser.charge_mode(name, value),
            "on_backend_failure" => defaults.on_backend_failure = parser.failure_policy(name, value),
            "lease" => defaults.lease = parser.lease(name, value),
            _ => {}
        };
        defaults.unreadable = self.fields(node, "'defaults'", &DEFAULTS, read).unwrap_or_default();
        defaults
    }

    fn algorithm(&mut self, name: &str, node: &SourceNode) -> Option<Algorithm> {
        let expected = "fixed_window, sliding_window, sliding_log, token_bucket, gcra or leaky_bucket";
        self.choice(name, node, expected, Algorithm::from_name)
    }

    fn charge_mode(&mut self, name: &str, node: &SourceNode) -> Option<ChargeMode> {
        self.choice(name, node, "always, if_allowed or overdraft", ChargeMode::from_name)
    }

    fn failure_policy(&mut self, name: &str, node: &SourceNode) -> Option<FailurePolicy> {
        self.choice(name, node, "error, allow, deny or local", FailurePolicy::from_name)
    }

    fn descriptors(&mut self, name: &str, node: &SourceNode, depth: usize) -> Vec<Descriptor> {
        let Some(items) = self.list(name, node) else { return Vec::new() };
        if depth > MAX_DEPTH && !items.is_empty() {
            self.error(node.span, format!("descriptors nest {MAX_DEPTH} levels deep at most"));
            return Vec::new();
        }
        items.iter().filter_map(|item| self.descriptor(item, depth)).collect()
    }
}
