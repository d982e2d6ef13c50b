//! Output of the decision log: stdout, or a file that may be rotated by renaming it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::writer::{LogWriter, QueueBounds};

/// Bounds of the queue: some tenths of a second at full load.
const BOUNDS: QueueBounds = QueueBounds { lines: 65_536, bytes: 32 << 20 };
const BUFFER_BYTES: usize = 64 << 10;

/// Settings of the decision log.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionLogSettings {
    /// Output.
    pub target: DecisionLogTarget,
    /// Share of keys whose decisions are logged, 0 to 1.
    pub sample: f64,
}

/// Output of the decision log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecisionLogTarget {
    /// Standard output.
    Stdout,
    /// File, which is appended to.
    File(PathBuf),
}

/// Starts the thread that writes the decision log.
///
/// # Errors
/// The file cannot be opened, or the thread cannot be started.
pub fn decision_writer(target: &DecisionLogTarget) -> io::Result<LogWriter> {
    match target {
        DecisionLogTarget::Stdout => {
            LogWriter::start(BufWriter::with_capacity(BUFFER_BYTES, io::stdout()), BOUNDS)
        }
        DecisionLogTarget::File(path) => LogWriter::start(RotatedFile::open(path)?, BOUNDS),
    }
}

/// A file that is opened again after it was renamed or removed.
struct RotatedFile {
    path: PathBuf,
    file: BufWriter<File>,
    /// Device and inode.
    identity: (u64, u64),
}

impl RotatedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let metadata = file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { path: path.to_owned(), file: BufWriter::with_capacity(BUFFER_BYTES, file), identity })
    }

    fn was_rotated(&self) -> bool {
        match self.path.metadata() {
            Ok(found) => (found.dev(), found.ino()) != self.identity,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

impl Write for RotatedFile {
    /// Buffers `line`. A line is never split between two files.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.file.buffer().len() + line.len() > BUFFER_BYTES {
            self.flush()?;
        }
        self.file.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()?;
        if self.was_rotated() {
            match Self::open(&self.path) {
                Ok(opened) => *self = opened,
                // Lines go to the old file for as long as there is no other.
                Err(error) => {
                    let path = self.path.display();
                    tracing::warn!(%error, %path, "decision log cannot be opened again");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_was_renamed_is_opened_again_and_no_line_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("decisions.ndjson"), dir.path().join("decisions.1"));
        let mut file = RotatedFile::open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        file.flush().unwrap();
        file.write_all(b"two\n").unwrap();
        fs::rename(&path, &rotated).unwrap();
        file.flush().unwrap();
        file.write_all(b"three\n").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        fs::remove_file(&path).unwrap();
        file.flush().unwrap();
        file.write_all(b"four\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }
}
