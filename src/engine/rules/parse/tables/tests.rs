use super::super::Parser;
use super::*;
use crate::engine::rules::document::{RuleSource as _, SourceNode, SourceValue};
use crate::engine::rules::{CompileOptions, HashKey, SourceFile, compile};

/// Sample values of every kind.
const SAMPLES: &[&str] = &[
    "null",
    "true",
    "5",
    "-1",
    "1.5",
    "200",
    "text",
    "5/minute",
    "minute",
    "1m",
    "problem_json",
    "all",
    "always",
    "error",
    "fixed_window",
    "[]",
    "[a]",
    "[[]]",
    "[null]",
    "{}",
    "{a: b}",
    "{name: x}",
    "[{name: x}]",
    "[{}]",
    "[trim]",
    "[{trim: }]",
    "[{ip_prefix: {v4: 24}}]",
    "[{ip_prefix: {v4: 99}}]",
    "[{forwarded_for: }]",
    "{text: x}",
    "[{key: a}]",
    "[5/minute]",
    "{v4: 24}",
];

fn takes(kind: &Kind, node: &SourceNode) -> bool {
    let object = |object: &Object, node: &SourceNode| {
        let SourceValue::Map(entries) = &node.value else { return false };
        let known = entries.iter().all(|(name, value)| {
            let name = name.text().unwrap_or_default();
            object.field(&name).is_some_and(|field| takes(&field.kind, value))
        });
        let has = |name: &&str| entries.iter().any(|(key, _)| key.text().is_some_and(|key| key == *name));
        known && object.required.iter().all(has)
    };
    match (kind, &node.value) {
        (Kind::Any, _) | (Kind::Null, SourceValue::Null) | (Kind::Bool, SourceValue::Bool(_)) => true,
        (Kind::Text, SourceValue::Text(_) | SourceValue::Number(_) | SourceValue::Bool(_)) => true,
        (Kind::Form(form), SourceValue::Text(text)) => {
            regex::Regex::new(form).expect("a regex").is_match(text)
        }
        (Kind::Choice(names), SourceValue::Text(text)) => names.contains(&text.as_str()),
        (Kind::Uint { min, max }, SourceValue::Number(number)) => {
            number.as_u64().is_some_and(|number| (u64::from(*min)..=u64::from(*max)).contains(&number))
        }
        (Kind::Int, SourceValue::Number(number)) => number.is_i64(),
        (Kind::Number { min, max }, SourceValue::Number(number)) => {
            number.as_f64().is_some_and(|number| (f64::from(*min)..=f64::from(*max)).contains(&number))
        }
        (Kind::List(of), SourceValue::List(items)) => items.iter().all(|item| takes(of, item)),
        (Kind::Map(of), SourceValue::Map(entries)) => entries.iter().all(|(_, value)| takes(of, value)),
        (Kind::Object(known), _) => object(known, node),
        (Kind::Single(field), SourceValue::Map(entries)) => match &entries[..] {
            [(name, value)] => {
                name.text().is_some_and(|name| name == field.name) && takes(&field.kind, value)
            }
            _ => false,
        },
        (Kind::Either(kinds), _) => kinds.iter().any(|kind| takes(kind, node)),
        _ => false,
    }
}

/// A map with `base`, in which `name` is `value`.
fn map(base: &[(&str, &str)], name: &str, value: &str) -> String {
    let others = base.iter().filter(|(other, _)| *other != name);
    let fields: String = others.map(|(name, value)| format!("{name}: {value}, ")).collect();
    format!("{{{fields}{name}: {value}}}")
}

/// A rule file in which the field `name` of `object` has this value.
fn file(object: &Object, name: &str, value: &str) -> SourceFile {
    let rule = |fields: &str| format!("{{domain: d, descriptors: [{fields}]}}");
    let limited = [("key", "k"), ("rate_limit", "5/minute")];
    let text = match object.name {
        "file" => map(&[("domain", "d"), ("descriptors", "[]")], name, value),
        "defaults" => format!("{{domain: d, descriptors: [], defaults: {}}}", map(&[], name, value)),
        "descriptor" if ["rate_limits", "metadata"].contains(&name) => {
            rule(&map(&[("key", "k")], name, value))
        }
        "descriptor" => rule(&map(&limited, name, value)),
        "rate_limit" => {
            let limit = map(&[("unit", "minute"), ("requests_per_unit", "5")], name, value);
            rule(&map(&limited, "rate_limit", &limit))
        }
        "replaces" => {
            let replaces = format!("{{unit: day, replaces: [{}]}}", map(&[], name, value));
            rule(&map(&limited, "rate_limit", &replaces))
        }
        "penalty" => rule(&map(&limited, "penalty", &map(&[("block", "[1m]")], name, value))),
        "on_deny" => rule(&map(&limited, "on_deny", &map(&[], name, value))),
        "body" => {
            let body = map(&[("text", "x")], name, value);
            rule(&map(&limited, "on_deny", &format!("{{body: {body}}}")))
        }
        "prices" => {
            let prices = map(&[("input", "1"), ("output", "2")], name, value);
            format!("{{domain: d, descriptors: [], prices: {{m: {prices}}}}}")
        }
        "weights" => {
            let reserve = format!("{{amount: 1, count: {}}}", map(&[], name, value));
            rule(&map(&limited, "reserve", &reserve))
        }
        step => {
            let options = map(&[], name, value);
            rule(&map(&limited, "normalize", &format!("[{{{step}: {options}}}]")))
        }
    };
    SourceFile { name: "rules.yaml".to_owned(), text }
}

#[test]
fn the_tables_and_the_parser_accept_the_same_values() {
    let objects = [
        &RULE_FILE,
        &DEFAULTS,
        &DESCRIPTOR,
        &PRICES_OF_MODEL,
        &TOKEN_WEIGHTS,
        &IP_PREFIX,
        &FORWARDED_FOR,
        &RATE_LIMIT,
        &REPLACES,
        &PENALTY,
        &ON_DENY,
        &BODY,
    ];
    let options = CompileOptions { hash_key: Some(HashKey::new(b"a secret")), ..CompileOptions::default() };
    let mut wrong = Vec::new();
    for (object, field) in
        objects.iter().flat_map(|object| object.fields.iter().map(move |field| (object, field)))
    {
        for value in SAMPLES {
            let file = file(object, field.name, value);
            let sample = SourceFile { text: format!("[{value}]"), ..file.clone() };
            let sample = sample.documents().nodes.remove(0);
            let SourceValue::List(sample) = &sample.value else { panic!("{value}") };
            let is_taken = takes(&field.kind, &sample[0]);
            let at = format!("{} {}: {value}", object.name, field.name);
            if !is_taken && compile(std::slice::from_ref(&file), options, None).is_ok() {
                wrong.push(format!("{at} compiles"));
            }
            let mut parser = Parser { errors: file.documents().errors };
            file.documents().nodes.iter().for_each(|node| drop(parser.document(node)));
            let errors = parser.errors.into_kept();
            // A list without limits has the right form; the parser rejects it for another reason.
            let is_exempt = errors.iter().all(|error| error.message.contains("without a limit"));
            if is_taken && !is_exempt {
                wrong.push(format!("{at}: {errors:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
