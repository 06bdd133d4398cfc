//! What is no message of a registry, and registries that are not there.

use serde_json::json;

use super::registry::{Copy, require_backward};
use super::serializers;
use crate::services::kafka::unique;
use crate::services::registry::SchemaRegistry;
use crate::support::{Running, ask, run};

fn schema(name: &str) -> serde_json::Value {
    json!({ "type": "record", "name": name, "fields": [{ "name": "n", "type": "long" }] })
}

fn source(registry: &SchemaRegistry) -> String {
    format!("type = \"avro\"\nregistry = {{ url = \"{}\", timeout = \"1s\" }}", registry.url())
}

#[test]
fn what_cannot_be_read_becomes_a_dead_letter_as_it_was() {
    let (registry, copy) = (SchemaRegistry::shared(), Copy::new());
    let good = serializers::write(registry, "avro", &unique("good"), &schema("N"), &[json!({ "n": 7 })]);
    let mut unknown = good[0].clone();
    unknown[1..5].copy_from_slice(&0x7fff_fff0_u32.to_be_bytes());
    let truncated = good[0][..5].to_vec();
    let longer = [&good[0][..], b"x"].concat();
    copy.put(&[good[0].clone(), b"{}".to_vec(), unknown.clone(), truncated, longer, good[0].clone()]);
    let file = copy.write(&source(registry), ".", "type = \"raw\"");
    copy.run_until(&file, 2, 4);
    assert_eq!(copy.written(), [br#"{"n":7}"#, br#"{"n":7}"#]);
    let letters = copy.letters();
    let reason_of = |what: &str| {
        let found =
            letters.iter().find(|letter| letter["reason"].as_str().is_some_and(|why| why.contains(what)));
        found.unwrap_or_else(|| panic!("{what} in {letters:#?}"))
    };
    assert_eq!(reason_of("magic byte")["payload"], "{}");
    let payload = reason_of("its schema 2147483632 is not there")["payload_base64"].as_str().expect("bytes");
    use base64::Engine;
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(payload).expect("base64"), unknown);
    reason_of("bytes are wanted, and 0 are left");
    reason_of("1 bytes behind the value");
    assert!(
        letters.iter().all(|letter| letter["stage"] == "source:codec" && letter["code"] == "decode-error"),
        "{letters:#?}"
    );
}

#[test]
fn messages_wait_for_a_registry_that_is_away_and_those_of_known_schemas_go_on() {
    let (registry, copy) = (SchemaRegistry::start(), Copy::new());
    let write = |registry: &SchemaRegistry, name: &str, n: u64| {
        serializers::write(registry, "avro", &unique(name), &schema(name), &[json!({ "n": n })])
    };
    let (first, second) = (write(&registry, "First", 1), write(&registry, "Second", 2));
    let file = copy.write(&source(&registry), ".", "type = \"raw\"");

    // Away at the start.
    registry.pause();
    copy.put(&first);
    let mut running = Running::start(&copy.folder, &file);
    let admin = running.address("admin server listening");
    running.wait_for("it says what it waits for", |_| {
        ask(&admin, "/readyz")
            .is_some_and(|(status, text)| status == 503 && text.contains("codec of the source"))
    });
    assert_eq!(copy.kafka.count(&copy.to), 0);
    registry.resume();
    running.wait_for("the first message", |_| copy.kafka.count(&copy.to) == 1);
    running.wait_for("it is ready", |_| ask(&admin, "/readyz").is_some_and(|(status, _)| status == 200));

    // In the middle: what is known needs nobody, what is not waits and is not lost.
    registry.pause();
    copy.put(&first);
    running.wait_for("the same schema again", |_| copy.kafka.count(&copy.to) == 2);
    copy.put(&second);
    running.wait_for("it says what it waits for", |_| {
        ask(&admin, "/readyz")
            .is_some_and(|(status, text)| status == 503 && text.contains("codec of the source"))
    });
    assert_eq!(copy.kafka.count(&copy.to), 2);
    registry.resume();
    running.wait_for("the other schema", |_| copy.kafka.count(&copy.to) == 3);
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    assert_eq!(copy.written(), [br#"{"n":1}"#, br#"{"n":1}"#, br#"{"n":2}"#]);
    assert!(copy.letters().is_empty());
}

#[test]
fn a_sink_waits_until_its_schema_is_registered() {
    let (registry, copy) = (SchemaRegistry::shared(), Copy::new());
    copy.put(&serializers::write(registry, "avro", &unique("in"), &schema("N"), &[json!({ "n": 7 })]));
    copy.folder.write("out.avsc", &schema("N").to_string());
    let (url, to) = (registry.url(), &copy.to);
    let sink =
        format!("type = \"avro\"\nschema = \"out.avsc\"\ntopic = \"{to}\"\nregistry = {{ url = \"{url}\" }}");
    let file = copy.write(&source(registry), ".", &sink);
    let mut running = Running::start(&copy.folder, &file);
    let admin = running.address("admin server listening");
    running.wait_for("it says what to do", |_| {
        ask(&admin, "/readyz")
            .is_some_and(|(status, text)| status == 503 && text.contains("`register = true` registers it"))
    });
    // Their serializer does.
    serializers::write(registry, "avro", to, &schema("N"), &[json!({ "n": 1 })]);
    running.wait_for("the message", |_| copy.kafka.count(to) == 1);
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    assert_eq!(serializers::read(registry, "avro", to, &copy.written()), [json!({ "n": 7 })]);
}

#[test]
fn check_says_what_the_registry_would_not_take_and_why() {
    let (registry, copy) = (SchemaRegistry::shared(), Copy::new());
    let to = &copy.to;
    serializers::write(registry, "avro", to, &schema("N"), &[json!({ "n": 1 })]);
    require_backward(registry, &format!("{to}-value"));
    let check = |fields: serde_json::Value| {
        let schema = json!({ "type": "record", "name": "N", "fields": fields });
        copy.folder.write("out.avsc", &schema.to_string());
        let url = registry.url();
        let sink = format!(
            "type = \"avro\"\nschema = \"out.avsc\"\ntopic = \"{to}\"\nregistry = {{ url = \"{url}\" }}"
        );
        let file = copy.write(&source(registry), ".", &sink);
        let (status, out, err) = run(&["check", file.to_str().expect("UTF-8"), "--connect"]);
        (status.success(), out, err)
    };
    let n = json!({ "name": "n", "type": "long" });
    let (taken, out, err) = check(json!([n, { "name": "more", "type": "int", "default": 0 }]));
    assert!(taken && !out.contains("sink kafka:"), "{out}{err}");
    let (taken, out, _) = check(json!([n, { "name": "more", "type": "int" }]));
    assert!(!taken && out.contains("breaks: /more: ") && out.contains("new reads old"), "{out}");
}
