//! Clients that are locked out.

use maud::{Markup, html};
use serde::Deserialize;

use super::{MANY, actions, column, duration, numbers, table};
use crate::server::admin::{Admin, Role};
use crate::server::console::layout::{Action, View};
use crate::server::lockouts::FirstLockouts;

/// Lockouts to show.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct LockoutQuery {
    /// Text within the entries.
    q: String,
}

pub(in super::super) async fn lockouts(admin: &Admin, query: &LockoutQuery, view: &View<'_>) -> Markup {
    let FirstLockouts { items: lockouts, omitted, truncated, missing } =
        admin.lockouts.first(MANY, &query.q).await;
    let head = html! {
        (column("Client")) (column("Domain")) (column("Name")) (numbers("Blocks")) (numbers("Ends in")) (actions())
    };
    let rows = html! {
        @for lockout in &lockouts {
            tr {
                th scope="row" { code { (lockout.client) } }
                td { (lockout.domain) } td { (lockout.name) } td .n { (lockout.blocks) }
                td .n { @match lockout.ends_in_secs { Some(secs) => (duration(secs)), None => "never" } }
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
    };
    html! {
        h1 { "Lockouts" }
        (view.read_only_note(Role::Operate, "unlock clients"))
        form method="get" action="/lockouts" role="search" {
            label for="q" { "Client contains" } " "
            input #q name="q" type="search" value=(query.q); " "
            button type="submit" { "Filter" }
        }
        @if let Some(error) = &missing { p .bad role="alert" { "Some lockouts are not listed: " (error) } }
        @if truncated {
            p .bad role="alert" { "There are 10,000 lockouts or more. Only so many are known here." }
        }
        @if omitted > 0 {
            p .note { "The " (lockouts.len()) " that end first; " (omitted) " others are not shown. Filter to find a client." }
        }
        @match (lockouts.is_empty(), &missing, query.q.is_empty()) {
            (false, ..) => (table("Lockouts", &head, &rows)),
            (true, Some(_), _) => p .none { "No lockouts found so far." },
            (true, None, true) => p .none { "No client is locked out." },
            (true, None, false) => p .none { "No such client is locked out." },
        }
    }
}
