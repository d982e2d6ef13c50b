//! `tollgate query`: sends one request to a running service and prints the answer.

use std::error::Error;
use std::io;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, Datelike as _, Timelike as _};
use clap::Args;
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code as Status, Request, Response};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{Exit, print};
use crate::clock::{Clock as _, SystemClock};
use crate::engine::Timestamp;
use crate::engine::duration::ShortForm;
use crate::pb::{
    self, Code, DescriptorStatus, Entry, RateLimit, RateLimitDescriptor, RateLimitRequest, RateLimitResponse,
    Unit,
};
use crate::server::wire::{self, AppliedRule};
use crate::tls::{TlsClient, TlsFlags};

/// Upper bound on connecting, and on waiting for the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Resets at least this far away are shown with their date, in seconds.
const DATED_SECS_MIN: u64 = 86_400;
/// Port of `https://host`.
const DEFAULT_TLS_PORT: u16 = 443;
/// Hint for descriptors that `key=value` cannot express.
const JSON_FORM: &str = "a value with a comma is written as JSON: [{\"key\": \"path\", \"value\": \"/a,b\"}]";
/// Column of the rules' names, which only tollgate reports.
const RULE_COLUMN: usize = 2;

/// Arguments of `query`.
#[derive(Args, Debug)]
pub(super) struct QueryArgs {
    /// Domain of the rules.
    #[arg(short, long)]
    domain: String,
    /// Descriptors, each one `key=value[,key=value…]`, or as JSON `[{"key": "path", "value": "/a,b"}]`.
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_descriptor)]
    descriptors: Vec<Descriptor>,
    /// Hits to count; 0 checks without counting.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    hits: u32,
    /// Give the hits back instead of counting them.
    #[arg(long)]
    refund: bool,
    /// gRPC address of the service: `host:port`, `http://host:port`, `https://host:port` or `unix:/path/of/a.sock`.
    #[arg(long, default_value = "127.0.0.1:8081")]
    address: String,
    #[command(flatten)]
    tls: TlsFlags,
    /// Print the answer as proto3 JSON.
    #[arg(long)]
    json: bool,
}

/// An address that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("--address: expected host:port, http://host:port or unix:/path/of/a.sock, found {0:?}")]
pub(super) struct UsageError(String);

/// One descriptor, as typed and as sent.
#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    text: String,
    pub(super) entries: Vec<Entry>,
}

/// Sends the request and prints the answer.
pub(super) fn run(args: &QueryArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Answer { response: answer, rules } = runtime.block_on(send(args))?;
    if args.json {
        print(&(serde_json::to_string_pretty(&wire::json_of_response(&answer))? + "\n"))?;
    } else {
        print(&text_report(args, &answer, rules.as_deref(), SystemClock.now()))?;
    }
    Ok(if answer.overall_code() == Code::OverLimit { Exit::OverLimit } else { Exit::Done })
}

/// The answer of a service.
struct Answer {
    response: RateLimitResponse,
    /// Rule of each descriptor; `None` if the service is not tollgate.
    rules: Option<Vec<AppliedRule>>,
}

async fn send(args: &QueryArgs) -> anyhow::Result<Answer> {
    let mut client = Grpc::new(connect(&args.address, args.tls.client(&args.address)?).await?);
    let call = async {
        match call(&mut client, pb::EXPLAINED_RATE_LIMIT, args).await {
            // Another service than tollgate.
            Err(status) if status.code() == Status::Unimplemented => {
                call(&mut client, pb::SHOULD_RATE_LIMIT, args).await
            }
            answered => answered,
        }
    };
    let answer = tokio::time::timeout(TIMEOUT, call)
        .await
        .with_context(|| format!("no answer from {} within {TIMEOUT:?}", args.address))?;
    let answer = answer.map_err(|status| explain(&status, args))?;
    let rules = answer.metadata().get(pb::RULES_HEADER);
    let rules = rules.and_then(|rules| serde_json::from_slice(rules.as_bytes()).ok());
    Ok(Answer { response: answer.into_inner(), rules })
}

