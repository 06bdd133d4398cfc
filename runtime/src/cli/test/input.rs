//! The messages of a test.

use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::cli::plugin::fixtures;
use crate::codecs::DecoderConfig;
use crate::config::test_section::{Input, InputMessage, milliseconds};
use crate::message::Message;

/// Something that the source of a test reads.
pub enum Piece {
    /// A message as it is.
    Message(Message),
    /// Its payload goes through the codec.
    Payload(Message),
    /// All of it comes out of the codec.
    Frame { bytes: Vec<u8>, timestamp_ms: i64 },
}

/// What the source reads; files are relative to `base`.
pub fn pieces(
    input: &Input,
    base: &Path,
    codec: &dyn DecoderConfig,
    now_ms: i64,
) -> anyhow::Result<Vec<Piece>> {
    let piece = |mut message: Message| {
        if message.timestamp_ms == 0 {
            message.timestamp_ms = now_ms;
        }
        match message.payload.is_some() && codec.frame_is_payload() {
            true => Piece::Payload(message),
            false => Piece::Message(message),
        }
    };
    let messages = match input {
        Input::File(file) => {
            let batch = fixtures::messages(&base.join(file))?;
            ensure!(!batch.is_empty(), "{} holds no message", file.display());
            return Ok(batch.messages().map(|message| piece(message.to_owned())).collect());
        }
        Input::List(messages) => messages,
    };
    let mut pieces = Vec::new();
    for one in messages {
        match &one.frame {
            None => pieces.push(piece(message(one, base)?)),
            Some(text) => {
                let frames = codec.framing().frames(text.as_bytes());
                let piece = |frame: &[u8]| Piece::Frame { bytes: frame.to_vec(), timestamp_ms: now_ms };
                pieces.extend(frames.map(piece));
            }
        }
    }
    Ok(pieces)
}

fn message(one: &InputMessage, base: &Path) -> anyhow::Result<Message> {
    let mut message = match (&one.file, one.line) {
        (Some(file), Some(line)) => line_of(&base.join(file), line)?,
        _ => Message::default(),
    };
    if let Some(payload) = &one.payload {
        message.payload = Some(bytes_of(payload));
    }
    if let Some(key) = &one.key {
        message.key = Some(key.clone().into_bytes());
    }
    for (name, value) in &one.headers {
        message.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_bytes()));
        message.headers.push((name.clone().into_bytes(), value.clone().into_bytes()));
    }
    if let Some(time) = one.timestamp.as_deref().and_then(milliseconds) {
        message.timestamp_ms = time;
    }
    Ok(message)
}

fn bytes_of(payload: &Value) -> Vec<u8> {
    match payload {
        Value::String(text) => text.clone().into_bytes(),
        json => json.to_string().into_bytes(),
    }
}

fn line_of(file: &Path, line: usize) -> anyhow::Result<Message> {
    let batch = fixtures::messages(file)?;
    let mut messages = batch.messages();
    let found = messages.find(|message| message.position().record == line as u64);
    Ok(found.with_context(|| format!("{} has no message in line {line}", file.display()))?.to_owned())
}
