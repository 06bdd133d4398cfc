//! From Confluent's serializers through a pipeline to Confluent's deserializers.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::serializers;
use crate::services::kafka::{Kafka, Record, unique};
use crate::services::registry::SchemaRegistry;
use crate::support::{Folder, http_client, run, runtime};

/// A pipeline from a topic to another, each with a codec.
pub struct Copy {
    pub kafka: &'static Kafka,
    pub folder: Folder,
    pub from: String,
    pub to: String,
    group: String,
}

impl Copy {
    pub fn new() -> Copy {
        let kafka = Kafka::shared();
        let (from, to) = (kafka.topic("typed", 1), kafka.topic("typed-out", 1));
        Copy { kafka, folder: Folder::new(), from, to, group: unique("typed") }
    }

    pub fn put(&self, messages: &[Vec<u8>]) {
        let record = |message: &Vec<u8>| Record {
            key: Some(b"k".to_vec()),
            value: Some(message.clone()),
            ..Record::default()
        };
        self.kafka.produce(&self.from, messages.iter().map(record));
    }

    /// Its file; `jq` is what happens to each message.
    pub fn write(&self, source: &str, jq: &str, sink: &str) -> PathBuf {
        let Copy { kafka, folder, from, to, group } = self;
        let brokers = kafka.brokers_toml();
        folder.write(
            "copy.toml",
            &format!(
                "name = \"typed\"\n\
                 [retry]\nbase_delay = \"20ms\"\nmax_delay = \"200ms\"\n\
                 [source]\ntype = \"kafka\"\n{brokers}\ntopics = [\"{from}\"]\ngroup = \"{group}\"\n\
                 [source.codec]\n{source}\n\
                 [[plugin]]\nuse = \"jq\"\nconfig = {{ program = '{jq}' }}\n\
                 [[sink]]\ntype = \"kafka\"\n{brokers}\ntopic = \"{to}\"\n\
                 [sink.codec]\n{sink}\n"
            ),
        )
    }

    /// The values in the topic it writes to.
    pub fn written(&self) -> Vec<Vec<u8>> {
        self.kafka.consume(&self.to).into_iter().map(|record| record.value.expect("a value")).collect()
    }

    /// Its dead letters.
    pub fn letters(&self) -> Vec<Value> {
        let file = self.folder.path("copy.toml");
        let (status, out, err) = run(&["dlq", "list", file.to_str().expect("UTF-8"), "--json"]);
        assert!(status.success(), "{err}");
        out.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
    }

    /// Runs until so many messages are written or dead.
    pub fn run_until(&self, file: &std::path::Path, written: i64, dead: usize) {
        let mut running = crate::support::Running::start(&self.folder, file);
        let admin = running.address("admin server listening");
        running.wait_for(&format!("{written} messages and {dead} dead letters"), |_| {
            let page = crate::support::look(&admin).unwrap_or_default();
            let letters =
                crate::support::metric(&page, "millstream_messages", &["account=\"dead_lettered\""])
                    .unwrap_or(0);
            assert!(letters <= dead as u64, "{:#?}", self.letters());
            self.kafka.count(&self.to) >= written && letters >= dead as u64
        });
        running.terminate();
        assert!(running.end().success(), "{}", running.log());
    }
}

