//! The candidate rules, compared with those in force.

use maud::{Markup, html};

use super::{MANY, column, numbers, table};
use crate::server::admin::Admin;
use crate::server::console::chart;

pub(in super::super) fn candidate(admin: &Admin) -> Markup {
    let candidate = admin.candidate();
    let compared = candidate.same + candidate.stricter + candidate.looser;
    let share = |count: u64| format!("{:.2} %", 100.0 * count as f64 / compared.max(1) as f64);
    let head = html! { (column("Rule")) (column("Domain")) (column("Direction")) (numbers("Requests")) };
    let rows = html! {
        @for difference in candidate.differences.iter().take(MANY) {
            tr {
                th scope="row" { code { (difference.rule) } }
                td { (difference.domain) } td { (difference.outcome) } td .n { (difference.requests) }
            }
        }
    };
    html! {
        h1 { "Candidate" }
        @match &candidate.config {
            None => p .none {
                "No candidate rules. Set " code { "CANDIDATE_CONFIG" } " to rules that are tried beside those in force."
            },
            Some(config) => {
                dl .strip {
                    div { dt { "Rules" } dd { (config.rules) } }
                    div { dt { "Changed (UTC)" } dd { (config.loaded_at.map_or("never".to_owned(), chart::clock)) } }
                    div { dt { "Same" } dd { (candidate.same) } }
                    div { dt { "Stricter" } dd { (candidate.stricter) " " small { (share(candidate.stricter)) } } }
                    div { dt { "Looser" } dd { (candidate.looser) " " small { (share(candidate.looser)) } } }
                    div { dt { "Not compared" } dd { (candidate.failed) } }
                }
                @for error in &config.errors { pre .bad tabindex="0" { (error) } }
                h2 { "Differences by rule" }
                p .note { "Stricter: only the candidate denies. Looser: only the rules in force deny." }
                @if candidate.differences.is_empty() { p .none { "No differences so far." } } @else {
                    (table("Differences", &head, &rows))
                }
            }
        }
    }
}
