//! The ready rule files in `config/`: they load together, each of their numbers holds on every store, and
//! what their comments say to send is what they limit.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use tollgate::engine::rules::{CompileOptions, SourceFile, compile};
use tollgate::engine::{Entry, FailurePolicy, Modes, Rules};
use tollgate::provider::sources;

use crate::support::envoy::{Config, Envoy};
use crate::support::eventually;
use crate::support::scenario::check;
use crate::support::service::Service;

const README: &str = include_str!("../README.md");
const GUIDE: &str = include_str!("../docs/rules.md");
const AUTHENTICATION: &str = include_str!("../config/presets/authentication.yaml");
const API_TOKENS: &str = include_str!("../config/presets/api-tokens.yaml");
const PROTECTION: &str = include_str!("../config/presets/protection.yaml");
const TENANTS: &str = include_str!("../config/presets/tenants.yaml");
const LLM: &str = include_str!("../config/presets/llm.yaml");

/// Each preset by the domain it is for.
const ALL_PRESETS: [(&str, &str); 6] = [
    PRESETS[0],
    PRESETS[1],
    PRESETS[2],
    PRESETS[3],
    PRESETS[4],
    ("lockout", include_str!("../config/presets/lockout.yaml")),
];

/// Those whose comments have a configuration of Envoy; the Envoy for lockouts is a file of its own.
const PRESETS: [(&str, &str); 5] = [
    ("authentication", AUTHENTICATION),
    ("api-tokens", API_TOKENS),
    ("protection", PROTECTION),
    ("tenants", TENANTS),
    ("llm", LLM),
];

/// A midnight, and so the beginning of an hour and of a minute; early enough for scripts to tell its
/// microseconds.
const MIDNIGHT_SECS: u64 = 10 * 86_400;

/// Everything below `config/`, as the program finds it.
fn files() -> Vec<SourceFile> {
    let found = sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config"));
    assert!(found.unreadable.is_empty(), "{:?}", found.unreadable);
    found.files
}

fn load(files: &[SourceFile]) -> Rules {
    let rules = compile(files, CompileOptions::default(), None);
    let rules = rules.unwrap_or_else(|errors| panic!("{errors}"));
    assert!(rules.warnings.is_empty(), "{:?}", rules.warnings);
    rules
}

/// `key=value,key=value`.
fn entries(text: &str) -> Vec<Entry<'_>> {
    let pairs = text.split(',').map(|pair| pair.split_once('=').expect("key=value"));
    pairs.map(|(key, value)| Entry { key: key.as_bytes(), value: value.as_bytes() }).collect()
}

/// The comment a file begins with, without its marks.
fn comment(preset: &str) -> Vec<&str> {
    preset.lines().map_while(|line| line.strip_prefix('#')).collect()
}

/// The Envoy configuration in its comment, as YAML that begins in the first column.
fn actions(preset: &str) -> Vec<&str> {
    let lines = comment(preset).into_iter().map(|line| line.strip_prefix("   ").unwrap_or_default());
    lines.skip_while(|line| *line != "rate_limits:").take_while(|line| !line.is_empty()).collect()
}

#[test]
fn every_ready_file_loads_alone_and_together_with_the_others() {
    let files = files();
    assert_eq!(files.len(), ALL_PRESETS.len() + 1);
    for file in &files {
        let rules = load(std::slice::from_ref(file));
        let domains: Vec<_> = rules.domains().map(|domain| domain.name()).collect();
        let stem = Path::new(&file.name).file_stem().and_then(|stem| stem.to_str());
        assert_eq!(domains, [stem.expect("a name")], "the domain is called as the file is");
    }
    let rules = load(&files);
    let counts = format!("rules     {} in {} domains, from config", rules.len(), rules.domains().count());
    assert!(README.contains(&counts), "the README does not say: {counts}");
}