async fn call(
    client: &mut Grpc<Channel>,
    path: &'static str,
    args: &QueryArgs,
) -> Result<Response<RateLimitResponse>, tonic::Status> {
    client.ready().await.map_err(|error| tonic::Status::from_error(error.into()))?;
    let codec = ProstCodec::<RateLimitRequest, RateLimitResponse>::default();
    client.unary(Request::new(request(args)), PathAndQuery::from_static(path), codec).await
}

async fn connect(address: &str, tls: Option<TlsClient>) -> anyhow::Result<Channel> {
    let has_scheme = address.contains("://") || address.starts_with("unix:");
    let uri = if has_scheme { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri).map_err(|_| UsageError(address.to_owned()))?;
    let endpoint = endpoint.connect_timeout(TIMEOUT);
    let connected = match tls {
        None => endpoint.connect().await,
        Some(tls) => endpoint.connect_with_connector(service_fn(move |uri| dial(tls.clone(), uri))).await,
    };
    connected.map_err(|error| {
        let error = anyhow::Error::new(error);
        let cause = error.root_cause();
        anyhow!(
            "cannot connect to a rate-limit service at {address}: {cause}\nStart one with `tollgate`, or set \
             --address to the gRPC address of a running one."
        )
    })
}

async fn dial(tls: TlsClient, uri: Uri) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(DEFAULT_TLS_PORT))).await?;
    Ok(TokioIo::new(tls.connect(host, stream).await?))
}

fn request(args: &QueryArgs) -> RateLimitRequest {
    let descriptor = |descriptor: &Descriptor| RateLimitDescriptor {
        entries: descriptor.entries.clone(),
        // Set it on the descriptor: 0 on the request means 1.
        hits_addend: Some(args.hits.into()),
        is_negative_hits: args.refund,
        ..RateLimitDescriptor::default()
    };
    RateLimitRequest {
        domain: args.domain.clone(),
        descriptors: args.descriptors.iter().map(descriptor).collect(),
        hits_addend: 0,
    }
}

fn explain(status: &tonic::Status, args: &QueryArgs) -> anyhow::Error {
    let said = status.message();
    // Only tonic's own statuses have a source: the connection failed, and the service sent no status. Which
    // code and message it is depends on whether the peer's alert or the end of the connection is read first.
    if let Some(source) = status.source() {
        let (cause, advice) = (root_cause(source), args.tls.advice_on_lost_connection(&args.address));
        return anyhow!("the connection was lost before the answer: {cause}{advice}");
    }
    match status.code() {
        Status::InvalidArgument => anyhow!("the service rejected the request: {said}"),
        Status::Unavailable => anyhow!("the service cannot decide now: {said}"),
        Status::Unimplemented => anyhow!("the server at this address is not a rate-limit service: {said}"),
        code => anyhow!("the service failed ({code:?}): {said}"),
    }
}

fn root_cause<'a>(mut error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// An entry as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonEntry {
    key: String,
    value: String,
}

/// Reads `user=42,path=/login`, or a JSON list of entries, for values with a comma.
pub(super) fn parse_descriptor(text: &str) -> Result<Descriptor, String> {
    let entry = |key: &str, value: &str| Entry { key: key.to_owned().into(), value: value.to_owned().into() };
    if text.trim_start().starts_with('[') {
        let entries: Vec<JsonEntry> =
            serde_json::from_str(text).map_err(|error| format!("{error}; {JSON_FORM}"))?;
        if entries.is_empty() {
            return Err(format!("no entries; {JSON_FORM}"));
        }
        let entries = entries.iter().map(|JsonEntry { key, value }| entry(key, value)).collect();
        return Ok(Descriptor { text: text.to_owned(), entries });
    }
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) => Ok(entry(key, value)),
        None => Err(format!("expected key=value, found {pair:?}; {JSON_FORM}")),
    };
    Ok(Descriptor { text: text.to_owned(), entries: text.split(',').map(pair).collect::<Result<_, _>>()? })
}

