//! CloudEvents over HTTP and Kafka, written and read by the SDK of CloudEvents for Python.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::serializers;
use crate::services::kafka::{Kafka, Record, unique};
use crate::support::{Folder, Running, guest, http_client, repository, run, runtime, serve};

/// Headers and a body.
#[derive(Clone, Debug)]
struct Sent {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn ask(question: &Value) -> Value {
    let script = repository().join("tests/formats/events.py");
    serializers::answer(Command::new(serializers::python()).arg(script), question)
}

/// Messages of these events, each in the mode that it says.
fn written(protocol: &str, events: &[Value]) -> Vec<Sent> {
    let answer = ask(&json!({ "do": "write", "protocol": protocol, "events": events }));
    let sent = |message: &Value| Sent {
        headers: message["headers"]
            .as_object()
            .expect("headers")
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned()))
            .collect(),
        body: STANDARD.decode(message["body"].as_str().expect("a body")).expect("base64"),
    };
    answer.as_array().expect("a list").iter().map(sent).collect()
}

/// The events that messages are, by their ids.
fn read(protocol: &str, messages: &[Sent]) -> Vec<Value> {
    let messages: Vec<Value> = messages
        .iter()
        .map(|Sent { headers, body }| {
            let headers: Map<String, Value> =
                headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            json!({ "headers": headers, "body": STANDARD.encode(body) })
        })
        .collect();
    let answer = ask(&json!({ "do": "read", "protocol": protocol, "messages": messages }));
    let mut events = answer.as_array().expect("a list").clone();
    events.sort_by_key(|event| event["attributes"]["id"].as_str().map(str::to_owned));
    events
}

/// Events of all kinds of data, in both modes.
fn events() -> Vec<Value> {
    let attributes = json!({
        "specversion": "1.0", "source": "/shop", "type": "order.placed", "time": "2026-01-31T13:45:00.123000+00:00",
        "subject": "Œuvre n° 7, \"100%\"", "dataschema": "https://shop.example/order", "correlationid": "P-1",
        "causationid": "A-0", "partitionkey": "k",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    });
    let data = [
        (Some("application/json"), json!({ "order": "7", "total": 12.5, "lines": [1, null] })),
        (Some("application/vnd.shop+json"), json!({})),
        (Some("text/plain"), json!("Grüße")),
        (Some("application/octet-stream"), json!({ "base64": "/wD+Cg==" })),
        (None, Value::Null),
    ];
    let mut events = Vec::new();
    for mode in ["structured", "binary"] {
        for (number, (content_type, data)) in data.iter().enumerate() {
            let mut attributes = attributes.clone();
            attributes["id"] = json!(format!("{mode}-{number}"));
            if let Some(content_type) = content_type {
                attributes["datacontenttype"] = json!(content_type);
            }
            events.push(json!({ "mode": mode, "attributes": attributes, "data": data }));
        }
    }
    events.sort_by_key(|event| event["attributes"]["id"].as_str().map(str::to_owned));
    events
}

/// As [`read`] tells them.
fn told(events: &[Value]) -> Vec<Value> {
    let told = |event: &Value| json!({ "attributes": event["attributes"], "data": event["data"] });
    events.iter().map(told).collect()
}

type Received = Arc<Mutex<Vec<Sent>>>;

async fn receive(State(received): State<Received>, headers: HeaderMap, body: Bytes) {
    let headers =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").into()));
    received.lock().expect("no panic").push(Sent { headers: headers.collect(), body: body.to_vec() });
}

/// A pipeline that listens; it and its url.
fn listening(folder: &Folder, name: &str, rest: &str) -> (Running, String) {
    let text = format!(
        "name = \"{name}\"\n[source]\ntype = \"http\"\nlisten = \"127.0.0.1:0\"\npath = \"/\"\n\
         codec = \"cloudevents\"\n{rest}\n"
    );
    let mut running = Running::start(folder, &folder.write(&format!("{name}.toml"), &text));
    let address = running.address("sources::http: listening");
    (running, format!("http://{address}/"))
}

