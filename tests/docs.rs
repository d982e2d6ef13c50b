//! The examples in the documentation work.

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use std::collections::BTreeMap;
use tollgate::clock::{Clock as _, SystemClock};
use tollgate::engine::rules::{CompileOptions, HashKey, SourceFile, compile};
use tollgate::telemetry::metrics::definitions;

use crate::support::console::{self, Shown, blocks, commands};
use crate::support::envoy;
use crate::support::load::request;
use crate::support::service::Service;

const README: &str = include_str!("../README.md");
const RULES: &str = include_str!("../docs/rules.md");
const REDIS: &str = include_str!("../docs/redis.md");
const HTTP: &str = include_str!("../docs/http.md");
const CONCURRENCY: &str = include_str!("../docs/concurrency.md");
const LEASES: &str = include_str!("../docs/leases.md");
const LLM: &str = include_str!("../docs/llm.md");
const RECIPES: &str = include_str!("../docs/recipes.md");
const MIGRATION: &str = include_str!("../docs/migrate.md");
const KUBERNETES: &str = include_str!("../docs/kubernetes.md");
const ENVOY_GATEWAY: &str = include_str!("../docs/envoy-gateway.md");
const ISTIO: &str = include_str!("../docs/istio.md");
const SECURITY: &str = include_str!("../docs/SECURITY.md");
const OPERATIONS: &str = include_str!("../docs/operations.md");
const METRICS: &str = include_str!("../docs/metrics.md");
const SAMPLE: &str = include_str!("../config/example.yaml");

#[test]
fn the_rules_in_the_documentation_compile() {
    let shown = [
        ("README.md", README),
        ("docs/rules.md", RULES),
        ("docs/http.md", HTTP),
        ("docs/concurrency.md", CONCURRENCY),
        ("docs/leases.md", LEASES),
        ("docs/llm.md", LLM),
        ("docs/recipes.md", RECIPES),
        ("docs/migrate.md", MIGRATION),
    ];
    for (name, document) in shown {
        let blocks = blocks(document, "yaml rules");
        assert!(!blocks.is_empty(), "{name} shows rules");
        for text in blocks {
            let file = SourceFile { name: name.to_owned(), text: text.to_owned() };
            let hash_key = Some(HashKey::new(b"what HASH_KEY is"));
            let options = CompileOptions { hash_key, ..CompileOptions::default() };
            if let Err(errors) = compile(&[file], options, None) {
                panic!("{errors:?}\n{text}");
            }
        }
    }
}

/// Metrics in the tables of docs/metrics.md, with their labels.
fn documented_metrics() -> BTreeMap<&'static str, Vec<&'static str>> {
    fn quoted(cell: &'static str) -> impl Iterator<Item = &'static str> {
        cell.split('`').skip(1).step_by(2)
    }
    let rows = METRICS.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| row.split('|').collect::<Vec<_>>());
    rows.flat_map(|cells| quoted(cells[1]).map(move |name| (name, quoted(cells[2]).collect()))).collect()
}

#[test]
fn every_metric_is_documented_with_its_labels_and_no_other_is() {
    let defined: BTreeMap<_, _> =
        definitions::ALL.iter().map(|metric| (metric.name, metric.labels.to_vec())).collect();
    assert_eq!(documented_metrics(), defined);
    // Histograms have series of their own.
    let family = |name: &str| name.trim_end_matches("_bucket").to_owned();
    for (name, document) in [("operations.md", OPERATIONS), ("migrate.md", MIGRATION), ("redis.md", REDIS)] {
        for word in document.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let is_metric = word.starts_with("tollgate_") || word.starts_with("ratelimit_service_");
            let exists = defined.contains_key(&*family(word));
            assert!(!is_metric || exists, "docs/{name} names {word}, which is no metric");
        }
    }
}

