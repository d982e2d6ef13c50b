//! Answers of the admin API as text for people.

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;

use crate::engine::duration::ShortForm;
use crate::engine::text::one_line;
use crate::engine::{Algorithm, Timestamp};
use crate::lab::{self, Explanation};

/// Upper bound on a text of an answer, in bytes.
const MAX_TEXT: usize = 200;

/// Text of a member, on one line; empty for `null`.
pub(super) fn text(of: &Value, name: &str) -> String {
    match &of[name] {
        Value::Null => String::new(),
        Value::String(text) => one_line(text, MAX_TEXT).into_owned(),
        other => other.to_string(),
    }
}

/// Time as people read it.
pub(super) fn time(of: &Value, name: &str) -> String {
    let secs = of[name]
        .as_u64()
        .or_else(|| Some(Duration::try_from_secs_f64(of[name].as_f64()?.ceil()).ok()?.as_secs()));
    secs.map(|secs| ShortForm(secs).to_string()).unwrap_or_default()
}

/// Point in time as RFC 3339 in UTC, to the second.
pub(super) fn point_in_time(of: &Value, name: &str) -> String {
    of[name].as_u64().map(rfc3339).unwrap_or_default()
}

/// Seconds since the epoch as RFC 3339 in UTC.
pub(super) fn rfc3339(secs: u64) -> String {
    Timestamp::from_secs(secs).to_string().replace(".000000Z", "Z")
}

