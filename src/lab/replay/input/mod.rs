//! Lines of log files: decompressed, split, and bounded.

mod decompress;
mod lines;

pub(super) use self::lines::{Lines, NextLine};

use std::io::Read;

use self::decompress::Decompressed;

/// A log file, or stdin.
pub struct LogSource {
    /// Name in messages.
    pub name: String,
    /// Its content, possibly compressed with gzip or zstd.
    pub reader: Box<dyn Read>,
}

impl LogSource {
    /// The lines.
    pub(super) fn into_lines(self) -> Lines {
        Lines::new(self.name, Decompressed::new(self.reader))
    }
}
