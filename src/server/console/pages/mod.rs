//! Content of the pages.

mod candidate;
mod config;
mod denials;
mod explain;
mod keys;
mod lockouts;
mod now;
mod overrides;
mod rules;
mod store;

use std::iter;

use maud::{Markup, html};

pub(super) use self::candidate::candidate;
pub(super) use self::config::{audit, config};
pub(super) use self::denials::denials;
pub(super) use self::explain::{ExplainQuery, KeyQuery, explain, key};
pub(super) use self::keys::keys;
pub(super) use self::lockouts::{LockoutQuery, lockouts};
pub(super) use self::now::now;
pub(super) use self::overrides::overrides;
pub(super) use self::rules::{RuleQuery, rule, rules};
pub(super) use self::store::{fleet, store};

use crate::engine::Algorithm;
use crate::lab::reserve_text;
use crate::server::admin::{RuleLimitView, TopView};

/// Rows of a table on the first page, and on others.
const FEW: usize = 10;
const MANY: usize = 100;
/// Share of its limit from which a key is near it.
const NEAR: f64 = 0.8;
/// Width of a bar, in units of its drawing.
const BAR: f64 = 100.0;

/// A table, scrolled by itself where it is too wide. `head` and `rows` are its rows.
fn table(label: &str, head: &Markup, rows: &Markup) -> Markup {
    html! {
        div .table role="region" tabindex="0" aria-label=(label) {
            table { thead { tr { (head) } } tbody { (rows) } }
        }
    }
}

/// Head of a column of texts.
fn column(title: &str) -> Markup {
    html! { th scope="col" { (title) } }
}

/// Head of a column of numbers.
fn numbers(title: &str) -> Markup {
    html! { th scope="col" .n { (title) } }
}

/// Head of the column with actions.
fn actions() -> Markup {
    html! { th scope="col" { span .hidden { "Actions" } } }
}

/// `10/minute` as `10/1m`; `3 in flight, ttl 2m`.
fn limit_text(requests: u32, window_secs: u32, algorithm: &str) -> String {
    match algorithm == Algorithm::Concurrency.name() {
        true => format!("{requests} in flight, ttl {}", duration(window_secs.into())),
        false => format!("{requests}/{}", duration(window_secs.into())),
    }
}

fn limits_text(limits: &[RuleLimitView]) -> String {
    let limits = limits.iter().flat_map(|limit| {
        let reserve = limit.reserve.as_ref().map(|of| reserve_text(of.reserve, of.ttl_secs));
        iter::once(limit_text(limit.requests, limit.window_secs, limit.algorithm)).chain(reserve)
    });
    limits.collect::<Vec<_>>().join(", ")
}

/// A share as percentage and bar. A bar is no information of its own.
fn share_bar(share: f64) -> Markup {
    let (class, width) = (if share >= 1.0 { "bar full" } else { "bar" }, share.clamp(0.0, 1.0) * BAR);
    html! {
        (format!("{:.0} %", 100.0 * share))
        svg class=(class) viewBox=(format!("0 0 {BAR} 8")) preserveAspectRatio="none" aria-hidden="true" {
            rect width=(BAR) height="8" {}
            rect width=(format!("{width:.1}")) height="8" {}
        }
    }
}

fn milliseconds(secs: f64) -> String {
    format!("{:.2} ms", 1_000.0 * secs)
}

fn share_of(key: &TopView) -> f64 {
    key.used as f64 / f64::from(key.limit.requests.max(1))
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
