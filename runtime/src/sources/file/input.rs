//! The bytes of a file, decompressed.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use flate2::read::MultiGzDecoder;
use millstream_formats::avro;

use crate::codecs::{Framer, Framing};

/// First bytes by which a file is known.
pub(super) const HEAD_BYTES: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the ending of a name.
    fn of(path: &Path) -> Compression {
        match path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("gz") => Compression::Gzip,
            Some("zst") => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// A file that was opened; it stays the same when its name goes to another.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    file: Arc<File>,
    pub compression: Compression,
    pub inode: u64,
    pub device: u64,
    /// When it was made, in nanoseconds since 1970; 0 where the file system does not know.
    pub born: u128,
}

impl Opened {
    pub fn open(path: &Path) -> io::Result<Opened> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Opened {
            file: Arc::new(file),
            compression: Compression::of(path),
            inode: metadata.ino(),
            device: metadata.dev(),
            born: born.map_or(0, |since| since.as_nanos()),
        })
    }

    /// Whether this is the file.
    pub fn is(&self, device: u64, inode: u64) -> bool {
        (self.device, self.inode) == (device, inode)
    }

    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Its first bytes as they are on disk, [`HEAD_BYTES`] or as many as there are.
    pub fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        Raw { file: Arc::clone(&self.file), position: 0 }.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Its bytes from the first on.
    pub fn input(&self) -> io::Result<Input> {
        let raw = Raw { file: Arc::clone(&self.file), position: 0 };
        Ok(match self.compression {
            Compression::None => Input::Plain(raw),
            // An empty file is no gzip, but an empty file.
            Compression::Gzip if self.metadata()?.len() > 0 => {
                Input::Gzip(Box::new(MultiGzDecoder::new(raw)))
            }
            Compression::Zstd if self.metadata()?.len() > 0 => {
                Input::Zstd(Box::new(zstd::stream::read::Decoder::new(raw)?))
            }
            Compression::Gzip | Compression::Zstd => Input::Plain(raw),
        })
    }

    /// Of an Avro container file: where the block that holds this byte, or ends there, begins or ends, and how
    /// many values come before.
    pub fn block_of(&self, offset: u64) -> io::Result<(u64, u64)> {
        let (mut input, mut framer) = (self.input()?.take(offset), Framer::new(Framing::AvroContainer));
        let (mut at, mut block, mut values) = (0, 0, 0);
        // The first bytes of the frame that is being read, in which a block says how many values it has.
        let mut first = Vec::new();
        let mut is_head = true;
        let mut piece = vec![0; 64 << 10];
        loop {
            let read = input.read(&mut piece)?;
            if read == 0 {
                return Ok((block, values));
            }
            let mut next = &piece[..read];
            while !next.is_empty() {
                let end = framer.find_end(next);
                let (frame, behind) = next.split_at(end.unwrap_or(next.len()));
                let missing = FIRST_BYTES_OF_BLOCK.saturating_sub(first.len()).min(frame.len());
                first.extend_from_slice(&frame[..missing]);
                at += frame.len() as u64;
                next = behind;
                if end.is_some() {
                    block = at;
                    values += if is_head { 0 } else { avro::values_of(&first) };
                    is_head = false;
                    first.clear();
                }
            }
        }
    }

    /// The first frame that is not empty, without its line break.
    pub fn first_frame(&self, framing: Framing, max_bytes: usize) -> io::Result<Vec<u8>> {
        let (mut input, mut framer, mut frame) = (self.input()?, Framer::new(framing), Vec::new());
        let mark = framing.byte_order_mark();
        let mut start = Vec::new();
        (&mut input).take(mark.len() as u64).read_to_end(&mut start)?;
        if start == mark {
            start.clear();
        }
        let mut input = start.as_slice().chain(input);
        let mut piece = [0; 4096];
        loop {
            let read = input.read(&mut piece)?;
            let mut next = &piece[..read];
            while let Some(end) = framer.find_end(next) {
                frame.extend_from_slice(&next[..end]);
                next = &next[end..];
                let content = framing.trim(&frame);
                if !content.is_empty() {
                    return Ok(content.to_vec());
                }
                frame.clear();
            }
            frame.extend_from_slice(next);
            if read == 0 {
                return Ok(framing.trim(&frame).to_vec());
            }
            if frame.len() > max_bytes {
                return Err(io::Error::other(format!(
                    "its head takes more than max_message_bytes = {max_bytes}"
                )));
            }
        }
    }
}

/// Enough for the number of values of a block.
const FIRST_BYTES_OF_BLOCK: usize = 10;

/// Reads a file at a position of its own, so that several can read it.
pub(super) struct Raw {
    file: Arc<File>,
    position: u64,
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

pub(super) enum Input {
    Plain(Raw),
    Gzip(Box<MultiGzDecoder<Raw>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Raw>>>),
}

impl Input {
    /// Bytes of the file that were read, compressed as they may be.
    pub fn raw_position(&self) -> u64 {
        match self {
            Input::Plain(raw) => raw.position,
            Input::Gzip(decoder) => decoder.get_ref().position,
            Input::Zstd(decoder) => decoder.get_ref().get_ref().position,
        }
    }

    /// Goes from the first byte to this one; compressed bytes are decompressed on the way. Returns
    /// whether there are so many.
    pub fn skip_to(&mut self, offset: u64) -> io::Result<bool> {
        if let Input::Plain(raw) = self {
            raw.position = offset;
            return Ok(raw.file.metadata()?.len() >= offset);
        }
        Ok(io::copy(&mut self.take(offset), &mut io::sink())? == offset)
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Input::Plain(raw) => raw.read(buffer),
            Input::Gzip(decoder) => decoder.read(buffer),
            Input::Zstd(decoder) => decoder.read(buffer),
        }
    }
}
