//! Reads test files. Checks the form; [`super::check`] holds names against the rules.

use super::check::check;
use super::file::{Test, TestFile, TestSettings};
use super::reader::{Placed, Reader};
use super::rules::{ReadRules, RuleSets};
use super::step;
use super::tables::{NEVER, SETTINGS, TEST, TEST_FILE};
use crate::engine::rules::{
    CompileOptions, Documents, HashKey, RuleErrors, RuleSource as _, SourceFile, SourceNode, SourceSpan,
    SourceValue, located,
};
use crate::engine::{ChargeMode, FailurePolicy, KeyFormat, Modes, Timestamp};

/// 2026-01-01T00:00:00Z, a Thursday: the beginning of a second, minute, hour, day, week, month and year.
const START: Timestamp = Timestamp::from_secs(1_767_225_600);
/// Upper bound on the tests of a file.
const MAX_TESTS: usize = 10_000;

/// A file under construction.
struct Loader<'f> {
    reader: Reader,
    rules: RuleSets<'f>,
}

impl TestFile {
    /// Reads a test file and the rules that it names, by `read`.
    ///
    /// # Errors
    /// Every mistake in it, and those in the rules that tests begin with.
    pub fn load(file: &SourceFile, read: ReadRules<'_>) -> Result<Self, RuleErrors> {
        let Documents { nodes, errors, .. } = file.documents();
        let mut loader = Loader {
            reader: Reader { found: errors },
            rules: RuleSets { file, read, options: CompileOptions::default(), sets: Vec::new() },
        };
        let loaded = match &nodes[..] {
            [node] => loader.file(node),
            [] => {
                let message = "the file is empty: write 'rules' and 'tests'";
                loader.reader.error(SourceSpan::default(), message);
                None
            }
            [_, second, ..] => {
                loader
                    .reader
                    .error(second.span, "a test file is one document: remove '---' and what follows");
                None
            }
        };
        let Loader { reader, rules } = loader;
        let rules = rules.sets;
        let mut errors = located(file, reader.found);
        if let Some(Err(found)) = rules.first().map(|first| &first.rules) {
            errors.extend(found.clone());
        }
        match loaded {
            Some((settings, tests, never)) if errors.is_empty() => {
                Ok(Self { name: file.name.clone(), text: file.text.clone(), rules, settings, tests, never })
            }
            _ => Err(errors),
        }
    }
}

type Loaded = (TestSettings, Vec<Test>, Vec<Placed<String>>);

impl<'f> Loader<'f> {
    fn file(&mut self, node: &'f SourceNode) -> Option<Loaded> {
        let fields = self.reader.fields(node, "a test file", &TEST_FILE)?;
        let field = |name: &str| fields.iter().find(|(field, _)| *field == name).map(|(_, node)| *node);
        // Before the rules, which they apply to.
        let settings = self.settings(field("settings"));
        self.rules.options = settings.options;
        if let Some(rules) = field("rules") {
            self.rules.rule_set(&mut self.reader, "rules", rules);
        }
        let never = field("never").map(|node| self.never(node)).unwrap_or_default();
        let items = field("tests").map(|node| self.reader.list("tests", node)).unwrap_or_default();
        if let Some(one) = items.get(MAX_TESTS) {
            self.reader.error(one.span, format!("a file has at most {MAX_TESTS} tests"));
        }
        let tests: Vec<_> = items.iter().take(MAX_TESTS).filter_map(|item| self.test(item)).collect();
        if items.is_empty() && field("tests").is_some_and(|node| matches!(node.value, SourceValue::List(_))) {
            self.reader.error(node.span, "'tests' is empty: write at least one test");
        }
        for (index, test) in tests.iter().enumerate() {
            if let Some(first) = tests[..index].iter().find(|other| other.name == test.name) {
                let message = format!("another test has this name, at line {}", first.span.line);
                self.reader.error(test.span, message);
            }
        }
        check(&mut self.reader, &self.rules.sets, &tests, &never);
        Some((settings, tests, never))
    }