/// Items of a list.
pub(super) fn items<'v>(of: &'v Value, name: &str) -> &'v [Value] {
    of[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `user=42,path=/login`
fn descriptor(of: &Value) -> String {
    let pairs = items(of, "descriptor")
        .iter()
        .map(|entry| format!("{}={}", text(entry, "key"), text(entry, "value")));
    pairs.collect::<Vec<_>>().join(",")
}

/// `10 per 1m`, `3 in flight, ttl 2m`
pub(super) fn limit_text(limit: &Value) -> String {
    if limit["algorithm"] == Algorithm::Concurrency.name() {
        return format!("{} in flight, ttl {}", text(limit, "requests"), time(limit, "window_secs"));
    }
    format!("{} per {}", text(limit, "requests"), time(limit, "window_secs"))
}

/// Limit of an item; empty without one.
fn limit(of: &Value) -> String {
    match &of["limit"] {
        Value::Null => String::new(),
        limit => limit_text(limit),
    }
}

/// Rows in aligned columns, the first one as heading; `none` without any other.
pub(super) fn table(heading: &[&str], rows: Vec<Vec<String>>, none: &str) -> String {
    if rows.is_empty() {
        return format!("{none}\n");
    }
    let heading: Vec<String> = heading.iter().map(|title| (*title).to_owned()).collect();
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate();
        let cells =
            cells.map(|(column, cell)| format!("{cell:width$}", width = width(column).unwrap_or_default()));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Prefix of a dry run.
fn would(answer: &Value) -> &'static str {
    if answer["dry_run"] == true { "dry run: " } else { "" }
}

pub(super) fn overrides(answer: &Value) -> String {
    let row = |item: &Value| {
        let on = if item["rule"].is_null() { descriptor(item) } else { text(item, "rule") };
        let ends_in = time(item, "ends_in_secs");
        let (id, kind, domain) = (text(item, "id"), text(item, "kind"), text(item, "domain"));
        vec![id, kind, domain, on, limit(item), ends_in, text(item, "actor"), text(item, "reason")]
    };
    let rows = items(answer, "items").iter().map(row).collect();
    let heading = ["ID", "KIND", "DOMAIN", "ON", "LIMIT", "ENDS IN", "ACTOR", "REASON"];
    let list = table(&heading, rows, "no overrides are in force");
    match &answer["error"] {
        Value::Null => list,
        _ => format!("{list}\nThe list may be out of date: {}\n", text(answer, "error")),
    }
}

pub(super) fn override_set(answer: &Value) -> String {
    let (of, rule) = (&answer["applied"], text(answer, "rule"));
    let on = if of["rule"].is_null() { descriptor(of) } else { text(of, "rule") };
    let effect = match &*text(of, "kind") {
        "limit" => format!("limit {}", limit(of)),
        kind => kind.to_owned(),
    };
    let place = match of["rule"].is_null() {
        true if rule.is_empty() => ", which no rule matches".to_owned(),
        true => format!(", in place of {rule}"),
        false => String::new(),
    };
    let (would, domain) = (would(answer), text(of, "domain"));
    format!(
        "{would}{effect} for {on} in {domain}{place}, for {}\nid {}\n",
        time(of, "ends_in_secs"),
        text(of, "id")
    )
}

pub(super) fn override_deleted(answer: &Value) -> String {
    let of = &answer["applied"];
    let on = if of["rule"].is_null() { descriptor(of) } else { text(of, "rule") };
    format!("{}deleted: {} for {on}\n", would(answer), text(of, "kind"))
}

/// `, reserves 2000 for 5m`; empty for a limit that is no budget.
pub(super) fn reserve_text(budget: &Value) -> String {
    let number = |name| u32::try_from(budget[name].as_u64()?).ok();
    let budget = number("reserve").zip(number("ttl_secs"));
    budget.map_or_else(String::new, |(amount, ttl_secs)| format!(", {}", lab::reserve_text(amount, ttl_secs)))
}

/// `1100 (2 holds, the first ends in 4m)`; empty for a limit that is no budget.
fn held(level: &Value) -> String {
    let budget = &level["budget"];
    let holds = budget["holds"].as_u64().zip(budget["first_ends_in_secs"].as_u64());
    text(budget, "held") + &holds.map_or_else(String::new, |(count, first)| lab::holds_text(count, first))
}

fn levels(of: &Value, name: &str) -> String {
    let items = items(of, name);
    let has_budget = items.iter().any(|level| !level["budget"].is_null());
    let row = |level: &Value| {
        let mut row = vec![
            limit(level) + &reserve_text(&level["budget"]),
            text(level, "name"),
            text(level, "used"),
            text(level, "remaining"),
            time(level, "resets_in_secs"),
            text(level, "counter"),
        ];
        if has_budget {
            row.insert(3, held(level));
        }
        row
    };
    let mut heading = vec!["LIMIT", "NAME", "USED", "REMAINING", "RESETS IN", "COUNTER"];
    if has_budget {
        heading.insert(3, "HELD");
    }
    table(&heading, items.iter().map(row).collect(), "no limit applies")
}

pub(super) fn key(answer: &Value) -> String {
    let source = match text(answer, "source") {
        source if source.is_empty() => source,
        source => format!(" ({source})"),
    };
    let result = match (&answer["denied"], &answer["locked_out"]) {
        (_, Value::Bool(true)) => "denied, the client is locked out",
        (Value::Bool(true), _) if answer["enforced"] == false => "over the limit, and not enforced",
        (Value::Bool(true), _) => "denied",
        (Value::Bool(false), _) => "allowed",
        _ => "",
    };
    let amounts = items(answer, "limits").iter().filter_map(|level| level["budget"]["reserve"].as_u64());
    let next = match (result, amounts.max()) {
        ("", _) => String::new(),
        (result, None) => format!("one more hit: {result}\n"),
        (result, Some(amount)) => format!("a reservation of {amount}: {result}\n"),
    };
    format!("{}{source}\n\n{}\n{next}", text(answer, "outcome"), levels(answer, "limits"))
}

pub(super) fn reset(answer: &Value) -> String {
    let locked_out = match &answer["locked_out"] {
        Value::Bool(true) => {
            "\nThe client stays locked out: `tollgate admin lockouts` shows the id for `unlock`.\n"
        }
        _ => "",
    };
    let removed = match answer["dry_run"] == true {
        true => "dry run: these counters would be removed".to_owned(),
        false => format!("removed {} of these counters", text(answer, "removed")),
    };
    format!("{removed}\n\n{}{locked_out}", levels(answer, "counters"))
}

pub(super) fn lockouts(answer: &Value) -> String {
    let row = |item: &Value| {
        let entries = item["entries"].as_object().into_iter().flatten();
        let entries: Vec<_> = entries
            .map(|(key, value)| {
                let value = value.as_str().unwrap_or_default();
                format!("{}={}", one_line(key, MAX_TEXT), one_line(value, MAX_TEXT))
            })
            .collect();
        let ends_in = if item["permanent"] == true { "never".to_owned() } else { time(item, "ends_in_secs") };
        vec![entries.join(","), text(item, "domain"), text(item, "name"), ends_in, text(item, "id")]
    };
    let rows = items(answer, "lockouts").iter().map(row).collect();
    let none =
        if answer["complete"] == false { "no lockouts found so far" } else { "no client is locked out" };
    let list = table(&["CLIENT", "DOMAIN", "NAME", "ENDS IN", "ID"], rows, none);
    let searching = "the store is still being searched".to_owned();
    let missing = [
        (answer["complete"] == false).then(|| {
            let error = text(answer, "error");
            if error.is_empty() { searching } else { error }
        }),
        (answer["truncated"] == true).then(|| "there are more than are listed".to_owned()),
    ];
    let missing: String =
        missing.iter().flatten().map(|cause| format!("\nThe list is incomplete: {cause}\n")).collect();
    list + &missing
}

pub(super) fn unlock(answer: &Value) -> String {
    format!("{}lifted: {}\n", would(answer), text(answer, "target"))
}

pub(super) fn reload(answer: &Value) -> String {
    format!("{}the rules are read again; the log and /api/v1/config show the outcome\n", would(answer))
}

pub(super) fn explanation(answer: &Value) -> String {
    match Explanation::deserialize(answer) {
        Ok(explanation) => format!("{explanation}\n"),
        Err(_) => format!("{answer:#}\n"),
    }
}

pub(super) fn top(answer: &Value) -> String {
    let row = |item: &Value| {
        let count = match item["error"].as_u64() {
            None | Some(0) => text(item, "count"),
            Some(error) => format!("{} ±{error}", text(item, "count")),
        };
        let state = if item["over_limit"] == true { "over limit" } else { "" }.to_owned();
        let rule = text(item, "rule");
        vec![
            text(item, "key"),
            rule,
            count,
            text(item, "used"),
            limit(item),
            state,
            time(item, "resets_in_secs"),
        ]
    };
    let rows = items(answer, "items").iter().map(row).collect();
    let heading = ["KEY", "RULE", "COUNT", "USED", "LIMIT", "STATE", "RESETS IN"];
    table(&heading, rows, "no request in this window")
}

pub(super) fn audit(answer: &Value) -> String {
    let row = |item: &Value| {
        let dry_run = if item["dry_run"] == true { " (dry run)" } else { "" };
        let result = text(item, "result") + dry_run;
        vec![
            point_in_time(item, "at"),
            text(item, "actor"),
            text(item, "from"),
            text(item, "action"),
            text(item, "target"),
            result,
            text(item, "reason"),
        ]
    };
    let rows = items(answer, "items").iter().map(row).collect();
    let list = table(
        &["AT", "ACTOR", "FROM", "ACTION", "TARGET", "RESULT", "REASON"],
        rows,
        "no admin action since the start",
    );
    let suppressed = |actors: &str| match answer["suppressed"][actors].as_u64() {
        None | Some(0) => String::new(),
        Some(count) => format!("\n{count} rejected writes of {actors} clients were not recorded\n"),
    };
    list + &suppressed("known") + &suppressed("unknown")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_of_lockouts_that_is_not_all_of_them_says_so() {
        let answer = |complete: bool, truncated: bool, error: Value| {
            lockouts(&json!({"lockouts": [], "complete": complete, "truncated": truncated, "error": error}))
        };
        assert_eq!(answer(true, false, Value::Null), "no client is locked out\n");
        assert!(
            answer(false, false, Value::Null).ends_with("incomplete: the store is still being searched\n")
        );
        assert!(answer(false, false, json!("Redis is gone")).ends_with("incomplete: Redis is gone\n"));
        assert!(answer(true, true, Value::Null).ends_with("incomplete: there are more than are listed\n"));
    }

    #[test]
    fn the_audit_log_shows_when_in_utc() {
        let shown = audit(&json!({"items": [{"at": 1_795_774_087, "actor": "user ann"}]}));
        assert!(shown.contains("\n2026-11-27T"), "{shown}");
        assert!(shown.contains("Z  user ann"), "{shown}");
        assert!(!shown.contains("not recorded"), "{shown}");
    }

    #[test]
    fn the_audit_log_says_how_much_is_missing() {
        let shown = audit(&json!({"items": [], "suppressed": {"known": 0, "unknown": 12}}));
        assert!(shown.ends_with("\n12 rejected writes of unknown clients were not recorded\n"), "{shown}");
        assert!(!shown.contains("of known"), "{shown}");
    }
}
