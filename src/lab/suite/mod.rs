//! Tests of rules: files that say what requests come when, and what becomes of them. Time is virtual; the path of a
//! request, the algorithms and the store in memory are the service's own.

mod action;
mod check;
mod expect;
mod facts;
mod fields;
mod file;
mod held;
mod in_flight;
mod labels;
mod load;
mod numbers;
mod order;
mod outcome;
mod possible;
mod reader;
mod record;
pub mod report;
mod request;
mod rules;
mod run;
mod seen;
mod step;
mod tables;
mod template;
mod world;

pub use action::{Action, Ask, Rendered, TicketStep};
pub use expect::{Expect, Fact, Mark, Number, NumbersOf, Requests, Why};
pub use facts::{Answer, Encode, Mismatch};
pub use file::{Test, TestFile, TestSettings};
pub use outcome::{CoveredRule, Failure, FileReport, TestReport, TimelineEntry};
pub use reader::Placed;
pub use rules::{ReadRules, RuleSet};
pub use run::RunOptions;
pub use step::Step;
pub use tables::TEST_FILE;
pub use world::Backend;
