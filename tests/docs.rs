//! What the documents show, works.

use tollgate::engine::rules::{CompileOptions, SourceFile, compile};

use crate::support::envoy;

const README: &str = include_str!("../README.md");
const RULES: &str = include_str!("../docs/rules.md");
const SAMPLE: &str = include_str!("../config/example.yaml");

/// The fenced blocks of a document that open with `info`.
fn blocks<'a>(document: &'a str, info: &str) -> Vec<&'a str> {
    let fence = format!("```{info}\n");
    document.split(&fence).skip(1).map(|rest| rest.split("```").next().expect("a block")).collect()
}

#[test]
fn the_rules_that_are_shown_compile() {
    let shown = [("README.md", README), ("docs/rules.md", RULES)];
    for (name, document) in shown {
        let blocks = blocks(document, "yaml rules");
        assert!(!blocks.is_empty(), "{name} shows rules");
        for text in blocks {
            let file = SourceFile { name: name.to_owned(), text: text.to_owned() };
            if let Err(errors) = compile(&[file], CompileOptions::default(), None) {
                panic!("{errors:?}\n{text}");
            }
        }
    }
}

#[test]
fn the_rules_that_are_shown_use_every_field() {
    let shown = blocks(RULES, "yaml rules").concat();
    let fields = RULES.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let fields: Vec<_> = fields.map(|(field, _)| field).collect();
    assert!(fields.len() > 10, "{fields:?}");
    for field in fields {
        assert!(shown.contains(&format!("{field}:")), "{field} has no example");
    }
}

#[test]
fn the_readme_shows_the_files_that_it_tells_of() {
    for (info, file) in [("yaml rules", SAMPLE), ("yaml envoy", envoy::CONFIG)] {
        let is_shown = |block: &&str| file.ends_with(*block);
        assert!(blocks(README, info).iter().any(is_shown), "{info}");
    }
}