/// A document without its YAML: Envoy's constants look like environment variables.
fn without_yaml(document: &str) -> String {
    let (mut text, mut is_yaml) = (String::new(), false);
    for line in document.lines() {
        is_yaml = line.starts_with("```yaml") || is_yaml && line != "```";
        if !is_yaml {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The words of a document that look like environment variables with an underscore in them.
fn variables(document: &str) -> Vec<&str> {
    let words = document.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_name = |word: &&str| {
        word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    words.filter(is_name).filter(|word| !word.starts_with('_') && !word.ends_with('_')).collect()
}

#[test]
fn documented_settings_exist_and_the_redis_guide_has_all_of_its_own() {
    let table = tollgate::settings::table();
    let known: Vec<&str> = table.iter().map(|row| row.variable.as_str()).collect();
    // Constants of gRPC and Envoy look the same.
    let others = [
        "OVER_LIMIT",
        "NOT_SERVING",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "DYNAMIC_METADATA",
        "GRPC_XDS_SOTW",
        "CARGO_TARGET_DIR",
        // Of envoyproxy/ratelimit, not supported.
        "USE_CALENDAR_MONTH_RATE_LIMIT",
        // Of Envoy, Envoy Gateway and Istio.
        "STRICT_DNS",
        "GRPC_SERVER_TLS_CA_CERT",
        "SIDECAR_INBOUND",
        // Limitador's.
        "DRAFT_VERSION_03",
        "ENVOY_RLS_HOST",
        "ENVOY_RLS_PORT",
        "HTTP_API_HOST",
        "HTTP_API_PORT",
        "LIMITS_FILE",
        "REDIS_LOCAL_CACHE_ENABLED",
        "NO_COLOR",
        "OTEL_RESOURCE_ATTRIBUTES",
    ];
    let documents = [
        ("README.md", README),
        ("docs/redis.md", REDIS),
        ("docs/rules.md", RULES),
        ("docs/http.md", HTTP),
        ("docs/operations.md", OPERATIONS),
        ("docs/metrics.md", METRICS),
        ("docs/recipes.md", RECIPES),
        ("docs/migrate.md", MIGRATION),
        ("docs/kubernetes.md", KUBERNETES),
        ("docs/envoy-gateway.md", ENVOY_GATEWAY),
        ("docs/istio.md", ISTIO),
        ("docs/SECURITY.md", SECURITY),
    ];
    for (name, document) in documents {
        for variable in
            variables(&without_yaml(document)).into_iter().filter(|variable| !others.contains(variable))
        {
            assert!(known.contains(&variable), "{name} names {variable}, which is no setting");
        }
    }
    for variable in known.iter().filter(|variable| variable.starts_with("REDIS_")) {
        assert!(variables(REDIS).contains(variable), "docs/redis.md does not say what {variable} does");
    }
}

#[test]
fn every_field_of_a_rule_has_an_example() {
    let shown = blocks(RULES, "yaml rules").concat();
    let fields = RULES.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let fields: Vec<_> = fields.map(|(field, _)| field).collect();
    assert!(fields.len() > 10, "{fields:?}");
    for field in fields {
        // Steps without options stand in a list.
        let is_step = ["lowercase", "trim", "hash"].contains(&field);
        let example = if is_step { field.to_owned() } else { format!("{field}:") };
        assert!(shown.contains(&example), "{field} has no example");
    }
}

/// The README's excerpts leave lines out, and are less indented.
#[test]
fn the_readme_shows_lines_of_the_envoy_configuration_in_their_order() {
    let excerpts = blocks(README, "yaml envoy");
    assert!(excerpts.len() >= 2, "{excerpts:?}");
    for excerpt in excerpts {
        let mut lines = envoy::CONFIG.lines().map(str::trim);
        for line in excerpt.lines().map(str::trim) {
            assert!(
                lines.any(|found| found == line),
                "deploy/envoy/envoy.yaml has no such line here: {line}"
            );
        }
    }
}

#[tokio::test]
async fn the_commands_of_the_readme_print_what_it_shows() {
    let shown: Vec<_> = blocks(README, "console").into_iter().flat_map(commands).collect();
    let requests: Vec<_> = shown.into_iter().filter(Shown::is_request).collect();
    assert!(requests.len() >= 2, "{requests:?}");
    console::check("README.md", SAMPLE, &requests).await;
}

/// `text` with `0` for every number of seconds.
fn at_no_time(text: &str) -> String {
    let times = ["resetIn\":", "retryAfter\":", "-reset: ", "retry-after: ", "Reset\":\"", "again in "];
    times.iter().fold(text.to_owned(), |text, before| {
        let mut pieces = text.split(before);
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |text, rest| {
            let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            text + before + if after == rest { "" } else { "0" } + after
        })
    })
}

/// The output of `curl -i` without times: the status, the headers in the order of their names, and the body.
#[derive(Debug, PartialEq)]
struct Answer {
    status: String,
    headers: Vec<String>,
    body: serde_json::Value,
}

impl Answer {
    fn of(status: &str, mut headers: Vec<String>, body: &str) -> Self {
        headers.sort_unstable();
        let headers = headers.iter().map(|header| at_no_time(header)).collect();
        // Documents break lines; JSON does not mind.
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}"));
        let body = serde_json::from_str(&at_no_time(&body.to_string())).expect("still JSON");
        Self { status: status.to_owned(), headers, body }
    }

    /// A command's path and body, and what is shown of its answer.
    fn parse(block: &str) -> (&str, &str, Self) {
        let (command, answer) = block.split_once('\n').expect("a command and its answer");
        let command = command.strip_prefix("$ curl -i http://127.0.0.1:8080").expect("curl -i");
        let (path, body) = command.split_once(" -d ").expect("a body");
        let (head, shown) = answer.split_once("\n\n").expect("headers and a body");
        let (status, headers) = head.split_once('\n').expect("a status and headers");
        let headers = headers.lines().map(str::to_owned).collect();
        let status = status.strip_prefix("HTTP/1.1 ").expect("a status");
        (path, body.trim_matches('\''), Self::of(status, headers, shown))
    }

    async fn ask(tollgate: &Service, path: &str, body: &str) -> Self {
        let request = reqwest::Client::new().post(tollgate.url(path)).body(body.to_owned());
        let answer = request.send().await.expect("an answer");
        let own = |name: &str| !["content-length", "date"].contains(&name);
        let headers = answer.headers().iter().filter(|(name, _)| own(name.as_str()));
        let headers = headers.map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")));
        let (status, headers) = (answer.status().to_string(), headers.collect());
        Self::of(&status, headers, &answer.text().await.expect("text"))
    }
}

#[tokio::test]
async fn the_requests_of_the_http_guide_get_the_answers_it_shows() {
    let rules = blocks(HTTP, "yaml rules")[0];
    let shown: Vec<_> = blocks(HTTP, "console").into_iter().map(Answer::parse).collect();
    assert!(shown.len() >= 4, "{}", shown.len());
    let minute = || SystemClock.now().as_secs() / 60;
    loop {
        let before = minute();
        let tollgate = Service::start(&[("rules.yaml", rules)], &[]).await;
        let mut answers = Vec::new();
        for (path, body, _) in &shown {
            answers.push(Answer::ask(&tollgate, path, body).await);
        }
        // Its limits are per minute, and the counts those of one minute.
        if minute() == before {
            let expected: Vec<_> = shown.into_iter().map(|(_, _, answer)| answer).collect();
            return assert_eq!(answers, expected);
        }
    }
}

#[tokio::test]
async fn the_problem_document_of_the_guide_is_that_of_a_denial() {
    let is_its = |block: &&str| block.contains("problem_json");
    let rules = blocks(RULES, "yaml rules").into_iter().find(is_its).expect("rules that ask for it");
    let shown: serde_json::Value = serde_json::from_str(blocks(RULES, "json problem")[0]).expect("JSON");
    let tollgate = Service::start(&[("rules.yaml", rules)], &[]).await;
    let address = format!("http://127.0.0.1:{}", tollgate.grpc);
    let mut client = RateLimitServiceClient::connect(address).await.expect("it listens");
    // More than two minutes let pass.
    for _ in 0..11 {
        let answer = client.should_rate_limit(request("shop", &[("login", "ann")])).await.expect("an answer");
        let body = answer.into_inner().raw_body;
        if !body.is_empty() {
            let body = String::from_utf8(body).expect("text");
            return assert_eq!(at_no_time(&body), at_no_time(&shown.to_string()));
        }
    }
    panic!("nothing is denied");
}
