//! Tests of rules: files that say what requests come when, and what becomes of them. Time is virtual; the path of a
//! request, the algorithms and the store in memory are the service's own.

mod check;
mod expect;
mod facts;
mod file;
mod order;
mod reader;
mod record;
pub mod report;
mod run;
mod seen;
mod step;
mod tables;
mod template;
mod world;

pub use expect::{Expect, Fact, Mark, Requests, Why};
pub use facts::{Answer, Encode, Mismatch};
pub use file::{ReadRules, RuleSet, Test, TestFile, TestSettings};
pub use reader::Placed;
pub use run::{CoveredRule, Failure, FileReport, RunOptions, TestReport, TimelineEntry};
pub use step::{Action, Ask, Rendered, Step};
pub use tables::TEST_FILE;
pub use world::Backend;
