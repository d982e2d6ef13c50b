//! The explanation of a request, and the levels of one descriptor.

use std::time::Duration;

use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::json;
use smallvec::SmallVec;

use super::{column, duration, limit_text, numbers, table};
use crate::engine::{Descriptor, Entry, Hits, Request};
use crate::lab::{
    ExplainedDescriptor, ExplainedLevel, ExplainedLimit, Explanation, Verdict, holds_text, reserve_text,
};
use crate::limiter::overrides::EntryText;
use crate::server::admin::{Admin, Role, parse_descriptor};
use crate::server::console::layout::{Action, View};
use crate::server::links::query_value;

/// Upper bound on the descriptors that are explained at once.
const MAX_DESCRIPTORS: usize = 32;

/// A request to explain.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct ExplainQuery {
    domain: String,
    /// One on each line, or separated by `; ` as denials show them.
    descriptors: String,
    /// Hits of each descriptor. If this is not a number: one hit; for a budget, a reservation.
    hits: String,
}

impl ExplainQuery {
    fn hits(&self) -> u32 {
        self.hits.trim().parse().unwrap_or(0)
    }
}

/// A descriptor to show.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct KeyQuery {
    domain: String,
    descriptor: String,
}

fn parse(text: &str) -> Result<Vec<Vec<EntryText>>, String> {
    let lines = text.split('\n').flat_map(|line| {
        // JSON may contain the separator.
        if line.trim_start().starts_with('[') { vec![line] } else { line.split("; ").collect() }
    });
    let lines: Vec<_> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.len() > MAX_DESCRIPTORS {
        return Err(format!("at most {MAX_DESCRIPTORS} descriptors"));
    }
    lines.into_iter().map(parse_descriptor).collect()
}

fn descriptor(entries: &[EntryText], hits: u32) -> Descriptor<'_> {
    let entries =
        entries.iter().map(|EntryText { key, value }| Entry { key: key.as_bytes(), value: value.as_bytes() });
    Descriptor { entries: entries.collect(), hits: Hits::Add(hits), limit_override: None }
}

async fn explanation(
    admin: &Admin,
    domain: &str,
    descriptors: &[Vec<EntryText>],
    hits: u32,
) -> Result<Explanation, Response> {
    let descriptors: SmallVec<_> = descriptors.iter().map(|entries| descriptor(entries, hits)).collect();
    admin.explain(&Request { domain: domain.as_bytes(), descriptors }).await
}

pub(in super::super) async fn explain(admin: &Admin, query: &ExplainQuery) -> Markup {
    let ExplainQuery { domain, descriptors, .. } = query;
    let parsed = parse(descriptors);
    let found = match &parsed {
        Ok(parsed) if !parsed.is_empty() => Some(explanation(admin, domain, parsed, query.hits()).await),
        Ok(_) | Err(_) => None,
    };
    html! {
        h1 { "Explain" }
        p .note { "Shows which rule applies to a request, why, and whether the request would pass. Nothing is counted." }
        form .fields method="get" action="/explain" {
            label for="domain" { "Domain" }
            input #domain name="domain" required value=(domain) autocomplete="off" spellcheck="false";
            label for="descriptors" { "Descriptors, one on each line: " code { "user=alice,path=/login" } }
            textarea #descriptors name="descriptors" rows="3" required spellcheck="false" { (descriptors) }
            label for="hits" { "Hits of each descriptor. Empty: one hit; for a budget, a reservation of its amount" }
            input #hits name="hits" type="number" min="1" value=(query.hits.trim());
            button type="submit" { "Explain" }
        }
        @if let Err(message) = &parsed { p .bad role="alert" { (message) } }
        @match found {
            None => {}
            Some(Err(_)) => p .bad role="alert" { "No rules are loaded, or too many requests read counters." },
            Some(Ok(explanation)) => {
                p role="status" {
                    "The request would be "
                    @match explanation.next {
                        Some(Verdict::Allowed) => strong { "allowed" },
                        Some(Verdict::Denied) => strong .bad { "denied" },
                        None => strong { "decided by a store that does not answer now" },
                    }
                    "."
                    @if !explanation.domain_known { " No rule file has this domain." }
                }
                @for descriptor in &explanation.descriptors {
                    (walk(descriptor))
                    @if let Some(next) = &descriptor.next { @if next.effect.is_some() { p { (next) "." } } }
                }
            }
        }
    }
}

fn walk(descriptor: &ExplainedDescriptor) -> Markup {
    html! {
        section {
            h2 { code { (entries_text(&descriptor.entries)) } }
            p { (descriptor.outcome) }
            ol .walk { @for level in &descriptor.levels { li { (level_of(level)) } } }
            (levels(&entries_text(&descriptor.entries), &descriptor.limits))
        }
    }
}

fn level_of(level: &ExplainedLevel) -> Markup {
    html! {
        code { (level.key) "=" (level.value) }
        @if level.normalized != level.value { " matched as " code { (level.normalized) } }
        @if level.counted != level.normalized { " counted as " code { (level.counted) } }
        ul .walk {
            @for candidate in &level.candidates {
                li {
                    code { (candidate.name) } " "
                    small {
                        (candidate.file) ":"
                        @match &candidate.position { Some(position) => (position), None => (candidate.line) }
                    }
                    " "
                    @match &candidate.reason {
                        None => strong { "applies" },
                        Some(reason) => (reason),
                    }
                }
            }
            @if level.omitted > 0 { li { (level.omitted) " more" } }
        }
    }
}

