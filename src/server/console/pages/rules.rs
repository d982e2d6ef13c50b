//! Rules: totals, rates and headroom; one rule with its keys and denials.

use maud::{Markup, html};
use serde::Deserialize;

use super::{FEW, MANY, column, duration, limits_text, numbers, share_bar, table};
use crate::limiter::observe::TopBy;
use crate::server::admin::{Admin, DenialQuery, Role, RuleView};
use crate::server::console::chart;
use crate::server::console::layout::{Action, View};
use crate::server::links::query_value;

/// Window of the keys of a rule, in seconds.
const WINDOW_SECS: u64 = 300;
/// Window of its chart.
const SERIES_SECS: u64 = 900;

/// A rule to show.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct RuleQuery {
    /// Path, such as `shop.user`.
    rule: String,
}

pub(in super::super) fn rules(admin: &Admin) -> Markup {
    let mut rules = admin.rules();
    rules.truncate(MANY);
    html! {
        h1 { "Rules" }
        p .note {
            "The 100 with the most denials. Totals since the rules were first loaded; rates over the last 10 seconds. "
            "Highest use is the largest share of its limit that one key has used in the last 5 minutes."
        }
        (rules_table("Rules", &rules))
    }
}

pub(super) fn rules_table(label: &str, rules: &[RuleView]) -> Markup {
    let head = html! {
        (column("Rule")) (column("Limits")) (numbers("Hits/s")) (numbers("Over/s")) (numbers("Highest use"))
        (numbers("Hits")) (numbers("Over limit")) (numbers("Near limit")) (numbers("Shadow")) (column("State"))
        (column("Source"))
    };
    let rows = html! { @for rule in rules { (row(rule)) } };
    html! {
        @if rules.is_empty() { p .none { "No rule has been used yet." } } @else { (table(label, &head, &rows)) }
    }
}

fn row(rule: &RuleView) -> Markup {
    let path = query_value(&rule.rule);
    html! {
        tr {
            th scope="row" { a href=(format!("/rule?rule={path}")) { code { (rule.rule) } } }
            td { (limits_text(&rule.limits)) }
            td .n { (format!("{:.1}", rule.hits_per_sec)) }
            td .n { (format!("{:.1}", rule.over_limit_per_sec)) }
            td .n { @if let Some(use_share) = rule.highest_use { (share_bar(use_share)) } }
            td .n { (rule.hits) } td .n { (rule.over_limit) }
            td .n { (rule.near_limit) } td .n { (rule.shadow) }
            td { (state(rule)) @if let Some(ends_at) = rule.shadow_ends_at { " until " (chart::clock(ends_at)) " UTC" } }
            td { small { (rule.source.as_deref().unwrap_or("")) } }
        }
    }
}

/// State that deserves a look; empty for most.
fn state(rule: &RuleView) -> &'static str {
    match rule {
        RuleView { shadow_mode: true, .. } => "shadow mode",
        RuleView { hits: 0, .. } => "never used",
        RuleView { hits, over_limit, .. } if hits == over_limit => "denies all",
        _ => "",
    }
}

/// The shadow mode of a rule: the form that sets it, or the button that ends it.
fn shadow(admin: &Admin, rule: &RuleView, view: &View<'_>) -> Markup {
    let in_force = admin.overrides().items.into_iter().find(|item| item.rule.as_deref() == Some(&rule.rule));
    html! {
        section {
            h2 { "Shadow mode" }
            (view.read_only_note(Role::Admin, "put rules into shadow mode"))
            @if let Some(shadow) = &in_force {
                p {
                    "In shadow mode (counted and reported, not enforced) for " (duration(shadow.ends_in_secs)) ". Set by "
                    (shadow.actor) ": " (shadow.reason) " "
                    (view.button(&Action {
                        role: Role::Admin,
                        label: "End",
                        object: &rule.rule,
                        method: "DELETE",
                        path: &format!("/overrides/{}", shadow.id),
                        body: None,
                    }))
                }
            }
            @if view.actor.role >= Role::Admin {
                form #shadow .fields data-shadow="" {
                    p .note { "Count and report the rule, and deny nobody, until a given time." }
                    input type="hidden" name="rule" value=(rule.source.as_deref().unwrap_or(&rule.rule));
                    label for="shadow-ttl" { "Ends after: " code { "30m" } }
                    input #shadow-ttl name="ttl" required value="30m" autocomplete="off";
                    label for="shadow-reason" { "Reason, for the audit log" }
                    input #shadow-reason name="reason" required maxlength="1000" autocomplete="off";
                    p #shadow-error .bad role="alert" {}
                    button type="submit" { "Put into shadow mode" }
                }
            }
        }
    }
}

pub(in super::super) fn rule(admin: &Admin, query: &RuleQuery, view: &View<'_>) -> Markup {
    let path = query.rule.as_str();
    let found: Vec<_> = admin.rules().into_iter().filter(|rule| rule.rule == path).collect();
    let (keys, _) = admin.top(TopBy::Denied, WINDOW_SECS, Some(path), FEW);
    let (used, _) = admin.top(TopBy::Use, WINDOW_SECS, Some(path), FEW);
    let denials = admin.denials(&DenialQuery::of_rule(path.to_owned()), FEW);
    html! {
        h1 { "Rule " code { (path) } }
        @if found.is_empty() { p .none { "No such rule is in force or has been used." } } @else {
            (rules_table("Rule", &found))
            (chart::rates(&admin.series(SERIES_SECS, Some(path))))
            @for rule in found.iter().filter(|rule| rule.source.is_some()) { (shadow(admin, rule, view)) }
        }
        section {
            h2 { "Keys by denials, last 5 minutes" }
            (super::keys::keys_table("Keys by denials", &keys, "Denials", "No denials in the last 5 minutes."))
        }
        section {
            h2 { "Keys by use of the limit" }
            (super::keys::keys_table("Keys by use", &used, "Hits", "No key has used any of its limit."))
        }
        section {
            h2 { "Last denials" }
            (super::denials::denials_table("Last denials", &denials))
        }
    }
}
