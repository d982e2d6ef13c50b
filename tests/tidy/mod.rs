//! The structure that `src/lib.rs` describes, and the language of `docs/CONTRIBUTING.md`, as tests.

mod imports;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

/// The modules that the modules of a folder may import.
const ARROWS: &[(&str, &[&str])] = &[
    ("clock", &["engine"]),
    ("engine", &["engine"]),
    // The path of a request with the memory store and the manual clock, which must be the service's own.
    ("lab", &["clock", "engine", "lab", "limiter", "store", "telemetry"]),
    ("limiter", &["clock", "engine", "store", "telemetry"]),
    ("file_watch", &[]),
    ("tcp", &[]),
    ("provider", &["clock", "engine", "file_watch", "pb", "provider", "tcp", "tls"]),
    (
        "server",
        &[
            "clock",
            "engine",
            "lab",
            "limiter",
            "pb",
            "provider",
            "server",
            "store",
            "supervisor",
            "tcp",
            "telemetry",
            "tls",
        ],
    ),
    ("store", &["clock", "engine", "store", "supervisor", "tls"]),
    ("supervisor", &[]),
    ("telemetry", &["clock", "engine", "supervisor", "telemetry", "tls"]),
    ("tls", &["engine", "file_watch", "tls"]),
    ("settings", &["engine", "provider", "server", "settings", "store", "telemetry", "tls"]),
    (
        "app",
        &[
            "app",
            "clock",
            "engine",
            "limiter",
            "provider",
            "server",
            "settings",
            "store",
            "supervisor",
            "telemetry",
            "tls",
        ],
    ),
    ("bench", &["bench", "engine", "pb", "server", "tls"]),
    (
        "cli",
        &[
            "app",
            "bench",
            "cli",
            "clock",
            "engine",
            "lab",
            "pb",
            "provider",
            "server",
            "settings",
            "store",
            "telemetry",
            "tls",
        ],
    ),
];

/// Texts that only some files may contain, these files, and why.
const RESERVED: &[(&str, &[&str], &str)] = &[
    ("SystemTime", &["clock.rs"], "time is an argument; one clock is read, in one place"),
    ("env::var", &["settings/"], "what the operator set is read once, in one place"),
    ("process::exit", &[], "`main` returns an exit code"),
    ("thread::sleep", &[], "nothing waits by blocking a thread"),
    ("fred::", &["store/redis/"], "only the Redis store speaks to Redis"),
    ("include_proto", &["pb.rs"], "generated modules are declared once"),
];

/// Words of the outside world, which the pure core does not know.
const FOREIGN_TO_THE_ENGINE: &[&str] = &[
    "tokio",
    "tonic",
    "fred",
    "axum",
    "hyper",
    "prometheus",
    "tracing",
    "parking_lot",
    "std::fs",
    "Mutex",
    "RwLock",
];

/// Files of the server that route methods which write, and why.
const WRITES: &[(&str, &str)] = &[
    ("server/admin/", "every write is authenticated and audited there"),
    ("server/http/", "the service itself"),
    ("server/debug.rs", "explains, which counts nothing"),
];

const FILE_LINES_MAX: usize = 450;

struct Source {
    /// Relative to `src/`.
    path: PathBuf,
    /// Without comments, and without the tests at the file's end.
    code: String,
    lines: usize,
}

/// The files below `folder` that end in `extension`, sorted.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is part of the project") {
        let path = entry.expect("its entries can be read").path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let is_test = |path: &Path| path.iter().any(|part| part == "tests" || part == "tests.rs");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("sources are text");
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code: Vec<_> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let path = path.strip_prefix(&root).expect("it lies below the root").to_owned();
        Source { path, code: code.join("\n"), lines: text.lines().count() }
    };
    files(&root, "rs").into_iter().filter(|path| !is_test(path)).map(read).collect()
}

