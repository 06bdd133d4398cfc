use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::codecs::tests::{decoder, encode, encoder, payload};
use crate::message::{BatchBuilder, Message, Position};

const TIME_MS: i64 = 1_709_208_000_123;

fn message(headers: &[(&str, &str)], payload: Option<&[u8]>) -> Message {
    let headers =
        headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
    Message { headers, payload: payload.map(<[u8]>::to_vec), key: None, timestamp_ms: TIME_MS }
}

/// What plugins see of a message; none if it stays as it is.
fn seen(message: &Message) -> Result<Option<Vec<u8>>, String> {
    let conversion = decoder("cloudevents", "{}").map_err(|problems| format!("{problems:?}"))?;
    let mut builder = BatchBuilder::new();
    builder.push_message(message, Position::default());
    let mut out = Vec::new();
    let conversion = conversion.conversion().unwrap();
    let converted = conversion.convert(&builder.finish().message(0), &mut out);
    converted.map(|converted| converted.then_some(out)).map_err(|error| error.to_string())
}

fn envelope(message: &Message) -> Value {
    serde_json::from_slice(&seen(message).unwrap().unwrap()).unwrap()
}

fn error(message: &Message) -> String {
    seen(message).unwrap_err()
}

/// The message that is made of an envelope.
fn written(config: &str, protocol: Protocol, envelope: &[u8]) -> Result<Message, String> {
    let encoder = encoder("cloudevents", config).map_err(|problems| format!("{problems:?}"))?;
    let mut builder = BatchBuilder::new();
    builder.push_message(&payload(envelope), Position::default());
    let (mut out, mut given) = (b"before".to_vec(), Vec::new());
    let batch = builder.finish();
    let result = encoder.encode_with_headers(&batch.message(0), protocol, &mut out, &mut given);
    let written = out.split_off(6);
    let body = result.map_err(|error| error.to_string()).inspect_err(|_| assert!(written.is_empty()))?;
    let mut headers: Vec<_> = given
        .into_iter()
        .map(|GivenHeader { name, value }| (name.into_owned().into_bytes(), value.into_owned().into_bytes()))
        .collect();
    if protocol == Protocol::Http && !encoder.needs_headers() {
        headers.push((b"content-type".to_vec(), encoder.media_type().into()));
    }
    // In HTTP there is always a body.
    let payload = (body == Body::Written || protocol == Protocol::Http).then_some(written);
    Ok(Message { headers, payload, key: None, timestamp_ms: TIME_MS })
}

const STRUCTURED_MODE: &str = "{}";
const BINARY_MODE: &str = r#"{"mode": "binary"}"#;
const WAYS: [(&str, Protocol); 4] = [
    (STRUCTURED_MODE, Protocol::Http),
    (STRUCTURED_MODE, Protocol::Kafka),
    (BINARY_MODE, Protocol::Http),
    (BINARY_MODE, Protocol::Kafka),
];

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn event() -> Value {
    json!({
        "specversion": "1.0", "id": "A-1", "source": "/shop", "type": "order.placed",
        "time": "2024-02-29T13:00:00.5000+01:00", "subject": "orders/7", "dataschema": "https://a.example/s",
        "datacontenttype": "application/json", "correlationid": "P-1", "causationid": "A-0",
        "traceparent": TRACEPARENT, "tracestate": "a=b", "retries": 3, "gift": true, "missing": null,
        "data": { "total": 12.5 },
    })
}

fn event_as_envelope() -> Value {
    json!({
        "id": "A-1", "type": "order.placed", "timestamp": "2024-02-29T12:00:00.5Z", "source": "/shop",
        "specversion": "1.0", "data": { "total": 12.5 },
        "metadata": {
            "datacontenttype": "application/json", "subject": "orders/7",
            "dataschema": "https://a.example/s", "retries": 3, "gift": true,
        },
        "correlationId": "P-1", "causationId": "A-0",
        "_trace": { "traceparent": TRACEPARENT, "tracestate": "a=b" },
    })
}

