use millstream_sdk::testing::{Harness, Outcome, Record, check_fixtures};
use serde_json::{Value, json};

use super::*;

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");
const ID: &str = "3f1b1d5e-6d7c-4f0a-9a35-0c9d1d0f7a11";

fn envelope(config: Value) -> Harness {
    Harness::new::<Envelope, _>(config).unwrap()
}

fn error(config: Value) -> ConfigError {
    match Harness::new::<Envelope, _>(config) {
        Ok(_) => panic!("the configuration was taken"),
        Err(error) => error,
    }
}

fn wrapped(config: Value, message: Record) -> Value {
    let mut all = json!({ "mode": "wrap", "type": "t" });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    match envelope(all).run_one(message) {
        Outcome::Emit(records) => records[0].payload_json(),
        other => panic!("{other:?}"),
    }
}

fn rejection(outcome: Outcome) -> (String, String) {
    match outcome {
        Outcome::Reject { code, text } => (code, text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_id_is_drawn_from_position_and_payload() {
    let mut plugin = envelope(json!({ "mode": "wrap", "type": "t" })).source("orders").at(3, 41);
    let mut id =
        |message: Record| plugin.run_one(message).messages(&Record::null())[0].payload_json()["id"].clone();
    // Computed elsewhere, so that ids stay what they are from version to version.
    assert_eq!(id(Record::text("{\"a\":1}")), "055af9a2-093b-4dda-8eae-f21bf5770f87");
    let mut plugin = envelope(json!({ "mode": "wrap", "type": "t" })).source("orders").at(3, 41);
    let null = plugin.run_one(Record::null()).messages(&Record::null())[0].payload_json();
    assert_eq!(null["id"], "0da19a85-58b8-47cf-94df-e07d5bcc8a05");
}

#[test]
fn messages_have_ids_of_their_own_also_those_split_from_one() {
    let at = |partition, offset, text: &str| {
        let mut plugin = envelope(json!({ "mode": "wrap", "type": "t" })).at(partition, offset);
        let payload = plugin.run_one(Record::text(text)).messages(&Record::null())[0].payload_json();
        payload["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(at(1, 1, "{}"), at(1, 1, "{}"));
    let others = [at(1, 1, "{}"), at(1, 2, "{}"), at(2, 1, "{}"), at(1, 1, "[]")];
    for (n, id) in others.iter().enumerate() {
        assert!(id::parse(id).is_some(), "{id}");
        assert!(!others[..n].contains(id), "{others:?}");
    }
}

#[test]
fn fields_come_from_headers_and_pointers() {
    let config = json!({
        "type": { "pointer": "/kind" },
        "source": { "header": "X-Source" },
        "id": { "header": "x-id" },
        "correlation_id": { "pointer": "/request/id" },
        "causation_id": { "header": "x-cause" },
        "metadata": { "n": { "pointer": "/n" }, "none": { "header": "none" }, "fixed": "f" },
    });
    let payload = json!({ "kind": "order.\"placed\"", "request": { "id": 17 }, "n": [1, 2] });
    let message =
        Record::json(&payload).header("x-source", "web").header("x-id", ID).header("x-cause", "c-1");
    let expected = json!({
        "id": ID,
        "type": "order.\"placed\"",
        "timestamp": "1970-01-01T00:00:00.000Z",
        "source": "web",
        "specversion": "1.0",
        "data": payload,
        "metadata": { "n": [1, 2], "fixed": "f" },
        "correlationId": "17",
        "causationId": "c-1",
    });
    assert_eq!(wrapped(config, message), expected);
}

#[test]
fn what_is_no_uuid_is_hashed_into_one() {
    let config = json!({ "id": { "pointer": "/order" } });
    let envelope = wrapped(config, Record::json(json!({ "order": "order-7" })));
    assert_eq!(envelope["id"], "df8cf802-27ec-4237-922d-f0ecd88385c5");
    assert_eq!(envelope["correlationId"], envelope["id"]);
    assert_eq!(envelope.get("causationId"), None);
}

#[test]
fn a_required_field_that_is_missing_rejects() {
    let mut plugin = envelope(json!({ "mode": "wrap", "type": { "pointer": "/kind" } }));
    for payload in [json!({}), json!({ "kind": null }), json!({ "kind": "" })] {
        let (code, text) = rejection(plugin.run_one(Record::json(payload)));
        assert_eq!((code.as_str(), text.as_str()), (INVALID, "no `type`: /kind of the payload has none"));
    }
    let (code, text) = rejection(plugin.run_one(Record::json(json!({ "kind": {} }))));
    assert_eq!((code.as_str(), text.as_str()), (INVALID, "/kind of the payload is neither text nor number"));
    let mut plugin = envelope(json!({ "mode": "wrap", "type": "t", "id": { "header": "x-id" } }));
    assert_eq!(rejection(plugin.run_one(Record::json(1))).1, "no `id`: header `x-id` has none");
}

#[test]
fn data_can_be_text_or_bytes() {
    assert_eq!(wrapped(json!({ "data": "string" }), Record::text("a\"b"))["data"], "a\"b");
    assert_eq!(wrapped(json!({ "data": "base64" }), Record::new([0xff, 0]))["data"], "/wA=");
    assert_eq!(wrapped(json!({ "data": "base64" }), Record::null())["data"], Value::Null);
    let reject = |data: &str, payload: &[u8]| {
        rejection(
            envelope(json!({ "mode": "wrap", "type": "t", "data": data })).run_one(Record::new(payload)),
        )
        .0
    };
    assert_eq!(reject("json", b"{"), "payload-not-json");
    assert_eq!(reject("string", b"\xff"), "payload-not-utf8");
}

#[test]
fn data_and_unwrap_are_inverse() {
    for (data, payload) in [
        ("json", Some(&b"{\"price\": 1.10,\n \"n\": 12345678901234567890123}"[..])),
        ("string", Some(b"a\n\"b\"")),
        ("base64", Some(b"\xff\x00")),
        ("base64", None),
    ] {
        let before = Record { payload: payload.map(<[u8]>::to_vec), ..Record::default() };
        let before = before.key("k").timestamp_ms(1_709_208_000_123);
        let mut wrap = envelope(json!({ "mode": "wrap", "type": "t", "id": ID, "data": data }));
        let between = wrap.run_one(before.clone()).messages(&before).remove(0);
        let mut check = envelope(json!({ "mode": "check", "unwrap": true, "data": data }));
        let after = check.run_one(between.clone().timestamp_ms(5)).messages(&between).remove(0);
        let expected = before
            .header("envelope-id", ID)
            .header("envelope-type", "t")
            .header("envelope-timestamp", "2024-02-29T12:00:00.123Z")
            .header("envelope-source", "test")
            .header("envelope-correlation-id", ID)
            .header("envelope-metadata", "{}");
        assert_eq!(after, expected);
    }
}

fn good() -> Value {
    json!({
        "id": ID,
        "type": "t",
        "timestamp": "2024-02-29T12:00:00.123Z",
        "source": "s",
        "specversion": "1.0",
        "data": null,
        "metadata": {},
        "correlationId": "c",
    })
}

#[test]
fn a_good_envelope_passes_unchanged() {
    let mut check = envelope(json!({ "mode": "check" }));
    assert_eq!(check.run_one(Record::json(good())), Outcome::Pass);
    let mut caused = good();
    caused["causationId"] = Value::Null;
    assert_eq!(check.run_one(Record::json(&caused)), Outcome::Pass);
    caused["causationId"] = json!(ID);
    assert_eq!(check.run_one(Record::json(&caused)), Outcome::Pass);
}

#[test]
fn each_field_is_checked() {
    let mut check = envelope(json!({ "mode": "check" }));
    let cases = [
        ("id", json!("7"), "/id is not a uuid of version 4"),
        ("id", json!("6b457763-e1c9-53d0-a0ba-7c58b8b5c06c"), "/id is not a uuid of version 4"),
        ("id", json!(ID.replace('-', "")), "/id is not a uuid of version 4"),
        ("id", json!(7), "/id is not a text, or an empty one"),
        ("type", json!(""), "/type is not a text, or an empty one"),
        ("source", json!(null), "/source is not a text, or an empty one"),
        (
            "timestamp",
            json!("2023-02-29T12:00:00Z"),
            "/timestamp is not a time in UTC such as 2024-02-29T12:00:00.000Z",
        ),
        (
            "timestamp",
            json!("2024-02-29T12:00:00+01:00"),
            "/timestamp is not a time in UTC such as 2024-02-29T12:00:00.000Z",
        ),
        ("specversion", json!("1.1"), "/specversion is not `1.0`"),
        ("specversion", json!(1.0), "/specversion is not a text, or an empty one"),
        ("metadata", json!([]), "/metadata is not an object"),
        ("correlationId", json!(1), "/correlationId is not a text, or an empty one"),
        ("causationId", json!(1), "/causationId is neither null nor a text, or an empty one"),
        ("correlation/id", json!(1), "/correlation~1id is no field of an envelope"),
    ];
    for (field, value, expected) in cases {
        let mut broken = good();
        broken[field] = value;
        let (code, text) = rejection(check.run_one(Record::json(&broken)));
        assert_eq!((code.as_str(), text.as_str()), (INVALID, expected), "{broken}");
    }
    for field in good().as_object().unwrap().keys() {
        let mut broken = good();
        broken.as_object_mut().unwrap().remove(field);
        let (code, text) = rejection(check.run_one(Record::json(broken)));
        assert_eq!((code.as_str(), text), (INVALID, format!("/{field} is missing")));
    }
}

#[test]
fn all_violations_are_told_at_once() {
    let mut check = envelope(json!({ "mode": "check" }));
    let (_, text) = rejection(check.run_one(Record::json(json!({ "id": "7", "data": 1, "extra": 1 }))));
    let fields: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        fields,
        ["/type", "/timestamp", "/source", "/specversion", "/correlationId", "/id", "/metadata", "/extra"]
    );
    let many: serde_json::Map<_, _> = (0..1_000).map(|n| (format!("x{n}"), json!(n))).collect();
    let (_, text) = rejection(check.run_one(Record::json(many)));
    assert!(text.ends_with("\nand 990 other fields that are none of an envelope"), "{text}");
}

#[test]
fn other_fields_can_be_allowed() {
    let mut check = envelope(json!({ "mode": "check", "allow_other_fields": true }));
    let mut other = good();
    other["subject"] = json!("x");
    assert_eq!(check.run_one(Record::json(other)), Outcome::Pass);
}

#[test]
fn the_trace_of_an_envelope_is_kept() {
    let trace = json!({ "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331" });
    let mut traced = good();
    traced["_trace"] = trace.clone();
    let mut check = envelope(json!({ "mode": "check" }));
    assert_eq!(check.run_one(Record::json(&traced)), Outcome::Pass);
    let mut unwrap = envelope(json!({ "mode": "check", "unwrap": true }));
    let record = Record::json(&traced);
    let unwrapped = unwrap.run_one(record.clone()).messages(&record).remove(0);
    let header = ("envelope-trace".to_owned(), trace.to_string().into_bytes());
    assert!(unwrapped.headers.contains(&header), "{unwrapped:?}");
    traced["_trace"] = json!(1);
    assert!(rejection(check.run_one(Record::json(traced))).1.contains("/_trace is neither"));
}

#[test]
fn what_is_no_envelope_at_all_is_rejected() {
    let mut check = envelope(json!({ "mode": "check" }));
    assert_eq!(rejection(check.run_one(Record::json([1]))).0, INVALID);
    assert_eq!(rejection(check.run_one(Record::text("{"))).0, "payload-not-json");
    assert_eq!(rejection(check.run_one(Record::null())).0, "payload-null");
}

#[test]
fn data_that_cannot_be_unwrapped_is_a_violation() {
    for (data, text) in [("string", "/data is not a text"), ("base64", "/data is not a text in base64")] {
        let mut check = envelope(json!({ "mode": "check", "unwrap": true, "data": data }));
        let mut broken = good();
        broken["data"] = json!({});
        assert_eq!(rejection(check.run_one(Record::json(broken))).1, text);
    }
}

#[test]
fn mistakes_of_the_configuration_name_their_field() {
    let field = |config: Value| error(config).field;
    assert_eq!(field(json!({ "mode": "wrap" })), "/type");
    assert_eq!(field(json!({ "mode": "wrap", "type": { "pointer": "kind" } })), "/type/pointer");
    assert_eq!(field(json!({ "mode": "wrap", "type": "" })), "/type");
    assert_eq!(field(json!({ "mode": "wrap", "type": "t", "unwrap": true })), "/unwrap");
    assert_eq!(field(json!({ "mode": "check", "type": "t" })), "/type");
    assert_eq!(field(json!({ "mode": "check", "data": "base64" })), "/data");
    assert_eq!(field(json!({ "mode": "wrap", "type": "t", "correlationId": "x" })), "/correlationId");
    let error = error(json!({ "mode": "wrap", "type": { "head": "x" } }));
    assert_eq!(error.field, "/type");
    assert_eq!(error.message, "expected a text, { header = \"...\" } or { pointer = \"/...\" }");
}

#[test]
fn the_fixtures_hold() {
    check_fixtures(FOLDER, || Harness::of_example::<Envelope, _>(FOLDER, &[]));
}
