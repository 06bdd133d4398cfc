//! Codecs: how bytes become messages and messages bytes. One file a codec, one row in [`CODECS`].

mod cloudevents;
mod csv;
mod framing;
mod json;
mod lines;
mod raw;
mod record;
mod typed;

use std::borrow::Cow;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Parsed;
use crate::message::{BatchBuilder, HeaderSpan, MessageRef, Position, Span};

pub use framing::{Framer, Framing};
pub use record::{record_decoder, record_encoder, record_of, take_apart};

/// Every codec there is, in the order of the reference.
pub static CODECS: &[CodecSpec] = &[
    raw::SPEC,
    lines::SPEC,
    json::SPEC,
    csv::SPEC,
    record::SPEC,
    typed::AVRO,
    typed::PROTOBUF,
    typed::MSGPACK,
    typed::CBOR,
    cloudevents::SPEC,
];

/// A row of [`CODECS`]. Its functions find everything that is wrong with a configuration and the files that it
/// names, and connect to nothing. A pipeline says `codec = "name"`, or `codec = { type = "name", ... }` to set
/// its fields.
pub struct CodecSpec {
    pub name: &'static str,
    /// JSON Schema of its configuration, whose descriptions are the reference.
    pub schema: fn() -> schemars::Schema,
    pub example: &'static str,
    pub decoder: fn(serde_json::Value, Around<'_>) -> Parsed<Arc<dyn DecoderConfig>>,
    pub encoder: fn(serde_json::Value, Around<'_>) -> Parsed<Arc<dyn Encoder>>,
}

/// Where a codec is configured.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// Folder of the pipeline file: relative paths start here.
    pub base: &'a Path,
    /// Messages are given as plugins see them, what is encoded only tells whether it can be, and what is
    /// elsewhere is not asked for.
    pub is_for_tests: bool,
}

impl Around<'_> {
    /// A codec that stands alone, whose paths start in the current folder.
    pub fn nothing() -> Around<'static> {
        Around { base: Path::new(""), is_for_tests: false }
    }
}

/// A decoder for a source, not yet for a stream of it.
pub trait DecoderConfig: Send + Sync {
    /// How a stream of bytes (a file, a request with a batch) is cut into frames.
    fn framing(&self) -> Framing;

    /// Whether a frame is the payload of one message as it stands there.
    fn frame_is_payload(&self) -> bool {
        true
    }

    /// Whether the body of a request that is one message is its frame to the last byte, also if it is empty,
    /// since headers may say the rest. Otherwise it ends as its framing has it.
    fn takes_whole_bodies(&self) -> bool {
        false
    }

    /// A decoder for one stream, or for the messages of a source that has frames of its own.
    fn decoder(&self) -> Box<dyn Decoder>;

    /// What makes the payloads that the decoder gives into those that plugins see, if they are not the same.
    fn conversion(&self) -> Option<Arc<dyn Conversion>> {
        None
    }
}

/// Makes payloads as they were read into what plugins see. It does so in the lanes: in parallel, and so that
/// a dead letter holds what was read, and is converted again when it is replayed (P5).
pub trait Conversion: Send + Sync {
    /// What has to be waited for before this payload can be converted: a schema that is not known yet.
    fn needs(&self, payload: &[u8]) -> Option<Needs<'_>>;

    /// Appends what plugins see of a message; false if that is the message as it is, as with a tombstone. On
    /// an error the message becomes a dead letter, whatever was appended.
    fn convert(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<bool, DecodeError>;

    /// Which headers, by their names, are a part of what is converted and none of the message any more.
    fn own_headers(&self) -> Option<fn(&[u8]) -> bool> {
        None
    }
}

/// Ends when there is nothing to wait for any more, or with why it is to be waited longer.
pub type Needs<'a> = Pin<Box<dyn Future<Output = Result<(), NotReady>> + Send + 'a>>;

/// What does not go together, or why nobody could be asked.
pub type Asking<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Vec<String>>> + Send + 'a>>;

/// Why something from elsewhere is not there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotReady {
    pub reason: String,
    pub retry_after: Option<Duration>,
    /// We are not let in: to be tried again at long intervals only.
    pub credentials: bool,
    /// No waiting will help.
    pub is_final: bool,
}