#[test]
fn requests_in_preset_comments_are_limited() {
    let rules = load(&files());
    for (domain, preset) in ALL_PRESETS {
        let lines = comment(preset);
        let query = format!("   tollgate query -d {domain} ");
        let asked: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix(&query)).collect();
        let posted = lines.iter().any(|line| line.contains(&format!("-d '{{\"domain\": \"{domain}\"")));
        assert!(!asked.is_empty() || posted, "{domain} does not say how to ask");
        for descriptor in asked.iter().flat_map(|line| line.split(' ')) {
            let domain = rules.domain(domain.as_bytes()).expect("the domain has rules");
            assert!(domain.find(&entries(descriptor)).is_some(), "nothing limits {descriptor}");
        }
    }
}

#[test]
fn no_guess_passes_while_the_store_is_down_and_nothing_else_waits_for_it() {
    use FailurePolicy::{Allow, Deny, Local};
    let rules = load(&files());
    for (domain, descriptor, policy) in [
        ("authentication", "operation=login,remote_address=i", Deny),
        ("authentication", "operation=login,email=e", Deny),
        ("authentication", "operation=register,remote_address=i", Local),
        ("authentication", "operation=verify_email,remote_address=i", Deny),
        ("authentication", "operation=forgot_password,remote_address=i", Local),
        ("authentication", "operation=reset_password,remote_address=i", Deny),
        ("api-tokens", "plan=pro,api_key=k", Local),
        ("protection", "operation=login,remote_address=i", Deny),
        ("protection", "operation=register,remote_address=i", Local),
        ("protection", "operation=reset_password,remote_address=i", Deny),
        ("protection", "operation=payment", Local),
        ("protection", "operation=api,user=u", Allow),
        ("tenants", "plan=pro,tenant=t", Local),
        ("llm", "limit=tokens,api_key=k,model=m", Allow),
        ("llm", "limit=money,api_key=k", Deny),
        ("llm", "limit=in_flight,api_key=k", Allow),
        ("lockout", "login=password,account=a", Allow),
        ("lockout", "login=password,remote_address=i", Allow),
    ] {
        let domain = rules.domain(domain.as_bytes()).expect("the domain has rules");
        let found = domain.find(&entries(descriptor)).expect("a rule");
        assert_eq!(found.rule.on_backend_failure, policy, "{descriptor}");
    }
}

/// A script of what begins at midnight.
struct Script {
    text: String,
    now: Duration,
}

impl Script {
    fn of(domain: &str) -> Self {
        let mut script = Self { text: format!("domain {domain}\n"), now: Duration::ZERO };
        script.at(Duration::from_secs(MIDNIGHT_SECS));
        script
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("text can be written");
    }

    fn at(&mut self, time: Duration) {
        self.now = time;
        self.line(&format!("@{}", time.as_secs_f64()));
    }

    fn wait(&mut self, time: Duration) {
        self.at(self.now + time);
    }

    fn since_midnight(&self) -> Duration {
        self.now - Duration::from_secs(MIDNIGHT_SECS)
    }

    /// The last hit that `left` lets pass passes, the next one does not, and it does after `wait` and not
    /// before. Denied hits do not count.
    fn is_used_up(&mut self, descriptor: &str, layer: &str, left: u32, wait: Duration) {
        if left > 1 {
            self.line(&format!("{descriptor}*{} -> OK | OK 1", left - 1));
        }
        self.line(&format!("{descriptor} -> OK | OK 0"));
        let secs = wait.as_secs_f64();
        self.line(&format!("{descriptor} -> OVER by {layer} | OVER 0 in {secs}"));
        let early = Duration::from_millis(1);
        self.wait(wait - early);
        self.line(&format!("{descriptor} -> OVER by {layer} | OVER 0 in 0.001"));
        self.wait(early);
        self.line(&format!("{descriptor} -> OK"));
    }

    /// So many hits pass, `hits` at once and then again after each `pause`; the next pause is over.
    fn paced(&mut self, descriptor: &str, total: u32, hits: u32, pause: Duration) {
        for _ in 0..total / hits {
            self.line(&format!("{descriptor}*{hits} -> OK"));
            self.wait(pause);
        }
        assert_eq!(total % hits, 0);
    }
}

