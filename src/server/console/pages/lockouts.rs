//! Clients that are locked out.

use maud::{Markup, html};

use super::{MANY, actions, column, duration, numbers, table};
use crate::server::admin::{Admin, Role};
use crate::server::console::layout::{Action, View};

pub(in super::super) async fn lockouts(admin: &Admin, view: &View<'_>) -> Markup {
    let (lockouts, error) = admin.lockouts.first(MANY).await;
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
        @if let Some(error) = &error { p .bad role="alert" { "Some lockouts are not listed: " (error) } }
        @if lockouts.is_empty() { p .none { @if error.is_some() { "No lockouts found so far." } @else { "No client is locked out." } } } @else {
            (table("Lockouts", &head, &rows))
        }
    }
}