pub trait Decoder: Send {
    /// Whether the first frame of a stream is its head and no message.
    fn has_head(&self) -> bool {
        false
    }

    /// Told the head of a stream (the first record of a CSV file) before its frames, also when
    /// reading resumes behind it. Only called if [`Decoder::has_head`]. An error is one of the
    /// whole stream: none of its frames can be read.
    fn head(&mut self, _head: &[u8]) -> Result<(), DecodeError> {
        Ok(())
    }

    /// Told before each frame of a stream where it begins, and up to where messages were settled: those of
    /// the frame that are not behind that are not pushed.
    fn at(&mut self, _start: u64, _settled: u64) {}

    /// Number of the last message of the frame that was just decoded, where a frame may hold many of them.
    fn last_record(&self) -> Option<u64> {
        None
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
    /// Bytes that come before the first message of a file (a CSV head), if any.
    fn head(&self) -> Option<Vec<u8>> {
        None
    }

    /// What has to be waited for before each call of a sink, for an encoder that needs something from
    /// elsewhere: its schema. Quick where that is known.
    fn prepare(&self) -> Option<Needs<'_>> {
        None
    }

    /// Asks whether what it writes by goes together with what is registered elsewhere: `check --connect`. One
    /// sentence for each thing that does not; or why nobody could be asked.
    fn ask(&self) -> Option<Asking<'_>> {
        None
    }

    /// Appends the message, without a delimiter. On an error nothing was appended.
    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// As [`Encoder::encode`], for a sink that sends each message with headers: also appends those that the
    /// codec gives it. They stand in place of the message's own headers of their names and of those that
    /// [`Encoder::own_headers`] tells.
    fn encode_with_headers(
        &self,
        message: &MessageRef<'_>,
        _protocol: Protocol,
        out: &mut Vec<u8>,
        _headers: &mut Vec<GivenHeader>,
    ) -> Result<Body, EncodeError> {
        self.encode(message, out).map(|()| Body::Written)
    }

    /// Whether what it writes is nothing without its headers.
    fn needs_headers(&self) -> bool {
        false
    }

    /// Which headers of a message, by their names, are not sent, since the codec alone gives such ones.
    fn own_headers(&self) -> Option<fn(&[u8]) -> bool> {
        None
    }

    /// Where encoded messages end that stand one behind the other.
    fn ends(&self) -> Ends;

    /// Media type of one encoded message.
    fn media_type(&self) -> &'static str;
}

/// What carries headers, and has rules for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Http,
    Kafka,
}

/// A header that a codec gives a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GivenHeader {
    pub name: Cow<'static, str>,
    pub value: Cow<'static, str>,
}

impl GivenHeader {
    fn new(name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> GivenHeader {
        GivenHeader { name: name.into(), value: value.into() }
    }
}

/// Whether a message that was encoded has a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    Written,
    /// It is null, where that can be told from an empty one.
    Nothing,
}

/// Where messages end that stand one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// At the line break that is put behind each; they hold none.
    LineBreaks,
    /// At the line break that is put behind each. They may hold quoted ones, which their readers know.
    QuotedLineBreaks,
    /// Each is a block of an Avro container file, which says where it ends.
    AvroBlocks,
    /// That could not be told.
    Unmarked,
}

impl Ends {
    /// What is put behind each message.
    pub fn delimiter(self) -> &'static [u8] {
        match self {
            Ends::AvroBlocks => b"",
            Ends::LineBreaks | Ends::QuotedLineBreaks | Ends::Unmarked => b"\n",
        }
    }
}

