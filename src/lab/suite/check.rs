//! Names in test files against the rules: a name that no rule has can never be seen, so it is a mistake in the test.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::action::{Action, Ask, AskCall};
use super::expect::{Fact, Number, NumbersOf, Why};
use super::file::Test;
use super::reader::{Placed, Reader, quoted};
use super::rules::RuleSet;
use crate::engine::Rules;
use crate::engine::rules::{PlacedRule, Rule, SourceSpan};
use crate::engine::text::nearest;

/// Reports names in `tests` and `never` that none of the rules have.
pub(super) fn check(reader: &mut Reader, rules: &[RuleSet], tests: &[Test], never: &[Placed<String>]) {
    let all: Vec<&Arc<Rules>> = rules.iter().filter_map(|set| set.rules.as_ref().ok()).collect();
    if rules.first().is_none_or(|first| first.rules.is_err()) {
        // Errors of the rules come first: names in them are not known.
        return;
    }
    for name in never {
        let is_known = placed(&all).any(|rule| is_called(rule.rule, &name.value));
        if !is_known {
            unknown(reader, name.span, "rule", &name.value, &names(&all, None));
        }
    }
    for test in tests {
        check_test(reader, rules, test);
    }
}

fn placed<'r>(rules: &[&'r Arc<Rules>]) -> impl Iterator<Item = PlacedRule<'r>> {
    rules.iter().flat_map(|rules| rules.placed())
}

/// True if `rule`, or one of its limits, is called `name`.
pub(super) fn is_called(rule: &Rule, name: &str) -> bool {
    let in_domain = rule.path.split_once('.').is_some_and(|(_, path)| path == name);
    let limit = rule.limits().iter().any(|limit| limit.name.as_deref() == Some(name));
    let lockout = rule.penalty.as_ref().is_some_and(|penalty| penalty.name.as_deref() == Some(name));
    *rule.path == *name || in_domain || limit || lockout
}

/// Names of rules and limits, in one domain or in all of them.
fn names(rules: &[&Arc<Rules>], domain: Option<&str>) -> BTreeSet<String> {
    let is_in = |rule: &Rule| domain.is_none_or(|domain| is_of(rule, domain));
    let of_rule = |placed: PlacedRule<'_>| {
        let limits = placed.rule.limits().iter().filter_map(|limit| limit.name.as_deref().map(str::to_owned));
        limits.chain([placed.rule.path.to_string()]).collect::<Vec<_>>()
    };
    placed(rules).filter(|placed| is_in(placed.rule)).flat_map(of_rule).collect()
}

fn is_of(rule: &Rule, domain: &str) -> bool {
    rule.path.strip_prefix(domain).is_some_and(|rest| rest.starts_with('.'))
}

fn unknown(reader: &mut Reader, span: SourceSpan, what: &str, name: &str, known: &BTreeSet<String>) {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let hint = match nearest(name, &known) {
        Some(meant) => format!("did you mean '{meant}'?"),
        None if known.is_empty() => "there is none".to_owned(),
        None => {
            let shown: Vec<_> = known.iter().take(8).copied().collect();
            let more = if known.len() > shown.len() { ", …" } else { "" };
            format!("known are {}{more}", shown.join(", "))
        }
    };
    reader.error(span, format!("no {what} is called '{}': {hint}", quoted(name)));
}

/// The rules that are in force at some time of a test.
fn in_test<'r>(rules: &'r [RuleSet], test: &Test) -> Vec<&'r Arc<Rules>> {
    let reloads = test.steps.iter().filter_map(|step| match step.action {
        Action::Reload(index) => Some(index),
        _ => None,
    });
    let indices = std::iter::once(0).chain(reloads);
    indices.filter_map(|index| rules.get(index)?.rules.as_ref().ok()).collect()
}

fn check_test(reader: &mut Reader, rules: &[RuleSet], test: &Test) {
    let rules = in_test(rules, test);
    let mut store_was_down = false;
    for step in &test.steps {
        if let Action::Store { up: false } = step.action {
            store_was_down = true;
        }
        let domain = match &step.action {
            Action::Ask(ask) => &ask.domain,
            Action::Ticket(calls) => &calls.domain,
            Action::Reload(_) | Action::Store { .. } | Action::Wait => continue,
        };
        let facts = || step.expect.iter().flat_map(|expect| &expect.facts);
        let expects_unmatched = facts().any(|fact| fact.value == Fact::Unmatched(true));
        let is_known = rules.iter().any(|rules| rules.domain(domain.as_bytes()).is_some());
        if !is_known && !expects_unmatched {
            let domains = rules.iter().flat_map(|rules| rules.domains());
            let domains = domains.map(|domain| domain.name().to_owned()).collect();
            unknown(reader, step.span, "domain", domain, &domains);
            continue;
        }
        if let Action::Ask(ask) = &step.action {
            check_holds(reader, &rules, ask, step.span);
        }
        for fact in facts() {
            check_fact(reader, &rules, domain, fact);
            if fact.value == Fact::Why(Why::Store) && !store_was_down {
                let message = "impossible 'why': the store is up; write a step {store: down} before";
                reader.error(fact.span, message);
            }
        }
    }
}

