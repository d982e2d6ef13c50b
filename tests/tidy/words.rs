//! Words: the idioms that readers stumble over, in texts and in names, and doc comments that do not start with the
//! noun.

use std::fs;
use std::path::{Path, PathBuf};

use super::files;

/// Idioms, and what to write.
const IDIOMS: &[(&str, &str)] = &[
    ("tell of", "report, return, log, show"),
    ("tells of", "reports, returns, logs, shows"),
    ("told of", "reported"),
    ("is told", "gets, sees"),
    ("are told", "get, see"),
    ("was told", "got, saw"),
    ("were told", "got, saw"),
    ("at the most", "at most"),
    ("at the least", "at least"),
    ("whoever", "the client, the caller, the peer"),
    ("goes on with", "keeps"),
    ("go on with", "keep"),
    ("of no use", "cannot be used"),
    ("says nobody", "is empty"),
    ("who asks", "the client, the caller"),
    ("those whom", "the clients that"),
    ("to tell of", "to report"),
    ("takes note", "records, adds"),
    ("makes no sense", "is invalid"),
    ("make no sense", "are invalid"),
    ("in the making", "under construction"),
];

/// First words of doc comments that put off the noun.
const FIRST_WORDS: &[&str] = &["What", "Who", "Whom", "Whose", "Where", "How", "Whether"];

/// Places that have not been revised yet. Remove a place once it has; add none.
const NOT_YET: &[&str] = &[];

/// Files with examples of how not to write.
const EXAMPLES: &[&str] = &["tests/tidy/words.rs", "docs/CONTRIBUTING.md"];

/// Every text of the project that people read, relative to its root.
fn texts() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "tests", "docs", "config", "deploy"];
    let extensions = ["rs", "lua", "md", "yaml", "sh"];
    let found = folders.iter().flat_map(|folder| extensions.map(|extension| (root.join(folder), extension)));
    let mut paths: Vec<_> = found.flat_map(|(folder, extension)| files(&folder, extension)).collect();
    paths.extend(["README.md", "CHANGELOG.md", "build.rs"].map(|name| root.join(name)));
    let is_exempt = |path: &Path| NOT_YET.iter().chain(EXAMPLES).any(|place| path.starts_with(place));
    let relative = paths.iter().filter_map(|path| path.strip_prefix(root).ok());
    let read = |path: &Path| (path.to_owned(), fs::read_to_string(root.join(path)).expect("a text"));
    relative.filter(|path| !is_exempt(path)).map(read).collect()
}

/// True if `line` has `words` as words of their own.
fn has(line: &str, words: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(words)
        .any(|(at, _)| !line[..at].ends_with(is_letter) && !line[at + words.len()..].starts_with(is_letter))
}

#[test]
fn no_text_has_an_idiom_to_stumble_over() {
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            let names = lower.replace('_', " ");
            for (idiom, better) in IDIOMS.iter().filter(|(idiom, _)| has(&lower, idiom) || has(&names, idiom))
            {
                wrong.push(format!("{}:{}: \"{idiom}\": write {better}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{} findings\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn doc_comments_start_with_the_noun() {
    let mut wrong = Vec::new();
    for (path, text) in
        texts().into_iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "rs"))
    {
        let mut before = "";
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            for mark in ["///", "//!"].into_iter().filter(|mark| line.starts_with(mark)) {
                let first = line[mark.len()..].split_whitespace().next().unwrap_or_default();
                if !before.starts_with(mark) && FIRST_WORDS.contains(&first) {
                    wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
            }
            before = line;
        }
    }
    assert!(wrong.is_empty(), "{} findings\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn idioms_are_found_as_words() {
    assert!(has("one at the most", "at the most") && !has("at the mostly", "at the most"));
    assert!(has("(is told)", "is told") && !has("this told", "is told"));
}
