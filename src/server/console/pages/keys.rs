//! Counters with the most hits, denials or use.

use maud::{Markup, html};
use serde_json::json;

use super::{MANY, column, duration, limit_text, numbers, share_bar, share_of, table};
use crate::limiter::observe::TopBy;
use crate::server::admin::{Admin, TopQuery, TopView};
use crate::server::console::chart;
use crate::server::links::query_value;

const ORDERS: [(TopBy, &str, &str); 3] = [
    (TopBy::Hits, "hits", "by hits"),
    (TopBy::Denied, "denied", "by denials"),
    (TopBy::Use, "use", "by use of the limit"),
];
const WINDOWS: [(u64, &str); 3] = [(60, "1m"), (300, "5m"), (3_600, "1h")];

pub(in super::super) fn keys(admin: &Admin, query: &TopQuery) -> Markup {
    let read = query.read();
    let (current_by, current_secs) = match &read {
        Ok((by, secs, _)) => (*by, *secs),
        Err(_) => (TopBy::Hits, WINDOWS[1].0),
    };
    let (_, by_name, _) = ORDERS.into_iter().find(|(by, ..)| *by == current_by).unwrap_or(ORDERS[0]);
    let window = WINDOWS.into_iter().find(|(secs, _)| *secs == current_secs).map_or("5m", |(_, name)| name);
    let link = |by: &str, window: &str| format!("/keys?by={by}&window={window}");
    html! {
        h1 { "Keys" }
        nav .tabs aria-label="Order" {
            @for (by, name, title) in ORDERS {
                a href=(link(name, window)) aria-current=[(by == current_by).then_some("true")] { (title) }
            }
        }
        nav .tabs aria-label="Window" {
            @for (secs, name) in WINDOWS {
                a href=(link(by_name, name)) aria-current=[(secs == current_secs).then_some("true")] { (name) }
            }
        }
        @match read {
            Err(message) => p .bad role="alert" { (message) },
            Ok((by, window_secs, limit)) => {
                @let (keys, from) = admin.top(by, window_secs, query.rule(), limit.min(MANY));
                p .note {
                    "Since " (chart::clock(from)) " UTC. Counts are estimates: too high by at most the number behind ±."
                }
                @let counted = if by == TopBy::Denied { "Denials" } else { "Hits" };
                (keys_table("Keys", &keys, counted, "No request in this window."))
            }
        }
    }
}

pub(super) fn keys_table(label: &str, keys: &[TopView], counted: &str, none: &str) -> Markup {
    let head = html! {
        (column("Key")) (column("Rule")) (numbers(counted)) (numbers("Used")) (numbers("Limit"))
        (numbers("Share")) (column("State")) (numbers("Resets in"))
    };
    let rows = html! { @for key in keys { (row(key)) } };
    html! { @if keys.is_empty() { p .none { (none) } } @else { (table(label, &head, &rows)) } }
}

fn row(key: &TopView) -> Markup {
    html! {
        tr {
            th scope="row" {
                @match link(key) {
                    Some(link) => a href=(link) { code { (key.key) } },
                    None => code { (key.key) },
                }
            }
            @let rule = key.rule.as_deref().unwrap_or(&key.domain);
            td .rule { code title=(rule) { (rule) } }
            td .n { (key.count) @if key.error > 0 { small { " ±" (key.error) } } }
            td .n { (key.used) }
            td .n { (limit_text(key.limit.requests, key.limit.window_secs, key.limit.algorithm)) }
            td .n { (share_bar(share_of(key))) }
            td { @if key.over_limit { strong .bad { "over limit" } } }
            td .n { (duration(key.resets_in_secs)) }
        }
    }
}

/// The page of a key; `None` if its entries are not known exactly.
fn link(key: &TopView) -> Option<String> {
    let entries = json!(key.descriptor.as_ref()?).to_string();
    Some(format!("/key?domain={}&descriptor={}", query_value(&key.domain), query_value(&entries)))
}