fn levels(descriptor: &str, limits: &[ExplainedLimit]) -> Markup {
    let has_budget = limits.iter().any(|limit| limit.budget.is_some());
    let head = html! {
        (column("Limit")) (column("Algorithm")) (numbers("Used"))
        @if has_budget { (numbers("Held")) }
        (numbers("Remaining")) (numbers("Resets in")) (column("Counter"))
    };
    let rows = html! {
        @for limit in limits {
            tr {
                th scope="row" {
                    (limit_text(limit.requests_per_unit, limit.window_secs, &limit.algorithm))
                    @if let Some(of) = &limit.budget { ", " (reserve_text(of.amount, of.ttl_secs)) }
                    @if let Some(name) = &limit.name { " " small { (name) } }
                }
                td { (limit.algorithm) }
                td .n { (limit.used.map_or_else(|| "unknown".to_owned(), |used| used.to_string())) }
                @if has_budget { td .n { (held(limit)) } }
                td .n { @if let Some(left) = limit.remaining() { (left) } }
                td .n { @if let Some(secs) = limit.reset_secs.filter(|secs| *secs > 0.0) { (duration(whole_secs(secs))) } }
                td { code { (limit.counter) } }
            }
        }
    };
    html! { @if !limits.is_empty() { (table(&format!("Limits of {descriptor}"), &head, &rows)) } }
}

/// Amount that is held of a budget, number of its holds, and the end of the first one.
fn held(limit: &ExplainedLimit) -> Markup {
    html! {
        @if let Some(holds) = limit.budget.as_ref().and_then(|budget| budget.holds) {
            (holds.held)
            small { (holds_text(holds.count.into(), holds.first_ends_in_secs.into())) }
        }
    }
}

/// Seconds, rounded up.
fn whole_secs(secs: f64) -> u64 {
    Duration::try_from_secs_f64(secs.ceil()).unwrap_or_default().as_secs()
}

fn entries_text(entries: &[(String, String)]) -> String {
    entries.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Entries as the rules count them, which lockouts have.
fn counted_text(levels: &[ExplainedLevel]) -> String {
    levels.iter().map(|level| format!("{}={}", level.key, level.counted)).collect::<Vec<_>>().join(",")
}

/// One descriptor: its levels, and what can be done about it.
pub(in super::super) async fn key(admin: &Admin, query: &KeyQuery, view: &View<'_>) -> Markup {
    let parsed = parse_descriptor(&query.descriptor);
    let found = match &parsed {
        Ok(entries) => Some(explanation(admin, &query.domain, std::slice::from_ref(entries), 0).await),
        Err(_) => None,
    };
    html! {
        h1 { "Key" }
        @match (&parsed, &found) {
            (Err(message), _) => p .bad role="alert" { (message) },
            (Ok(_), None | Some(Err(_))) => p .bad role="alert" { "No rules are loaded, or too many requests read counters." },
            (Ok(entries), Some(Ok(explanation))) => {
                @for descriptor in &explanation.descriptors {
                    (walk(descriptor))
                    @if let Some(kind) = &descriptor.overridden { p { "Override in force: " strong { (kind) } "." } }
                    @if let Some(next) = &descriptor.next {
                        p {
                            @match next.effect {
                                Some(_) => { "A reservation of " (next.hits) },
                                None => "One more hit",
                            }
                            " would be "
                            @match next.verdict {
                                Verdict::Allowed => strong { "allowed" },
                                Verdict::Denied => strong .bad { "denied" },
                            }
                            @if next.locked_out {
                                @let client = query_value(&counted_text(&descriptor.levels));
                                ": the client is locked out. " a href=(format!("/lockouts?q={client}")) { "Its lockout" }
                            }
                            @if next.shadowed { ", were it enforced" }
                            "."
                        }
                    }
                }
                (key_actions(&query.domain, entries, view))
            }
        }
    }
}

fn key_actions(domain: &str, entries: &[EntryText], view: &View<'_>) -> Markup {
    let body = json!({ "domain": domain, "descriptor": entries }).to_string();
    let object =
        entries.iter().map(|EntryText { key, value }| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    html! {
        section {
            h2 { "Change" }
            (view.read_only_note(Role::Operate, "reset counters or set overrides"))
            p {
                (view.button(&Action {
                    role: Role::Operate,
                    label: "Reset",
                    object: &object,
                    method: "POST",
                    path: "/keys:reset",
                    body: Some(&body),
                }))
            }
            (super::overrides::form(domain, &json!(entries).to_string(), view))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read_as_lines_and_as_denials_show_them() {
        let texts = |text: &str| {
            let parsed = parse(text).unwrap();
            let texts = parsed.iter().map(|entries| {
                entries
                    .iter()
                    .map(|entry| format!("{}={}", entry.key, entry.value))
                    .collect::<Vec<_>>()
                    .join(",")
            });
            texts.collect::<Vec<_>>()
        };
        assert_eq!(texts("user=a; path=/b,ip=c\r\n\n plan=d \n"), ["user=a", "path=/b,ip=c", "plan=d"]);
        assert_eq!(texts(r#"[{"key": "q", "value": "a; b=c,d"}]"#), ["q=a; b=c,d"]);
        assert_eq!(texts(""), [""; 0]);
        assert!(parse("user").is_err() && parse(&"a=b\n".repeat(33)).is_err());
    }
}