/// What the server answers.
fn post_event(runtime: &Runtime, url: &str, event: &Sent) -> Value {
    runtime.block_on(async {
        let mut request = http_client().post(url).body(event.body.clone());
        for (name, value) in &event.headers {
            request = request.header(name, value);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON")
    })
}

fn stop(mut running: Running) {
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
}

fn sent(record: Record) -> Sent {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let headers = record.headers.into_iter();
    Sent {
        headers: headers.map(|(name, value)| (name, text(value.unwrap_or_default()))).collect(),
        body: record.value.unwrap_or_default(),
    }
}

/// From the SDK over HTTP into a topic, and out of it over HTTP to the SDK.
fn through(to_kafka: &str, to_http: &str) {
    let (kafka, folder, runtime) = (Kafka::shared(), Folder::new(), runtime());
    let (topic, brokers) = (kafka.topic("events", 1), kafka.brokers_toml());
    let (first, url) = listening(
        &folder,
        "to-kafka",
        &format!(
            "[[sink]]\ntype = \"kafka\"\n{brokers}\ntopic = \"{topic}\"\n\
             codec = {{ type = \"cloudevents\", mode = \"{to_kafka}\" }}\n"
        ),
    );
    let events = events();
    for event in written("http", &events) {
        assert_eq!(post_event(&runtime, &url, &event), json!({ "outcome": "delivered" }));
    }
    stop(first);
    let records = kafka.consume(&topic);
    let prefixed = |record: &Record| record.headers.iter().any(|(name, _)| name.starts_with("ce"));
    assert!(records.iter().all(|record| prefixed(record) == (to_kafka == "binary")), "{records:?}");
    let records: Vec<Sent> = records.into_iter().map(sent).collect();
    assert_eq!(read("kafka", &records), told(&events));

    let received = Received::default();
    let there = serve(&runtime, post(receive), Arc::clone(&received));
    let second = folder.write(
        "to-http.toml",
        &format!(
            "name = \"to-http\"\n[source]\ntype = \"kafka\"\n{brokers}\ntopics = [\"{topic}\"]\ngroup = \"{}\"\n\
             codec = \"cloudevents\"\n[[sink]]\ntype = \"http\"\nurl = {there:?}\n\
             codec = {{ type = \"cloudevents\", mode = \"{to_http}\" }}\n",
            unique("events")
        ),
    );
    let mut second = Running::start(&folder, &second);
    second.wait_for("all events", |_| received.lock().expect("no panic").len() >= events.len());
    stop(second);
    let received = received.lock().expect("no panic").clone();
    assert_eq!(read("http", &received), told(&events));
}

#[test]
fn events_go_by_binary_mode_in_kafka_and_structured_mode_in_http() {
    through("binary", "structured");
}

#[test]
fn events_go_by_structured_mode_in_kafka_and_binary_mode_in_http() {
    through("structured", "binary");
}

#[test]
fn events_in_kafka_are_read_in_both_modes_and_plugins_see_envelopes() {
    let (kafka, folder) = (Kafka::shared(), Folder::new());
    let (topic, brokers) = (kafka.topic("events", 1), kafka.brokers_toml());
    let events = events();
    let records = written("kafka", &events).into_iter().map(|Sent { headers, body }| Record {
        headers: headers.into_iter().map(|(name, value)| (name, Some(value.into_bytes()))).collect(),
        // As the SDK has it, which cannot say null.
        value: Some(body).filter(|body| !body.is_empty()),
        ..Record::default()
    });
    kafka.produce(&topic, records);
    let file = folder.write(
        "envelopes.toml",
        &format!(
            "name = \"envelopes\"\n[source]\ntype = \"kafka\"\n{brokers}\ntopics = [\"{topic}\"]\ngroup = \"{}\"\n\
             codec = \"cloudevents\"\n[[plugin]]\nuse = \"jq\"\n\
             config = {{ program = '.metadata.seen = .metadata.datacontenttype' }}\n\
             [[sink]]\ntype = \"file\"\npath = \"out.ndjson\"\ncodec = \"record\"\n",
            unique("envelopes")
        ),
    );
    let mut running = Running::start(&folder, &file);
    running.wait_for("all envelopes", |_| {
        std::fs::read_to_string(folder.path("out.ndjson"))
            .is_ok_and(|text| text.lines().count() >= events.len())
    });
    stop(running);
    let mut ids = Vec::new();
    for line in folder.lines("out.ndjson") {
        let record: Value = serde_json::from_str(&line).expect("a record");
        // They are in the envelope, and would say of it what is not so.
        assert_eq!(record.get("headers").cloned().unwrap_or(json!([])), json!([]), "{record}");
        let envelope: Value =
            serde_json::from_str(record["payload"].as_str().expect("a text")).expect("an envelope");
        assert_eq!(envelope["correlationId"], "P-1");
        assert_eq!(envelope["causationId"], "A-0");
        assert_eq!(envelope["timestamp"], "2026-01-31T13:45:00.123000Z");
        assert_eq!(envelope["metadata"]["subject"], "Œuvre n° 7, \"100%\"");
        assert_eq!(envelope["metadata"].get("seen"), Some(&envelope["metadata"]["datacontenttype"]));
        ids.push(envelope["id"].as_str().expect("an id").to_owned());
    }
    ids.sort();
    let expected: Vec<&str> =
        events.iter().map(|event| event["attributes"]["id"].as_str().expect("an id")).collect();
    assert_eq!(ids, expected);
}

#[test]
fn headers_that_a_message_had_say_nothing_of_the_event_that_it_becomes() {
    let (kafka, folder) = (Kafka::shared(), Folder::new());
    let (from, to, brokers) = (kafka.topic("plain", 1), kafka.topic("plain-out", 1), kafka.brokers_toml());
    let envelope = json!({ "id": "A", "type": "t", "source": "s", "specversion": "1.0", "data": [1] });
    let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    let record = Record {
        headers: vec![
            header("ce_id", "old"),
            header("Content-Type", "text/plain"),
            header("x-other", "kept"),
        ],
        ..Record::new("k", &envelope.to_string())
    };
    kafka.produce(&from, [record]);
    let file = folder.write(
        "plain.toml",
        &format!(
            "name = \"plain\"\n[source]\ntype = \"kafka\"\n{brokers}\ntopics = [\"{from}\"]\ngroup = \"{}\"\n\
             [[sink]]\ntype = \"kafka\"\n{brokers}\ntopic = \"{to}\"\n\
             codec = {{ type = \"cloudevents\", mode = \"binary\" }}\n",
            unique("plain")
        ),
    );
    let mut running = Running::start(&folder, &file);
    running.wait_for("the event", |_| kafka.count(&to) > 0);
    stop(running);
    let Sent { mut headers, body } = sent(kafka.consume(&to).remove(0));
    headers.sort();
    let expected = [
        ("ce_id", "A"),
        ("ce_source", "s"),
        ("ce_specversion", "1.0"),
        ("ce_type", "t"),
        ("content-type", "application/json"),
        ("x-other", "kept"),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(body, b"[1]");
}

#[test]
fn an_event_that_a_plugin_makes_says_which_one_caused_it() {
    let (folder, runtime) = (Folder::new(), runtime());
    let received = Received::default();
    let there = serve(&runtime, post(receive), Arc::clone(&received));
    let (running, url) = listening(
        &folder,
        "payments",
        &format!(
            "[[plugin]]\nwasm = {:?}\ngrants.random = true\n[[sink]]\ntype = \"http\"\nurl = {there:?}\n\
             codec = {{ type = \"cloudevents\", mode = \"binary\" }}\n",
            guest("payments")
        ),
    );
    let mut placed = events().remove(0);
    placed["data"] = json!({ "order": "7", "total_cents": 1250 });
    placed["attributes"]["datacontenttype"] = json!("application/json");
    let event = written("http", std::slice::from_ref(&placed)).remove(0);
    assert_eq!(post_event(&runtime, &url, &event), json!({ "outcome": "delivered" }));
    stop(running);
    let received = received.lock().expect("no panic").clone();
    let [requested] = &read("http", &received)[..] else { panic!("{received:?}") };
    assert_eq!(requested["data"], json!({ "order": "7", "cents": 1250 }));
    let attributes = &requested["attributes"];
    assert_eq!(attributes["type"], "payment.requested");
    assert_eq!(attributes["source"], "payments");
    assert_eq!(attributes["correlationid"], "P-1");
    assert_eq!(attributes["causationid"], placed["attributes"]["id"]);
    assert_eq!(attributes["traceparent"], placed["attributes"]["traceparent"]);
    assert_ne!(attributes["id"], placed["attributes"]["id"]);
}

fn letters(file: &Path) -> Vec<Value> {
    let (status, out, err) = run(&["dlq", "list", file.to_str().expect("UTF-8"), "--json"]);
    assert!(status.success(), "{err}");
    out.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}

#[test]
fn what_is_no_event_becomes_a_dead_letter_as_it_came() {
    let (folder, runtime) = (Folder::new(), runtime());
    let (running, url) = listening(&folder, "refusing", "[[sink]]\ntype = \"drop\"\n");
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for (headers, body, reason) in [
        (vec![header("content-type", "application/json")], "{}", "without a header `ce-specversion`"),
        (vec![header("ce-specversion", "1.0"), header("ce-id", "1")], "", "`source` is missing"),
        (vec![header("content-type", "application/cloudevents+json")], "{\"id\": 1}", "`id` is not a text"),
    ] {
        let answer = post_event(&runtime, &url, &Sent { headers: headers.clone(), body: body.into() });
        assert_eq!(answer["outcome"], "dead-lettered");
        assert!(answer["reason"].as_str().is_some_and(|text| text.contains(reason)), "{answer}");
        let letters = letters(&folder.path("refusing.toml"));
        let letter = letters.iter().find(|letter| letter["reason"] == answer["reason"]).expect("a letter");
        assert_eq!(letter["code"], "decode-error");
        let text = letter.to_string();
        assert!(headers.iter().all(|(name, _)| text.contains(name)), "{text}");
    }
    stop(running);
}

#[test]
fn binary_mode_is_for_sinks_with_headers() {
    let folder = Folder::new();
    let no_headers = Some("this codec writes headers");
    for (sink, problem) in [
        ("type = \"file\"\npath = \"out\"", no_headers),
        ("type = \"http\"\nurl = \"https://a.example\"\nmode = \"ndjson\"", no_headers),
        (
            "type = \"http\"\nurl = \"https://a.example\"\nheaders = { Content-Type = \"text/plain\" }",
            Some("the codec says \"Content-Type\" for each message"),
        ),
        ("type = \"http\"\nurl = \"https://a.example\"", None),
    ] {
        let codec = "codec = { type = \"cloudevents\", mode = \"binary\" }";
        let text = format!(
            "name = \"a\"\n[source]\ntype = \"stdin\"\ncodec = \"cloudevents\"\n[[sink]]\n{sink}\n{codec}\n"
        );
        let file = folder.write("a.toml", &text);
        let (status, out, err) = run(&["check", file.to_str().expect("UTF-8")]);
        assert_eq!(status.success(), problem.is_none(), "{sink}: {out}{err}");
        assert!(problem.is_none_or(|problem| (out.clone() + &err).contains(problem)), "{out}{err}");
    }
}