/// Reports requests for holds that no rule of their domain has.
fn check_holds(reader: &mut Reader, rules: &[&Arc<Rules>], ask: &Ask, span: SourceSpan) {
    let has = |kept: fn(&Rule) -> bool| placed(rules).any(|of| is_of(of.rule, &ask.domain) && kept(of.rule));
    let message = match &ask.call {
        AskCall::Reserve(_) if !has(|rule| rule.reserve.is_some()) => {
            "impossible 'reserve': no rule of the domain has a 'reserve'"
        }
        AskCall::Acquire { .. } if !has(takes_places) => {
            "impossible 'acquire': no rule of the domain has a 'concurrency'"
        }
        AskCall::Decide | AskCall::Look | AskCall::Reserve(_) | AskCall::Acquire { .. } => return,
    };
    reader.error(span, message);
}

fn takes_places(rule: &Rule) -> bool {
    rule.limits().iter().any(|limit| limit.limit.is_concurrency())
}

fn check_fact(reader: &mut Reader, rules: &[&Arc<Rules>], domain: &str, fact: &Placed<Fact>) {
    let of_domain = || placed(rules).filter(|placed| is_of(placed.rule, domain));
    match &fact.value {
        Fact::Rule(name) if !of_domain().any(|placed| is_called(placed.rule, name)) => {
            unknown(reader, fact.span, "rule or limit", name, &names(rules, Some(domain)));
        }
        Fact::Layer(name) => {
            let layers = of_domain().filter_map(|placed| Some(placed.rule.layer.as_ref()?.name().to_owned()));
            let layers: BTreeSet<_> = layers.collect();
            if !layers.contains(name) {
                unknown(reader, fact.span, "layer", name, &layers);
            }
        }
        Fact::Matched { file, line } => {
            let is_there = |placed: PlacedRule<'_>| is_at(placed.source, placed.span.line, file, *line);
            if !placed(rules).any(is_there) {
                let message = format!("impossible 'matched': no rule begins at {}:{line}", quoted(file));
                reader.error(fact.span, message);
            }
        }
        Fact::Lockout(true) | Fact::Why(Why::Lockout)
            if of_domain().all(|placed| placed.rule.penalty.is_none()) =>
        {
            let field = fact.value.field();
            let message = format!("impossible '{field}': no rule of the domain has a 'penalty'");
            reader.error(fact.span, message);
        }
        Fact::Limits(limits) => {
            for NumbersOf { name, .. } in limits {
                if !of_domain().any(|placed| is_called(placed.rule, &name.value)) {
                    unknown(reader, name.span, "rule or limit", &name.value, &names(rules, Some(domain)));
                }
            }
        }
        value if is_of_budget(value) && of_domain().all(|placed| placed.rule.reserve.is_none()) => {
            let field = fact.value.field();
            let message = format!("impossible '{field}': no rule of the domain has a 'reserve'");
            reader.error(fact.span, message);
        }
        _ => {}
    }
}

/// True if only a budget has it.
const fn is_of_budget(fact: &Fact) -> bool {
    match fact {
        Fact::Number(number, _) => match number {
            Number::Held | Number::Holds | Number::Amount | Number::Charged | Number::Returned => true,
            Number::Used | Number::Limit | Number::Remaining => false,
        },
        Fact::First(_) | Fact::Late(_) | Fact::Continue(_) | Fact::Why(Why::Held | Why::TooManyHolds) => true,
        _ => false,
    }
}

/// True if line `line` of `source` is `file:expected`: the file's path, or the end of it.
pub(super) fn is_at(source: &str, line: u32, file: &str, expected: u32) -> bool {
    let file = file.trim_start_matches("./").trim_start_matches("../");
    let before = source.strip_suffix(file);
    line == expected && before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_or_the_end_of_one() {
        for (file, is_it) in [
            ("rules/shop.yaml", true),
            ("shop.yaml", true),
            ("./shop.yaml", true),
            ("../rules/shop.yaml", true),
            ("hop.yaml", false),
            ("other/shop.yaml", false),
        ] {
            assert_eq!(is_at("config/rules/shop.yaml", 7, file, 7), is_it, "{file}");
        }
        assert!(!is_at("shop.yaml", 7, "shop.yaml", 8));
    }
}