/// Why a message cannot be written in this format; it becomes a dead letter with this reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EncodeError(pub String);

/// For a message whose payload is null.
fn no_payload() -> EncodeError {
    EncodeError("the message has no payload (it is null); only codec \"record\" can write it".into())
}

#[cfg(test)]
pub mod tests {
    pub use super::framing::tests::container;
    use super::*;
    use crate::message::Message;

    fn spec(name: &str) -> &'static CodecSpec {
        CODECS.iter().find(|spec| spec.name == name).unwrap()
    }

    pub fn decoder(name: &str, config: &str) -> Parsed<Arc<dyn DecoderConfig>> {
        (spec(name).decoder)(serde_json::from_str(config).unwrap(), Around::nothing())
    }

    pub fn encoder(name: &str, config: &str) -> Parsed<Arc<dyn Encoder>> {
        (spec(name).encoder)(serde_json::from_str(config).unwrap(), Around::nothing())
    }

    pub fn payload(bytes: &[u8]) -> Message {
        Message { payload: Some(bytes.to_vec()), ..Message::default() }
    }

    /// The messages of a frame, or of the last of several where the first is a head.
    pub fn decode(name: &str, config: &str, stream: &[u8]) -> Result<Vec<Message>, String> {
        let config = decoder(name, config).map_err(|problems| format!("{problems:?}"))?;
        let mut decoder = config.decoder();
        let mut frame = stream;
        if decoder.has_head() {
            let head = config.framing().frames(stream).next().unwrap();
            decoder.head(head).map_err(|error| error.to_string())?;
            frame = config.framing().trim(&stream[head.len()..]);
        }
        let mut builder = BatchBuilder::new();
        // Behind other bytes, so that a codec that forgets where a frame starts is found out.
        builder.copy(b"before");
        let span = builder.copy(frame);
        let meta = FrameMeta {
            key: Span::ABSENT,
            headers: &[],
            timestamp_ms: 17,
            position: Position { partition: 1, offset: 2, record: 3 },
        };
        let result = decoder.decode(frame, span, &meta, &mut builder);
        let batch = builder.finish();
        match result {
            Ok(()) => Ok(batch.messages().map(|message| message.to_owned()).collect()),
            Err(error) => {
                assert!(batch.is_empty(), "an error, and {} messages", batch.len());
                Err(error.to_string())
            }
        }
    }

    pub fn encode(name: &str, config: &str, message: &Message) -> Result<Vec<u8>, String> {
        let encoder = encoder(name, config).map_err(|problems| format!("{problems:?}"))?;
        let mut builder = BatchBuilder::new();
        builder.push_message(message, Position::default());
        let mut out = b"before".to_vec();
        let result = encoder.encode(&builder.finish().message(0), &mut out);
        let written = out.split_off(6);
        assert_eq!(out, b"before");
        match result {
            Ok(()) => Ok(written),
            Err(error) => {
                assert!(written.is_empty(), "an error, and {written:?}");
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn no_codec_takes_an_unknown_key() {
        for spec in CODECS {
            let config = serde_json::json!({ "colour": 1 });
            assert!((spec.decoder)(config.clone(), Around::nothing()).is_err(), "{}", spec.name);
            assert!((spec.encoder)(config, Around::nothing()).is_err(), "{}", spec.name);
        }
    }

    #[test]
    fn only_a_record_can_be_without_payload() {
        let message = Message { key: Some(b"k".to_vec()), ..Message::default() };
        for (name, config) in
            [("raw", "{}"), ("lines", "{}"), ("json", "{}"), ("csv", r#"{"columns":["a"]}"#)]
        {
            assert!(encode(name, config, &message).unwrap_err().contains("\"record\""), "{name}");
        }
        let written = encode("record", "{}", &message).unwrap();
        assert_eq!(decode("record", "{}", &written).unwrap(), [message]);
    }
}
