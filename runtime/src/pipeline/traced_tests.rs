//! What becomes of headers, and of the table of the sampled ones.

use super::*;
use crate::message::{BatchBuilder, Message, Position};
use crate::pipeline::budget::Budget;
use crate::pipeline::ledger::Ledger;
use crate::sources::CommitKind;

fn message(headers: &[(&str, &str)]) -> Message {
    let headers = headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    Message { payload: Some(b"{}".to_vec()), headers: headers.collect(), ..Message::default() }
}

fn held(messages: &[Message]) -> Held {
    let ledger = Ledger::new(1, Arc::new(Budget::new(1 << 20)));
    let (feed, _) = ledger.add_feed("test", CommitKind::UpTo);
    let mut builder = BatchBuilder::new();
    for (number, message) in (1..).zip(messages) {
        builder.push_message(message, Position { partition: 0, offset: number, record: number });
    }
    ledger.open(feed, builder.finish()).unwrap()
}

#[test]
fn only_sampled_messages_get_a_header_and_once() {
    let messages = [
        message(&[("a", "1"), ("traceparent", "theirs")]),
        message(&[("a", "1"), ("Traceparent", "old"), ("b", "2"), ("traceparent", "older")]),
        message(&[]),
    ];
    let mut held = held(&messages);
    held.begin_sending();
    let now: Vec<Message> = held.batch().messages().map(|message| message.to_owned()).collect();
    assert_eq!(now, messages, "nothing is traced");

    let about = Arc::new(About { state: Some("s=1".to_owned()), correlation: None });
    let before = SpanContext::root();
    let entries = vec![Entry { claim_row: 1, context: before, about }];
    held.set_traced(Some(Arc::new(Traced { entries, sent_at: 0, attempts: Vec::new() })));
    held.begin_sending();
    let now: Vec<Message> = held.batch().messages().map(|message| message.to_owned()).collect();
    assert_eq!((&now[0], &now[2]), (&messages[0], &messages[2]));
    let names: Vec<_> = now[1].headers.iter().map(|(name, _)| std::str::from_utf8(name).unwrap()).collect();
    assert_eq!(names, ["a", "b", "traceparent", "tracestate"]);
    let sent = SpanContext::parse(&now[1].headers[2].1).unwrap();
    assert_eq!((sent.trace, now[1].headers[3].1.as_slice()), (before.trace, &b"s=1"[..]));
    assert_ne!(sent.span, before.span);

    held.begin_sending();
    for (single, before) in held.singles().zip(now) {
        assert_eq!(single.batch().message(0).to_owned(), before, "an attempt later it is the same");
        single.abandon();
    }
}

#[test]
fn a_position_of_kafka_is_told_apart() {
    assert_eq!(topic_partition_offset("a/b/1 offset 7"), Some(("a/b", "1", 7)));
    assert_eq!(topic_partition_offset("unknown partition"), None);
}

#[test]
fn the_ids_of_an_envelope_are_found() {
    let ids = |payload: &str| {
        let mut builder = BatchBuilder::new();
        let payload = Some(payload.as_bytes().to_vec());
        builder.push_message(&Message { payload, ..Message::default() }, Position::default());
        let Ids { id, correlation } = envelope(&builder.finish().message(0));
        (id, correlation)
    };
    assert_eq!(ids(r#"{"id":"a","correlationId":"b"}"#), (Some("a".into()), Some("b".into())));
    assert_eq!(ids(r#"{"id":"a","correlationid":"b"}"#), (Some("a".into()), Some("b".into())));
    assert_eq!(ids(r#"{"id":"a"}"#), (None, None), "the id of something else");
    assert_eq!(ids("[]"), (None, None));
}
