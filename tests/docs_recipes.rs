//! The recipes work as they are written: their rules, their commands, their Envoy.

use crate::support::console::{self, blocks, commands};
use crate::support::envoy::{Config, Envoy};
use crate::support::eventually;
use crate::support::service::Service;

const RECIPES: &str = include_str!("../docs/recipes.md");

/// The recipes: what stands below each heading.
fn recipes() -> Vec<(&'static str, &'static str)> {
    RECIPES
        .split("\n## ")
        .skip(1)
        .map(|recipe| recipe.split_once('\n').expect("a heading and text"))
        .collect()
}

fn recipe(heading: &str) -> &'static str {
    let found = recipes().into_iter().find(|(name, _)| *name == heading);
    found.unwrap_or_else(|| panic!("there is no recipe called {heading}")).1
}

#[tokio::test]
async fn every_command_prints_what_its_recipe_shows() {
    assert!(recipes().len() >= 5);
    for (name, text) in recipes() {
        let rules = blocks(text, "yaml rules");
        assert_eq!(rules.len(), 1, "{name} has one rule file");
        let shown: Vec<_> = blocks(text, "console").into_iter().flat_map(commands).collect();
        assert!(shown.len() >= 2, "{name} has commands to try");
        console::check(name, rules[0], &shown).await;
    }
}

#[tokio::test]
async fn envoy_counts_the_tokens_that_the_upstream_reports() {
    let text = recipe("Budget LLM tokens");
    let service = Service::start(&[("rules.yaml", blocks(text, "yaml rules")[0])], &[]).await;
    let route = blocks(text, "yaml route")[0].trim_end().replace('\n', "\n              ");
    let all = "- match: {prefix: /}\n                route: {cluster: upstream}";
    let hello = r#"direct_response: {status: 200, body: {inline_string: "hello from the upstream\n"}}"#;
    let tokens = "response_headers_to_add: [{header: {key: x-llm-tokens, value: \"1500\"}}]";
    let config = Config::asking(&[service.grpc])
        .with(all, &format!("{route}\n              {all}"))
        .with(hello, &format!("{hello}\n                {tokens}"));
    let envoy = Envoy::start(&config).await;
    let status = async |user| envoy.get("/v1/chat", user).await.status().as_u16();
    assert_eq!(status("ann").await, 200);
    // The tokens are counted after the response has been delivered.
    eventually("the budget is spent", async || status("ann").await == 429).await;
    assert_eq!(status("bob").await, 200, "each user has a budget of their own");
    assert_eq!(envoy.stat("cluster.upstream.ratelimit.error").await, 0);
}
