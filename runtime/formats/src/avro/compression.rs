//! How the blocks of container files are compressed, and how much they may be unpacked into.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;

/// What a block may be unpacked into.
const MAX_UNPACKED_BYTES: usize = 64 << 20;

/// What a block of xz may take beside what it holds: the dictionary of its highest level has 64 MiB.
const MAX_XZ_KIB: u32 = 66 << 10;

/// How blocks are compressed in files that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

/// How they are in files that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Written(Compression),
    Bzip2,
    Xz,
}

/// By the names that files have for them.
const CODECS: [(&str, Codec); 6] = [
    ("null", Codec::Written(Compression::Null)),
    ("deflate", Codec::Written(Compression::Deflate)),
    ("snappy", Codec::Written(Compression::Snappy)),
    ("zstandard", Codec::Written(Compression::Zstandard)),
    ("bzip2", Codec::Bzip2),
    ("xz", Codec::Xz),
];

impl Codec {
    /// # Errors
    /// It is none of those that are known, which are told.
    pub fn named(name: &[u8]) -> Result<Codec, String> {
        let found = CODECS.iter().find(|(known, _)| known.as_bytes() == name);
        found.map(|(_, codec)| *codec).ok_or_else(|| {
            let known = CODECS.map(|(known, _)| known).join(", ");
            format!("compressed by {:?}; known are {known}", String::from_utf8_lossy(name))
        })
    }

    /// What a block holds.
    ///
    /// # Errors
    /// It is not compressed like that, or holds more than it may.
    pub fn unpacked(self, block: &[u8]) -> Result<Cow<'_, [u8]>, String> {
        let unpacked = match self {
            Codec::Written(Compression::Null) => return Ok(block.into()),
            Codec::Written(Compression::Deflate) => all(DeflateDecoder::new(block)),
            Codec::Written(Compression::Snappy) => snappy(block),
            // Its window has at most 128 MiB.
            Codec::Written(Compression::Zstandard) => {
                zstd::stream::read::Decoder::with_buffer(block).and_then(all)
            }
            Codec::Bzip2 => all(bzip2::bufread::BzDecoder::new(block)),
            Codec::Xz => all(lzma_rust2::XzReader::new_mem_limit(block, false, MAX_XZ_KIB)),
        };
        unpacked.map(Cow::Owned).map_err(|error| {
            format!("it cannot be unpacked into at most {MAX_UNPACKED_BYTES} bytes: {error}")
        })
    }
}

impl Compression {
    pub(super) fn name(self) -> &'static str {
        let found = CODECS.iter().find(|(_, codec)| *codec == Codec::Written(self));
        found.expect("each has a name").0
    }

    /// A block of what it is to hold.
    pub(super) fn packed(self, data: Vec<u8>) -> Vec<u8> {
        let packed = match self {
            Compression::Null => return data,
            Compression::Deflate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&data).and_then(|()| encoder.finish())
            }
            Compression::Snappy => {
                snap::raw::Encoder::new().compress_vec(&data).map_err(io::Error::from).map(|mut packed| {
                    packed.extend_from_slice(&crc32fast::hash(&data).to_be_bytes());
                    packed
                })
            }
            Compression::Zstandard => zstd::bulk::compress(&data, zstd::DEFAULT_COMPRESSION_LEVEL),
        };
        packed.expect("memory takes all")
    }
}

/// All that a decoder gives, if it is not too much.
fn all(decoder: impl Read) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    decoder.take(MAX_UNPACKED_BYTES as u64 + 1).read_to_end(&mut unpacked)?;
    match unpacked.len() <= MAX_UNPACKED_BYTES {
        true => Ok(unpacked),
        false => Err(io::Error::other("it holds more")),
    }
}

/// Says itself how much it holds, and has a checksum of that behind it.
fn snappy(block: &[u8]) -> io::Result<Vec<u8>> {
    let (packed, checksum) = block.split_last_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
    if snap::raw::decompress_len(packed)? > MAX_UNPACKED_BYTES {
        return Err(io::Error::other("it holds more"));
    }
    let unpacked = snap::raw::Decoder::new().decompress_vec(packed)?;
    match crc32fast::hash(&unpacked) == u32::from_be_bytes(*checksum) {
        true => Ok(unpacked),
        false => Err(io::Error::other("its checksum is another one")),
    }
}
