//! Overrides, and the form that sets one.

use maud::{Markup, html};

use super::{actions, column, duration, limit_text, numbers, table};
use crate::server::admin::{Admin, OverrideView, Role};
use crate::server::console::layout::{Action, View};

pub(in super::super) fn overrides(admin: &Admin, view: &View<'_>) -> Markup {
    let overrides = admin.overrides();
    let head = html! {
        (column("Applies to")) (column("Domain")) (column("Effect")) (numbers("Ends in")) (column("Set by"))
        (column("Reason")) (actions())
    };
    let rows = html! { @for item in &overrides.items { (row(item, view)) } };
    html! {
        h1 { "Overrides" }
        p .note {
            "Another limit, a block or an exemption for one descriptor, or shadow mode for a rule, until a given time. "
            "Every replica applies it within a second."
        }
        @if let Some(error) = &overrides.error { p .bad role="alert" { "The store does not answer: " (error) } }
        @if overrides.items.is_empty() { p .none { "No override is in force." } } @else {
            (table("Overrides", &head, &rows))
        }
        section {
            h2 { "New override" }
            (view.read_only_note(Role::Operate, "set overrides"))
            (form("", "", view))
        }
    }
}

fn row(item: &OverrideView, view: &View<'_>) -> Markup {
    let object = match (&item.descriptor, &item.rule) {
        (Some(entries), _) => {
            entries.iter().map(|entry| format!("{}={}", entry.key, entry.value)).collect::<Vec<_>>().join(",")
        }
        (None, Some(rule)) => rule.clone(),
        (None, None) => String::new(),
    };
    html! {
        tr {
            th scope="row" { code { (object) } @if let Some(source) = &item.source { " " small { (source) } } }
            td { (item.domain) }
            td {
                (item.kind)
                @if let Some(limit) = &item.limit { " " (limit_text(limit.requests, limit.window_secs, &limit.algorithm)) }
            }
            td .n { (duration(item.ends_in_secs)) }
            td { (item.actor) } td { (item.reason) }
            td {
                (view.button(&Action {
                    role: if item.rule.is_some() { Role::Admin } else { Role::Operate },
                    label: "End",
                    object: &object,
                    method: "DELETE",
                    path: &format!("/overrides/{}", item.id),
                    body: None,
                }))
            }
        }
    }
}

/// The form for a new override; nothing for visitors who may not set one.
pub(super) fn form(domain: &str, descriptor: &str, view: &View<'_>) -> Markup {
    html! {
        @if view.actor.role >= Role::Operate {
            form #override .fields data-override="" {
                label for="override-domain" { "Domain" }
                input #override-domain name="domain" required value=(domain) autocomplete="off" spellcheck="false";
                label for="override-descriptor" { "Descriptor: " code { "user=alice,path=/login" } }
                input #override-descriptor name="descriptor" required value=(descriptor) autocomplete="off" spellcheck="false";
                label for="override-kind" { "Effect" }
                select #override-kind name="kind" {
                    option value="limit" { "another limit" }
                    option value="block" { "block" }
                    option value="exempt" { "exempt" }
                }
                label for="override-limit" { "Limit, for the effect of this name: " code { "10/minute" } }
                input #override-limit name="limit" autocomplete="off";
                label for="override-ttl" { "Ends after: " code { "1h" } }
                input #override-ttl name="ttl" required value="1h" autocomplete="off";
                label for="override-reason" { "Reason, for the audit log" }
                input #override-reason name="reason" required maxlength="1000" autocomplete="off";
                p #override-error .bad role="alert" {}
                button type="submit" { "Set override" }
            }
        }
    }
}
