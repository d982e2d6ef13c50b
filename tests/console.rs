//! The console in a real browser, on live data.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::admin::{TOKENS, ask, start_with_tokens};
use crate::support::browser::{Browser, axe};
use crate::support::eventually;
use crate::support::service::Service;

/// Values that run a script wherever they are not escaped, and long ones.
const HOSTILE: [&str; 8] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</table><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "{{constructor.constructor('alert(1)')()}}",
    "</script><script>alert(1)</script>",
    "line\nevent: forged\r\ndata: {}",
];

const PAGES: [&str; 17] = [
    "/",
    "/rules",
    "/rule?rule=shop.user",
    "/keys?by=denied&window=5m",
    "/denials",
    "/explain?domain=shop&descriptors=user%3Dann%0Aaccount%3D%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "/key?domain=shop&descriptor=user%3Dann",
    "/key?domain=shop&descriptor=tokens%3Dann",
    "/explain?domain=shop&descriptors=tokens%3Dann%0Atenant%3Dann",
    "/lockouts?q=acme",
    "/overrides",
    "/candidate",
    "/store",
    "/config",
    "/fleet",
    "/audit",
    "/denials?rule=shop.yaml%3A4&q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
];

/// Traffic of all kinds, until `over`.
async fn load(service: &Service, over: &CancellationToken) {
    let long = "long-value-".repeat(500);
    let mut round = 0_u32;
    while !over.is_cancelled() {
        for value in HOSTILE.iter().copied().chain(["ann", "bob", &long]) {
            ask(service, "user", value).await;
        }
        if round < 3 {
            let body = json!({ "domain": "shop", "entries": { "tokens": "ann", "tenant": "ann" } });
            let held = reqwest::Client::new().post(service.url("/v1/reserve")).json(&body).send().await;
            held.expect("an answer");
            ask(service, "account", HOSTILE[1]).await;
            ask(service, "account", "acme").await;
        }
        ask(service, "user", &format!("visitor-{round}")).await;
        round += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Rules and clients of the picture in the README.
const SHOWN: &str = "
domain: shop
descriptors:
  - {key: user, layer: user, rate_limit: 200/hour}
  - {key: remote_address, layer: ip, rate_limit: 60/minute}
  - {key: api_key, rate_limits: [20/minute, 500/day]}
  - {key: export, rate_limit: 2/hour}
";

/// Traffic of clients with names, until `over`.
async fn showcase(service: &Service, over: &CancellationToken) {
    let mut round = 0_u32;
    while !over.is_cancelled() {
        for (key, value, every) in [
            ("user", "alice", 2),
            ("user", "bob", 5),
            ("user", "carol", 11),
            ("remote_address", "198.51.100.7", 2),
            ("remote_address", "203.0.113.20", 9),
            ("api_key", "build-robot", 3),
            ("api_key", "partner-eu", 17),
            ("export", "orders", 23),
        ] {
            if round.is_multiple_of(every) {
                ask(service, key, value).await;
            }
        }
        round += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Folder of screenshots.
fn screenshots() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/console");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn file_name(page: &str) -> String {
    let name: String = page.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "now".to_owned() } else { name.chars().take(24).collect() }
}

async fn log_in(browser: &Browser, service: &Service, token: &str) {
    browser.open(&service.admin_url("/")).await;
    browser.wait_for("location.pathname === '/login'").await;
    let fill = format!("document.querySelector('#token').value = {}", json!(token));
    browser.eval(&fill).await;
    browser.eval("document.querySelector('form').requestSubmit()").await;
    browser.wait_for("location.pathname === '/' && document.readyState === 'complete'").await;
}

/// Opens `page` in both themes and two widths, and looks for what a visitor would stumble over.
async fn examine(browser: &Browser, service: &Service, page: &str, axe: &str) {
    browser.open(&service.admin_url(page)).await;
    browser.wait_for("document.querySelector('#live')?.textContent === 'live'").await;
    for (width, height, scheme) in
        [(1_280, 900, "light"), (390, 844, "dark"), (1_280, 900, "dark"), (390, 844, "light")]
    {
        browser.show(width, height, scheme).await;
        let wide = browser.eval("document.documentElement.scrollWidth - window.innerWidth").await;
        assert!(
            wide.as_i64().is_some_and(|wide| wide <= 0),
            "{page} scrolls sideways at {width} pixels by {wide}"
        );
        let path = screenshots().join(format!("{}-{width}-{scheme}.png", file_name(page)));
        browser.screenshot(&path).await;
        // Colours are checked in each theme, the structure is the same in all.
        if width == 1_280 {
            browser.eval(&format!("window.axe || ({{}}, (() => {{ {axe} }})()); 0")).await;
            let violations = "axe.run(document).then((found) => found.violations.map((violation) => \
                violation.id + ': ' + violation.nodes.map((node) => node.html + ' ' + node.failureSummary).join(' | ')))";
            assert_eq!(browser.eval(violations).await, json!([]), "{page} {scheme}");
        }
    }
}

/// Presses the button with this label, fills in a reason and confirms.
async fn act(browser: &Browser, label: &str) {
    let button = format!("document.querySelector('main button[aria-label={}]')", json!(label));
    browser.wait_for(&format!("{button} !== null")).await;
    browser.eval(&format!("{button}.click()")).await;
    browser.wait_for("document.querySelector('#action').open").await;
    browser.eval("document.querySelector('#action-reason').value = 'customer called'").await;
    browser.eval("document.querySelector('#action form').requestSubmit()").await;
    browser.wait_for("!document.querySelector('#action').open").await;
}

/// Explains a request that is denied, by the form.
async fn explain(browser: &Browser, service: &Service) {
    browser.open(&service.admin_url("/explain")).await;
    browser.eval("document.querySelector('#domain').value = 'shop'").await;
    browser.eval("document.querySelector('#descriptors').value = 'user=ann'").await;
    browser.eval("document.querySelector('main form').requestSubmit()").await;
    browser.wait_for("document.querySelector('main [role=status]')?.textContent.includes('denied')").await;
    let shown = browser.eval("document.querySelector('main').textContent").await;
    assert!(shown.as_str().is_some_and(|shown| shown.contains("shop.yaml:4")), "{shown}");
}

/// Two requests hold parts of a budget and places; a third was denied.
async fn holds(browser: &Browser, service: &Service) {
    browser.open(&service.admin_url("/key?domain=shop&descriptor=tokens%3Dann")).await;
    let shown = browser.eval("document.querySelector('main').textContent.replace(/\\s+/g, ' ')").await;
    let shown = shown.as_str().expect("text");
    for expected in
        ["reserves 400 for 10m", "800 (2 holds, the first ends in ", "A reservation of 400 would be denied"]
    {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    browser.open(&service.admin_url("/key?domain=shop&descriptor=tenant%3Dann")).await;
    let shown = browser.eval("document.querySelector('main').textContent").await;
    assert!(shown.as_str().is_some_and(|shown| shown.contains("2 in flight, ttl 10m")), "{shown}");
}

/// Exempts a client that is over its limit, and ends that again.
async fn override_life(browser: &Browser, service: &Service) {
    browser.open(&service.admin_url("/key?domain=shop&descriptor=user%3Dann")).await;
    browser.wait_for("document.querySelector('main').textContent.includes('denied')").await;
    for (field, value) in [("kind", "exempt"), ("ttl", "10m"), ("reason", "a big customer")] {
        browser.eval(&format!("document.querySelector('#override-{field}').value = '{value}'")).await;
    }
    browser.eval("document.querySelector('#override').requestSubmit()").await;
    browser
        .wait_for(
            "location.pathname === '/overrides' && document.body.textContent.includes('a big customer')",
        )
        .await;
    browser.open(&service.admin_url("/explain?domain=shop&descriptors=user%3Dann")).await;
    browser.wait_for("document.querySelector('main [role=status]')?.textContent.includes('allowed')").await;
    browser.open(&service.admin_url("/overrides")).await;
    act(browser, "End user=ann").await;
    browser.wait_for("document.querySelector('main').textContent.includes('No override is in force')").await;
}

/// Puts a rule into shadow mode, and ends that again.
async fn shadow_life(browser: &Browser, service: &Service) {
    browser.open(&service.admin_url("/rule?rule=shop.user")).await;
    for (field, value) in [("ttl", "10m"), ("reason", "it denies too much")] {
        browser.eval(&format!("document.querySelector('#shadow-{field}').value = '{value}'")).await;
    }
    browser.eval("document.querySelector('#shadow').requestSubmit()").await;
    browser.wait_for("document.querySelector('main').textContent.includes('it denies too much')").await;
    browser.wait_for("document.querySelector('main').textContent.includes('shadow mode until')").await;
    act(browser, "End shop.user").await;
    browser.wait_for("!document.querySelector('main').textContent.includes('shadow mode until')").await;
}

/// Other clients have taken every event stream: the browser gives up on its own, which is a problem in its log, and the
/// page updates all the same.
async fn updates_without_a_stream(browser: &Browser, service: &Service) {
    // A page without a stream.
    browser.open(&service.admin_url("/login")).await;
    let mut streams = Vec::new();
    eventually("every stream is taken", async || {
        let stream = reqwest::get(service.admin_url("/api/v1/events")).await.expect("an answer");
        streams.extend((stream.status() == 200).then_some(stream));
        streams.len() == 32
    })
    .await;
    browser.open(&service.admin_url("/")).await;
    browser.wait_for("document.querySelector('#live')?.textContent === 'live'").await;
    let uptime = "[...document.querySelectorAll('.strip dt')].find((of) => of.textContent === 'Up').nextSibling.textContent";
    let before = browser.eval(uptime).await;
    browser.wait_for(&format!("{uptime} !== {before}")).await;
}

#[tokio::test]
async fn every_page_is_usable_under_load_and_runs_nothing_that_a_client_sent() {
    let (service, _file) = start_with_tokens().await;
    let shown = Service::start(&[("shop.yaml", SHOWN)], &[]).await;
    let (browser, axe) = (Browser::start().await, axe());
    let over = CancellationToken::new();
    let visit = async {
        log_in(&browser, &service, TOKENS[2].1).await;
        for page in PAGES {
            examine(&browser, &service, page, &axe).await;
        }
        browser.show(1_280, 900, "light").await;
        browser.open(&service.admin_url("/lockouts")).await;
        act(&browser, "Unlock account=acme").await;
        browser.wait_for("!document.querySelector('main').textContent.includes('account=acme')").await;
        explain(&browser, &service).await;
        holds(&browser, &service).await;
        override_life(&browser, &service).await;
        shadow_life(&browser, &service).await;
        browser.open(&service.admin_url("/lockouts")).await;
        // The keyboard goes to pages too.
        browser.press("g").await;
        browser.press("a").await;
        browser
            .wait_for(
                "location.pathname === '/audit' && document.body.textContent.includes('customer called')",
            )
            .await;
        // A chart has a point every ten seconds.
        browser.open(&shown.admin_url("/")).await;
        browser.wait_for("document.querySelectorAll('#rates-table tbody tr').length > 1").await;
        browser.screenshot(&screenshots().join("readme.png")).await;
        over.cancel();
    };
    tokio::join!(load(&service, &over), showcase(&shown, &over), visit);
    assert_eq!(browser.problems(), Vec::<String>::new());
    let own = [service.admin_url("/"), shown.admin_url("/")];
    let is_own = |url: &String| own.iter().any(|own| url.starts_with(own));
    let foreign: Vec<_> = browser.requests().into_iter().filter(|url| !is_own(url)).collect();
    assert_eq!(foreign, ["about:blank"; 0]);
    updates_without_a_stream(&browser, &shown).await;
    // Such violations would have been noticed.
    browser
        .eval("document.body.append(Object.assign(document.createElement('script'), {textContent: '1'}))")
        .await;
    let noticed =
        async || browser.problems().iter().any(|problem| problem.contains("Content Security Policy"));
    eventually("a violation is noticed", noticed).await;
}
