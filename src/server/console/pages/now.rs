//! The first page: what is limited now, and by which rules.

use maud::{Markup, html};

use super::{FEW, MANY, NEAR, duration, milliseconds, share_of};
use crate::limiter::observe::TopBy;
use crate::server::admin::{Admin, Summary};
use crate::server::console::chart;

/// Window of the keys that are shown, in seconds.
const WINDOW_SECS: u64 = 300;

pub(in super::super) fn now(admin: &Admin) -> Markup {
    let summary = admin.summary();
    let (denied, _) = admin.top(TopBy::Denied, WINDOW_SECS, None, MANY);
    let limited: Vec<_> = denied.into_iter().filter(|key| key.over_limit).take(FEW).collect();
    let (used, _) = admin.top(TopBy::Use, WINDOW_SECS, None, MANY);
    let near: Vec<_> =
        used.into_iter().filter(|key| !key.over_limit && share_of(key) >= NEAR).take(FEW).collect();
    let mut rules = admin.rules();
    rules.truncate(FEW);
    html! {
        h1 { "Now" }
        (strip(&summary))
        (errors(&summary))
        (chart::rates(&admin.series(900, None)))
        section {
            h2 { "Limited now" }
            (super::keys::keys_table("Limited now", &limited, "Denials", "No client is over a limit."))
        }
        section {
            h2 { "Near the limit" }
            (super::keys::keys_table("Near the limit", &near, "Hits", "No client has used 80 % of a limit."))
        }
        section {
            h2 { "Rules by denials" }
            (super::rules::rules_table("Rules by denials", &rules))
        }
        section {
            h2 { "Latest actions" }
            (super::config::audit_table("Latest actions", &admin.audit_entries(FEW / 2)))
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
            div { dt { "Near limit/s" } dd { (format!("{:.1}", summary.near_limit_per_sec)) } }
            div { dt { "Shadow/s" } dd { (format!("{:.1}", summary.shadow_per_sec)) } }
            @if let Some(latency) = &summary.response_time {
                div { dt { "Answer p50" } dd { (milliseconds(latency.p50_secs)) } }
                div { dt { "Answer p99" } dd { (milliseconds(latency.p99_secs)) } }
            }
            @if let Some(latency) = &summary.store_latency {
                div { dt { "Store p99" } dd { (milliseconds(latency.p99_secs)) } }
            }
            div { dt { "Rules" } dd { (summary.config.rules) } }
            div { dt { "Replicas" } dd { (summary.replicas) } }
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
        @if !summary.same_rules {
            p .bad role="alert" { "Replicas have different rules in force. " a href="/fleet" { "Show them" } }
        }
    }
}
