//! Content of the pages.

use maud::{Markup, html};

use super::chart;
use super::layout::{Action, View};
use crate::engine::Timestamp;
use crate::limiter::observe::TopBy;
use crate::server::admin::{Admin, DenialQuery, DenialView, Role, RuleView, Summary, TopQuery, TopView};

/// Rows of a table on the first page, and on others.
const FEW: usize = 10;
const MANY: usize = 100;
/// Share of its limit from which a key is near it.
const NEAR: f64 = 0.8;

pub(super) fn now(admin: &Admin) -> Markup {
    let summary = admin.summary();
    let (denied, _) = admin.top(TopBy::Denied, 300, None, MANY);
    let limited: Vec<_> = denied.into_iter().filter(|key| key.over_limit).take(FEW).collect();
    let (used, _) = admin.top(TopBy::Use, 300, None, MANY);
    let near: Vec<_> =
        used.into_iter().filter(|key| !key.over_limit && share(key) >= NEAR).take(FEW).collect();
    let mut rules = admin.rules();
    rules.truncate(FEW);
    html! {
        h1 { "Now" }
        (strip(&summary))
        (errors(&summary))
        (chart::rates(&admin.series(900)))
        section {
            h2 { "Limited now" }
            (keys_table(&limited, "Denials", "No client is over a limit."))
        }
        section {
            h2 { "Near the limit" }
            (keys_table(&near, "Hits", "No client has used 80 % of a limit."))
        }
        section {
            h2 { "Rules by denials" }
            (rules_table(&rules))
        }
    }
}

fn strip(summary: &Summary) -> Markup {
    let share = match summary.hits_per_sec {
        hits if hits > 0.0 => 100.0 * summary.over_limit_per_sec / hits,
        _ => 0.0,
    };
    html! {
        dl .strip {
            div { dt { "Hits/s" } dd { (format!("{:.1}", summary.hits_per_sec)) } }
            div { dt { "Over limit/s" } dd { (format!("{:.1}", summary.over_limit_per_sec)) } }
            div { dt { "Over limit" } dd { (format!("{share:.1} %")) } }
            div { dt { "Shadow/s" } dd { (format!("{:.1}", summary.shadow_per_sec)) } }
            div { dt { "Rules" } dd { (summary.config.rules) } }
            div { dt { "Up" } dd { (duration(summary.uptime_secs)) } }
            div { dt { "Version" } dd { (summary.version) } }
        }
    }
}

fn errors(summary: &Summary) -> Markup {
    html! {
        @if !summary.config.errors.is_empty() {
            p .bad role="alert" {
                "Rule files have errors; the last good version is in force. "
                a href="/config" { "Show them" }
            }
        }
    }
}

pub(super) fn rules(admin: &Admin) -> Markup {
    let mut rules = admin.rules();
    rules.truncate(MANY);
    html! {
        h1 { "Rules" }
        p .note { "The 100 with the most denials. Totals since the rules were first loaded; rates over the last 10 seconds." }
        (rules_table(&rules))
    }
}

