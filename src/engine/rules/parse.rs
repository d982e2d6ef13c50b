//! From YAML to rules as written. Checks the form — which fields stand where, and what kind of value
//! each takes — and goes on after every mistake.

use super::error::{Place, RuleError};
use super::quota::parse_window;
use super::source::{Defaults, Descriptor, Document, Placed, RateLimit, SourceFile};
use super::yaml::{self, Raw, Yaml};
use crate::engine::{Algorithm, ChargeMode, FailurePolicy, Unit};

/// Levels of the rule tree, at the most.
const MAX_DEPTH: usize = 16;

const FILE_FIELDS: &[&str] = &["domain", "hash_tag", "defaults", "descriptors"];
const DEFAULTS_FIELDS: &[&str] = &["algorithm", "charge", "on_backend_failure"];
const DESCRIPTOR_FIELDS: &[&str] = &[
    "key",
    "value",
    "rate_limit",
    "descriptors",
    "charge",
    "on_backend_failure",
    "shadow_mode",
    "quota_mode",
    "detailed_metric",
    "value_to_metric",
    "share_threshold",
    "metadata",
];
const RATE_LIMIT_FIELDS: &[&str] =
    &["unit", "window", "requests_per_unit", "algorithm", "burst", "unlimited", "name", "replaces"];
const REPLACES_FIELDS: &[&str] = &["name"];

/// Where fields stand, for those that stand elsewhere.
const PLACES: &[(&str, &[&str])] = &[
    ("at the top of the file", FILE_FIELDS),
    ("in a descriptor, beside 'key'", DESCRIPTOR_FIELDS),
    ("inside 'rate_limit'", RATE_LIMIT_FIELDS),
];

/// The documents of `file` as far as they can be read, and what is wrong with the rest.
pub(super) fn parse(file: &SourceFile) -> (Vec<Document>, Vec<RuleError>) {
    let mut parser = Parser { file, errors: Vec::new() };
    let documents = match yaml::parse(&file.text) {
        Ok(documents) => documents.iter().filter_map(|document| parser.document(document)).collect(),
        Err(error) => {
            let place = error.location().map(|at| yaml::location(&at)).unwrap_or_default();
            parser.error(place, format!("error loading config file: {}", first_line(&error)));
            Vec::new()
        }
    };
    if documents.is_empty() && parser.errors.is_empty() {
        parser.error(Place::default(), "config file cannot have empty domain: the file is empty".to_owned());
    }
    (documents, parser.errors)
}

/// Without the place, which is told apart.
fn first_line(error: &serde_yaml::Error) -> String {
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    let message = line.split_once(": ").filter(|(place, _)| place.contains("line ")).map_or(line, |(_, m)| m);
    message.trim_start_matches("error: ").to_owned()
}

/// `60/minute` or `100/15m`: requests, and the unit or the window.
fn short(text: &str) -> Option<(u32, Option<String>, Option<String>)> {
    let (requests, time) = text.split_once('/')?;
    let requests = requests.parse().ok().filter(|_| !requests.starts_with('+'))?;
    match (Unit::from_name(time), parse_window(time)) {
        (Some(_), _) => Some((requests, Some(time.to_owned()), None)),
        (None, Ok(_)) => Some((requests, None, Some(time.to_owned()))),
        (None, Err(_)) => None,
    }
}

struct Parser<'f> {
    file: &'f SourceFile,
    errors: Vec<RuleError>,
}