    fn settings(&mut self, node: Option<&SourceNode>) -> TestSettings {
        let mut settings = TestSettings {
            replicas: 1,
            modes: Modes::default(),
            // A rule that hashes is no error here: tests do not need the service's secret.
            options: CompileOptions {
                hash_key: Some(HashKey::new(b"secret of the tests")),
                ..CompileOptions::default()
            },
            key_format: KeyFormat::Native,
            key_prefix: String::new(),
            headers: "draft06",
        };
        let reader = &mut self.reader;
        let fields = node.and_then(|node| reader.fields(node, "'settings'", &SETTINGS)).unwrap_or_default();
        for (name, value) in fields {
            let TestSettings { modes, options, .. } = &mut settings;
            match name {
                "replicas" => settings.replicas = reader.count(name, value, 1..=1_000_000).unwrap_or(1),
                "stop_increment" => {
                    let stops = reader.truth(name, value).unwrap_or_default();
                    options.charge = stops.then_some(ChargeMode::IfAllowed);
                }
                "shadow_mode" => modes.shadow_mode = reader.truth(name, value).unwrap_or_default(),
                "quota_mode" => modes.quota_mode = reader.truth(name, value).unwrap_or_default(),
                "merge_domains" => options.merge_domains = reader.truth(name, value).unwrap_or_default(),
                "hash_key" => {
                    let key = reader.text(name, value);
                    options.hash_key = key.map(|key| HashKey::new(key.value.as_bytes()));
                }
                "on_backend_failure" => {
                    let policies = FailurePolicy::ALL.map(|policy| (policy.name(), policy));
                    options.on_backend_failure = reader.choice(name, value, &policies).unwrap_or_default();
                }
                "headers" => {
                    let styles = ["none", "draft06", "x", "ietf"].map(|style| (style, style));
                    settings.headers = reader.choice(name, value, &styles).unwrap_or("draft06");
                }
                "key_format" => {
                    let formats = [("native", KeyFormat::Native), ("envoyproxy", KeyFormat::Envoyproxy)];
                    settings.key_format = reader.choice(name, value, &formats).unwrap_or_default();
                }
                "key_prefix" => {
                    settings.key_prefix = reader.text(name, value).map(|text| text.value).unwrap_or_default();
                }
                _ => {}
            }
        }
        settings
    }

    fn never(&mut self, node: &SourceNode) -> Vec<Placed<String>> {
        let mut never = Vec::new();
        for item in self.reader.list("never", node) {
            for (name, value) in self.reader.fields(item, "an entry of 'never'", &NEVER).unwrap_or_default() {
                never.extend(self.reader.text(name, value));
            }
        }
        never
    }

    fn test(&mut self, node: &'f SourceNode) -> Option<Test> {
        let fields = self.reader.fields(node, "a test", &TEST)?;
        let (mut name, mut start, mut domain, mut steps) = (None, START, None, &[][..]);
        for (field, value) in fields {
            match field {
                "name" => name = self.reader.text(field, value),
                "start" => start = self.reader.timestamp(field, value).unwrap_or(START),
                "domain" => domain = self.reader.text(field, value),
                "steps" => steps = self.reader.list(field, value),
                _ => {}
            }
        }
        let domain = domain.or_else(|| self.only_domain(node.span));
        let steps = step::steps(&mut self.reader, &mut self.rules, steps, domain.as_ref());
        Some(Test { name: name?.value, span: node.span, start, steps })
    }

    /// The domain of the first rules, if they have one only.
    fn only_domain(&self, span: SourceSpan) -> Option<Placed<String>> {
        let rules = self.rules.sets.first()?.rules.as_ref().ok()?;
        let mut domains = rules.domains();
        let only = domains.next().filter(|_| domains.next().is_none())?;
        Some(Placed { value: only.name().to_owned(), span })
    }
}
