//! Output of the decision log: stdout, or a file that may be rotated by renaming it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::writer::{LogWriter, LostLines, QueueBounds};
use crate::clock::{Clock as _, SystemClock};
use crate::engine::Timestamp;

/// Bounds of the queue: some tenths of a second at full load.
const BOUNDS: QueueBounds = QueueBounds { lines: 65_536, bytes: 32 << 20 };
const BUFFER_BYTES: usize = 64 << 10;
/// Name in messages.
const NAME: &str = "decision log";
/// Time between two warnings that the file cannot be opened again.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

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
            LogWriter::start(NAME, BufWriter::with_capacity(BUFFER_BYTES, io::stdout()), BOUNDS)
        }
        DecisionLogTarget::File(path) => LogWriter::start(NAME, RotatedFile::open(path)?, BOUNDS),
    }
}

/// A file that is opened again after it was renamed or removed.
struct RotatedFile {
    path: PathBuf,
    file: BufWriter<File>,
    /// Device and inode.
    identity: (u64, u64),
    /// Time of the last warning that it cannot be opened again.
    warned: Option<Timestamp>,
}

impl RotatedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let metadata = file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { path: path.to_owned(), file, identity, warned: None })
    }

    fn was_rotated(&self) -> bool {
        match self.path.metadata() {
            Ok(found) => (found.dev(), found.ino()) != self.identity,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Opens the file again if it was renamed or removed. Returns the number of buffered lines that are lost, because
    /// the old file did not take them.
    fn follow_rotation(&mut self) -> u64 {
        if !self.was_rotated() {
            return 0;
        }
        match Self::open(&self.path) {
            Ok(opened) => {
                let old = std::mem::replace(self, opened);
                // Not flushed when it is dropped: the rest of a line would be written later.
                let (_, unwritten) = old.file.into_parts();
                unwritten.map_or(0, |bytes| memchr::memchr_iter(b'\n', &bytes).count() as u64)
            }
            // Lines go to the old file until there is a new one.
            Err(error) => {
                let now = SystemClock.now();
                if self.warned.is_none_or(|warned| now.since(warned) >= WARNING_INTERVAL) {
                    let path = self.path.display();
                    tracing::warn!(%error, %path, "decision log cannot be reopened");
                    self.warned = Some(now);
                }
                0
            }
        }
    }
}

impl Write for RotatedFile {
    /// Buffers `line`. A line is never split between two files, and goes to the file that is there when the buffer
    /// begins.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_full = |file: &BufWriter<File>| file.buffer().len() + line.len() > BUFFER_BYTES;
        let mut lost = None;
        if is_full(&self.file)
            && let Err((lines, error)) = self.write_buffer()
        {
            if !self.file.buffer().is_empty() {
                return Err(LostLines { lines: lines + 1, error }.into());
            }
            lost = Some(LostLines { lines, error });
        }
        if self.file.buffer().is_empty() {
            self.follow_rotation();
        }
        self.file.write_all(line)?;
        lost.map_or(Ok(line.len()), |lost| Err(lost.into()))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_buffer().map_err(|(lines, error)| LostLines { lines, error }.into())
    }
}

impl RotatedFile {
    /// Writes the buffer. If that fails, it stays for the next attempt, unless the file was rotated.
    ///
    /// # Errors
    /// The number of lines that are lost, and the error of the operating system.
    fn write_buffer(&mut self) -> Result<(), (u64, io::Error)> {
        self.file.flush().map_err(|error| (self.follow_rotation(), error))
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

    #[test]
    fn a_full_disk_keeps_lines_until_the_file_is_rotated_and_later_lines_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decisions.ndjson");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut file = RotatedFile::open(&path).unwrap();
        let lost = |outcome: io::Result<()>| LostLines::count(&outcome.unwrap_err());
        file.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(lost(file.flush()), 0);
        // A line that finds the buffer full is lost.
        assert_eq!(lost(file.write_all(&[b'x'; BUFFER_BYTES])), 1);
        fs::remove_file(&path).unwrap();
        assert_eq!(lost(file.flush()), 2);
        file.write_all(b"three\n").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn the_first_line_after_a_rotation_goes_to_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decisions.ndjson");
        let mut file = RotatedFile::open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        file.flush().unwrap();
        fs::rename(&path, dir.path().join("old")).unwrap();
        fs::remove_file(dir.path().join("old")).unwrap();
        file.write_all(b"two\n").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }
}
