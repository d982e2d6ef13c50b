//! Replay of logs: what rules would have done with the requests of an access log, or of the decision log.
//!
//! ```text
//! file  →  lines  →  fields  →  requests  →  in order of time  →  plan, charge, judge  →  figures  →  report
//!        input      format     mapping       reorder             evaluation             stats
//! ```
//!
//! Decisions are the service's own: its planner, its memory store, its judge. A line costs no memory once it was
//! replayed; what remains is the live counters and figures of bounded size.

mod decision_line;
mod demand;
mod distinct;
mod envoy;
mod evaluation;
mod format;
mod input;
mod line_counts;
mod mapping;
mod parser;
mod record;
mod reorder;
mod report;
mod run;
mod stats;
mod timeline;

pub use input::LogSource;
pub use parser::LogFormat;
pub use report::{BadLine, Report, csv_files, html};
pub use run::{Progress, ReplayError, ReplayOptions, RulesToReplay, replay};