/// Wait of a sliding window that holds all of its `limit` hits at `at`: until the window is the
/// one before, and what of it counts has become a hit less.
fn sliding_wait(limit: u32, window: Duration, at: Duration) -> Duration {
    let end = window - Duration::from_nanos((at.as_nanos() % window.as_nanos()).try_into().expect("short"));
    end + window / limit
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn authentication_has_the_numbers_it_says() {
    let mut script = Script::of("authentication");
    for (descriptor, layer, limit) in [
        ("operation=login,email=ann@example.com", "email", 10),
        ("operation=register,remote_address=10.0.0.1", "ip", 3),
        ("operation=verify_email,remote_address=10.0.0.1", "ip", 10),
        ("operation=forgot_password,remote_address=10.0.0.1", "ip", 3),
        ("operation=reset_password,remote_address=10.0.0.1", "ip", 5),
    ] {
        script.is_used_up(descriptor, layer, limit, HOUR);
    }
    check(AUTHENTICATION, Modes::default(), &script.text).await;
}

#[tokio::test]
async fn an_address_that_keeps_guessing_stays_out_and_does_not_use_up_the_account() {
    let script = "
domain authentication
@3590
operation=login,remote_address=i; operation=login,email=ann -> OK | OK 4, OK 9
operation=login,remote_address=i; operation=login,email=ann -> OK | OK 3, OK 8
operation=login,remote_address=i; operation=login,email=ann -> OK | OK 2, OK 7
operation=login,remote_address=i; operation=login,email=ann -> OK | OK 1, OK 6
operation=login,remote_address=i; operation=login,email=ann -> OK | OK 0, OK 5
@3649                                # the beginning of a minute does not let five more in
operation=login,remote_address=i; operation=login,email=ann -> OVER by ip | OVER 0, OK 5
operation=login,remote_address=i*4; operation=login,email=ann -> OVER by ip | OVER 0, OK 5
operation=login,remote_address=j; operation=login,email=ann -> OK | OK 4, OK 4
@3651                                # nor a minute after the last try that passed
operation=login,remote_address=i; operation=login,email=ann -> OVER by ip | OVER 0, OK 4
@3711
operation=login,remote_address=i; operation=login,email=ann -> OK | OK 4, OK 3
operation=login,remote_address=k; operation=login,email=ann*3 -> OK | OK 4, OK 0
operation=login,remote_address=k; operation=login,email=ann -> OVER by email | OK 3 in 60, OVER 0 in 3479
operation=login,remote_address=k; operation=login,email=bob -> OK | OK 2, OK 9
@7190                                # of the account, what was denied has not counted
operation=login,remote_address=k; operation=login,email=ann*5 -> OK | OK 4, OK 0
";
    check(AUTHENTICATION, Modes::default(), script).await;
}

#[tokio::test]
async fn api_tokens_have_the_numbers_of_their_plan() {
    let mut script = Script::of("api-tokens");
    // Limits of a minute, an hour and a day, and a pace for each of the longer ones that the shorter ones bear.
    for (plan, [minute, hour, day], hourly, daily) in [
        ("plan=free,", [30, 500, 5_000], (10, 30), (16, 120)),
        ("", [30, 500, 5_000], (10, 30), (16, 120)),
        ("plan=misspelled,", [30, 500, 5_000], (10, 30), (16, 120)),
        ("plan=pro,", [300, 10_000, 100_000], (100, 30), (150, 60)),
    ] {
        let descriptor = |key: &str| format!("{plan}api_key={key}");
        let midnight = Duration::from_secs(MIDNIGHT_SECS);
        script.at(midnight);
        let wait = sliding_wait(minute, MINUTE, Duration::ZERO);
        script.is_used_up(&descriptor("of-a-minute"), "api_key", minute, wait);

        script.at(midnight);
        let (hits, pause) = hourly;
        script.paced(&descriptor("of-an-hour"), hour - hits, hits, Duration::from_secs(pause));
        let wait = sliding_wait(hour, HOUR, script.since_midnight());
        script.is_used_up(&descriptor("of-an-hour"), "api_key", hits, wait);

        script.at(midnight);
        let (hits, pause) = daily;
        let last = if day % hits == 0 { hits } else { day % hits };
        script.paced(&descriptor("of-a-day"), day - last, hits, Duration::from_secs(pause));
        let wait = DAY - script.since_midnight();
        script.is_used_up(&descriptor("of-a-day"), "api_key", last, wait);
    }
    check(API_TOKENS, Modes::default(), &script.text).await;
}

#[tokio::test]
async fn protection_has_the_numbers_it_says_for_each_side() {
    let mut script = Script::of("protection");
    for (descriptor, layer, limit, window) in [
        ("operation=login,remote_address=10.0.0.1", "ip", 10, 15 * MINUTE),
        ("operation=register,remote_address=10.0.0.1", "ip", 5, HOUR),
        ("operation=reset_password,remote_address=10.0.0.1", "ip", 5, HOUR),
        ("operation=payment,user=ann", "user", 20, HOUR),
        ("operation=payment,remote_address=10.0.0.1", "ip", 50, HOUR),
        ("operation=payment", "endpoint", 500, HOUR),
        ("operation=ai_query,user=ann", "user", 20, HOUR),
        ("operation=ai_query,remote_address=10.0.0.1", "ip", 50, HOUR),
        ("operation=upload,user=ann", "user", 30, HOUR),
        ("operation=upload,remote_address=10.0.0.1", "ip", 100, HOUR),
        ("operation=export,user=ann", "user", 50, HOUR),
        ("operation=export,remote_address=10.0.0.1", "ip", 100, HOUR),
        ("operation=api,user=ann", "user", 1_000, HOUR),
        ("operation=api,remote_address=10.0.0.1", "ip", 2_000, HOUR),
    ] {
        script.at(Duration::from_secs(MIDNIGHT_SECS));
        script.is_used_up(descriptor, layer, limit, sliding_wait(limit, window, Duration::ZERO));
    }
    check(PROTECTION, Modes::default(), &script.text).await;
}

#[tokio::test]
async fn a_denied_request_uses_up_no_other_limit() {
    let script = "
domain protection
@3600
operation=payment,user=a*20; operation=payment,remote_address=i*20; operation=payment*20 -> OK | OK 0, OK 30, OK 480
operation=payment,user=a; operation=payment,remote_address=i; operation=payment -> OVER by user | OVER 0, OK 30, OK 480
operation=payment,user=b*20; operation=payment,remote_address=i*20; operation=payment*20 -> OK | OK 0, OK 10, OK 460
operation=payment,user=c*10; operation=payment,remote_address=i*10; operation=payment*10 -> OK | OK 10, OK 0, OK 450
operation=payment,user=c; operation=payment,remote_address=i; operation=payment -> OVER by ip | OK 10, OVER 0, OK 450
operation=payment,user=c; operation=payment,remote_address=j; operation=payment -> OK | OK 9, OK 49, OK 449
operation=payment*449 -> OK | OK 0
operation=payment,user=c; operation=payment,remote_address=j; operation=payment -> OVER by endpoint | OK 9, OK 49, OVER 0
operation=export,user=c; operation=export,remote_address=j -> OK | OK 49, OK 99
";
    check(PROTECTION, Modes::default(), script).await;
}

#[tokio::test]
async fn tenants_have_the_numbers_of_their_plan_or_their_own() {
    let mut script = Script::of("tenants");
    // Limits of a second, at once, of a minute and of an hour; and a pace that all but the last one bear.
    for (tenant, [second, burst, minute, hour], (hits, pause)) in [
        ("plan=free,tenant=", [5, 10, 100, 2_000], (8, 6)),
        ("tenant=", [5, 10, 100, 2_000], (8, 6)),
        ("plan=misspelled,tenant=", [5, 10, 100, 2_000], (8, 6)),
        ("plan=pro,tenant=", [20, 40, 600, 20_000], (32, 4)),
        ("plan=enterprise,tenant=", [100, 200, 3_000, 100_000], (160, 4)),
        ("plan=pro,tenant=globex", [2, 2, 60, 1_000], (2, 3)),
        ("plan=enterprise,tenant=acme", [250, 500, 10_000, 400_000], (500, 4)),
    ] {
        // A tenant with numbers of its own is one and the same in all hours; of a plan, each has a new one.
        let descriptor =
            |name: &str| if tenant.ends_with('=') { format!("{tenant}{name}") } else { tenant.to_owned() };
        script.wait(2 * HOUR);
        script.is_used_up(&descriptor("a"), "tenant", burst, Duration::from_secs(1) / second);

        script.at(Duration::from_secs(script.now.as_secs() / 3_600 * 3_600) + 2 * HOUR);
        script.line(&format!("{}*{burst} -> OK", descriptor("b")));
        script.wait(Duration::from_secs(1));
        script.paced(&descriptor("b"), minute - burst - second, second, Duration::from_secs(1));
        let wait = sliding_wait(minute, MINUTE, script.since_midnight());
        script.is_used_up(&descriptor("b"), "tenant", second, wait);

        script.at(Duration::from_secs(script.now.as_secs() / 3_600 * 3_600) + 2 * HOUR);
        let last = if hour % hits == 0 { hits } else { hour % hits };
        script.paced(&descriptor("c"), hour - last, hits, Duration::from_secs(pause));
        let wait = sliding_wait(hour, HOUR, script.since_midnight());
        script.is_used_up(&descriptor("c"), "tenant", last, wait);
    }
    check(TENANTS, Modes::default(), &script.text).await;
}

/// The route that the guide shows.
fn route_shown() -> &'static str {
    let (_, rest) = GUIDE.split_once("```yaml route\n").expect("the guide shows a route");
    rest.split("```").next().expect("a block")
}

