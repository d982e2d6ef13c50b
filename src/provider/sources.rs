//! Rule files: every `.yaml` and `.yml` in a directory and below it, or one file of any name. Files whose names end
//! in `.test.yaml` or `.test.yml` are skipped: they contain tests of rules.
//!
//! Names that begin with a dot are skipped at every level, so that a mounted Kubernetes ConfigMap (`..data` and
//! the directory that it links to) is read once. A file or directory with several names is read under the
//! first. Everything is bounded, so that a wrong path cannot exhaust memory or block.

use std::collections::HashSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::engine::rules::{RuleError, SourceFile};

/// Upper bound on a file, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Upper bound on files.
const MAX_FILES: usize = 10_000;

/// Files that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Readable rule files in the order of their names.
    pub files: Vec<SourceFile>,
    /// Errors of unreadable files. The error of a directory covers everything in it.
    pub unreadable: Vec<RuleError>,
    /// Files whose names are not names of rule files.
    pub ignored: Vec<PathBuf>,
}

/// Reads the files at `path`. Blocks the thread.
pub fn read(path: &Path) -> Sources {
    read_watched(path, |_| ())
}

/// Like [`read`], but calls `watch` for every directory whose changes may affect the rules, each time before it
/// reads the directory, so that no change is missed.
pub(super) fn read_watched(path: &Path, watch: impl FnMut(&Path)) -> Sources {
    let mut reader = Reader { watch, seen: HashSet::new(), sources: Sources::default() };
    reader.watch_ancestors(path);
    reader.read_all(path);
    reader.sources.files.sort_by(|a, b| a.name.cmp(&b.name));
    reader.sources
}

struct Reader<W> {
    watch: W,
    /// Real paths of the files that were read.
    seen: HashSet<PathBuf>,
    sources: Sources,
}

impl<W: FnMut(&Path)> Reader<W> {
    /// Watches the ancestors of a path: a link on the way may be swapped, and a missing directory may be
    /// created.
    fn watch_ancestors(&mut self, path: &Path) {
        let Ok(path) = std::path::absolute(path) else { return };
        for part in path.ancestors().filter(|part| part.is_symlink()) {
            part.parent().map(&mut self.watch);
        }
        if !path.is_dir() {
            path.ancestors().skip(1).find(|part| part.is_dir()).map(&mut self.watch);
        }
    }

    fn read_all(&mut self, root: &Path) {
        // A stack whose last path is the next one by name.
        let mut ahead = vec![root.to_owned()];
        while let Some(path) = ahead.pop() {
            if self.sources.files.len() == MAX_FILES {
                let too_many = io::Error::other(format!("there are more than {MAX_FILES} files"));
                return self.sources.unreadable.push(unreadable(root, &too_many));
            }
            match self.visit(&path, path == root) {
                Ok(below) => ahead.extend(below.into_iter().rev()),
                // The file was deleted after the directory was listed. A dangling link is an error.
                Err(error) if error.kind() == ErrorKind::NotFound && path != root && !path.is_symlink() => (),
                Err(error) => self.sources.unreadable.push(unreadable(&path, &error)),
            }
        }
    }

    /// Reads the file at `path`, or lists the directory there.
    fn visit(&mut self, path: &Path, is_root: bool) -> io::Result<Vec<PathBuf>> {
        let real = match path.canonicalize() {
            // A dangling link is an error only if it may be a rule file or a directory of them.
            Err(_) if !is_root && path.extension().is_some() && !is_rule_file(path) => {
                self.sources.ignored.push(path.to_owned());
                return Ok(Vec::new());
            }
            real => real?,
        };
        let is_dir = real.is_dir();
        if !is_dir && !is_root && is_test_file(path) {
            return Ok(Vec::new());
        }
        if !(is_dir || is_root || is_rule_file(path)) {
            self.sources.ignored.push(path.to_owned());
            return Ok(Vec::new());
        }
        if !self.seen.insert(real.clone()) {
            return Ok(Vec::new());
        }
        if is_dir {
            (self.watch)(&real);
            return list(path);
        }
        if path.is_symlink() {
            real.parent().map(&mut self.watch);
        }
        // Check before opening: opening a device may have side effects.
        check_regular(&fs::metadata(&real)?)?;
        let text = read_text(&real)?;
        self.sources.files.push(SourceFile { name: path.display().to_string(), text });
        Ok(Vec::new())
    }
}

/// True if the file at `path` has tests of rules: its name ends in `.test.yaml` or `.test.yml`. In a directory of rules
/// it is skipped.
pub fn is_test_file(path: &Path) -> bool {
    is_yaml(path)
        && path.file_stem().is_some_and(|stem| Path::new(stem).extension().is_some_and(|end| end == "test"))
}

fn is_rule_file(path: &Path) -> bool {
    is_yaml(path) && !is_test_file(path)
}

fn is_yaml(path: &Path) -> bool {
    let is_yaml = |extension: &std::ffi::OsStr| {
        extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml")
    };
    path.extension().is_some_and(is_yaml)
}

/// Names in a directory that do not begin with a dot, sorted.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if !name.starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_text(path: &Path) -> io::Result<String> {
    // Without `NONBLOCK`, opening a FIFO blocks until there is a writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    check_regular(&file.metadata()?)?;
    let mut text = String::new();
    let length = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("the file is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

fn check_regular(metadata: &Metadata) -> io::Result<()> {
    let file_type = metadata.file_type();
    if file_type.is_file() {
        return Ok(());
    }
    let kind = if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_char_device() || file_type.is_block_device() {
        "a device"
    } else {
        "a special file"
    };
    Err(io::Error::other(format!("it is {kind}, not a regular file")))
}

fn unreadable(path: &Path, error: &io::Error) -> RuleError {
    let message = match error.kind() {
        ErrorKind::InvalidData => "the file is not UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    RuleError::of_source(&path.display().to_string(), message)
}
