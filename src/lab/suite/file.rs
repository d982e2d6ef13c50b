//! Test files as written: rules, settings, tests. Checks the form; [`super::check`] holds names against the rules.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reader::{Placed, Reader};
use super::step::{self, Step};
use super::tables::{NEVER, SETTINGS, TEST, TEST_FILE};
use crate::engine::rules::{
    CompileOptions, Documents, HashKey, RuleError, RuleErrors, RuleSource, Rules, SourceFile, SourceNode,
    SourceSpan, SourceValue, compile, located,
};
use crate::engine::{ChargeMode, FailurePolicy, KeyFormat, Modes, Timestamp};

/// 2026-01-01T00:00:00Z, a Thursday: the beginning of a second, minute, hour, day, week, month and year.
const START: Timestamp = Timestamp::from_secs(1_767_225_600);
/// Upper bound on the tests of a file.
const MAX_TESTS: usize = 10_000;

/// A test file that can be run.
#[derive(Debug)]
pub struct TestFile {
    /// Name in reports.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Rules in the order of the file; the first ones are in force when a test begins.
    pub rules: Vec<RuleSet>,
    /// Settings.
    pub settings: TestSettings,
    /// Tests, in order.
    pub tests: Vec<Test>,
    /// Rules that no request may reach: their paths, or names of limits.
    pub never: Vec<Placed<String>>,
}

/// Rules that a test file names.
#[derive(Debug)]
pub struct RuleSet {
    /// The compiled rules.
    ///
    /// # Errors
    /// Their mistakes.
    pub rules: Result<Arc<Rules>, RuleErrors>,
}

/// Settings of the service that change decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct TestSettings {
    /// Processes that share the limits.
    pub replicas: u32,
    /// Modes for every rule.
    pub modes: Modes,
    /// Options of compilation.
    pub options: CompileOptions,
    /// Format of counter keys.
    pub key_format: KeyFormat,
    /// Beginning of counter keys.
    pub key_prefix: String,
    /// Style of response headers: `none`, `draft06`, `x` or `ietf`.
    pub headers: &'static str,
}

/// A test.
#[derive(Debug)]
pub struct Test {
    /// Name in reports.
    pub name: String,
    /// Position in the file.
    pub span: SourceSpan,
    /// Time at which it begins.
    pub start: Timestamp,
    /// Steps, in order.
    pub steps: Vec<Step>,
}

/// Reads the rule files at a path, relative to the directory of the test file.
pub type ReadRules<'r> = &'r dyn Fn(&Path) -> (Vec<SourceFile>, Vec<RuleError>);

/// Rules that stand in a test file, with their positions there.
struct InPlace<'f> {
    file: &'f SourceFile,
    node: &'f SourceNode,
}

impl RuleSource for InPlace<'_> {
    fn name(&self) -> &str {
        &self.file.name
    }

    fn documents(&self) -> Documents {
        Documents { nodes: vec![self.node.clone()], ..Documents::default() }
    }

    fn text(&self) -> Option<&str> {
        Some(&self.file.text)
    }
}

/// A source of any kind.
enum Source<'f> {
    File(SourceFile),
    InPlace(InPlace<'f>),
}

impl RuleSource for Source<'_> {
    fn name(&self) -> &str {
        match self {
            Self::File(file) => file.name(),
            Self::InPlace(node) => node.name(),
        }
    }

    fn documents(&self) -> Documents {
        match self {
            Self::File(file) => file.documents(),
            Self::InPlace(node) => node.documents(),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::File(file) => RuleSource::text(file),
            Self::InPlace(node) => node.text(),
        }
    }
}

/// A file under construction.
pub(super) struct Loader<'f> {
    pub(super) reader: Reader,
    file: &'f SourceFile,
    read: ReadRules<'f>,
    options: CompileOptions,
    rules: Vec<RuleSet>,
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
            file,
            read,
            options: CompileOptions::default(),
            rules: Vec::new(),
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
        let Loader { reader, rules, .. } = loader;
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
        self.options = settings.options;
        if let Some(rules) = field("rules") {
            self.rule_set("rules", rules);
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
        super::check::check(&mut self.reader, &self.rules, &tests, &never);
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

    /// Reads and compiles rules; returns their index.
    pub(super) fn rule_set(&mut self, name: &str, node: &'f SourceNode) -> usize {
        let items = match &node.value {
            SourceValue::List(items) => &items[..],
            _ => std::slice::from_ref(node),
        };
        let (mut sources, mut unread) = (Vec::new(), RuleErrors::default());
        for item in items {
            match &item.value {
                SourceValue::Map(_) => {
                    sources.push(Source::InPlace(InPlace { file: self.file, node: item }));
                }
                SourceValue::Text(text) if text.contains('\n') => {
                    sources.push(Source::File(self.text_in_place(text, item.span)));
                }
                SourceValue::Text(path) => {
                    let (files, errors) = (self.read)(&PathBuf::from(path));
                    if files.is_empty() {
                        let cause = errors.first().map(|error| format!(": {}", error.message));
                        let message = format!("no rule files at {item}{}", cause.unwrap_or_default());
                        self.reader.error(item.span, message);
                        continue;
                    }
                    sources.extend(files.into_iter().map(Source::File));
                    errors.into_iter().for_each(|error| unread.push(error));
                }
                _ => {
                    let message = format!("'{name}' must be paths or rules, not {item}");
                    self.reader.error(item.span, message);
                }
            }
        }
        let rules = match compile(&sources, self.options, None) {
            Ok(rules) if unread.is_empty() => Ok(Arc::new(rules)),
            Ok(_) => Err(unread),
            Err(errors) => {
                unread.extend(errors);
                Err(unread)
            }
        };
        self.rules.push(RuleSet { rules });
        self.rules.len() - 1
    }

    /// Rules as a block of text, below as many empty lines as there are before it in the test file: errors then have
    /// the lines of the file.
    fn text_in_place(&self, text: &str, span: SourceSpan) -> SourceFile {
        let first = text.lines().next().unwrap_or_default();
        let line = usize::try_from(span.line).unwrap_or_default();
        let starts_here = self
            .file
            .text
            .lines()
            .nth(line.saturating_sub(1))
            .is_some_and(|line| line.trim() == first.trim());
        let before = if starts_here { line.saturating_sub(1) } else { line };
        SourceFile { name: self.file.name.clone(), text: "\n".repeat(before) + text }
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
        let steps = step::steps(self, steps, domain.as_ref());
        Some(Test { name: name?.value, span: node.span, start, steps })
    }

    /// The domain of the first rules, if they have one only.
    fn only_domain(&self, span: SourceSpan) -> Option<Placed<String>> {
        let rules = self.rules.first()?.rules.as_ref().ok()?;
        let mut domains = rules.domains();
        let only = domains.next().filter(|_| domains.next().is_none())?;
        Some(Placed { value: only.name().to_owned(), span })
    }
}
