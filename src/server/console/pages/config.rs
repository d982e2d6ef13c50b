//! Rules in force with the errors of the latest load, and the audit log.

use maud::{Markup, html};

use super::{MANY, column, numbers, table};
use crate::server::admin::{Admin, AuditEntry, ConfigLoad, Role};
use crate::server::console::chart;
use crate::server::console::layout::{Action, View};

pub(in super::super) fn config(admin: &Admin, view: &View<'_>) -> Markup {
    let config = admin.config();
    html! {
        h1 { "Config" }
        dl .strip {
            div { dt { "Domains" } dd { (config.domains) } }
            div { dt { "Rules" } dd { (config.rules) } }
            div { dt { "Hash" } dd { code { (config.rules_hash) } } }
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
        @if config.errors.is_empty() { p .none { "All rules are valid and in force." } }
        @for error in &config.errors { pre .bad tabindex="0" { (error) } }
        h2 { "Loads since the start" }
        (loads(&admin.config_loads(MANY)))
    }
}

fn loads(loads: &[ConfigLoad]) -> Markup {
    let head = html! {
        (column("Time (UTC)")) (column("Rules hash")) (numbers("Domains")) (numbers("Rules")) (column("Result"))
        (column("First error"))
    };
    let rows = html! {
        @for load in loads {
            tr {
                td { (chart::clock(load.at)) }
                td { code { (load.rules_hash) } } td .n { (load.domains) } td .n { (load.rules) }
                td {
                    @if load.changed { "in force" } @else { "no change" }
                    @if load.error_count > 0 { ", " strong .bad { (load.error_count) " errors" } }
                }
                td { code { (load.errors.first().map_or("", String::as_str)) } }
            }
        }
    };
    table("Loads", &head, &rows)
}

pub(in super::super) fn audit(admin: &Admin) -> Markup {
    html! {
        h1 { "Audit" }
        p .note { "Actions on this replica since its start; the log has older ones, under the target audit." }
        @let suppressed = admin.audit_suppressed();
        @for (count, actors) in [(suppressed.known, "known"), (suppressed.unknown, "unknown")] {
            @if count > 0 { p .note { (count) " rejected writes of " (actors) " clients were not recorded." } }
        }
        (audit_table("Audit", &admin.audit_entries(MANY)))
    }
}

pub(super) fn audit_table(label: &str, entries: &[AuditEntry]) -> Markup {
    let head = html! {
        (column("Time (UTC)")) (column("Actor")) (column("From")) (column("Action")) (column("Target"))
        (column("Reason")) (column("Result"))
    };
    let rows = html! {
        @for entry in entries {
            tr {
                td { (chart::clock(entry.at)) }
                td { (entry.actor) } td { (entry.from.as_deref().unwrap_or("")) } td { (entry.action) }
                th scope="row" { code { (entry.target) } } td { (entry.reason) }
                td { (entry.result) @if entry.dry_run { " (dry run)" } }
            }
        }
    };
    html! {
        @if entries.is_empty() { p .none { "No admin action since the start." } } @else { (table(label, &head, &rows)) }
    }
}
