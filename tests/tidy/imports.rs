//! Imports between files: no two files import each other.
//!
//! A module and the modules inside it are one matter here: a folder's `mod.rs` may use its children, and they
//! its types. Re-exports are followed to the file that defines the name.

use std::collections::{BTreeMap, BTreeSet};

use super::sources;

/// A path in code, as segments from the crate's root.
type Path = Vec<String>;

/// Files by the path of their module.
struct Tree {
    files: BTreeMap<Path, File>,
    /// Paths that `pub use` defines, and what they stand for.
    exports: BTreeMap<Path, Path>,
}

struct File {
    name: String,
    code: String,
}

/// The path of the module that `file` is, relative to `src/`.
fn module_path(file: &std::path::Path) -> Path {
    let mut path: Path =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, group)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let group = group.trim_end().trim_end_matches('}');
    let mut items = vec![String::new()];
    let mut depth = 0;
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match (c, items.last_mut()) {
            (',', _) if depth == 0 => items.push(String::new()),
            (c, Some(item)) => item.push(c),
            (_, None) => {}
        }
    }
    // A group inside the group has lost its last brace if it was the last item.
    let closed =
        |item: &String| item.clone() + if item.contains('{') && !item.ends_with('}') { "}" } else { "" };
    let items = items.iter().map(closed).filter(|item| !item.trim().is_empty());
    items.flat_map(|item| expand(&format!("{prefix}{}", item.trim()))).collect()
}

impl Tree {
    fn new() -> Self {
        let files = sources().into_iter().map(|source| {
            let name = source.path.to_string_lossy().into_owned();
            (module_path(&source.path), File { name, code: source.code })
        });
        let mut tree = Self { files: files.collect(), exports: BTreeMap::new() };
        let mut exports = BTreeMap::new();
        for (module, file) in &tree.files {
            for (is_public, path) in uses(&file.code) {
                let (path, name) = match path.split_once(" as ") {
                    Some((path, name)) => (path.to_owned(), name.to_owned()),
                    None => (path.clone(), path.rsplit("::").next().unwrap_or_default().to_owned()),
                };
                if let Some(target) = tree.resolve(module, &path).filter(|_| is_public) {
                    exports.insert([module.as_slice(), &[name]].concat(), target);
                }
            }
        }
        tree.exports = exports;
        tree
    }

    /// `path` as written in `module`, from the root; `None` for another crate's.
    fn resolve(&self, module: &Path, path: &str) -> Option<Path> {
        let mut segments = path.split("::").map(|segment| segment.trim().to_owned()).peekable();
        let mut base = module.clone();
        match segments.peek()?.as_str() {
            "crate" => {
                base.clear();
                segments.next();
            }
            "self" => drop(segments.next()),
            "super" => {
                while segments.next_if(|segment| segment == "super").is_some() {
                    base.pop();
                }
            }
            child => {
                let child = [module.as_slice(), &[child.to_owned()]].concat();
                self.files.get(&child)?;
            }
        }
        base.extend(segments);
        Some(base)
    }

    /// The module that defines `path`.
    fn owner(&self, path: &Path, depth: usize) -> Option<&Path> {
        (0..=path.len()).rev().find_map(|length| {
            let (module, _) = self.files.get_key_value(&path[..length])?;
            match path.get(..=length).and_then(|name| self.exports.get(name)) {
                Some(target) if depth < 8 => {
                    self.owner(&[target.as_slice(), &path[length + 1..]].concat(), depth + 1)
                }
                _ => Some(module),
            }
        })
    }

    /// The modules that `module` uses, by `use` or by a path in its code.
    fn used_by<'a>(&'a self, module: &'a Path, file: &File) -> BTreeSet<&'a Path> {
        let private = uses(&file.code).into_iter().filter(|(is_public, _)| !is_public).map(|(_, path)| path);
        let paths = private.chain(written_paths(&file.code));
        let resolved = paths.filter_map(|path| self.resolve(module, path.split(" as ").next()?));
        let owners = resolved.filter_map(|path| self.owner(&path, 0).cloned());
        let owners: BTreeSet<Path> = owners.collect();
        self.files.keys().filter(|path| owners.contains(*path) && *path != module).collect()
    }
}

/// The `use` declarations of `code`: whether each is public, and its paths.
fn uses(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let Some(at) = statement.rfind("use ") else { continue };
        let before = statement[..at].rsplit('\n').next().unwrap_or_default().trim();
        if before.is_empty() || before.starts_with("pub") {
            let tree = statement[at + "use ".len()..].split_whitespace().collect::<Vec<_>>().join(" ");
            found.extend(expand(&tree).into_iter().map(|path| (!before.is_empty(), path)));
        }
    }
    found
}

/// Paths written out in code: `super::name`, `child::function`.
fn written_paths(code: &str) -> impl Iterator<Item = String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let statements = code.split(';').filter(|statement| !statement.trim_start().contains("use "));
    statements
        .flat_map(move |statement| statement.split(move |c| !is_part(c)))
        .filter(|word| word.contains("::") && word.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(str::to_owned)
}

#[test]
fn no_two_files_import_each_other() {
    let tree = Tree::new();
    let used: BTreeMap<_, _> =
        tree.files.iter().map(|(module, file)| (module, tree.used_by(module, file))).collect();
    let mut pairs = Vec::new();
    for (module, others) in &used {
        for other in others.iter().filter(|other| **other > *module && used[**other].contains(module)) {
            let is_family = other.starts_with(module) || module.starts_with(other);
            let pair = (tree.files[*module].name.as_str(), tree.files[*other].name.as_str());
            if !is_family {
                pairs.push(format!("{} and {} import each other", pair.0, pair.1));
            }
        }
    }
    assert!(
        pairs.is_empty(),
        "move what both need into one of the two, or below both:\n{}",
        pairs.join("\n")
    );
}

#[test]
fn a_use_tree_is_its_paths() {
    assert_eq!(
        expand("crate::{a, b::{c as d, e}, f::g}"),
        ["crate::a", "crate::b::c as d", "crate::b::e", "crate::f::g"]
    );
    assert_eq!(expand("super::x::{y, z::{v, w}}"), ["super::x::y", "super::x::z::v", "super::x::z::w"]);
}

#[test]
fn both_directions_are_found() {
    let code = "use super::b::B;\npub use self::c::C;\nfn f() { super::d::run(); let x = 1; }";
    assert_eq!(uses(code), [(false, "super::b::B".to_owned()), (true, "self::c::C".to_owned())]);
    assert!(written_paths(code).any(|path| path == "super::d::run"));
}