/// Report with the overall answer, a line for each descriptor, and notes on descriptors without a limit.
fn text_report(
    args: &QueryArgs,
    answer: &RateLimitResponse,
    rules: Option<&[AppliedRule]>,
    now: Timestamp,
) -> String {
    let statuses = || args.descriptors.iter().zip(&answer.statuses);
    let mut rows = vec![["DESCRIPTOR", "CODE", "RULE", "LIMIT", "REMAINING", "RESET"].map(str::to_owned)];
    for (index, (descriptor, status)) in statuses().enumerate() {
        let rule = rules.and_then(|rules| rules.get(index));
        rows.push(row(descriptor, status, rule, now));
    }
    let is_shown = |column: usize| column != RULE_COLUMN || rules.is_some();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let mut text = format!("{}\n\n", answer.overall_code().as_str_name());
    for row in &rows {
        let cells = row.iter().enumerate().filter(|(column, _)| is_shown(*column));
        let cells = cells.map(|(column, cell)| format!("{cell:width$}", width = width(column)));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    let unmatched: Vec<_> = statuses().filter(|(_, status)| is_unmatched(status)).collect();
    if !unmatched.is_empty() {
        text.push('\n');
    }
    for (Descriptor { text: descriptor, .. }, _) in unmatched {
        text +=
            &format!("no limit for {descriptor} in domain {}: no rule of this domain applies\n", args.domain);
    }
    for header in &answer.response_headers_to_add {
        text += &format!("\n{}: {}", header.key, header.value);
    }
    text
}

/// True if no limit applied. An unlimited rule reports the largest number as remaining.
fn is_unmatched(status: &DescriptorStatus) -> bool {
    status.current_limit.is_none() && status.limit_remaining == 0 && status.code() == Code::Ok
}

fn row(
    descriptor: &Descriptor,
    status: &DescriptorStatus,
    rule: Option<&AppliedRule>,
    now: Timestamp,
) -> [String; 6] {
    let code = status.code().as_str_name().to_owned();
    let none = || "-".to_owned();
    let (limit, remaining) = match &status.current_limit {
        Some(limit) => {
            let text = rule.and_then(|rule| rule.limit.clone());
            (text.unwrap_or_else(|| describe(limit)), status.limit_remaining.to_string())
        }
        None if status.limit_remaining == u32::MAX => ("unlimited".to_owned(), none()),
        None => (none(), none()),
    };
    let reset = status.duration_until_reset.as_ref().and_then(|reset| u64::try_from(reset.seconds).ok());
    let reset = reset.map_or_else(none, |secs| describe_reset(secs, now));
    let rule = rule.and_then(|rule| rule.rule.clone()).unwrap_or_else(none);
    [descriptor.text.clone(), code, rule, limit, remaining, reset]
}

/// `5m 30s`; from a day on with the date: `25d 3h (2026-12-22 19:30 UTC)`.
fn describe_reset(secs: u64, now: Timestamp) -> String {
    let short = ShortForm(secs);
    let at = i64::try_from(now.as_secs().saturating_add(secs)).ok();
    match at.and_then(|at| DateTime::from_timestamp(at, 0)).filter(|_| secs >= DATED_SECS_MIN) {
        None => short.to_string(),
        Some(at) => {
            let (year, month, day) = (at.year(), at.month(), at.day());
            format!("{short} ({year}-{month:02}-{day:02} {:02}:{:02} UTC)", at.hour(), at.minute())
        }
    }
}

fn describe(limit: &RateLimit) -> String {
    let RateLimit { requests_per_unit, .. } = limit;
    let unit = match limit.unit() {
        Unit::Unknown => "window".to_owned(),
        unit => unit.as_str_name().to_ascii_lowercase(),
    };
    format!("{requests_per_unit} per {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(descriptors: &[&str]) -> QueryArgs {
        QueryArgs {
            tls: TlsFlags::default(),
            domain: "shop".to_owned(),
            descriptors: descriptors
                .iter()
                .map(|text| parse_descriptor(text).expect("a descriptor"))
                .collect(),
            hits: 1,
            refund: false,
            address: String::new(),
            json: false,
        }
    }

    #[test]
    fn a_descriptor_is_pairs_and_a_value_may_contain_an_equals_sign() {
        let descriptor = parse_descriptor("a=1,b=x=y,c=").expect("a descriptor");
        let pairs: Vec<_> =
            descriptor.entries.iter().map(|entry| (&entry.key[..], &entry.value[..])).collect();
        assert_eq!(pairs, [(&b"a"[..], &b"1"[..]), (b"b", b"x=y"), (b"c", b"")]);
        assert!(parse_descriptor("a=1,b").unwrap_err().contains("\"b\""));
        let json = r#"[{"key": "agent", "value": "a (b, like c=d)"}, {"key": "x=y", "value": ""}]"#;
        let descriptor = parse_descriptor(json).expect("a descriptor");
        let pairs: Vec<_> =
            descriptor.entries.iter().map(|entry| (&entry.key[..], &entry.value[..])).collect();
        assert_eq!(pairs, [(&b"agent"[..], &b"a (b, like c=d)"[..]), (b"x=y", b"")]);
        for wrong in
            ["[]", "[", r#"[{"key": "a"}]"#, r#"[{"key": "a", "value": "b", "hits": 1}]"#, "agent=a, b"]
        {
            assert!(parse_descriptor(wrong).unwrap_err().contains(JSON_FORM), "{wrong}");
        }
    }

    #[test]
    fn the_report_has_a_line_for_each_descriptor_and_names_those_without_a_rule() {
        let limit = |requests_per_unit, unit: Unit, name: &str| {
            Some(RateLimit { requests_per_unit, unit: unit.into(), name: name.to_owned() })
        };
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let status = |code: Code, current_limit, limit_remaining, duration_until_reset| DescriptorStatus {
            code: code.into(),
            current_limit,
            limit_remaining,
            duration_until_reset,
        };
        let answer = RateLimitResponse {
            overall_code: Code::OverLimit.into(),
            statuses: vec![
                status(Code::OverLimit, limit(5, Unit::Minute, ""), 0, seconds(42)),
                status(Code::Ok, limit(100, Unit::Month, "by ip"), 97, seconds(2_171_400)),
                status(Code::Ok, None, u32::MAX, None),
                status(Code::Ok, None, 0, None),
            ],
            ..RateLimitResponse::default()
        };
        let args = args(&["user=alice", "ip=10.0.0.1,path=/x", "admin=1", "other="]);
        // 2026-11-27 16:20 UTC.
        let now = Timestamp::from_secs(1_795_796_400);
        let rules = [
            (Some("shop.user"), Some("5 in flight")),
            (Some("by ip"), None),
            (Some("shop.admin_1"), None),
            (None, None),
        ]
        .map(|(rule, limit)| AppliedRule { rule: rule.map(str::to_owned), limit: limit.map(str::to_owned) });
        let shown = text_report(&args, &answer, Some(&rules), now);
        let expected = "\
OVER_LIMIT

DESCRIPTOR           CODE        RULE          LIMIT          REMAINING  RESET
user=alice           OVER_LIMIT  shop.user     5 in flight    0          42s
ip=10.0.0.1,path=/x  OK          by ip         100 per month  97         25d 3h (2026-12-22 19:30 UTC)
admin=1              OK          shop.admin_1  unlimited      -          -
other=               OK          -             -              -          -

no limit for other= in domain shop: no rule of this domain applies
";
        assert_eq!(shown, expected);
        // Another service names no rules.
        let shown = text_report(&args, &answer, None, now);
        assert!(shown.contains("DESCRIPTOR           CODE        LIMIT "), "{shown}");
        assert!(shown.contains("OVER_LIMIT  5 per minute "), "{shown}");
    }
}
