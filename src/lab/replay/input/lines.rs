//! Lines of a stream, in one buffer that is bounded.

use std::io::{self, Read};
use std::ops::Range;

use memchr::memchr;

use super::decompress::Decompressed;

/// Bytes to read at once.
const BLOCK_BYTES: usize = 256 << 10;
/// Longest line. By default, Envoy bounds headers at 60 KiB.
pub(in crate::lab::replay) const MAX_LINE_BYTES: usize = 1 << 20;

/// Lines of a file.
pub(in crate::lab::replay) struct Lines {
    name: String,
    reader: Decompressed,
    buffer: Vec<u8>,
    /// Part of the buffer that was not yielded yet.
    unread: Range<usize>,
    /// Lines yielded so far.
    count: u64,
    /// Bytes read from the reader, decompressed.
    bytes: u64,
    /// True while a line that is too long goes on.
    is_skipping: bool,
    is_over: bool,
}

/// Next line of a file.
pub(in crate::lab::replay) enum NextLine<'l> {
    /// A line without its end.
    Line(&'l [u8]),
    /// A line beyond the bound, of which this is the beginning.
    TooLong(&'l [u8]),
    /// More must be read.
    NeedsBlock,
}

impl Lines {
    pub(super) fn new(name: String, reader: Decompressed) -> Self {
        Self {
            name,
            reader,
            buffer: Vec::new(),
            unread: 0..0,
            count: 0,
            bytes: 0,
            is_skipping: false,
            is_over: false,
        }
    }

    /// Name of the file.
    pub(in crate::lab::replay) fn name(&self) -> &str {
        &self.name
    }

    /// Number of the last line.
    pub(in crate::lab::replay) const fn number(&self) -> u64 {
        self.count
    }

    /// Decompressed bytes read so far.
    pub(in crate::lab::replay) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads a block behind what is left of the last one. False at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read on; what came before it is whole.
    pub(in crate::lab::replay) fn read_block(&mut self) -> io::Result<bool> {
        if self.is_over {
            return Ok(false);
        }
        self.buffer.copy_within(self.unread.clone(), 0);
        let kept = self.unread.len();
        self.buffer.resize(kept + BLOCK_BYTES, 0);
        self.unread = 0..kept;
        // A pipe yields little at once; a block that is full saves work later.
        while self.unread.end < self.buffer.len() {
            match self.reader.read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => {
                    self.is_over = true;
                    break;
                }
                Ok(length) => {
                    self.unread.end += length;
                    self.bytes += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_over = true;
                    return Err(error);
                }
            }
        }
        Ok(!self.unread.is_empty() || !self.is_over)
    }

    /// The next line of the block.
    pub(in crate::lab::replay) fn next_line(&mut self) -> NextLine<'_> {
        loop {
            let text = &self.buffer[self.unread.clone()];
            let (length, end) = match memchr(b'\n', text) {
                Some(length) => (length, length + 1),
                // The last line of a file may have no end.
                None if self.is_over && !text.is_empty() => (text.len(), text.len()),
                None if text.len() > MAX_LINE_BYTES || self.is_skipping => {
                    let (start, is_new) = (self.unread.start, !self.is_skipping);
                    self.is_skipping = !self.is_over;
                    self.unread = 0..0;
                    if is_new {
                        self.count += 1;
                        return NextLine::TooLong(&self.buffer[start..][..MAX_LINE_BYTES]);
                    }
                    return NextLine::NeedsBlock;
                }
                None => return NextLine::NeedsBlock,
            };
            let start = self.unread.start;
            self.unread.start += end;
            if std::mem::take(&mut self.is_skipping) {
                continue;
            }
            self.count += 1;
            let line = &self.buffer[start..start + length];
            if length > MAX_LINE_BYTES {
                return NextLine::TooLong(&line[..MAX_LINE_BYTES]);
            }
            return NextLine::Line(line.strip_suffix(b"\r").unwrap_or(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<(usize, bool)> {
        let reader: Box<dyn Read> = Box::new(io::Cursor::new(text.to_vec()));
        let mut lines = Lines::new("log".to_owned(), Decompressed::new(reader));
        let mut found = Vec::new();
        while lines.read_block().expect("memory") {
            loop {
                match lines.next_line() {
                    NextLine::Line(line) => found.push((line.len(), true)),
                    NextLine::TooLong(line) => found.push((line.len(), false)),
                    NextLine::NeedsBlock => break,
                }
            }
            assert!(lines.buffer.len() <= MAX_LINE_BYTES + 2 * BLOCK_BYTES);
        }
        assert_eq!(lines.number(), found.len() as u64);
        found
    }

    #[test]
    fn lines_end_where_they_end() {
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\n\nab\r\nc"), [(0, true), (0, true), (2, true), (1, true)]);
        let blocks: Vec<u8> = (0..60_000).flat_map(|n| format!("{n:09}\n").into_bytes()).collect();
        assert_eq!(lines(&blocks), vec![(9, true); 60_000]);
    }

    #[test]
    fn a_line_beyond_the_bound_is_skipped_in_bounded_memory() {
        for length in [MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES, 5 * MAX_LINE_BYTES + 7] {
            let text = [&b"a\n"[..], &vec![b'x'; length], b"\nbc\n"].concat();
            assert_eq!(lines(&text), [(1, true), (MAX_LINE_BYTES, false), (2, true)], "{length}");
            let unended = vec![b'x'; length];
            assert_eq!(lines(&unended), [(MAX_LINE_BYTES, false)], "{length}");
        }
        assert_eq!(lines(&vec![b'x'; MAX_LINE_BYTES]), [(MAX_LINE_BYTES, true)]);
    }
}
