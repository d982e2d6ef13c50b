//! `tollgate check`: every mistake in rule files, before they are in force.

use std::path::PathBuf;

use clap::Args;

use super::Exit;

/// What to check.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Rule files, or directories of them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Join the rules of files that have one domain, where a second file would be an error.
    #[arg(long, env = "MERGE_DOMAIN_CONFIG", value_name = "BOOL")]
    merge_domains: Option<String>,
}

/// Checks.
pub(super) fn run(_args: &CheckArgs) -> anyhow::Result<Exit> {
    Ok(Exit::Done)
}
