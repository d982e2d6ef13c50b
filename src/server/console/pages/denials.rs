//! The last denials.

use maud::{Markup, html};
use serde_json::json;

use super::{MANY, column, duration, limit_text, numbers, table};
use crate::server::admin::{Admin, DenialQuery, DenialView};
use crate::server::console::chart;
use crate::server::links::query_value;

pub(in super::super) fn denials(admin: &Admin, query: &DenialQuery) -> Markup {
    let denials = admin.denials(query, MANY);
    let text = |field: &'_ Option<String>| field.clone().unwrap_or_default();
    html! {
        h1 { "Denials" }
        form method="get" action="/denials" role="search" {
            label for="q" { "Descriptors contain" } " "
            input #q name="q" type="search" value=(text(&query.q)); " "
            label for="rule" { "Rule" } " "
            input #rule name="rule" type="search" value=(text(&query.rule)); " "
            label for="layer" { "Layer" } " "
            input #layer name="layer" type="search" value=(text(&query.layer)); " "
            button type="submit" { "Filter" }
        }
        p .note { "The latest denials. Each core keeps at most 200 of one second. Values that rules hash are shown as hashes." }
        (denials_table("Denials", &denials))
    }
}

pub(super) fn denials_table(label: &str, denials: &[DenialView]) -> Markup {
    let head = html! {
        (column("Time (UTC)")) (column("Domain")) (column("Descriptors")) (column("Rule")) (column("Layer"))
        (numbers("Used")) (numbers("Limit")) (numbers("Wait")) (column("Reason"))
    };
    let rows = html! { @for denial in denials { (row(denial)) } };
    html! { @if denials.is_empty() { p .none { "No denials." } } @else { (table(label, &head, &rows)) } }
}

fn row(denial: &DenialView) -> Markup {
    html! {
        tr {
            td { (chart::clock(denial.at_ms / 1_000)) }
            td { (denial.domain) }
            th scope="row" {
                @match explain_link(denial) {
                    Some(link) => a href=(link) { code { (denial.descriptors) } },
                    None => code { (denial.descriptors) },
                }
            }
            td .rule {
                @match &denial.rule {
                    Some(rule) => a href=(format!("/rule?rule={}", query_value(rule))) { code title=(rule) { (rule) } },
                    None => code { "(set by the caller)" },
                }
                @if let Some(name) = &denial.name { small { (name) } }
            }
            td { (denial.layer.as_deref().unwrap_or("")) }
            td .n { @if let Some(used) = denial.used { (used) } }
            td .n { @if let Some(limit) = &denial.limit { (limit_text(limit.requests, limit.window_secs, limit.algorithm)) } }
            td .n { @if let Some(wait) = denial.wait_secs { (duration(wait)) } }
            td { (denial.reason.replace('_', " ")) @if !denial.enforced { " (shadow)" } }
        }
    }
}

/// The explanation of the request; `None` if its descriptors are not known exactly.
fn explain_link(denial: &DenialView) -> Option<String> {
    let request = denial.request.as_ref()?;
    // As JSON where the text could be read in another way.
    let is_plain = |text: &str| !text.contains([',', ';', '=', '[']) && text.trim() == text;
    let is_text = !denial.descriptors.contains('\\')
        && request.iter().flat_map(|of| &of.entries).all(|of| is_plain(&of.key) && is_plain(&of.value));
    let descriptors = if is_text {
        denial.descriptors.clone()
    } else {
        request.iter().map(|of| json!(of.entries).to_string()).collect::<Vec<_>>().join("\n")
    };
    let (domain, descriptors) = (query_value(&denial.domain), query_value(&descriptors));
    Some(format!("/explain?domain={domain}&descriptors={descriptors}"))
}
