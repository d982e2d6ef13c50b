//! `tollgate check`: every mistake in rule files, before they are in force.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::{Exit, complain, counted, print};
use crate::engine::Rules;
use crate::engine::rules::{CompileOptions, HashKey, RuleErrors, compile};
use crate::provider::sources;
use crate::settings;

/// What to check.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Rule files, or directories of them. All of them together are one set of rules.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Join the rules of files that have one domain, where a second file would be an error.
    #[arg(long, visible_alias = "merge-domains", env, default_value = "false")]
    #[arg(value_name = "BOOL", value_parser = settings::boolean)]
    merge_domain_config: bool,
}

/// Reads and compiles as `serve` would, and tells of everything that is wrong or probably not meant.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let (mut files, mut mistakes) = (Vec::new(), Vec::new());
    for found in args.paths.iter().map(|path| sources::read(path)) {
        files.extend(found.files);
        mistakes.extend(found.unread);
    }
    if files.is_empty() && mistakes.is_empty() {
        bail!("there are no rule files there");
    }
    // Whether rules are right does not depend on the secret, and nobody should need it to see that.
    let hash_key = Some(HashKey::new(b"any will do"));
    let options =
        CompileOptions { merge_domains: args.merge_domain_config, hash_key, ..CompileOptions::default() };
    let rules = compile(&files, options, None).unwrap_or_else(|RuleErrors(found)| {
        mistakes.extend(found);
        Rules::default()
    });
    rules.warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
    mistakes.iter().for_each(|mistake| complain(&mistake.to_string()));
    if !mistakes.is_empty() {
        bail!("mistakes found: {}", mistakes.len());
    }
    let (rules, domains) = (counted(rules.len(), "rule"), counted(rules.domains().count(), "domain"));
    print(&format!("OK: {rules} in {domains}\n"))
}
