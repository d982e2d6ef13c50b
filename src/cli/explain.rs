//! `tollgate explain`: which rule applies to a request and why, from rule files or from a running service.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde_json::json;
use smallvec::SmallVec;

use super::admin;
use super::admin_client::AdminClient;
use super::query::{Descriptor as Typed, parse_descriptor};
use super::{Exit, check, print, print_error};
use crate::engine::rules::{CompileOptions, HashKey, RuleErrors, compile};
use crate::engine::{Descriptor, Entry, Hits, KeyFormat, KeyWriter, Modes, Request};
use crate::lab::{ExplainContext, Explanation, explain};
use crate::settings;
use crate::tls::TlsFlags;

/// Arguments of `explain`.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// Domain of the rules.
    #[arg(short, long)]
    domain: String,
    /// Descriptors, each one `key=value[,key=value…]`, or as JSON `[{"key": "path", "value": "/a,b"}]`.
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_descriptor)]
    descriptors: Vec<Typed>,
    /// Rule file, or a directory of them.
    #[arg(long, value_name = "PATH", default_value = "config", conflicts_with = "address")]
    rules: PathBuf,
    /// Admin listener of a running service, `host:port`, `http://host:port` or `https://host:port`: explains by the
    /// rules and counters of this service, in place of rule files.
    #[arg(long)]
    address: Option<String>,
    /// File with a token for that listener, as for `tollgate admin`. Unset: the token in the variable
    /// `TOLLGATE_ADMIN_TOKEN`, or else the file that `ADMIN_TOKEN_FILE` names.
    #[arg(long, value_name = "PATH", requires = "address")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsFlags,
    /// Merge the rules of files with the same domain, instead of reporting an error.
    #[arg(long, env, default_value = "false", value_name = "BOOL", value_parser = settings::boolean)]
    merge_domain_config: bool,
    /// Print the explanation as JSON.
    #[arg(long)]
    json: bool,
}

/// Explains the request and prints the explanation.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let explanation = match &args.address {
        None => offline(args)?,
        Some(address) => {
            let client = AdminClient::new(address, args.token_file.as_deref(), &args.tls)?;
            admin::explain(&client, &args.domain, &args.descriptors)?
        }
    };
    if args.json { print(&format!("{:#}\n", json!(explanation))) } else { print(&format!("{explanation}\n")) }
}

fn offline(args: &ExplainArgs) -> anyhow::Result<Explanation> {
    let (files, unread) = check::read(std::slice::from_ref(&args.rules))?;
    let mut errors = RuleErrors::default();
    unread.into_iter().for_each(|error| errors.push(error));
    let secret = settings::environment("HASH_KEY");
    let hash_key = HashKey::new(secret.as_deref().unwrap_or("any will do").as_bytes());
    let options = CompileOptions {
        merge_domains: args.merge_domain_config,
        hash_key: Some(hash_key),
        ..CompileOptions::default()
    };
    let rules = match compile(&files, options, None) {
        Ok(rules) if errors.is_empty() => rules,
        Ok(_) => bail!("{errors}"),
        Err(found) => {
            errors.extend(found);
            bail!("{errors}");
        }
    };
    let descriptors: SmallVec<_> = args.descriptors.iter().map(descriptor).collect();
    let request = Request { domain: args.domain.as_bytes(), descriptors };
    let keys = KeyWriter::new(KeyFormat::Native, "");
    let modes = Modes::default();
    let context = ExplainContext { rules: &rules, overrides: None, keys: &keys, modes: &modes };
    let explanation = explain(context, &request, None);
    let mut levels = explanation.descriptors.iter().flat_map(|descriptor| &descriptor.levels);
    if secret.is_none() && levels.any(|level| level.counted != level.normalized) {
        print_error("note: HASH_KEY is not set, so hashes are not those of the service");
    }
    Ok(explanation)
}

fn descriptor(typed: &Typed) -> Descriptor<'_> {
    let entries = typed.entries.iter().map(|entry| Entry { key: &entry.key, value: &entry.value });
    Descriptor { entries: entries.collect(), hits: Hits::Add(0), limit_override: None }
}