#[tokio::test]
async fn envoy_actions_in_preset_comments_match_the_rules() {
    let files = files();
    let texts: Vec<_> =
        files.iter().enumerate().map(|(n, file)| (format!("{n}.yaml"), &*file.text)).collect();
    let texts: Vec<_> = texts.iter().map(|(name, text)| (&**name, *text)).collect();
    let tollgate = Service::start(&texts, &[]).await;

    let shown = route_shown();
    let (_, of_domain) = shown.split_once("  typed_per_filter_config:").expect("the route names its domain");
    let mut routes = shown.to_owned();
    for (domain, preset) in PRESETS {
        let actions = actions(preset);
        // The route's own rate_limits have no hits_addend.
        let has_hits = actions.iter().any(|line| line.contains("hits_addend"));
        let indented = |indent: &str| actions.iter().map(|line| format!("{indent}{line}\n")).collect();
        let (of_route, of_filter): (String, String) =
            if has_hits { (String::new(), indented("      ")) } else { (indented("    "), String::new()) };
        let of_domain = of_domain.replace("domain: authentication", &format!("domain: {domain}"));
        write!(
            routes,
            "- match: {{path: /{domain}}}\n  route:\n    cluster: upstream\n{of_route}  \
             typed_per_filter_config:{of_domain}{of_filter}"
        )
        .expect("text can be written");
    }
    let before = "              - match: {prefix: /}\n                route: {cluster: upstream}";
    let routes: String = routes.lines().map(|line| format!("              {line}\n")).collect();
    let config = Config::asking(&[tollgate.grpc]).with(before, &format!("{routes}{before}"));
    let envoy = Envoy::start(&config).await;

    for (path, headers, limit) in [
        ("/login", &[][..], "5, 5;w=60"),
        ("/authentication", &[], "5, 5;w=60"),
        ("/api-tokens", &[("x-plan", "pro"), ("x-api-key-id", "1")], "300, 300;w=60;name=\"minute\""),
        ("/api-tokens", &[("x-api-key-id", "1")], "30, 30;w=60;name=\"minute\""),
        ("/protection", &[("x-user", "ann")], "20, 20;w=3600, 50;w=3600, 500;w=3600"),
        ("/protection", &[], "50, 50;w=3600, 500;w=3600"),
        ("/tenants", &[("x-plan", "pro"), ("x-tenant", "umbrella")], "20, 20;w=1;name=\"second\""),
        ("/tenants", &[("x-tenant", "umbrella")], "5, 5;w=1;name=\"second\""),
        (
            "/llm",
            &[("x-api-key-id", "1"), ("x-ai-eg-model", "gpt-5")],
            "20, 40000;w=60;name=\"tokens\", 5000000;w=86400;name=\"day\"",
        ),
    ] {
        let (host, port) = envoy.address();
        let mut request = reqwest::Client::new().get(format!("http://{host}:{port}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("Envoy answers");
        assert_eq!(answer.status(), 200, "{path} {headers:?}");
        let shown = answer.headers().get("x-ratelimit-limit").map(|value| value.to_str().expect("text"));
        assert_eq!(shown, Some(limit), "{path} {headers:?}");
    }
    assert_eq!(envoy.stat("cluster.upstream.ratelimit.error").await, 0);

    // The upstream names no usage: what the request of the language model held is given back.
    let usage = async |entries: &str| {
        let body = format!(r#"{{"domain": "llm", "descriptors": [{{"entries": [{entries}]}}]}}"#);
        let request = reqwest::Client::new().post(tollgate.url("/v1/usage")).body(body);
        request.send().await.expect("an answer").json::<serde_json::Value>().await.expect("JSON")
    };
    let key = r#"{"key": "api_key", "value": "1"}"#;
    let limit = |name: &str| format!(r#"{{"key": "limit", "value": "{name}"}}, {key}"#);
    for (entries, remaining) in [
        (limit("tokens") + r#", {"key": "model", "value": "gpt-5"}"#, 40_000),
        (limit("money"), 5_000_000),
        (limit("in_flight"), 20),
    ] {
        eventually(&entries, async || usage(&entries).await["remaining"] == remaining).await;
    }
}

/// The calls that its comment shows to an application.
#[tokio::test]
async fn an_application_settles_the_usage_of_a_language_model_in_one_call() {
    let tollgate = Service::start(&[("llm.yaml", LLM)], &[]).await;
    let lines = comment(LLM).join("\n");
    let (_, body) = lines.split_once("/v1/reserve -d '").expect("the comment shows how to ask");
    let body = body.split('\'').next().expect("a body").to_owned();
    let post = async |path: &str, body: String| {
        let request = reqwest::Client::new().post(tollgate.url(path)).body(body);
        request.send().await.expect("an answer").json::<serde_json::Value>().await.expect("JSON")
    };
    let reserved = post("/v1/reserve", body.clone()).await;
    assert_eq!(reserved["allowed"], true, "{reserved}");
    let (_, settling) = lines.split_once("\"ticket\": \"…\", ").expect("the comment shows how to settle");
    let settling = settling.lines().next().expect("a line");
    let (open, _) = body.rsplit_once('}').expect("an object");
    let settled =
        post("/v1/settle", format!("{open}, \"ticket\": {}, {settling}}}", reserved["ticket"])).await;
    let charged: Vec<_> = (0..2).map(|n| settled["layers"][n]["charged"].clone()).collect();
    // Tokens by weight; and 900 at 1.25, 4000 at 0.125 and 350 at 10 dollars a million.
    assert_eq!(charged, [2_700, 5_125], "{settled}");
}

#[tokio::test]
async fn posts_in_preset_comments_return_both_limits() {
    let tollgate = Service::start(&[("authentication.yaml", AUTHENTICATION)], &[]).await;
    let lines = comment(AUTHENTICATION).join("\n");
    let (_, body) = lines.split_once("/json -d '").expect("the comment shows how to ask");
    let body = body.split('\'').next().expect("a body").to_owned();
    let request = reqwest::Client::new().post(tollgate.url("/json")).body(body);
    let answer: serde_json::Value =
        request.send().await.expect("an answer").json().await.expect("the body is understood");
    let limits: Vec<_> =
        (0..2).map(|n| answer["statuses"][n]["currentLimit"]["requestsPerUnit"].clone()).collect();
    assert_eq!(limits, [5, 10], "{answer}");
}
