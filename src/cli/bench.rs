//! `tollgate bench`: runs the load test and prints its report.

use anyhow::anyhow;

use super::{Exit, print};
use crate::bench::{self, BenchArgs, Measurement};

/// Runs the load test. The report is printed even if nothing was decided.
pub(super) fn run(args: BenchArgs) -> anyhow::Result<Exit> {
    let Measurement { report, failure } = bench::run(args)?;
    print(&report)?;
    failure.map_or(Ok(Exit::Done), |failure| Err(anyhow!(failure)))
}
