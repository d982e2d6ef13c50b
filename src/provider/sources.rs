//! Reads rule files: everything in a directory and below it, or one file.
//!
//! Names that begin with a dot are passed over at every level, which is what makes a mounted Kubernetes
//! ConfigMap (`..data` and the directory it leads to) read once; so are names that end in `~`, which
//! editors leave behind. A file or directory that can be reached by several names is read by the first.
//! Everything is bounded, so that a wrong path cannot exhaust memory.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::engine::rules::{RuleError, SourceFile};

/// Size of one file at the most, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Files at the most.
const MAX_FILES: usize = 10_000;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The files that could be read, in the order of their names.
    pub files: Vec<SourceFile>,
    /// What could not be read, and why. Where this is a directory, it stands for everything in it.
    pub unread: Vec<RuleError>,
}

/// Reads the files at `path`, blocking the thread while the disk answers.
pub fn read(path: &Path) -> Sources {
    read_watched(path, |_| ())
}

/// Reads as [`read`] does, and tells `watch` of every directory where a change may be one of the rules,
/// each time before it looks there: what changes later is then seen by one or the other.
pub(super) fn read_watched(path: &Path, watch: impl FnMut(&Path)) -> Sources {
    let mut reader = Reader { watch, seen: HashSet::new(), sources: Sources::default() };
    reader.watch_way_to(path);
    reader.read_all(path);
    reader.sources.files.sort_by(|a, b| a.name.cmp(&b.name));
    reader.sources
}

struct Reader<W> {
    watch: W,
    /// Real paths of what was read.
    seen: HashSet<PathBuf>,
    sources: Sources,
}

impl<W: FnMut(&Path)> Reader<W> {
    /// A link on the way may be led elsewhere, and what is missing may come.
    fn watch_way_to(&mut self, path: &Path) {
        let Ok(path) = std::path::absolute(path) else { return };
        for part in path.ancestors().filter(|part| part.is_symlink()) {
            part.parent().map(&mut self.watch);
        }
        if !path.is_dir() {
            path.ancestors().skip(1).find(|part| part.is_dir()).map(&mut self.watch);
        }
    }

    fn read_all(&mut self, root: &Path) {
        // Ordered so that the last one is the next in the order of names.
        let mut ahead = vec![root.to_owned()];
        while let Some(path) = ahead.pop() {
            if self.sources.files.len() == MAX_FILES {
                let too_many = io::Error::other(format!("there are more than {MAX_FILES} files"));
                return self.sources.unread.push(unread(root, &too_many));
            }
            match self.visit(&path) {
                Ok(below) => ahead.extend(below.into_iter().rev()),
                // Deleted since it was listed, unless it is a link that leads nowhere.
                Err(error) if error.kind() == ErrorKind::NotFound && path != root && !path.is_symlink() => (),
                Err(error) => self.sources.unread.push(unread(&path, &error)),
            }
        }
    }

    /// Reads the file at `path`, or names what the directory there holds.
    fn visit(&mut self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let real = path.canonicalize()?;
        let is_dir = real.is_dir();
        if !(is_dir || real.is_file()) || !self.seen.insert(real.clone()) {
            return Ok(Vec::new());
        }
        if is_dir {
            (self.watch)(&real);
            return list(path);
        }
        if path.is_symlink() {
            real.parent().map(&mut self.watch);
        }
        let text = read_text(&real)?;
        self.sources.files.push(SourceFile { name: path.display().to_string(), text });
        Ok(Vec::new())
    }
}

/// The names in a directory that count, ordered.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if !name.starts_with(b".") && !name.ends_with(b"~") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("the file is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

fn unread(path: &Path, error: &io::Error) -> RuleError {
    let message = match error.kind() {
        ErrorKind::InvalidData => "the file is not UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    RuleError::of_file(&path.display().to_string(), message)
}
