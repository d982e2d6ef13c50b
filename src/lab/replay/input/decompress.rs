//! Decompression, chosen by the first bytes of a file.

use std::io::{self, BufRead as _, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Length of the longest of them.
const MAGIC_LEN: usize = 4;
const BUFFER_BYTES: usize = 64 << 10;

type Head = io::Chain<io::Cursor<Vec<u8>>, Box<dyn Read>>;

/// A stream that may be compressed.
pub(super) enum Decompressed {
    /// Nothing was read yet.
    Unread(Box<dyn Read>),
    Plain(Head),
    Gzip(Box<MultiGzDecoder<BufReader<Head>>>),
    Zstd(Box<Zstd>),
}

/// The frames of a zstd stream, one after the other.
pub(super) struct Zstd {
    source: BufReader<Head>,
    decoder: FrameDecoder,
    /// True inside of a frame.
    is_started: bool,
    /// Error that ends the stream, reported after the data before it.
    error: Option<io::Error>,
}

/// The last block of a frame, without data, and a checksum, which the decoder does not verify.
const EMPTY_LAST_BLOCK: &[u8] = &[1, 0, 0, 0, 0, 0, 0];

impl Decompressed {
    pub(super) fn new(reader: Box<dyn Read>) -> Self {
        Self::Unread(reader)
    }

    /// Reads the first bytes and chooses by them.
    fn open(mut reader: Box<dyn Read>) -> io::Result<Self> {
        let mut magic = Vec::new();
        reader.by_ref().take(MAGIC_LEN as u64).read_to_end(&mut magic)?;
        let (is_gzip, is_zstd) = (magic.starts_with(GZIP), magic.starts_with(ZSTD));
        let head = io::Cursor::new(magic).chain(reader);
        let buffered = |head| BufReader::with_capacity(BUFFER_BYTES, head);
        Ok(if is_gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(buffered(head))))
        } else if is_zstd {
            let decoder = FrameDecoder::new();
            Self::Zstd(Box::new(Zstd { source: buffered(head), decoder, is_started: false, error: None }))
        } else {
            Self::Plain(head)
        })
    }
}

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Unread(reader) = self {
            *self = Self::open(std::mem::replace(reader, Box::new(io::empty())))?;
        }
        match self {
            Self::Unread(_) => Ok(0),
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }
}

impl Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.is_started || self.start_frame()? {
            let length = self.decoder.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            if self.decoder.is_finished() {
                self.is_started = false;
                if let Some(error) = self.error.take() {
                    return Err(error);
                }
                continue;
            }
            let some = || BlockDecodingStrategy::UptoBytes(BUFFER_BYTES);
            if let Err(error) = self.decoder.decode_blocks(&mut self.source, some()) {
                self.error = Some(io::Error::other(error));
                // The decoder keeps a window of data until its frame ends.
                self.decoder.decode_blocks(EMPTY_LAST_BLOCK, some()).map_err(io::Error::other)?;
            }
        }
        Ok(0)
    }

    /// Begins the next frame; false at the end of the stream.
    fn start_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.is_started = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read(bytes: Vec<u8>) -> (Vec<u8>, Option<String>) {
        let mut text = Vec::new();
        let outcome = Decompressed::new(Box::new(io::Cursor::new(bytes))).read_to_end(&mut text);
        (text, outcome.err().map(|error| error.to_string()))
    }

    #[test]
    fn plain_text_gzip_and_zstd_are_read_alike() {
        let part = |name: &str| format!("{name} {}\n", "line ".repeat(40_000)).into_bytes();
        let (one, two) = (part("one"), part("two"));
        let both = [&one[..], &two].concat();
        let gzip = |bytes: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes).expect("memory");
            encoder.finish().expect("memory")
        };
        let zstd = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for (compressed, expected) in [
            (both.clone(), &both),
            (gzip(&both), &both),
            ([gzip(&one), gzip(&two)].concat(), &both),
            (zstd(&both), &both),
            ([&zstd(&one)[..], &skipped, &zstd(&two)].concat(), &both),
            (b"x".to_vec(), &b"x".to_vec()),
            (Vec::new(), &Vec::new()),
        ] {
            let (text, error) = read(compressed);
            assert!(text == *expected && error.is_none(), "{} bytes, {error:?}", text.len());
        }
    }

    #[test]
    fn a_truncated_file_is_an_error_after_its_readable_part() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
        encoder.write_all(&[b'a'; 200_000]).expect("memory");
        let mut gzip = encoder.finish().expect("memory");
        gzip.truncate(gzip.len() / 2);
        let (text, error) = read(gzip);
        assert!(text.len() > 50_000 && error.is_some(), "{} bytes, {error:?}", text.len());
        let text: String = (0..60_000).map(|line| format!("line {line}\n")).collect();
        let mut zstd = compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
        zstd.truncate(zstd.len() * 2 / 3);
        let (found, error) = read(zstd);
        // The data of every whole block, all of which are shorter than the window.
        assert!(found.len() > text.len() / 4, "{} bytes of {}", found.len(), text.len());
        assert!(text.as_bytes().starts_with(&found) && error.is_some(), "{error:?}");
    }
}
