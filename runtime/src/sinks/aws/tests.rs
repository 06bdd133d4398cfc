//! What messages become, and what is wrong with a section.

use serde_json::{Value as Json, json};

use super::super::SinkSpec;
use super::super::testing::context;
use super::attributes::{Attribute, Attributes, Value};
use super::body::{Encoding, text};
use super::{kinesis, sns, sqs};
use crate::message::{Batch, BatchBuilder, Message, Position};

fn one(headers: &[(&str, &[u8])]) -> Batch {
    let headers = headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
    let mut builder = BatchBuilder::new();
    builder.push_message(&Message { headers, ..Message::default() }, Position::default());
    builder.finish()
}

fn attributes(names: Option<&[&str]>, types: Json) -> Attributes {
    let names = names.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    Attributes { names, types: serde_json::from_value(types).unwrap() }
}

fn attribute(name: &str, data_type: &str, value: Value) -> Attribute {
    Attribute { name: name.to_owned(), data_type: data_type.to_owned(), value }
}

fn text_of(value: &str) -> Value {
    Value::Text(value.to_owned())
}

#[test]
fn headers_become_attributes_of_the_type_that_their_bytes_have() {
    let batch = one(&[
        ("Type", b"created"),
        ("type", b"again"),
        ("raw", b"\xff"),
        ("bell", b"\x07"),
        ("price", b"-1.5e3"),
        ("sqs-message-id", b"of the one that was read"),
    ]);
    let all = attributes(None, json!({ "price": "Number.money" })).of(&batch.message(0)).unwrap();
    let expected = [
        attribute("Type", "String", text_of("created")),
        attribute("raw", "Binary", Value::Bytes(b"\xff".to_vec())),
        attribute("bell", "Binary", Value::Bytes(b"\x07".to_vec())),
        attribute("price", "Number.money", text_of("-1.5e3")),
    ];
    assert_eq!(all, expected);
    assert_eq!(super::attributes::bytes(&all[..1]), "Type".len() + "String".len() + "created".len());

    let named = attributes(Some(&["TYPE", "other"]), json!({})).of(&batch.message(0)).unwrap();
    assert_eq!(named, [attribute("TYPE", "String", text_of("created"))]);

    let marked = one(&[("a", b"1"), ("millstream-replays", b"2")]);
    let none = attributes(Some(&[]), json!({})).of(&marked.message(0)).unwrap();
    assert_eq!(none, [attribute("millstream-replays", "String", text_of("2"))], "a loop has to end");
}

