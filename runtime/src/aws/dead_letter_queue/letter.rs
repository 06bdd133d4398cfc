//! A dead letter as a message of SQS, and back.

use crate::aws::is_allowed;
use crate::aws::queue::{number_of, position_of};
use crate::codecs::Encoder;
use crate::codecs::{FrameMeta, record_decoder, record_encoder};
use crate::dead_letters::story::{self, Told};
use crate::dead_letters::{DeadLetter, Stage};
use crate::message::{BatchBuilder, Message, MessageRef, Position, Span};

/// The attribute with the rest of a dead letter: its story, key and headers, as the codec `record`
/// writes them.
pub const ATTRIBUTE: &str = "millstream-dead-letter";

/// Stands in the body for a payload that cannot: SQS has no empty body and takes text alone.
const NO_BODY: &str = "(the payload is in the attribute millstream-dead-letter)";

/// Code of a message that the queue's redrive policy has put there.
const REDRIVE: &str = "redrive";

/// The body of a message of SQS.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<'a> {
    Payload(&'a str),
    Instead(&'static str),
}

impl Body<'_> {
    pub fn as_str(&self) -> &str {
        match self {
            Body::Payload(text) => text,
            Body::Instead(text) => text,
        }
    }
}

/// Body and attribute of a message that is a dead letter: one that has the headers of a story.
///
/// # Errors
/// It cannot be written; any message can.
pub fn body_and_attribute<'a>(message: &MessageRef<'a>) -> anyhow::Result<(Body<'a>, String)> {
    let text = message.payload().and_then(|payload| str::from_utf8(payload).ok());
    let body = text.filter(|text| !text.is_empty() && text.chars().all(is_allowed));
    let mut rest = message.to_owned();
    if body.is_some() {
        rest.payload = None;
    }
    let mut builder = BatchBuilder::new();
    builder.push_message(&rest, Position::default());
    let mut record = Vec::new();
    record_encoder().encode(&builder.finish().message(0), &mut record)?;
    Ok((body.map_or(Body::Instead(NO_BODY), Body::Payload), String::from_utf8(record)?))
}

/// A message of the queue, as far as it is needed here.
#[derive(Debug, Default)]
pub struct Received {
    pub message_id: String,
    pub body: Vec<u8>,
    /// Value of [`ATTRIBUTE`].
    pub attribute: Option<String>,
    /// The other attributes, as headers.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub sent_ms: i64,
    pub receives: u32,
}

/// The dead letter that a message of the queue is; `None` if it is of another pipeline. One that the
/// queue's redrive policy has put there is one, too: why it failed is not known.
pub fn read(received: Received, queue: &str, pipeline: &str) -> Option<DeadLetter> {
    let Received { message_id, body, attribute, headers, sent_ms, receives } = received;
    if let Some(attribute) = attribute {
        let mut message = read_record(&attribute)?;
        if body != NO_BODY.as_bytes() {
            message.payload = Some(body);
        }
        return match story::read(message)? {
            Told::Letter(letter) if letter.pipeline == pipeline => Some(*letter),
            Told::Letter(_) | Told::Settled(_) => None,
        };
    }
    let mut letter = DeadLetter {
        id: String::new(),
        pipeline: pipeline.to_owned(),
        source: format!("sqs:{queue}"),
        position: position_of(queue, None, number_of(&message_id)),
        position_text: format!("sqs:{queue} message {message_id}"),
        stage: Stage::Source,
        plugin: None,
        code: REDRIVE.to_owned(),
        reason: format!(
            "no pipeline has written it there: a redrive policy, or somebody else; received {receives} times there"
        ),
        trap: None,
        attempts: 0,
        read_at_ms: sent_ms,
        failed_at_ms: sent_ms,
        trace_id: None,
        replays: 0,
        sinks: Vec::new(),
        message: Message { payload: Some(body), key: None, headers, timestamp_ms: sent_ms },
    };
    letter.id = letter.derive_id();
    Some(letter)
}

fn read_record(text: &str) -> Option<Message> {
    let mut builder = BatchBuilder::new();
    let arena = builder.arena(bytes::Bytes::copy_from_slice(text.as_bytes()));
    let frame = Span::new(arena, 0, text.len() as u32);
    let meta = FrameMeta { position: Position::default(), timestamp_ms: 0, key: Span::ABSENT, headers: &[] };
    record_decoder().decode(text.as_bytes(), frame, &meta, &mut builder).ok()?;
    Some(builder.finish().message(0).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::testing::letter;

    fn written(letter: &DeadLetter) -> Received {
        let mut builder = BatchBuilder::new();
        builder.push_message(&story::with_story(letter), Position::default());
        let batch = builder.finish();
        let (body, attribute) = body_and_attribute(&batch.message(0)).unwrap();
        let body = body.as_str().as_bytes().to_vec();
        Received { body, attribute: Some(attribute), ..Received::default() }
    }

    #[test]
    fn p5_a_dead_letter_is_read_as_it_was_written() {
        let one = DeadLetter { reason: "one line".to_owned(), ..letter(1) };
        assert_eq!(written(&one).body, one.message.payload.clone().unwrap());
        for payload in
            [Some(b"text \xc3\xa4".to_vec()), Some(Vec::new()), None, Some(vec![0, 255]), Some(vec![7])]
        {
            let mut letter = one.clone();
            letter.message.payload = payload;
            letter.message.headers = vec![(b"a".to_vec(), b"1".to_vec()), (b"a".to_vec(), vec![255])];
            assert_eq!(read(written(&letter), "q", "orders"), Some(letter));
        }
        assert_eq!(read(written(&one), "q", "other"), None);
    }

    #[test]
    fn what_a_redrive_policy_put_there_is_one_too() {
        let received = || Received {
            message_id: "m1".to_owned(),
            body: b"{}".to_vec(),
            receives: 4,
            ..Received::default()
        };
        let read_it = read(received(), "q", "orders").unwrap();
        assert_eq!(
            (read_it.code.as_str(), read_it.message.payload.as_deref()),
            ("redrive", Some(&b"{}"[..]))
        );
        assert_eq!(read(received(), "q", "orders").unwrap().id, read_it.id);
        assert_ne!(
            read(received(), "q", "orders").unwrap().id,
            read(Received { message_id: "m2".to_owned(), ..received() }, "q", "orders").unwrap().id
        );
    }
}
