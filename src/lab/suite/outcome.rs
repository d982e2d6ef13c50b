//! Results of tests.

use std::time::Duration;

use super::expect::Mark;
use super::facts::Mismatch;
use super::record::{Recorded, write_all};
use crate::lab::explanation::Explanation;

/// Result of the tests of a file.
#[derive(Debug, Default)]
pub struct FileReport {
    /// Name of the file.
    pub file: String,
    /// One for each test that ran.
    pub tests: Vec<TestReport>,
    /// Rules, and whether a request reached them, in the order of their places.
    pub coverage: Vec<CoveredRule>,
    /// Actual results of the steps, for `--record`.
    pub(super) recorded: Vec<Recorded>,
}

/// Result of a test.
#[derive(Debug)]
pub struct TestReport {
    /// Name of the test.
    pub name: String,
    /// Line of the test.
    pub line: u32,
    /// Requests that were decided.
    pub requests: u64,
    /// Time that it took.
    pub took: Duration,
    /// First failure; `None` if the test passed.
    pub failure: Option<Failure>,
}

/// First step of a test that went otherwise than expected.
#[derive(Debug)]
pub struct Failure {
    /// Line of the step.
    pub line: u32,
    /// Number of the step, counted from 1.
    pub step: usize,
    /// Time of the request since the start of the test.
    pub at: Duration,
    /// Number of the first wrong request in its step, counted from 1.
    pub request: Option<u32>,
    /// Expectations that do not hold.
    pub mismatches: Vec<Mismatch>,
    /// Steps up to this one.
    pub timeline: Vec<TimelineEntry>,
    /// Explanation of the first wrong request.
    pub explanation: Option<Explanation>,
    /// Order of the concurrent requests; `None` if it is that of their numbers.
    pub order: Option<Vec<u32>>,
}

/// A step and its results.
#[derive(Clone, Debug)]
pub struct TimelineEntry {
    /// Time since the start of the test.
    pub at: Duration,
    /// Time between two requests.
    pub every: Duration,
    /// The step, on one line.
    pub text: String,
    /// Results of its requests.
    pub marks: Vec<Mark>,
    /// Expected results; `None` if they are not a list.
    pub expected: Option<Vec<Mark>>,
}

/// A rule, and whether a request reached it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoveredRule {
    /// Source of the rule.
    pub source: String,
    /// Line of the rule.
    pub line: u32,
    /// Path of the rule.
    pub rule: String,
    /// True if a request reached it.
    pub is_reached: bool,
}

impl FileReport {
    /// `text`, the file's, with the results that were recorded.
    pub fn recorded_in(&self, text: &str) -> String {
        write_all(text, &self.recorded)
    }

    /// Number of expectations that were recorded.
    pub fn recorded_count(&self) -> usize {
        self.recorded.len()
    }
}