fn rules_table(rules: &[RuleView]) -> Markup {
    html! {
        @if rules.is_empty() { p .none { "No rule has been used yet." } } @else {
            table {
                thead { tr {
                    th scope="col" { "Rule" } th scope="col" .n { "Hits/s" } th scope="col" .n { "Over/s" }
                    th scope="col" .n { "Hits" } th scope="col" .n { "Over limit" }
                    th scope="col" .n { "Near limit" } th scope="col" .n { "Shadow" }
                } }
                tbody {
                    @for rule in rules {
                        tr {
                            th scope="row" { code { (rule.rule) } }
                            td .n { (format!("{:.1}", rule.hits_per_sec)) }
                            td .n { (format!("{:.1}", rule.over_limit_per_sec)) }
                            td .n { (rule.hits) } td .n { (rule.over_limit) }
                            td .n { (rule.near_limit) } td .n { (rule.shadow) }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn keys(admin: &Admin, query: &TopQuery) -> Markup {
    let read = query.read();
    html! {
        h1 { "Keys" }
        nav .tabs aria-label="Order" {
            @for (by, title) in [("hits", "by hits"), ("denied", "by denials"), ("use", "by use of the limit")] {
                @for window in ["1m", "5m", "1h"] {
                    a href=(format!("/keys?by={by}&window={window}")) { (title) ", " (window) }
                }
            }
        }
        @match read {
            Err(message) => p .bad role="alert" { (message) },
            Ok((by, window_secs, limit)) => {
                @let (keys, from) = admin.top(by, window_secs, None, limit.min(MANY));
                p .note {
                    "Since " (chart::clock(from)) " UTC. Counts are estimates: too high by at most the number behind ±."
                }
                @let counted = if by == TopBy::Denied { "Denials" } else { "Hits" };
                (keys_table(&keys, counted, "No request in this window."))
            }
        }
    }
}

fn keys_table(keys: &[TopView], counted: &str, none: &str) -> Markup {
    html! {
        @if keys.is_empty() { p .none { (none) } } @else {
            table {
                thead { tr {
                    th scope="col" { "Key" } th scope="col" { "Rule" } th scope="col" .n { (counted) }
                    th scope="col" .n { "Used" } th scope="col" .n { "Limit" }
                    th scope="col" { "State" } th scope="col" .n { "Resets in" }
                } }
                tbody {
                    @for key in keys {
                        tr {
                            th scope="row" { code { (key.key) } }
                            td { code { (key.rule.as_deref().unwrap_or(&key.domain)) } }
                            td .n { (key.count) @if key.error > 0 { small { " ±" (key.error) } } }
                            td .n { (key.used) }
                            td .n { (key.limit.requests) "/" (duration(key.limit.window_secs.into())) }
                            td { @if key.over_limit { strong .bad { "over limit" } } @else { (percent(key)) } }
                            td .n { (duration(key.resets_in_secs)) }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn denials(admin: &Admin, query: &DenialQuery) -> Markup {
    let denials = admin.denials(Timestamp::from_secs(0), |denial| query.is_wanted(denial), MANY);
    html! {
        h1 { "Denials" }
        form method="get" action="/denials" role="search" {
            label for="q" { "Descriptors contain" } " "
            input #q name="q" type="search" value=(query.text());
        }
        p .note { "The newest; at most 200 a second are kept on each core. Values that rules hash are hashed." }
        @if denials.is_empty() { p .none { "No denials." } } @else { (denials_table(&denials)) }
    }
}

fn denials_table(denials: &[DenialView]) -> Markup {
    html! {
        table {
            thead { tr {
                th scope="col" { "Time (UTC)" } th scope="col" { "Domain" } th scope="col" { "Descriptors" }
                th scope="col" { "Rule" } th scope="col" { "Layer" } th scope="col" .n { "Used" }
                th scope="col" .n { "Limit" } th scope="col" .n { "Wait" } th scope="col" { "Reason" }
            } }
            tbody {
                @for denial in denials {
                    tr {
                        td { (chart::clock(denial.at_ms / 1_000)) }
                        td { (denial.domain) }
                        th scope="row" { code { (denial.descriptors) } }
                        td { code { (denial.rule.as_deref().unwrap_or("(set by the caller)")) } }
                        td { (denial.layer.as_deref().unwrap_or("")) }
                        td .n { @if let Some(used) = denial.used { (used) } }
                        td .n {
                            @if let Some(limit) = &denial.limit {
                                (limit.requests) "/" (duration(limit.window_secs.into()))
                            }
                        }
                        td .n { @if let Some(wait) = denial.wait_secs { (duration(wait)) } }
                        td { (denial.reason.replace('_', " ")) @if !denial.enforced { " (shadow)" } }
                    }
                }
            }
        }
    }
}

pub(super) async fn lockouts(admin: &Admin, view: &View<'_>) -> Markup {
    let (lockouts, error) = admin.lockouts.first(MANY).await;
    html! {
        h1 { "Lockouts" }
        (view.read_only_note(Role::Operate, "unlock clients"))
        @if let Some(error) = error { p .bad role="alert" { "Some lockouts are not listed: " (error) } }
        @if lockouts.is_empty() { p .none { "No client is locked out." } } @else {
            table {
                thead { tr {
                    th scope="col" { "Client" } th scope="col" { "Domain" } th scope="col" { "Name" }
                    th scope="col" .n { "Blocks" } th scope="col" .n { "Ends in" } th scope="col" { span .skip { "Actions" } }
                } }
                tbody {
                    @for lockout in &lockouts {
                        tr {
                            th scope="row" { code { (lockout.client) } }
                            td { (lockout.domain) } td { (lockout.name) } td .n { (lockout.blocks) }
                            td .n {
                                @match lockout.ends_in_secs { Some(secs) => (duration(secs)), None => "never" }
                            }
                            td {
                                (view.button(&Action {
                                    role: Role::Operate,
                                    label: "Unlock",
                                    object: &lockout.client,
                                    method: "DELETE",
                                    path: &format!("/lockouts/{}", lockout.id),
                                    body: None,
                                }))
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn config(admin: &Admin, view: &View<'_>) -> Markup {
    let config = admin.config();
    html! {
        h1 { "Config" }
        dl .strip {
            div { dt { "Domains" } dd { (config.domains) } }
            div { dt { "Rules" } dd { (config.rules) } }
            div { dt { "Changed (UTC)" } dd { (config.loaded_at.map_or("never".to_owned(), chart::clock)) } }
        }
        p {
            (view.button(&Action {
                role: Role::Admin,
                label: "Reload",
                object: "the rules",
                method: "POST",
                path: "/config:reload",
                body: None,
            }))
        }
        (view.read_only_note(Role::Admin, "reload the rules"))
        h2 { "Errors" }
        @if config.errors.is_empty() { p .none { "All rules as written are in force." } }
        @for error in &config.errors { pre .bad { (error) } }
    }
}

pub(super) fn audit(admin: &Admin) -> Markup {
    let entries = admin.audit_entries(MANY);
    html! {
        h1 { "Audit" }
        @if entries.is_empty() { p .none { "No admin action since the start." } } @else {
            table {
                thead { tr {
                    th scope="col" { "Time (UTC)" } th scope="col" { "Actor" } th scope="col" { "Action" }
                    th scope="col" { "Target" } th scope="col" { "Reason" } th scope="col" { "Result" }
                } }
                tbody {
                    @for entry in &entries {
                        tr {
                            td { (chart::clock(entry.at)) }
                            td { (entry.actor) } td { (entry.action) }
                            td { code { (entry.target) } } td { (entry.reason) }
                            td { (entry.result) @if entry.dry_run { " (dry run)" } }
                        }
                    }
                }
            }
        }
    }
}

fn share(key: &TopView) -> f64 {
    key.used as f64 / f64::from(key.limit.requests.max(1))
}

fn percent(key: &TopView) -> String {
    format!("{:.0} % used", 100.0 * share(key))
}

/// The two largest units: `3d 4h`, `1m 5s`, `10s`.
fn duration(secs: u64) -> String {
    let units = [(secs / 86_400, "d"), (secs / 3_600 % 24, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")];
    let mut shown =
        units.iter().skip_while(|(number, _)| *number == 0).take(2).filter(|(number, _)| *number > 0);
    let first = shown.next().map(|(number, unit)| format!("{number}{unit}"));
    let second = shown.next().map(|(number, unit)| format!(" {number}{unit}"));
    first.unwrap_or_else(|| "0s".to_owned()) + &second.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        for (secs, expected) in [(0, "0s"), (60, "1m"), (65, "1m 5s"), (3_605, "1h"), (90_000, "1d 1h")] {
            assert_eq!(duration(secs), expected);
        }
    }
}