/// From now on the newest version of a subject has to read what the one before wrote.
pub fn require_backward(registry: &SchemaRegistry, subject: &str) {
    let url = format!("{}/config/{subject}", registry.url());
    runtime().block_on(async {
        let request = http_client().put(url).header("content-type", "application/json");
        let answer = request.body(r#"{"compatibility":"BACKWARD"}"#).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{answer:?}");
    });
}

fn order(more: &Value) -> Value {
    let mut fields = vec![
        json!({ "name": "id", "type": "string" }),
        json!({ "name": "amount", "type": { "type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2 } }),
    ];
    fields.extend(more.as_array().expect("fields").iter().cloned());
    json!({ "type": "record", "name": "Order", "namespace": "shop", "fields": fields })
}

#[test]
fn avro_of_old_and_new_schemas_is_read_into_one_and_written_for_their_deserializer() {
    let (registry, copy) = (SchemaRegistry::shared(), Copy::new());
    // The amounts are bytes of a decimal, which their serializer takes as a text in neither way.
    let plain = |more| {
        let mut schema = order(&more);
        schema["fields"][1]["type"] = json!("long");
        schema
    };
    let old = plain(json!([{ "name": "old_note", "type": "string" }]));
    let new = plain(
        json!([{ "name": "note", "type": "string" }, { "name": "more", "type": ["null", "int"], "default": null }]),
    );
    let mut messages = serializers::write(
        registry,
        "avro",
        &unique("old"),
        &old,
        &[json!({ "id": "a", "amount": 1, "old_note": "x" })],
    );
    messages.extend(serializers::write(
        registry,
        "avro",
        &unique("new"),
        &new,
        &[json!({ "id": "b", "amount": 9_007_199_254_740_993_i64, "note": "y", "more": 5 })],
    ));
    copy.put(&messages);

    let reader = plain(json!([
        { "name": "note", "type": "string", "aliases": ["old_note"] },
        { "name": "since", "type": "int", "default": 2026 },
    ]));
    copy.folder.write("reader.avsc", &reader.to_string());
    copy.folder.write("out.avsc", &reader.to_string());
    let (url, to) = (registry.url(), &copy.to);
    let file = copy.write(
        &format!("type = \"avro\"\nreader_schema = \"reader.avsc\"\nregistry = {{ url = \"{url}\" }}"),
        ".note += \"!\"",
        &format!(
            "type = \"avro\"\nschema = \"out.avsc\"\nregister = true\ntopic = \"{to}\"\nregistry = {{ url = \"{url}\" }}"
        ),
    );
    copy.run_until(&file, 2, 0);
    assert_eq!(
        serializers::read(registry, "avro", to, &copy.written()),
        [
            json!({ "id": "a", "amount": 1, "note": "x!", "since": 2026 }),
            json!({ "id": "b", "amount": 9_007_199_254_740_993_i64, "note": "y!", "since": 2026 }),
        ]
    );
}

#[test]
fn protobuf_says_which_message_of_its_file_it_is() {
    let (registry, copy) = (SchemaRegistry::shared(), Copy::new());
    let value = json!({ "id": "a", "amount": "9007199254740993", "notes": { "-3": "x" } });
    // Registers the schema for the topic that is written to, too.
    serializers::write(registry, "protobuf", &copy.to, &json!(null), std::slice::from_ref(&value));
    copy.put(&serializers::write(registry, "protobuf", &copy.from, &json!(null), &[value]));
    let (url, to) = (registry.url(), &copy.to);
    let file = copy.write(
        &format!("type = \"protobuf\"\nregistry = {{ url = \"{url}\" }}"),
        ".id += \"!\"",
        &format!("type = \"protobuf\"\nmessage = \"shop.Order\"\ntopic = \"{to}\"\nregistry = {{ url = \"{url}\" }}"),
    );
    copy.run_until(&file, 1, 0);
    assert_eq!(
        serializers::read(registry, "protobuf", to, &copy.written()),
        [json!({ "id": "a!", "amount": "9007199254740993", "notes": { "-3": "x" } })]
    );
}

#[test]
fn json_is_checked_by_its_schema_in_both_directions() {
    let (registry, copy) = (SchemaRegistry::shared(), Copy::new());
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#", "title": "Order", "type": "object",
        "properties": { "id": { "type": "string" }, "n": { "type": "integer", "minimum": 0 } }, "required": ["id"],
    });
    let values = [json!({ "id": "a", "n": 1 }), json!({ "id": 7, "n": -1 }), json!({ "id": "b", "n": 2 })];
    copy.put(&serializers::write(registry, "json", &copy.from, &schema, &values));
    serializers::write(registry, "json", &copy.to, &schema, &[json!({ "id": "a" })]);
    let (url, to) = (registry.url(), &copy.to);
    let file = copy.write(
        &format!("type = \"json\"\nregistry = {{ url = \"{url}\" }}"),
        // Of the second one that is read, something that does not fit is made.
        "if .n == 2 then .id = 5 else . end",
        &format!("type = \"json\"\ntopic = \"{to}\"\nregistry = {{ url = \"{url}\" }}"),
    );
    copy.run_until(&file, 1, 2);
    assert_eq!(serializers::read(registry, "json", to, &copy.written()), [json!({ "id": "a", "n": 1 })]);
    let letters = copy.letters();
    let reasons: Vec<&str> =
        letters.iter().map(|letter| letter["reason"].as_str().expect("a reason")).collect();
    let at = |what: &str| reasons.iter().any(|reason| reason.contains(what));
    assert!(
        at("/id: 7 is not of type \"string\"") || at("/id: value is not of type \"string\""),
        "{reasons:?}"
    );
    assert!(at("/n: "), "{reasons:?}");
    let codes: Vec<&str> = letters.iter().map(|letter| letter["code"].as_str().expect("a code")).collect();
    assert!(codes.contains(&"decode-error") && codes.contains(&"encode-error"), "{codes:?}");
}
