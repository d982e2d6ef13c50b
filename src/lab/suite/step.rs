//! Steps of a test as written: time, and what happens then.

use std::time::Duration;

use super::action::Action;
use super::expect::{self, Expect};
use super::facts::time_text;
use super::fields::{ACTIONS, Fields};
use super::held;
use super::labels::Labels;
use super::possible::check;
use super::reader::{Placed, Reader};
use super::request::ask;
use super::rules::RuleSets;
use super::tables::STEP;
use crate::engine::rules::{SourceNode, SourceSpan, SourceValue};

/// Upper bound on the time of a test, some thousand years.
const MAX_TEST_TIME: Duration = Duration::from_secs(100_000_000_000);

/// A step of a test.
#[derive(Debug)]
pub struct Step {
    /// Position of the step.
    pub span: SourceSpan,
    /// Position of its first field, where a field can be added.
    pub(super) first_field: SourceSpan,
    /// Position of the value of `expect`.
    pub(super) expect_value: Option<SourceSpan>,
    /// Time since the start of the test.
    pub at: Duration,
    /// Action at that time.
    pub action: Action,
    /// Expected results.
    pub expect: Option<Expect>,
}

/// Reads the steps of a test.
pub(super) fn steps<'f>(
    reader: &mut Reader,
    rules: &mut RuleSets<'f>,
    nodes: &'f [SourceNode],
    domain: Option<&Placed<String>>,
) -> Vec<Step> {
    let mut steps = Vec::with_capacity(nodes.len());
    let mut labels = Labels::default();
    let mut now = Duration::ZERO;
    for node in nodes {
        let read = step((&mut *reader, &mut *rules, &mut labels), node, domain, now);
        let Some(step) = read else { continue };
        now = step.at;
        if let Action::Ask(ask) = &step.action {
            now = now.saturating_add(ask.every.saturating_mul(ask.times - 1));
        }
        if now > MAX_TEST_TIME {
            reader.error(step.span, "the test takes longer than three thousand years");
            break;
        }
        steps.push(step);
    }
    steps
}

fn step<'f>(
    (reader, rules, labels): (&mut Reader, &mut RuleSets<'f>, &mut Labels),
    node: &'f SourceNode,
    domain: Option<&Placed<String>>,
    now: Duration,
) -> Option<Step> {
    let fields = Fields(reader.fields(node, "a step", &STEP)?);
    let at = time(reader, &fields, now);
    let found: Vec<_> = fields.0.iter().filter(|(name, _)| ACTIONS.contains(name)).collect();
    if let [(first, _), (second, at), ..] = &found[..] {
        reader.error(at.span, format!("'{first}' and '{second}' in one step: write two steps"));
    }
    fields.check(reader, found.first().map(|(name, _)| *name));
    let action = match found.first() {
        Some(("reload", node)) => Action::Reload(rules.rule_set(reader, "reload", node)),
        Some(("store", node)) => {
            let up = reader.choice("store", node, &[("down", false), ("up", true)]);
            Action::Store { up: up.unwrap_or(true) }
        }
        Some((name @ ("settle" | "extend" | "renew" | "release"), of)) => {
            Action::Ticket(held::read((&mut *reader, labels), &fields, (name, of), domain)?)
        }
        Some((name, request)) => Action::Ask(ask((&mut *reader, labels), &fields, (name, request), domain)?),
        None if fields.get("at").or(fields.get("wait")).is_some() => Action::Wait,
        None => {
            let message = "the step does nothing: write 'ask', 'reserve', 'acquire', 'release', 'reload', 'store' or 'wait'";
            reader.error(node.span, message);
            return None;
        }
    };
    let expect = fields.get("expect").and_then(|node| expect::read(reader, node));
    if let Some(expect) = &expect {
        check(reader, expect, &action);
    }
    let SourceValue::Map(entries) = &node.value else { return None };
    Some(Step {
        span: node.span,
        first_field: entries.first().map_or(node.span, |(key, _)| key.span),
        expect_value: fields.get("expect").map(|node| node.span),
        at,
        action,
        expect,
    })
}

/// Time of a step that follows `now`.
fn time(reader: &mut Reader, fields: &Fields<'_>, now: Duration) -> Duration {
    if let (Some(_), Some(wait)) = (fields.get("at"), fields.get("wait")) {
        reader.error(wait.span, "'at' and 'wait' both set the time: write one of them");
    }
    if let Some(node) = fields.get("at") {
        let at = reader.time("at", node).unwrap_or(now);
        if at < now {
            let message = format!(
                "impossible 'at': the steps before it end at {}, and time does not go back",
                time_text(now)
            );
            reader.error(node.span, message);
        }
        return at.max(now);
    }
    let wait = fields.get("wait").and_then(|node| reader.time("wait", node));
    now.saturating_add(wait.unwrap_or_default())
}
