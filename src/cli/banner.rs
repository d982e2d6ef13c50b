//! Banner of `serve` on stdout: addresses, rules in force, and a first request to try.

use std::ffi::OsStr;
use std::io::Write as _;

use serde_json::{Value, json};

use super::plural;
use crate::app::App;
use crate::engine::Rules;
use crate::engine::rules::ExampleRequest;
use crate::server::{Address, ListenSettings};
use crate::settings::{Settings, StoreSettings};
use crate::telemetry::logs::LogFormat;
use crate::tls::ServerTls;

/// Shown in place of a first request if rules come from a management server alone, since a rule file would not be read.
const NO_RULES_FROM_SERVER: &str =
    "\nNothing is limited yet: the management server has sent no rules for this node (docs/xds.md).\n";

/// Prints the banner, as one line of JSON if the log is JSON, and logs the same facts at `info`. `program` is
/// the name that the process was started with. An unwritable stdout is only logged.
pub(super) fn show(app: &App, program: &OsStr) {
    let settings = app.settings();
    let addresses = app.addresses();
    let counters = counters(settings);
    let (rules, candidate) = (app.rules(), app.candidate_rules());
    let rule_count = rules.as_deref().map_or(0, Rules::len);
    tracing::info!(
        grpc = %addresses.grpc,
        http = %addresses.http,
        debug = %addresses.debug,
        rules = rule_count,
        counters,
        "started"
    );
    let text = match settings.logs.format {
        LogFormat::Json => format!("{}\n", as_json(app, &counters, rule_count)),
        LogFormat::Text => {
            let example = rules.as_deref().and_then(Rules::example_request);
            as_text(app, &counters, rules.as_deref(), candidate.as_deref())
                + &match example {
                    None if !settings.reads_rule_files => NO_RULES_FROM_SERVER.to_owned(),
                    example => suggestion(addresses, has_tls(settings), program, example.as_ref()),
                }
        }
    };
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "cannot write the banner to stdout");
    }
}

/// Location of the counters.
fn counters(settings: &Settings) -> String {
    match &settings.store {
        StoreSettings::Memory => "in the memory of this process".to_owned(),
        StoreSettings::Redis(redis) => match &redis.per_second {
            None => format!("in Redis at {}", redis.all.deployment),
            Some(second) => {
                format!("in Redis at {}, those per second at {}", redis.all.deployment, second.deployment)
            }
        },
    }
}

fn as_json(app: &App, counters: &str, rules: usize) -> Value {
    let ListenSettings { http, grpc, debug, admin, prometheus } = app.addresses();
    json!({
        "message": "tollgate started",
        "version": env!("CARGO_PKG_VERSION"),
        "grpc": grpc.to_string(),
        "http": http.to_string(),
        "debug": debug.to_string(),
        "grpc_tls": app.settings().serve.grpc_tls.is_some(),
        "http_tls": app.settings().serve.http_tls.is_some(),
        "admin_tls": app.settings().serve.admin_tls.is_some(),
        "admin": admin.as_ref().map(ToString::to_string),
        "prometheus": prometheus.as_ref().map(|(address, path)| format!("{address}{path}")),
        "rules": rules,
        "rules_path": app.settings().rules.path.display().to_string(),
        "counters": counters,
    })
}

fn as_text(app: &App, counters: &str, rules: Option<&Rules>, candidate: Option<&Rules>) -> String {
    let settings = app.settings();
    let ListenSettings { http, grpc, debug, admin, prometheus } = app.addresses();
    let mut lines = vec![
        format!("tollgate {}", env!("CARGO_PKG_VERSION")),
        format!("  gRPC      {grpc}{}", transport(settings.serve.grpc_tls.as_ref())),
        format!("  HTTP      {http}{}", transport(settings.serve.http_tls.as_ref())),
        format!("  debug     {debug}"),
    ];
    let admin_tls = transport(settings.serve.admin_tls.as_ref());
    lines.extend(admin.as_ref().map(|address| format!("  console   {address}{admin_tls}")));
    lines.extend(prometheus.as_ref().map(|(address, path)| format!("  metrics   {address}{path}")));
    lines.push(format!("  rules     {}", loaded(rules, &rules_place(settings))));
    let files = settings.candidate.as_ref().map(|candidate| candidate.files.path.display().to_string());
    lines.extend(files.map(|place| format!("  candidate {}", loaded(candidate, &place))));
    lines.push(format!("  counters  {counters}"));
    lines.join("\n") + "\n"
}

