//! Rules examined without traffic: tests of rules in virtual time, and replays of logs. Decisions are the service's
//! own: the path of a request, the engine and the memory store, with the time passed in.

mod explained_limit;
mod explanation;
mod explanation_text;
pub mod replay;
pub mod suite;

pub use explained_limit::{ExplainedBudget, ExplainedHolds, ExplainedLimit, holds_text, reserve_text};
pub use explanation::{
    BudgetEffect, ExplainContext, ExplainedCandidate, ExplainedDescriptor, ExplainedLevel, ExplainedRule,
    ExplainedStatus, Explanation, Verdict, explain, peek_of,
};
