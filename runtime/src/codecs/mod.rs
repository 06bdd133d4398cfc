//! Codecs: how bytes become messages and messages bytes. One file a codec, one row in [`CODECS`].

use crate::config::problem::Problem;
use crate::message::{BatchBuilder, HeaderSpan, MessageRef, Position, Span};
use std::sync::Arc;

/// Every codec there is, in the order of the reference.
pub static CODECS: &[CodecSpec] = &[];

/// A row of [`CODECS`]. A pipeline says `codec = "name"`, or `codec = { type = "name", ... }` to
/// set its fields.
pub struct CodecSpec {
    pub name: &'static str,
    /// JSON Schema of its configuration, whose descriptions are the reference.
    pub schema: fn() -> schemars::Schema,
    pub example: &'static str,
    pub decoder: fn(serde_json::Value) -> crate::config::Parsed<Arc<dyn DecoderConfig>>,
    pub encoder: fn(serde_json::Value) -> crate::config::Parsed<Arc<dyn Encoder>>,
}

/// A decoder for a source, not yet for a stream of it.
pub trait DecoderConfig: Send + Sync {
    fn check(&self, _problems: &mut Vec<Problem>) {}

    /// How a stream of bytes (a file, a request with a batch) is cut into frames.
    fn framing(&self) -> Framing;

    /// A decoder for one stream, or for the messages of a source that has frames of its own.
    fn decoder(&self) -> Box<dyn Decoder>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// The whole stream is one frame.
    Whole,
    /// Frames end with `\n` (a `\r` before it is not part of the frame); empty ones are skipped.
    Lines,
    /// Records of RFC 4180, in which a line break may be quoted.
    Csv,
}

pub trait Decoder: Send {
    /// Told the head of a stream (the first record of a CSV file) before its frames, also when
    /// reading resumes behind it. Not called for framings without a head.
    fn head(&mut self, _head: &[u8]) -> Result<(), DecodeError> {
        Ok(())
    }

    /// Whether the first frame of a stream is its head and no message.
    fn has_head(&self) -> bool {
        false
    }

    /// Decodes one frame and pushes its messages. `bytes` are those of `frame`, a span of an arena
    /// of `out`. On an error nothing was pushed.
    fn decode(
        &mut self,
        bytes: &[u8],
        frame: Span,
        meta: &FrameMeta<'_>,
        out: &mut BatchBuilder,
    ) -> Result<(), DecodeError>;
}

/// What a source knows of a frame besides its bytes; a codec may know better (`record`).
#[derive(Clone, Copy, Debug)]
pub struct FrameMeta<'a> {
    pub key: Span,
    pub headers: &'a [HeaderSpan],
    pub timestamp_ms: i64,
    pub position: Position,
}

/// Why a frame is no message, in a sentence for the dead letter.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

pub trait Encoder: Send + Sync {
    fn check(&self, _problems: &mut Vec<Problem>) {}

    /// Bytes that come before the first message of a file (a CSV head), if any.
    fn head(&self) -> Option<Vec<u8>> {
        None
    }

    /// Appends the message, without a delimiter. On an error nothing was appended.
    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Whether encoded messages may hold a line break, so that they cannot stand one a line.
    fn may_hold_line_breaks(&self) -> bool;

    /// Media type of one encoded message.
    fn media_type(&self) -> &'static str;
}

/// Why a message cannot be written in this format; it becomes a dead letter with this reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EncodeError(pub String);