/// Label of a listener with TLS; empty for plain text.
const fn transport(tls: Option<&ServerTls>) -> &'static str {
    match tls {
        None => "",
        Some(ServerTls { clients: None, .. }) => " (TLS)",
        Some(ServerTls { clients: Some(_), .. }) => " (mutual TLS)",
    }
}

/// Sources of the rules: files, a management server, or both.
fn rules_place(settings: &Settings) -> String {
    let files = settings.reads_rule_files.then(|| settings.rules.path.display().to_string());
    let server = settings.xds.as_ref().map(|xds| format!("the management server {}", xds.server));
    files.into_iter().chain(server).collect::<Vec<_>>().join(" and ")
}

/// Number of rules, and where they come from.
fn loaded(rules: Option<&Rules>, place: &str) -> String {
    match rules {
        Some(rules) => {
            format!("{} in {}, from {place}", rules.len(), plural(rules.domains().count(), "domain"))
        }
        None => format!("none yet, from {place}"),
    }
}

/// True for TLS on the gRPC listener, and on the HTTP listener.
const fn has_tls(settings: &Settings) -> (bool, bool) {
    (settings.serve.grpc_tls.is_some(), settings.serve.http_tls.is_some())
}

/// A first request to try, whose descriptor has a limit; a first rule to write if there is none.
fn suggestion(
    addresses: &ListenSettings,
    (grpc_tls, http_tls): (bool, bool),
    program: &OsStr,
    example: Option<&ExampleRequest>,
) -> String {
    let Some(ExampleRequest { domain, entries }) = example else {
        return "\nNothing is limited yet. A first rule file, which is read within seconds (docs/rules.md):\n  \
                domain: example\n  descriptors:\n    - key: user\n      rate_limit: 5/minute\n"
            .to_owned();
    };
    let program = quoted(&program.to_string_lossy());
    let address = match local(&addresses.grpc).as_str() {
        "127.0.0.1:8081" => String::new(),
        address => format!(" --address {}", quoted(address)),
    };
    let pairs: Vec<_> = entries.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let entries: Vec<_> = entries.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
    let body = json!({ "domain": domain, "descriptors": [{ "entries": entries }] }).to_string();
    format!(
        "\nTry:\n  {program} query{address}{tls} -d {domain} {pairs}\n  curl {scheme}://{http}/json -d {body}\n",
        tls = if grpc_tls { " --tls" } else { "" },
        scheme = if http_tls { "https" } else { "http" },
        domain = quoted(domain),
        pairs = quoted(&pairs.join(",")),
        http = local(&addresses.http),
        body = quoted(&body),
    )
}

/// Address by which a client on this machine reaches the listener.
fn local(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } if host == "0.0.0.0" || host == "::" => format!("127.0.0.1:{port}"),
        address => address.to_string(),
    }
}

/// `text` as one word for a shell, quoted if necessary.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(grpc_port: u16) -> ListenSettings {
        let tcp = |port| Address::Tcp { host: "0.0.0.0".to_owned(), port };
        ListenSettings {
            http: tcp(8080),
            grpc: tcp(grpc_port),
            debug: tcp(6070),
            admin: None,
            prometheus: None,
        }
    }

    #[test]
    fn the_suggestion_is_a_descriptor_of_the_rules_and_the_program_as_it_was_started() {
        let entries = vec![("plan".to_owned(), "it's free".to_owned())];
        let example = ExampleRequest { domain: "shop".to_owned(), entries };
        let program = OsStr::new("target/debug/tollgate");
        let text = suggestion(&addresses(9), (false, false), program, Some(&example));
        assert!(
            text.contains(r"  target/debug/tollgate query --address 127.0.0.1:9 -d shop 'plan=it'\''s free'"),
            "{text}"
        );
        assert!(text.contains(r#"curl http://127.0.0.1:8080/json -d '{"domain":"shop","#), "{text}");
        let text = suggestion(&addresses(9), (true, true), program, Some(&example));
        assert!(text.contains("query --address 127.0.0.1:9 --tls -d shop"), "{text}");
        assert!(text.contains("curl https://127.0.0.1:8080/json"), "{text}");
    }

    #[test]
    fn without_rules_it_shows_how_to_write_one() {
        let text = suggestion(&addresses(8081), (false, false), OsStr::new("tollgate"), None);
        assert!(text.contains("rate_limit: 5/minute"), "{text}");
    }
}
