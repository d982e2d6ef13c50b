//! A test file that can be run.

use super::reader::Placed;
use super::rules::RuleSet;
use super::step::Step;
use crate::engine::rules::{CompileOptions, SourceSpan};
use crate::engine::{KeyFormat, Modes, Timestamp};

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
