//! The last denials.

use maud::{Markup, html};

use super::{MANY, column, duration, limit_text, numbers, table};
use crate::engine::Timestamp;
use crate::server::admin::{Admin, DenialQuery, DenialView};
use crate::server::console::chart;
use crate::server::links::query_value;

pub(in super::super) fn denials(admin: &Admin, query: &DenialQuery) -> Markup {
    let denials = admin.denials(Timestamp::from_secs(0), |denial| query.is_wanted(denial), MANY);
    html! {
        h1 { "Denials" }
        form method="get" action="/denials" role="search" {
            label for="q" { "Descriptors contain" } " "
            input #q name="q" type="search" value=(query.text());
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
            @let rule = denial.rule.as_deref().unwrap_or("(set by the caller)");
            td .rule { code title=(rule) { (rule) } }
            td { (denial.layer.as_deref().unwrap_or("")) }
            td .n { @if let Some(used) = denial.used { (used) } }
            td .n { @if let Some(limit) = &denial.limit { (limit_text(limit.requests, limit.window_secs, limit.algorithm)) } }
            td .n { @if let Some(wait) = denial.wait_secs { (duration(wait)) } }
            td { (denial.reason.replace('_', " ")) @if !denial.enforced { " (shadow)" } }
        }
    }
}

/// The explanation of the request; `None` if its text was cut.
fn explain_link(denial: &DenialView) -> Option<String> {
    if denial.descriptors.contains('…') {
        return None;
    }
    let (domain, descriptors) = (query_value(&denial.domain), query_value(&denial.descriptors));
    Some(format!("/explain?domain={domain}&descriptors={descriptors}"))
}
