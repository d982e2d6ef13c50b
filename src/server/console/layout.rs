//! Parts of every page: head, navigation, and the form of an action.

use axum::http::HeaderMap;
use axum::response::{Html, IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, html};

use crate::server::admin::{Actor, Role};

/// Request header of the script, which asks for the content of a page without head and navigation.
const PART_HEADER: &str = "x-tollgate-part";

/// Path, title and key of each page.
const PAGES: [(&str, &str, char); 12] = [
    ("/", "Now", 'n'),
    ("/rules", "Rules", 'r'),
    ("/keys", "Keys", 'k'),
    ("/denials", "Denials", 'd'),
    ("/explain", "Explain", 'e'),
    ("/lockouts", "Lockouts", 'l'),
    ("/overrides", "Overrides", 'o'),
    ("/candidate", "Candidate", 't'),
    ("/store", "Store", 's'),
    ("/config", "Config", 'c'),
    ("/fleet", "Fleet", 'f'),
    ("/audit", "Audit", 'a'),
];

/// Context of a page.
pub(super) struct View<'v> {
    pub(super) actor: &'v Actor,
    pub(super) headers: &'v HeaderMap,
    /// Path of its entry in the navigation.
    pub(super) path: &'static str,
}

/// A call of the API that a button offers. The form asks for a reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct Action<'a> {
    /// Role that the call needs.
    pub(super) role: Role,
    pub(super) label: &'static str,
    /// Name of the object, for the form and for screen readers.
    pub(super) object: &'a str,
    pub(super) method: &'static str,
    /// Path below `/api/v1`.
    pub(super) path: &'a str,
    /// Members of the body beside the reason, as JSON.
    pub(super) body: Option<&'a str>,
}

impl View<'_> {
    /// The page with `content`; the content alone where the script asks for it.
    pub(super) fn page(&self, content: &Markup) -> Response {
        if self.headers.contains_key(PART_HEADER) {
            return Html(content.0.clone()).into_response();
        }
        let title = PAGES.iter().find(|(of, ..)| *of == self.path).map_or("", |(_, title, _)| title);
        let body = html! {
            header {
                a .skip href="#main" { "Skip to content" }
                strong { "tollgate" }
                nav aria-label="Pages" {
                    @for (of, title, key) in PAGES {
                        a href=(of) data-key=(key) aria-keyshortcuts=(format!("g {key}"))
                            aria-current=[(of == self.path).then_some("page")] { (title) }
                    }
                }
                span #live role="status" { "static" }
                button #pause type="button" aria-pressed="false" { "Pause" }
                (self.identity())
            }
            main #main tabindex="-1" { (content) }
            (action_form())
        };
        Html(document(title, self.actor.csrf.as_deref(), &body).into_string()).into_response()
    }

    /// Name and role of the visitor.
    fn identity(&self) -> Markup {
        html! {
            @if self.actor.csrf.is_some() {
                form .identity method="post" action="/session:end" {
                    small { (self.actor.role.name()) } " "
                    button type="submit" { "Log out" }
                }
            } @else {
                small .identity title=(self.actor.name) { (self.actor.role.name()) }
            }
        }
    }

    /// A button for `action`; nothing for visitors who may not use it.
    pub(super) fn button(&self, action: &Action<'_>) -> Markup {
        let Action { role, label, object, method, path, body } = *action;
        html! {
            @if self.actor.role >= role {
                button type="button" aria-label=(format!("{label} {object}")) data-object=(object)
                    data-method=(method) data-path=(path) data-body=[body] { (label) }
            }
        }
    }

    /// A note for visitors who may not `what`.
    pub(super) fn read_only_note(&self, role: Role, what: &str) -> Markup {
        html! {
            @if self.actor.role < role {
                p .note { "To " (what) ", authenticate with the role " (role.name()) "." }
            }
        }
    }
}

fn document(title: &str, csrf: Option<&str>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if let Some(csrf) = csrf { meta name="csrf" content=(csrf); }
                title { (title) " · tollgate" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/console.css";
                script src="/console.js" defer {}
            }
            body { (body) }
        }
    }
}

/// The form that the script fills and shows for a button.
fn action_form() -> Markup {
    html! {
        dialog #action aria-labelledby="action-title" {
            form method="dialog" {
                h2 #action-title { "Action" }
                p { code #action-object {} }
                label for="action-reason" { "Reason, for the audit log" }
                input #action-reason name="reason" required maxlength="1000" autocomplete="off";
                p #action-error .bad role="alert" {}
                p .buttons {
                    button type="submit" { "Confirm" } " "
                    button #action-cancel type="button" { "Cancel" }
                }
            }
        }
    }
}

/// The form that takes a token.
pub(super) fn login(next: &str, failed: bool) -> Response {
    let body = html! {
        main #main .login {
            h1 { "tollgate" }
            @if failed { p .bad role="alert" { "No such token." } }
            form method="post" action="/session" {
                input type="hidden" name="next" value=(next);
                label for="token" { "Token, from ADMIN_TOKEN_FILE" }
                input #token name="token" type="password" required autocomplete="current-password" autofocus;
                button type="submit" { "Log in" }
            }
            p .note { "The session ends after 12 hours, and when the token leaves the file." }
        }
    };
    Html(document("Log in", None, &body).into_string()).into_response()
}