impl Parser<'_> {
    fn error(&mut self, place: Place, message: String) {
        self.errors.push(RuleError::new(&self.file.name, &self.file.text, place, message));
    }

    fn document(&mut self, yaml: &Yaml) -> Option<Document> {
        if matches!(yaml.value, Raw::Null) {
            return None;
        }
        let (mut domain, mut hash_tag) = (None, false);
        let (mut defaults, mut descriptors) = (Defaults::default(), Vec::new());
        for (name, value) in self.fields(yaml, "a rule file", FILE_FIELDS)? {
            match name {
                "domain" => domain = self.text(name, value),
                "hash_tag" => hash_tag = self.truth(name, value),
                "defaults" => defaults = self.defaults(value),
                "descriptors" => descriptors = self.descriptors(name, value, 1),
                _ => {}
            }
        }
        let domain = domain.unwrap_or(Placed { value: String::new(), place: yaml::place(yaml) });
        if domain.value.is_empty() {
            let hint = "write 'domain: NAME', the domain of Envoy's rate limit filter";
            self.error(domain.place, format!("config file cannot have empty domain: {hint}"));
        }
        Some(Document { domain, hash_tag, defaults, descriptors })
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
        self.choice(name, yaml, "always or if_allowed", ChargeMode::from_name)
    }

    fn failure_policy(&mut self, name: &str, yaml: &Yaml) -> Option<FailurePolicy> {
        self.choice(name, yaml, "error, allow, deny or local", FailurePolicy::from_name)
    }

    fn descriptors(&mut self, name: &str, yaml: &Yaml, depth: usize) -> Vec<Descriptor> {
        let Some(items) = self.list(name, yaml) else { return Vec::new() };
        if depth > MAX_DEPTH && !items.is_empty() {
            self.error(yaml::place(yaml), format!("descriptors nest {MAX_DEPTH} levels deep at the most"));
            return Vec::new();
        }
        items.iter().filter_map(|item| self.descriptor(item, depth)).collect()
    }

    fn descriptor(&mut self, yaml: &Yaml, depth: usize) -> Option<Descriptor> {
        let mut descriptor = Descriptor {
            place: yaml::place(yaml),
            key: String::new(),
            value: None,
            rate_limit: None,
            descriptors: Vec::new(),
            charge: None,
            on_backend_failure: None,
            shadow_mode: false,
            quota_mode: false,
            detailed_metric: false,
            value_to_metric: false,
            share_threshold: false,
            metadata: None,
        };
        for (name, value) in self.fields(yaml, "a descriptor", DESCRIPTOR_FIELDS)? {
            match name {
                "key" => descriptor.key = self.text(name, value).map(|key| key.value).unwrap_or_default(),
                "value" => {
                    let text = self.text(name, value).map(|text| text.value);
                    descriptor.value = text.filter(|text| !text.is_empty());
                }
                "rate_limit" => descriptor.rate_limit = self.rate_limit(value),
                "descriptors" => descriptor.descriptors = self.descriptors(name, value, depth + 1),
                "charge" => descriptor.charge = self.charge_mode(name, value),
                "on_backend_failure" => descriptor.on_backend_failure = self.failure_policy(name, value),
                "shadow_mode" => descriptor.shadow_mode = self.truth(name, value),
                "quota_mode" => descriptor.quota_mode = self.truth(name, value),
                "detailed_metric" => descriptor.detailed_metric = self.truth(name, value),
                "value_to_metric" => descriptor.value_to_metric = self.truth(name, value),
                "share_threshold" => descriptor.share_threshold = self.truth(name, value),
                "metadata" => {
                    let map = self.map(name, value);
                    descriptor.metadata = map.map(|map| yaml::json_map(&self.file.text, map));
                }
                _ => {}
            }
        }
        if descriptor.key.is_empty() {
            self.error(descriptor.place, "descriptor has empty key: write 'key: NAME'".to_owned());
            return None;
        }
        Some(descriptor)
    }

    fn rate_limit(&mut self, yaml: &Yaml) -> Option<RateLimit> {
        if matches!(yaml.value, Raw::Null) {
            return None;
        }
        let place = yaml::place(yaml);
        let mut rate_limit = RateLimit { place, ..RateLimit::default() };
        if !matches!(yaml.value, Raw::Map(_)) {
            let Some((requests, unit, window)) =
                yaml::text(&self.file.text, yaml).and_then(|text| short(&text))
            else {
                self.wrong_kind("rate_limit", "a map, or short such as 60/minute or 100/15m", yaml);
                return None;
            };
            rate_limit.requests_per_unit = Some(requests);
            rate_limit.unit = unit.map(|value| Placed { value, place });
            rate_limit.window = window.map(|value| Placed { value, place });
            return Some(rate_limit);
        }
        for (name, value) in self.fields(yaml, "a rate_limit", RATE_LIMIT_FIELDS)? {
            match name {
                "unit" => rate_limit.unit = self.text(name, value).filter(|unit| !unit.value.is_empty()),
                "window" => rate_limit.window = self.text(name, value),
                "requests_per_unit" => rate_limit.requests_per_unit = self.count(name, value),
                "algorithm" => {
                    let place = yaml::place(value);
                    rate_limit.algorithm = self.algorithm(name, value).map(|value| Placed { value, place });
                }
                "burst" => {
                    let place = yaml::place(value);
                    rate_limit.burst = self.count(name, value).map(|value| Placed { value, place });
                }
                "unlimited" => rate_limit.unlimited = self.truth(name, value),
                "name" => {
                    let text = self.text(name, value).map(|text| text.value);
                    rate_limit.name = text.filter(|text| !text.is_empty());
                }
                "replaces" => rate_limit.replaces = self.replaces(value),
                _ => {}
            }
        }
        Some(rate_limit)
    }

    fn replaces(&mut self, yaml: &Yaml) -> Vec<Placed<String>> {
        let mut names = Vec::new();
        for item in self.list("replaces", yaml).unwrap_or_default() {
            let Some(fields) = self.fields(item, "an entry of 'replaces'", REPLACES_FIELDS) else { continue };
            let name = fields.into_iter().find_map(|(name, value)| self.text(name, value));
            match name.filter(|name| !name.value.is_empty()) {
                Some(name) => names.push(name),
                None => {
                    let message = "should not have an empty replaces entry: write '- name: NAME'";
                    self.error(yaml::place(item), message.to_owned());
                }
            }
        }
        names
    }

    /// The entries of a map whose names are all in `known`; the others are mistakes. `None` where it
    /// is no map, which is one too.
    fn fields<'y>(
        &mut self,
        yaml: &'y Yaml,
        what: &str,
        known: &[&'static str],
    ) -> Option<Vec<(&'static str, &'y Yaml)>> {
        let Raw::Map(entries) = &yaml.value else {
            let found = yaml::describe(&self.file.text, yaml);
            let message = match &yaml.value {
                Raw::List(_) => format!("config error, {what} must be a map, not a list"),
                _ => format!(
                    "config error, yaml file contains list of type other than map: {}; {what} must be a map",
                    found.trim_matches('\'')
                ),
            };
            self.error(yaml::place(yaml), message);
            return None;
        };
        let mut fields = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Raw::Text(name) = &key.value else {
                let found = yaml::describe(&self.file.text, key);
                let message =
                    format!("config error, key is not of type string: {}", found.trim_matches('\''));
                self.error(yaml::place(key), message);
                continue;
            };
            match known.iter().find(|known| *known == name) {
                Some(known) => fields.push((*known, value)),
                None => self.error(yaml::place(key), unknown_field(name, known)),
            }
        }
        Some(fields)
    }

    fn text(&mut self, name: &str, yaml: &Yaml) -> Option<Placed<String>> {
        let place = yaml::place(yaml);
        if matches!(yaml.value, Raw::Null) {
            return Some(Placed { value: String::new(), place });
        }
        let text = yaml::text(&self.file.text, yaml);
        if text.is_none() {
            self.wrong_kind(name, "text", yaml);
        }
        text.map(|text| Placed { value: text.into_owned(), place })
    }

    fn truth(&mut self, name: &str, yaml: &Yaml) -> bool {
        if let Raw::Bool(truth) = yaml.value {
            return truth;
        }
        self.wrong_kind(name, "true or false", yaml);
        false
    }

    /// One of a few names; `expected` lists them.
    fn choice<T>(
        &mut self,
        name: &str,
        yaml: &Yaml,
        expected: &str,
        from_name: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let choice = match &yaml.value {
            Raw::Text(text) => from_name(text),
            _ => None,
        };
        if choice.is_none() {
            self.wrong_kind(name, expected, yaml);
        }
        choice
    }

    fn count(&mut self, name: &str, yaml: &Yaml) -> Option<u32> {
        let count = match &yaml.value {
            Raw::Number(number) => number.as_u64().and_then(|count| u32::try_from(count).ok()),
            _ => None,
        };
        if count.is_none() {
            self.wrong_kind(name, "a whole number from 0 to 4294967295", yaml);
        }
        count
    }

    fn list<'y>(&mut self, name: &str, yaml: &'y Yaml) -> Option<&'y [Yaml]> {
        match &yaml.value {
            Raw::List(items) => Some(items),
            Raw::Null => None,
            _ => {
                self.wrong_kind(name, "a list", yaml);
                None
            }
        }
    }

    fn map<'y>(&mut self, name: &str, yaml: &'y Yaml) -> Option<&'y [(Yaml, Yaml)]> {
        match &yaml.value {
            Raw::Map(entries) => Some(entries),
            Raw::Null => None,
            _ => {
                self.wrong_kind(name, "a map", yaml);
                None
            }
        }
    }

    fn wrong_kind(&mut self, name: &str, expected: &str, yaml: &Yaml) {
        let found = yaml::describe(&self.file.text, yaml);
        let message = format!("error checking config: '{name}' must be {expected}, not {found}");
        self.error(yaml::place(yaml), message);
    }
}

fn unknown_field(name: &str, known: &[&str]) -> String {
    if let Some((place, _)) = PLACES.iter().find(|(_, fields)| fields.contains(&name)) {
        return format!("config error, '{name}' does not belong here: it stands {place}");
    }
    let nearest = known
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.5)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((_, nearest)) => format!("config error, unknown key '{name}': did you mean '{nearest}'?"),
        None => format!("config error, unknown key '{name}': known here are {}", known.join(", ")),
    }
}
