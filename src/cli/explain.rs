//! `tollgate explain`: which rule applies to a request and why, from rule files or from a running service.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::query::{Descriptor as Typed, parse_descriptor};
use super::{Exit, check, print, print_error};
use crate::engine::rules::{CompileOptions, HashKey, RuleErrors, compile};
use crate::engine::{Descriptor, Entry, Hits, KeyFormat, KeyWriter, Modes, Request};
use crate::lab::{Explanation, explain};
use crate::settings;

/// Upper bound on connecting, and on waiting for the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Arguments of `explain`.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// Domain of the rules.
    #[arg(short, long)]
    domain: String,
    /// Descriptors, each one `key=value[,key=value…]`.
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_descriptor)]
    descriptors: Vec<Typed>,
    /// Rule file, or a directory of them.
    #[arg(long, value_name = "PATH", default_value = "config", conflicts_with = "address")]
    rules: PathBuf,
    /// Debug port of a running service to ask, `host:port` or `http://host:port`: it knows the levels of the
    /// counters too.
    #[arg(long)]
    address: Option<String>,
    /// Join the rules of files that have one domain.
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
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let asked = async {
                let asked = tokio::time::timeout(TIMEOUT, online(args, address)).await;
                asked.with_context(|| format!("no answer from {address} within {TIMEOUT:?}"))?
            };
            runtime.block_on(asked)?
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
    let explanation = explain(&rules, &request, &keys, &Modes::default(), None);
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

async fn online(args: &ExplainArgs, address: &str) -> anyhow::Result<Explanation> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let descriptors = args.descriptors.iter().map(|typed| {
        let entries = typed.entries.iter();
        let entries = entries.map(|entry| json!({ "key": text(&entry.key), "value": text(&entry.value) }));
        json!({ "entries": entries.collect::<Vec<_>>() })
    });
    let body = json!({ "domain": args.domain, "descriptors": descriptors.collect::<Vec<_>>() }).to_string();
    let address = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let failed = |error: &dyn Display| {
        anyhow!(
            "no answer from the debug port of a service at {address}: {error}\nIt listens on port 6070 by default; \
             set --address to it."
        )
    };
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(Method::POST)
        .uri("/explain")
        .header(header::HOST, address)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| anyhow!("the answer of {address} cannot be read: {error}"))?.to_bytes();
    connection.abort();
    match status {
        StatusCode::OK => serde_json::from_slice(&body)
            .with_context(|| format!("the answer of {address} is not an explanation")),
        StatusCode::NOT_FOUND => {
            bail!("{address} is not the debug port of a tollgate that explains requests")
        }
        status => bail!("{address} answered {status}: {}", String::from_utf8_lossy(&body).trim()),
    }
}