#[test]
fn what_can_be_no_attribute_is_told() {
    let names: Vec<String> = (0..11).map(|number| format!("h{number}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let all = attributes(None, json!({}));
    assert!(all.of(&one(&many[..10]).message(0)).is_ok());
    let refused = all.of(&one(&many).message(0)).unwrap_err();
    assert_eq!(refused.code, "too-many-attributes");
    assert!(refused.reason.contains("11 headers") && refused.reason.contains("`attributes`"), "{refused:?}");
    let some = attributes(Some(&["h1"]), json!({ "h1": "Number" }));
    assert_eq!(
        some.of(&one(&many).message(0)).unwrap_err().reason,
        "the value of header \"h1\" is no number"
    );
    for name in ["a b", "ä", ".a", "a.", "a..b", "AWS.x", "amazon.x", "a/b"] {
        assert_eq!(all.of(&one(&[(name, b"x")]).message(0)).unwrap_err().code, "invalid-attribute", "{name}");
    }
    assert_eq!(all.of(&one(&[("a", b"")]).message(0)).unwrap_err().code, "invalid-attribute");
}

#[test]
fn a_trace_goes_along_and_refuses_nothing() {
    let names: Vec<String> = (0..10).map(|number| format!("h{number}")).collect();
    let mut headers: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    headers.push(("traceparent", b"00-1-2-01"));
    let named = |headers: &[(&str, &[u8])], names: Option<&[&str]>| -> Vec<String> {
        let all = attributes(names, json!({})).of(&one(headers).message(0)).unwrap();
        all.into_iter().map(|attribute| attribute.name).collect()
    };
    assert_eq!(named(&headers, Some(&["h1"])), ["h1", "traceparent"]);
    assert_eq!(named(&headers[1..], None)[9], "traceparent");
    assert_eq!(named(&headers, None), names, "there is no room for it");
    assert_eq!(named(&[("traceparent", b""), ("h1", b"x")], None), ["h1"]);
}

#[test]
fn a_body_is_text_or_is_made_text() {
    assert_eq!(text(Encoding::Text, "é".into(), "SQS").unwrap(), "é");
    assert_eq!(text(Encoding::Base64, vec![255, 0], "SQS").unwrap(), "/wA=");
    assert_eq!(text(Encoding::Text, vec![b'a', 255], "SQS").unwrap_err().code, "not-text");
    for encoding in [Encoding::Text, Encoding::Base64] {
        assert_eq!(text(encoding, vec![], "SQS").unwrap_err().code, "empty");
    }
}

fn problems(spec: &SinkSpec, section: Json) -> Vec<String> {
    let mut problems = Vec::new();
    (spec.parse)(section)
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .check(&context("/nowhere"), &mut problems);
    problems.into_iter().map(|problem| problem.at).collect()
}

#[test]
fn p9_all_that_is_wrong_is_told_at_once() {
    for queue in ["orders", "orders.fifo", "https://sqs.eu-central-1.amazonaws.com/123456789012/orders.fifo"]
    {
        assert_eq!(problems(&sqs::SPEC, json!({ "queue": queue })), [""; 0], "{queue}");
    }
    for queue in ["", ".fifo", "a b", "orders.pifo", "ftp://x/orders", "https://x/", "arn:aws:sqs:x:1:orders"]
    {
        assert_eq!(problems(&sqs::SPEC, json!({ "queue": queue })), ["/queue"], "{queue}");
    }
    let wrong = json!({
        "queue": "orders", "aws": { "role": "admin" }, "deduplication": { "header": "" }, "group": { "key": false },
        "delay": "1h", "attributes": ["a b"], "attribute_types": { "a": "String.Array", "b": "Text", "c": "Number." },
        "max_messages": 11, "max_bytes": "2MiB", "concurrency": 0, "delay_header": "",
    });
    assert_eq!(
        problems(&sqs::SPEC, wrong),
        [
            "/aws/role",
            "/deduplication",
            "/group/key",
            "/deduplication/header",
            "/delay",
            "/delay_header",
            "/attributes/0",
            "/attribute_types/b",
            "/attribute_types/c",
            "/max_messages",
            "/max_bytes",
            "/concurrency"
        ]
    );
    let fifo = json!({
        "queue": "orders.fifo", "delay": "1s", "delay_header": "x", "group": { "pointer": "no" },
        "deduplication": "content"
    });
    assert_eq!(problems(&sqs::SPEC, fifo), ["/group/pointer", "/delay", "/delay_header"]);

    let topic = "arn:aws:sns:eu-central-1:123456789012:orders";
    assert_eq!(problems(&sns::SPEC, json!({ "topic": topic, "max_bytes": "1MiB" })), [""; 0]);
    let lists = json!({ "topic": topic, "attribute_types": { "a": "String.Array" } });
    assert_eq!(problems(&sns::SPEC, lists), [""; 0]);
    let wrong =
        json!({ "topic": "orders", "subject": "two\nlines", "subject_header": "", "max_bytes": "2MiB" });
    assert_eq!(problems(&sns::SPEC, wrong), ["/topic", "/subject", "/subject_header", "/max_bytes"]);

    for stream in ["orders.v1", "arn:aws:kinesis:eu-central-1:123456789012:stream/orders"] {
        assert_eq!(problems(&kinesis::SPEC, json!({ "stream": stream })), [""; 0], "{stream}");
    }
    let wrong = json!({
        "stream": "a b", "partition_key": { "pointer": "/*" }, "hash_key": { "header": "" }, "max_messages": 501,
    });
    assert_eq!(
        problems(&kinesis::SPEC, wrong),
        ["/stream", "/partition_key/pointer", "/hash_key/header", "/max_messages"]
    );
}

#[test]
fn p10_a_standard_queue_or_topic_says_that_it_has_no_order() {
    let traits = |spec: &SinkSpec, section: Json| {
        (spec.parse)(section).unwrap_or_else(|problems| panic!("{problems:?}")).traits().unordered
    };
    assert_eq!(traits(&sqs::SPEC, json!({ "queue": "orders" })), Some("a standard queue"));
    assert_eq!(traits(&sqs::SPEC, json!({ "queue": "https://x/1/orders.fifo" })), None);
    assert_eq!(traits(&sns::SPEC, json!({ "topic": "arn:aws:sns:x:1:orders" })), Some("a standard topic"));
    assert_eq!(traits(&sns::SPEC, json!({ "topic": "arn:aws:sns:x:1:orders.fifo" })), None);
    assert_eq!(traits(&kinesis::SPEC, json!({ "stream": "orders" })), None);
}