/// The modules of ours that `code` names, by `crate::name` and by `crate::{name…, name…}`.
fn named_modules(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    names.push(word(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn modules_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for source in sources() {
        let top = source.path.iter().next().expect("a file has a name").to_string_lossy();
        let top = top.trim_end_matches(".rs");
        let Some((_, may)) = ARROWS.iter().find(|(module, _)| *module == top) else {
            if !["lib", "main", "pb"].contains(&top) {
                wrong.push(format!("{}: say in ARROWS what `{top}` may name", source.path.display()));
            }
            continue;
        };
        for name in named_modules(&source.code) {
            if !may.contains(&name.as_str()) {
                wrong.push(format!("{}: `{top}` may not name `{name}`", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn reserved_texts_are_only_in_their_places() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (text, may, why) in RESERVED {
            let may =
                may.iter().any(|place| source.path.starts_with(place) || source.path == Path::new(place));
            if !may && source.code.contains(text) {
                wrong.push(format!("{}: `{text}`: {why}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_engine_has_no_io() {
    let mut wrong = Vec::new();
    for source in sources().into_iter().filter(|source| source.path.starts_with("engine")) {
        for word in FOREIGN_TO_THE_ENGINE.iter().filter(|word| source.code.contains(*word)) {
            wrong.push(format!("{}: {word}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn writes_are_routed_where_they_are_authenticated() {
    let mut wrong = Vec::new();
    for source in sources() {
        let may =
            WRITES.iter().any(|(place, _)| source.path.starts_with(place) || source.path == Path::new(place));
        let routes = source.code.contains("axum::routing");
        for method in ["post(", "put(", "delete(", "patch("] {
            if routes && !may && source.code.contains(method) {
                wrong.push(format!("{}: {method}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "route them in server/admin: {wrong:?}");
}

#[test]
fn pages_escape_every_value() {
    let unescaped: Vec<_> =
        sources().into_iter().filter(|source| source.code.contains("PreEscaped")).collect();
    assert!(unescaped.is_empty(), "{:?}", unescaped.iter().map(|source| &source.path).collect::<Vec<_>>());
    let scripts = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "js");
    assert!(!scripts.is_empty(), "the console has one");
    for script in scripts {
        let code = fs::read_to_string(&script).expect("a script");
        for sink in ["outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", ".html("] {
            assert!(!code.contains(sink), "{}: {sink}", script.display());
        }
        // A page as the server rendered it.
        let html: Vec<_> = code.lines().filter(|line| line.contains("innerHTML")).map(str::trim).collect();
        assert!(html.iter().all(|line| *line == "main.innerHTML = content;"), "{html:?}");
    }
}

#[test]
fn files_are_short() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.lines > FILE_LINES_MAX)
        .map(|source| format!("{}: {} lines", source.path.display(), source.lines))
        .collect();
    assert!(long.is_empty(), "look for the second thing hiding inside (max {FILE_LINES_MAX}): {long:?}");
}

/// The names of the crates in one section of `Cargo.toml`, as code writes them.
fn crates(manifest: &str, section: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != section).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let names = lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.replace('-', "_")).collect()
}

#[test]
fn every_dependency_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("a manifest");
    let code = |folder: &str| {
        let texts = files(&root.join(folder), "rs").into_iter().map(fs::read_to_string);
        texts.map(|text| text.expect("sources are text")).collect::<String>()
    };
    let (src, tests) = (code("src"), code("tests"));
    for (section, code) in
        [("[dependencies]", &(src.clone() + &code("proto"))), ("[dev-dependencies]", &(tests + &src))]
    {
        for name in crates(&manifest, section) {
            let used = code.contains(&format!("{name}::")) || code.contains(&format!("use {name}"));
            assert!(used, "{section} {name} is not used: remove it from Cargo.toml");
        }
    }
}

#[test]
fn every_script_is_used() {
    let sources = sources();
    for script in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "lua") {
        let name = script.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let used = sources.iter().any(|source| source.code.contains(&format!("include_str!(\"{name}\")")));
        assert!(used, "{name} is included nowhere");
    }
}

#[test]
fn imports_are_found_in_every_form() {
    let code =
        "use crate::engine::{Hits, rules};\nuse crate::{clock::Clock, store::{Store, memory}};\ncrate::pb::X";
    assert_eq!(named_modules(code), ["engine", "clock", "store", "pb"]);
}
