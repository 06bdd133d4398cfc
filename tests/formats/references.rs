//! Schemas in files that refer to others, which a registry has.

use serde_json::{Value, json};

use super::registry::{Copy, require_backward};
use super::serializers;
use crate::services::kafka::unique;
use crate::services::registry::SchemaRegistry;
use crate::support::{http_client, run, runtime};

fn ask(registry: &SchemaRegistry, path: &str, body: Option<&Value>) -> Value {
    let url = format!("{}/{path}", registry.url());
    runtime().block_on(async {
        let request = match body {
            Some(body) => {
                http_client().post(url).header("content-type", "application/json").body(body.to_string())
            }
            None => http_client().get(url),
        };
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON")
    })
}

fn register(registry: &SchemaRegistry, subject: &str, kind: &str, schema: &str) {
    let body = json!({ "schemaType": kind, "schema": schema });
    ask(registry, &format!("subjects/{subject}/versions"), Some(&body));
}

#[test]
fn avro_of_several_files_is_registered_with_its_references() {
    let (registry, copy, address) = (SchemaRegistry::shared(), Copy::new(), unique("address"));
    let schema = json!({
        "type": "record", "name": "shop.Address", "fields": [{ "name": "city", "type": "string" }],
    });
    let order = json!({
        "type": "record", "name": "shop.Order",
        "fields": [{ "name": "id", "type": "string" }, { "name": "to", "type": "shop.Address" }],
    });
    copy.folder.write("address.avsc", &schema.to_string());
    copy.folder.write("order.avsc", &order.to_string());
    register(registry, &address, "AVRO", &schema.to_string());
    copy.put(&[br#"{"id":"a","to":{"city":"Delft"}}"#.to_vec()]);
    let (url, to) = (registry.url(), &copy.to);
    let sink = |reference: &str| {
        format!(
            "type = \"avro\"\nschema = \"order.avsc\"\nregister = true\ntopic = \"{to}\"\n\
             references = [{reference}]\nregistry = {{ url = \"{url}\" }}"
        )
    };
    let file = copy.write("type = \"raw\"", ".", &sink("\"address.avsc\""));
    let (status, out, err) = run(&["check", file.to_str().expect("UTF-8")]);
    assert!(!status.success() && (out + &err).contains("{ file = \"address.avsc\", subject = "), "{err}");

    let reference = format!("{{ file = \"address.avsc\", subject = \"{address}\", version = 1 }}");
    let file = copy.write("type = \"raw\"", ".", &sink(&reference));
    copy.run_until(&file, 1, 0);
    let registered = ask(registry, &format!("subjects/{to}-value/versions/latest"), None);
    assert_eq!(
        registered["references"],
        json!([{ "name": "shop.Address", "subject": address, "version": 1 }])
    );
    let expected = json!({ "id": "a", "to": { "city": "Delft" } });
    assert_eq!(serializers::read(registry, "avro", to, &copy.written()), [expected]);
    // Compared with the newest version, which refers to it too.
    require_backward(registry, &format!("{to}-value"));
    let check = || run(&["check", file.to_str().expect("UTF-8"), "--connect"]);
    let (status, out, err) = check();
    assert!(status.success(), "{out}{err}");
    let mut broken = order.clone();
    broken["fields"].as_array_mut().expect("a list").push(json!({ "name": "n", "type": "int" }));
    copy.folder.write("order.avsc", &broken.to_string());
    let (status, out, err) = check();
    assert!(!status.success() && out.contains("breaks: /n: "), "{out}{err}");
}

#[test]
fn a_file_of_protocol_buffers_is_registered_with_what_it_imports() {
    let (registry, copy, money) = (SchemaRegistry::shared(), Copy::new(), unique("money"));
    let schema = "syntax = \"proto3\"; package shop; message Money { int64 cents = 1; }";
    copy.folder.write("money.proto", schema);
    copy.folder.write(
        "order.proto",
        "syntax = \"proto3\"; package shop; import \"money.proto\";\n\
         message Other {}\nmessage Order { string id = 1; Money total = 2; }\n",
    );
    register(registry, &money, "PROTOBUF", schema);
    copy.put(&[br#"{"id":"a","total":{"cents":"1250"}}"#.to_vec()]);
    let (url, to) = (registry.url(), &copy.to);
    let sink = |message: &str, register: bool| {
        format!(
            "type = \"protobuf\"\nfiles = [\"order.proto\"]\nmessage = \"{message}\"\nregister = {register}\n\
             topic = \"{to}\"\nreferences = [{{ file = \"money.proto\", subject = \"{money}\", version = 1 }}]\n\
             registry = {{ url = \"{url}\" }}"
        )
    };
    let file = copy.write("type = \"raw\"", ".", &sink("shop.Money", true));
    let (status, out, err) = run(&["check", file.to_str().expect("UTF-8")]);
    assert!(!status.success() && (out + &err).contains("which order.proto imports"), "{err}");

    let file = copy.write("type = \"raw\"", ".", &sink("shop.Order", true));
    copy.run_until(&file, 1, 0);
    let registered = ask(registry, &format!("subjects/{to}-value/versions/latest"), None);
    assert_eq!(registered["references"], json!([{ "name": "money.proto", "subject": money, "version": 1 }]));
    require_backward(registry, &format!("{to}-value"));
    let (status, out, err) = run(&["check", file.to_str().expect("UTF-8"), "--connect"]);
    assert!(status.success(), "{out}{err}");

    // Looked up where it is, and read with what it imports.
    let again = Copy::new();
    again.put(&copy.written());
    for name in ["money.proto", "order.proto"] {
        std::fs::copy(copy.folder.path(name), again.folder.path(name)).expect("a copy");
    }
    let source = format!("type = \"protobuf\"\nregistry = {{ url = \"{url}\" }}");
    let file = again.write(&source, ".", &sink("shop.Order", false));
    again.run_until(&file, 1, 0);
    assert_eq!(again.written(), copy.written());
}
