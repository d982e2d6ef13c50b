//! Matchers of headers, query parameters and texts.

use serde_json::Value;

use super::{Context, field, flag, list, text};
use crate::engine::rules::Expression as Regex;
use crate::lab::replay::mapping::{Condition, Expression, Filter, Matcher};

/// Conditions of a `RouteMatch` on what no log shows.
const UNLOGGED: [&str; 4] = ["grpc", "tls_context", "dynamic_metadata", "filter_state"];

/// All of the headers match.
pub(super) fn headers(matchers: &[Value], what: &str, context: &mut Context) -> Condition {
    Condition::All(matchers.iter().map(|matcher| header(matcher, what, context)).collect())
}

fn header(matcher: &Value, what: &str, context: &mut Context) -> Condition {
    let value = context.operator(&format!("REQ({})", text(matcher, "name")), what);
    let old = |name: &'static str| field(matcher, name).map(|wanted| (name, wanted));
    let condition = if let Some(wanted) = field(matcher, "string_match") {
        string(value, wanted, context)
    } else if let Some(range) = field(matcher, "range_match") {
        let bound = |name: &str| integer(field(range, name)).unwrap_or_default();
        Condition::Is(value, Matcher::Range(bound("start"), bound("end")))
    } else if let Some((name, wanted)) =
        ["exact_match", "prefix_match", "suffix_match", "contains_match"].into_iter().find_map(old)
    {
        let wanted = wanted.as_str().unwrap_or_default();
        exact(value, name.trim_end_matches("_match"), wanted, false)
    } else if let Some(regex) = field(matcher, "safe_regex_match") {
        self::regex(value, regex, context)
    } else {
        let is_present = Condition::Is(value, Matcher::Present);
        if flag(matcher, "present_match", true) { is_present } else { Condition::Not(Box::new(is_present)) }
    };
    if flag(matcher, "invert_match", false) { Condition::Not(Box::new(condition)) } else { condition }
}

/// All of the query parameters match.
pub(super) fn query_parameters(matchers: &[Value], what: &str, context: &mut Context) -> Condition {
    let all = matchers.iter().map(|matcher| {
        let value = query_parameter(text(matcher, "name"), what, context);
        match field(matcher, "string_match") {
            Some(wanted) => string(value, wanted, context),
            None => Condition::Is(value, Matcher::Present),
        }
    });
    Condition::All(all.collect())
}

/// The value of a query parameter.
pub(super) fn query_parameter(name: &str, what: &str, context: &mut Context) -> Expression {
    context.operator("REQ(:PATH)", what).with(Filter::QueryParameter(name.as_bytes().into()))
}

/// A `StringMatcher`.
fn string(value: Expression, wanted: &Value, context: &mut Context) -> Condition {
    let fold = flag(wanted, "ignore_case", false);
    let kind =
        ["exact", "prefix", "suffix", "contains"].into_iter().find(|kind| field(wanted, kind).is_some());
    match (kind, field(wanted, "safe_regex")) {
        (Some(kind), _) => exact(value, kind, text(wanted, kind), fold),
        (None, Some(regex)) => self::regex(value, regex, context),
        (None, None) => {
            context.notes.push("a matcher of an unknown kind is taken to match".to_owned());
            Condition::default()
        }
    }
}

fn exact(value: Expression, kind: &str, wanted: &str, fold: bool) -> Condition {
    let wanted = wanted.as_bytes().into();
    Condition::Is(
        value,
        match kind {
            "prefix" => Matcher::Prefix(wanted, fold),
            "suffix" => Matcher::Suffix(wanted, fold),
            "contains" => Matcher::Contains(wanted, fold),
            _ => Matcher::Exact(wanted, fold),
        },
    )
}

/// A `RegexMatcher`, which matches the whole value.
pub(super) fn regex(value: Expression, regex: &Value, context: &mut Context) -> Condition {
    match Regex::new(text(regex, "regex")) {
        Ok(regex) => Condition::Is(value, Matcher::Regex(regex)),
        Err(error) => {
            context.notes.push(format!("the expression '{}' cannot be used: {error}", text(regex, "regex")));
            Condition::default()
        }
    }
}

/// A whole number, which JSON writes as a text if it has 64 bits.
pub(super) fn integer(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The match of a route.
pub(super) fn route(matched: &Value, context: &mut Context) -> Condition {
    let what = "the match of a route";
    let fold = !flag(matched, "case_sensitive", true);
    let mut all = Vec::new();
    let prefix = text(matched, "prefix");
    // Every path begins with a slash.
    if !(prefix == "/" || prefix.is_empty() && field(matched, "prefix").is_some()) {
        let path = context.operator("REQ(:PATH)", what).with(Filter::Before(b"?"[..].into()));
        let wanted = |name: &str| Box::from(text(matched, name).as_bytes());
        all.push(if field(matched, "prefix").is_some() {
            // The query is part of what a prefix is compared with.
            Condition::Is(context.operator("REQ(:PATH)", what), Matcher::Prefix(wanted("prefix"), fold))
        } else if field(matched, "path").is_some() {
            Condition::Is(path, Matcher::Exact(wanted("path"), fold))
        } else if let Some(regex) = field(matched, "safe_regex") {
            self::regex(path, regex, context)
        } else if field(matched, "path_separated_prefix").is_some() {
            let prefix = text(matched, "path_separated_prefix");
            let inside = format!("{prefix}/").into_bytes().into();
            let is = |matcher| Condition::Is(path.clone(), matcher);
            let both =
                [is(Matcher::Exact(prefix.as_bytes().into(), fold)), is(Matcher::Prefix(inside, fold))];
            Condition::Any(both.into())
        } else {
            context.notes.push("a route has a match of an unknown kind, which is taken to match".to_owned());
            Condition::default()
        });
    }
    if !list(matched, "headers").is_empty() {
        all.push(headers(list(matched, "headers"), what, context));
    }
    if !list(matched, "query_parameters").is_empty() {
        all.push(query_parameters(list(matched, "query_parameters"), what, context));
    }
    for condition in UNLOGGED {
        if field(matched, condition).is_some() {
            context.notes.push(format!(
                "a log does not show the condition {condition} of a route: it is assumed to match"
            ));
        }
    }
    if field(matched, "runtime_fraction").is_some() {
        context.notes.push(
            "a route applies to a share of the requests at random: it is taken to apply to all".to_owned(),
        );
    }
    Condition::All(all)
}