#[test]
fn an_event_becomes_an_envelope_and_the_event_again() {
    let structured = message(&[], Some(event().to_string().as_bytes()));
    assert_eq!(envelope(&structured), event_as_envelope());
    let named = message(
        &[("Content-Type", "Application/CloudEvents+JSON; charset=utf-8")],
        Some(event().to_string().as_bytes()),
    );
    assert_eq!(envelope(&named), event_as_envelope());

    let mut expected = event();
    expected.as_object_mut().unwrap().remove("missing");
    expected["time"] = json!("2024-02-29T12:00:00.5Z");
    for protocol in [Protocol::Http, Protocol::Kafka] {
        let again = written(STRUCTURED_MODE, protocol, event_as_envelope().to_string().as_bytes()).unwrap();
        let payload = again.payload.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), expected);
        let header = (b"content-type".to_vec(), b"application/cloudevents+json; charset=UTF-8".to_vec());
        assert_eq!(again.headers, [header]);
    }
}

#[test]
fn in_binary_mode_attributes_are_headers() {
    for (protocol, prefix) in [(Protocol::Http, "ce-"), (Protocol::Kafka, "ce_")] {
        let message = written(BINARY_MODE, protocol, event_as_envelope().to_string().as_bytes()).unwrap();
        assert_eq!(message.payload.as_deref(), Some(&br#"{"total":12.5}"#[..]));
        let header = |name: &str| {
            let found = message.headers.iter().find(|(known, _)| known == name.as_bytes());
            found.map(|(_, value)| std::str::from_utf8(value).unwrap())
        };
        assert_eq!(header("content-type"), Some("application/json"));
        for (name, value) in [
            ("specversion", "1.0"),
            ("id", "A-1"),
            ("source", "/shop"),
            ("type", "order.placed"),
            ("time", "2024-02-29T12:00:00.5Z"),
            ("subject", "orders/7"),
            ("correlationid", "P-1"),
            ("traceparent", TRACEPARENT),
            ("retries", "3"),
            ("gift", "true"),
        ] {
            assert_eq!(header(&format!("{prefix}{name}")), Some(value), "{name}");
        }
        // Headers are texts.
        let mut expected = event_as_envelope();
        expected["metadata"]["retries"] = json!("3");
        expected["metadata"]["gift"] = json!("true");
        assert_eq!(envelope(&message), expected);
    }
}

#[test]
fn what_an_event_need_not_have_has_a_default() {
    let event = json!({ "specversion": "1.0", "id": "A", "source": "s", "type": "t" });
    let expected = json!({
        "id": "A", "type": "t", "timestamp": "2024-02-29T12:00:00.123Z", "source": "s", "specversion": "1.0",
        "data": null, "metadata": {}, "correlationId": "A",
    });
    assert_eq!(envelope(&message(&[], Some(event.to_string().as_bytes()))), expected);
}

#[test]
fn a_time_in_utc_keeps_its_digits() {
    for (time, timestamp) in [
        ("2024-02-29T12:00:00.1000Z", "2024-02-29T12:00:00.1000Z"),
        ("2024-02-29T12:00:00.123456789Z", "2024-02-29T12:00:00.123456789Z"),
        ("2024-02-29T12:00:00-02:30", "2024-02-29T14:30:00Z"),
        ("2024-02-29t12:00:00z", "2024-02-29T12:00:00Z"),
    ] {
        let mut event = event();
        event["time"] = json!(time);
        assert_eq!(envelope(&message(&[], Some(event.to_string().as_bytes())))["timestamp"], timestamp);
    }
}

#[test]
fn data_keeps_its_bytes() {
    let data = r#"{"big": 123456789012345678901234567890, "price": 1.10, "text": "\u00e9"}"#;
    let event = format!(r#"{{"specversion":"1.0","id":"A","source":"s","type":"t","data":{data}}}"#);
    let structured = seen(&message(&[], Some(event.as_bytes()))).unwrap().unwrap();
    assert!(String::from_utf8_lossy(&structured).contains(data));
    for (mode, protocol) in WAYS {
        let message = written(mode, protocol, &structured).unwrap();
        let payload = message.payload.clone().unwrap();
        assert!(String::from_utf8_lossy(&payload).contains(data));
        let again = seen(&message).unwrap().unwrap();
        assert!(String::from_utf8_lossy(&again).contains(data));
    }
    // A line each, where they stand in lines.
    let lines =
        b"{\"specversion\":\"1.0\",\"id\":\"A\",\"source\":\"s\",\"type\":\"t\",\"data\":{\n\"a\": 1\n}}";
    let written = encode("cloudevents", STRUCTURED_MODE, &payload(lines)).unwrap();
    assert!(!written.contains(&b'\n') && written.ends_with(br#""data":{"a":1}}"#));
}

/// Of a content type and a body, as binary mode has them: `data` of the envelope, and whether it is in base64.
fn data_of(protocol: Protocol, content_type: Option<&str>, body: Option<&[u8]>) -> (Value, bool) {
    let prefix = if protocol == Protocol::Http { "ce-" } else { "ce_" };
    let names = ["specversion", "id", "source", "type"].map(|name| format!("{prefix}{name}"));
    let mut headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1.0")).collect();
    headers.extend(content_type.map(|text| ("content-type", text)));
    let envelope = envelope(&message(&headers, body));
    assert_eq!(envelope["metadata"]["datacontenttype"].as_str(), content_type);
    (envelope["data"].clone(), envelope["metadata"]["dataEncoding"] == "base64")
}

#[test]
fn data_stands_in_an_envelope_as_its_content_type_says() {
    use Protocol::{Http, Kafka};
    for protocol in [Http, Kafka] {
        let data = |content_type, body: &[u8]| data_of(protocol, content_type, Some(body));
        assert_eq!(data(Some("application/json"), b"[1]"), (json!([1]), false));
        assert_eq!(data(Some("application/vnd.a+json; charset=UTF-8"), b"\"x\""), (json!("x"), false));
        assert_eq!(data(Some("text/json"), b"1"), (json!(1), false));
        assert_eq!(data(Some("application/json"), b"null"), (Value::Null, false));
        assert_eq!(data(Some("text/plain"), "é".as_bytes()), (json!("é"), false));
        assert_eq!(data(Some("text/plain"), b""), (json!(""), false));
        assert_eq!(data(Some("application/xml"), b"<a/>"), (json!("<a/>"), false));
        assert_eq!(data(Some("image/svg+xml"), b"<a/>"), (json!("<a/>"), false));
        assert_eq!(data(Some("text/plain"), b"\xff"), (json!("/w=="), true));
        assert_eq!(data(Some("text/plain; charset=iso-8859-1"), b"\xe9"), (json!("6Q=="), true));
        assert_eq!(data(Some("application/json; charset=utf-16"), b"[]"), (json!("W10="), true));
        assert_eq!(data(Some("application/octet-stream"), b"a"), (json!("YQ=="), true));
        assert_eq!(data(Some("application/octet-stream"), b""), (json!(""), true));
        assert_eq!(data(None, b"{}"), (json!("e30="), true));
    }
    assert_eq!(data_of(Http, Some("application/json"), Some(b"")), (Value::Null, false));
    assert_eq!(data_of(Http, None, Some(b"")), (Value::Null, false));
    assert_eq!(data_of(Kafka, None, Some(b"")), (json!(""), true));
    assert_eq!(data_of(Kafka, Some("application/json"), None), (Value::Null, false));
    assert_eq!(data_of(Kafka, None, None), (Value::Null, false));
}

#[test]
fn bytes_and_texts_come_back_in_all_modes() {
    let with = |data: Value, metadata: Value| {
        let mut envelope = event_as_envelope();
        envelope["data"] = data;
        envelope["metadata"] = metadata;
        envelope
    };
    for expected in [
        with(json!("/wA="), json!({ "dataEncoding": "base64" })),
        with(json!("/wA="), json!({ "datacontenttype": "image/png", "dataEncoding": "base64" })),
        with(json!("<a/>"), json!({ "datacontenttype": "application/xml" })),
        with(json!(""), json!({ "datacontenttype": "text/plain" })),
        with(json!("a"), json!({ "datacontenttype": "application/json" })),
        with(Value::Null, json!({})),
        with(Value::Null, json!({ "datacontenttype": "application/json" })),
    ] {
        for (mode, protocol) in WAYS {
            let message = written(mode, protocol, expected.to_string().as_bytes()).unwrap();
            assert_eq!(envelope(&message), expected, "{mode} {protocol:?}");
        }
    }
    // What goes without saying is said in binary mode.
    let envelope = with(json!(1), json!({}));
    let message = written(BINARY_MODE, Protocol::Http, envelope.to_string().as_bytes()).unwrap();
    assert!(message.headers.contains(&(b"content-type".to_vec(), b"application/json".to_vec())));

    let nothing = |protocol| {
        let envelope = with(Value::Null, json!({ "datacontenttype": "text/plain" })).to_string();
        written(BINARY_MODE, protocol, envelope.as_bytes())
    };
    assert_eq!(nothing(Protocol::Kafka).unwrap().payload, None);
    assert!(nothing(Protocol::Http).unwrap_err().contains("cannot be told apart"));
    let latin = with(json!("é"), json!({ "datacontenttype": "text/plain; charset=iso-8859-1" })).to_string();
    let error = written(BINARY_MODE, Protocol::Http, latin.as_bytes()).unwrap_err();
    assert!(error.contains("would be written in UTF-8"), "{error}");
}

#[test]
fn headers_in_http_are_percent_encoded() {
    let mut envelope = event_as_envelope();
    envelope["metadata"] = json!({ "subject": "Euro € \"5%\"" });
    let message = written(BINARY_MODE, Protocol::Http, envelope.to_string().as_bytes()).unwrap();
    let expected = (b"ce-subject".to_vec(), b"Euro%20%E2%82%AC%20%225%25%22".to_vec());
    assert!(message.headers.contains(&expected), "{:?}", message.headers);
    let message = written(BINARY_MODE, Protocol::Kafka, envelope.to_string().as_bytes()).unwrap();
    assert!(message.headers.contains(&(b"ce_subject".to_vec(), "Euro € \"5%\"".into())));

    let subject = |value: &str| {
        let headers = [
            ("CE-SpecVersion", "1.0"),
            ("CE-ID", "A"),
            ("ce-source", "s"),
            ("ce-type", "t"),
            ("Ce-Subject", value),
        ];
        seen(&self::message(&headers, Some(b""))).map(|text| {
            let envelope: Value = serde_json::from_slice(&text.unwrap()).unwrap();
            envelope["metadata"]["subject"].as_str().unwrap().to_owned()
        })
    };
    for (header, text) in [
        ("plain text", "plain text"),
        ("Euro%20%e2%82%ac", "Euro €"),
        ("%41", "A"),
        ("100%", "100%"),
        (r#""in \"quotes\" and %22""#, "in \"quotes\" and \""),
        ("\"", "\""),
    ] {
        assert_eq!(subject(header).as_deref(), Ok(text));
    }
    for header in ["%C0%A0", r#""open\""#] {
        assert!(subject(header).unwrap_err().contains("`subject` is not UTF-8"));
    }
}

#[test]
fn what_is_no_event_is_refused_with_the_field() {
    let without = |name: &str| {
        let mut event = event();
        event.as_object_mut().unwrap().remove(name);
        event
    };
    let with = |name: &str, value: Value| {
        let mut event = event();
        event[name] = value;
        event
    };
    for (event, what) in [
        (without("id"), "`id` is missing"),
        (without("source"), "`source` is missing"),
        (without("type"), "`type` is missing"),
        (without("specversion"), "`specversion` is missing"),
        (with("id", json!(null)), "`id` is missing"),
        (with("id", json!("")), "`id` is empty"),
        (with("id", json!(7)), "`id` is not a text"),
        (with("specversion", json!("0.3")), "`specversion` is \"0.3\""),
        (with("time", json!("yesterday")), "`time` is \"yesterday\""),
        (with("datacontenttype", json!(1)), "`datacontenttype` is not a text"),
        (with("datacontenttype", json!("x")), "\"x\" is no media type"),
        (with("datacontenttype", json!("text/plain")), "`data` is not a text"),
        (with("data_base64", json!("AA==")), "both `data` and `data_base64`"),
        (with("correlationid", json!(1)), "`correlationid` is not a text"),
        (with("traceparent", json!(true)), "`traceparent` is not a text"),
        (with("retries", json!([1])), "`retries` is an array"),
        (with("retries", json!({})), "`retries` is an object"),
        (with("retries", json!(1.5)), "`retries` is a number that is no integer of 32 bits"),
        (with("retries", json!(1_u64 << 31)), "`retries` is a number that is no integer of 32 bits"),
        (with("retryCount", json!(1)), "\"retryCount\" cannot be the name of an attribute"),
        (json!([event()]), "expected an object"),
    ] {
        let error = error(&message(&[], Some(event.to_string().as_bytes())));
        assert!(error.starts_with("no CloudEvent: ") && error.contains(what), "{error}");
    }
    let mut bytes = without("data");
    bytes["data_base64"] = json!("?");
    let refused = error(&message(&[], Some(bytes.to_string().as_bytes())));
    assert!(refused.contains("`data_base64` is not a text in base64"), "{refused}");
    let twice = br#"{"id": "A", "id": "B"}"#;
    assert!(error(&message(&[], Some(twice))).contains("\"id\" comes twice"));
}

#[test]
fn the_mode_of_a_message_is_told_by_its_headers() {
    let event = event().to_string();
    let of = |headers: &[(&str, &str)]| seen(&message(headers, Some(event.as_bytes())));
    assert!(of(&[("content-type", "application/x-ndjson")]).is_ok());
    for (content_type, what) in [
        ("application/json", "\"application/json\" without a header `ce-specversion`"),
        ("application/cloudevents-batch+json; charset=utf-8", "a batch of CloudEvents"),
        ("application/cloudevents+avro", "only application/cloudevents+json is known"),
    ] {
        let error = of(&[("content-type", content_type)]).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
    // In structured mode headers may say it all once more.
    let both = [("content-type", STRUCTURED), ("ce-specversion", "1.0"), ("ce-id", "other")];
    assert_eq!(envelope(&message(&both, Some(event.as_bytes())))["id"], "A-1");
    let twice = [("ce-specversion", "1.0"), ("ce-id", "A"), ("CE-ID", "B")];
    assert!(error(&message(&twice, Some(b""))).contains("`id` comes twice"));
    let twice = [("ce-specversion", "1.0"), ("content-type", "text/plain"), ("Content-Type", "image/png")];
    assert!(error(&message(&twice, Some(b""))).contains("`content-type` comes twice"));
    let wrong = [("ce-specversion", "1.0"), ("ce-datacontenttype", "text/plain")];
    assert!(error(&message(&wrong, Some(b""))).contains("is said by `content-type`"));
    let wrong = [("ce-specversion", "1.0"), ("ce-data", "x")];
    assert!(error(&message(&wrong, Some(b""))).contains("\"data\" cannot be the name of an attribute"));
    let wrong = [
        ("ce_specversion", "1.0"),
        ("ce_id", "A"),
        ("ce_type", "t"),
        ("ce_source", "s"),
        ("content-type", "application/json"),
    ];
    assert!(error(&message(&wrong, Some(b"{"))).contains("its data is not JSON"));
    // Of Kafka's tombstones there is nothing to read.
    assert_eq!(seen(&message(&[], None)), Ok(None));
    assert_eq!(seen(&message(&[("content-type", "application/json")], None)), Ok(None));
}

#[test]
fn what_an_event_cannot_say_is_refused_with_the_field_or_dropped() {
    let with = |field: &str, value: Value| {
        let mut envelope = event_as_envelope();
        *envelope.pointer_mut(field).unwrap() = value;
        envelope
    };
    let drop = r#"{"extra_fields": "drop"}"#;
    for (metadata, what) in [
        (json!({ "tenantId": "a" }), "`metadata` has \"tenantId\", which is no name of an attribute"),
        (json!({ "tenant": { "id": 1 } }), "`metadata` has \"tenant\", which is an object"),
        (json!({ "tenants": [] }), "`metadata` has \"tenants\", which is an array"),
        (json!({ "share": 0.5 }), "`metadata` has \"share\", which is a number that is no integer"),
        (json!({ "id": "x" }), "`metadata` has \"id\", which is an attribute that another field"),
        (json!({ "traceparent": "x" }), "`metadata` has \"traceparent\", which is an attribute that another"),
    ] {
        let envelope = with("/metadata", metadata).to_string();
        let error = written(STRUCTURED_MODE, Protocol::Http, envelope.as_bytes()).unwrap_err();
        assert!(error.contains(what) && error.contains("extra_fields = \"drop\""), "{error}");
        let message = written(drop, Protocol::Http, envelope.as_bytes()).unwrap();
        assert_eq!(self::envelope(&message), with("/metadata", json!({})));
    }
    let mut other = event_as_envelope();
    other["extra"] = json!(1);
    let error = written(STRUCTURED_MODE, Protocol::Http, other.to_string().as_bytes()).unwrap_err();
    assert!(error.contains("\"extra\" is no field of an envelope"), "{error}");
    assert!(written(drop, Protocol::Http, other.to_string().as_bytes()).is_ok());
    for (envelope, what) in [
        (with("/id", json!(7)), "`id` is not a text"),
        (with("/timestamp", json!("now")), "`timestamp` is \"now\""),
        (with("/specversion", json!("2.0")), "`specversion` is \"2.0\""),
        (with("/metadata", json!([])), "`metadata` is not an object"),
        (with("/metadata", json!({ "dataEncoding": "hex" })), "\"dataEncoding\", which is not \"base64\""),
        (with("/metadata", json!({ "dataEncoding": "base64" })), "`data` is not a text in base64"),
        (with("/_trace", json!({ "span": 1 })), "`_trace` names no span"),
        (with("/correlationId", json!(1)), "`correlationId` is not a text"),
        (json!(1), "it is no envelope"),
    ] {
        // None of these can be dropped.
        let error = written(drop, Protocol::Http, envelope.to_string().as_bytes()).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
    let null = Message { payload: None, ..Message::default() };
    assert!(encode("cloudevents", STRUCTURED_MODE, &null).is_err());
}

#[test]
fn a_trace_in_another_form_becomes_a_traceparent() {
    for trace in [
        json!(TRACEPARENT),
        json!({ "traceparent": TRACEPARENT }),
        json!({
            "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "sampled": true,
            "traceFlags": 1,
        }),
    ] {
        let mut envelope = event_as_envelope();
        envelope["_trace"] = trace;
        let message = written(STRUCTURED_MODE, Protocol::Kafka, envelope.to_string().as_bytes()).unwrap();
        let event: Value = serde_json::from_slice(&message.payload.unwrap()).unwrap();
        assert_eq!(event["traceparent"], TRACEPARENT);
    }
}

#[test]
fn headers_of_an_event_are_no_headers_of_the_message_any_more() {
    let conversion = decoder("cloudevents", "{}").map(|config| config.conversion().unwrap());
    let is_own = conversion.unwrap_or_else(|problems| panic!("{problems:?}")).own_headers().unwrap();
    for (name, own) in [
        ("ce-id", true),
        ("CE_id", true),
        ("Content-Type", true),
        ("certificate", false),
        ("ce", false),
        ("traceparent", false),
    ] {
        assert_eq!(is_own(name.as_bytes()), own, "{name}");
    }
}

#[test]
fn keys_are_those_of_their_direction() {
    assert!(decoder("cloudevents", BINARY_MODE).is_err());
    assert!(decoder("cloudevents", r#"{"extra_fields": "drop"}"#).is_err());
    assert!(encoder("cloudevents", r#"{"mode": "batch"}"#).is_err());
}

/// Envelopes of events, of which all forms tell the same: attributes are texts.
fn envelopes() -> impl Strategy<Value = Value> {
    let text = "[^\\x00-\\x1f\\x7f-\\x9f]{1,12}";
    let data = prop_oneof![
        any::<Option<i32>>().prop_map(|number| (json!(number), None, false)),
        ("[^\\x00]{0,8}", any::<i64>()).prop_map(|(text, number)| (
            json!({ "text": text, "n": [number] }),
            Some("application/json"),
            false
        )),
        "\\PC{0,12}".prop_map(|text| (json!(text), Some("text/plain"), false)),
        proptest::collection::vec(any::<u8>(), 1..12).prop_map(|bytes| (
            json!(STANDARD.encode(bytes)),
            Some("image/png"),
            true
        )),
    ];
    let metadata = proptest::collection::btree_map("[b-z][0-9b-z]{0,5}", text, 0..4);
    (text, text, text, data, metadata, proptest::option::of(text)).prop_map(
        |(id, source, kind, (data, content_type, base64), metadata, cause)| {
            let mut metadata = json!(metadata);
            let content_type = content_type.or((!data.is_null()).then_some("application/json"));
            if let Some(content_type) = content_type {
                metadata["datacontenttype"] = json!(content_type);
            }
            if base64 {
                metadata["dataEncoding"] = json!("base64");
            }
            let mut envelope = json!({
                "id": id, "type": kind, "timestamp": "2024-02-29T12:00:00Z", "source": source,
                "specversion": "1.0", "data": data, "metadata": metadata, "correlationId": id,
            });
            if let Some(cause) = cause {
                envelope["causationId"] = json!(cause);
            }
            envelope
        },
    )
}

proptest! {
    #[test]
    fn an_envelope_comes_back_in_all_modes(expected in envelopes()) {
        for (mode, protocol) in WAYS {
            let message = written(mode, protocol, expected.to_string().as_bytes()).unwrap();
            prop_assert_eq!(&envelope(&message), &expected);
        }
    }

    #[test]
    fn no_bytes_are_too_strange(
        payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64)),
        header in "\\PC{0,16}",
        mode in 0..3,
    ) {
        let headers: &[(&str, &str)] = match mode {
            0 => &[],
            1 => &[("ce-specversion", "1.0"), ("ce-id", &header), ("content-type", &header)],
            _ => &[("ce_specversion", "1.0"), ("ce_id", &header), ("ce_source", "s"), ("ce_type", &header)],
        };
        let _ = seen(&message(headers, payload.as_deref()));
    }
}
