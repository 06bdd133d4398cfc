use millstream_sdk::testing::{Harness, Outcome, Record, check_fixtures};
use serde_json::{Value, json};

use super::*;

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

fn enrich(config: Value) -> Harness {
    let mut all =
        json!({ "table": "customers", "key": { "pointer": "/customer/id" }, "target": "/customer" });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    with_table(Harness::new::<Enrich, _>(all).unwrap())
}

fn with_table(harness: Harness) -> Harness {
    harness.table(
        "customers",
        [
            ("c-1", json!({ "id": "c-1", "name": "Ada", "tier": "gold" })),
            ("7", json!({ "id": "7", "name": "Bob", "tier": null })),
        ],
    )
}

fn error(config: Value) -> ConfigError {
    let mut all = json!({ "table": "t", "key": { "key": true }, "target": "/a" });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    match Harness::new::<Enrich, _>(all) {
        Ok(_) => panic!("the configuration was taken"),
        Err(error) => error,
    }
}

fn payload(outcome: Outcome) -> String {
    match outcome {
        Outcome::Emit(mut records) => String::from_utf8(records.remove(0).payload.unwrap()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_row_is_put_where_it_belongs() {
    let text = r#"{"total": 12.50, "customer": {"id": "c-1"}, "n": 12345678901234567890123}"#;
    assert_eq!(
        payload(enrich(json!({})).run_one(Record::text(text))),
        r#"{"total": 12.50, "customer": {"id":"c-1","name":"Ada","tier":"gold"}, "n": 12345678901234567890123}"#
    );
    assert_eq!(
        payload(enrich(json!({ "target": "/customer/row/it" })).run_one(Record::text(text))),
        r#"{"total": 12.50, "customer": {"id": "c-1","row":{"it":{"id":"c-1","name":"Ada","tier":"gold"}}}, "n": 12345678901234567890123}"#
    );
}

#[test]
fn the_key_is_found_in_the_payload_a_header_or_the_message() {
    let by = |key: Value, message: Record| {
        let mut plugin = enrich(json!({ "key": key, "target": "/c", "fields": ["name"] }));
        payload(plugin.run_one(message))
    };
    let ada = r#"{"c":{"name":"Ada"}}"#;
    assert_eq!(by(json!({ "header": "X-Customer" }), Record::text("{}").header("x-customer", "c-1")), ada);
    assert_eq!(by(json!({ "key": true }), Record::text("{}").key("c-1")), ada);
    assert_eq!(
        by(json!({ "pointer": "/id" }), Record::text(r#"{"id":"\u0063-1"}"#)),
        r#"{"id":"\u0063-1","c":{"name":"Ada"}}"#
    );
    assert_eq!(
        by(json!({ "pointer": "/id" }), Record::text(r#"{"id":7}"#)),
        r#"{"id":7,"c":{"name":"Bob"}}"#
    );
}

#[test]
fn fields_are_taken_in_their_order() {
    let taken = |fields: Value| {
        let mut plugin = enrich(json!({ "key": { "key": true }, "target": "/c", "fields": fields }));
        payload(plugin.run_one(Record::text("{}").key("7")))
    };
    assert_eq!(taken(json!(["tier", "name"])), r#"{"c":{"tier":null,"name":"Bob"}}"#);
    assert_eq!(taken(json!(["no such", "name"])), r#"{"c":{"name":"Bob"}}"#);
    assert_eq!(taken(json!(["no such"])), r#"{"c":{}}"#);
}

#[test]
fn what_is_missing_passes_is_rejected_or_dropped() {
    let without_key = Record::json(json!({ "customer": { "id": null } }));
    let without_row = Record::json(json!({ "customer": { "id": "c-9" } }));
    let run = |on_missing: &str, message: &Record| {
        enrich(json!({ "on_missing": on_missing })).run_one(message.clone())
    };
    for message in [&without_key, &without_row] {
        assert_eq!(run("pass", message), Outcome::Pass);
        assert_eq!(run("drop", message), Outcome::Drop);
        assert_eq!(run("reject", message).code(), Some("enrich-missing"));
    }
    let Outcome::Reject { text, .. } = run("reject", &without_row) else { panic!() };
    assert_eq!(text, "table `customers` has no row with its key");
}

#[test]
fn a_null_payload_can_take_no_row() {
    let run = |on_missing: &str| {
        let mut plugin = enrich(json!({ "key": { "key": true }, "on_missing": on_missing }));
        plugin.run_one(Record::null().key("c-1"))
    };
    assert_eq!(run("pass"), Outcome::Pass);
    assert_eq!(run("drop"), Outcome::Drop);
    let Outcome::Reject { code, text, .. } = run("reject") else { panic!() };
    assert_eq!(code, "enrich-missing");
    assert_eq!(text, "a null payload can take no row of table `customers`");
}

#[test]
fn what_is_not_json_is_rejected_wherever_the_key_is() {
    for key in [json!({ "key": true }), json!({ "header": "h" }), json!({ "pointer": "/id" })] {
        for on_missing in ["pass", "reject", "drop"] {
            let mut plugin = enrich(json!({ "key": key, "on_missing": on_missing }));
            // Without a key, with one that has no row, and with one that has.
            for message in [
                Record::text("{"),
                Record::text("{}x").key("c-9").header("h", "c-9"),
                Record::text("").key("7"),
            ] {
                let outcome = plugin.run_one(message);
                assert_eq!(outcome.code(), Some("payload-not-json"), "{key} {on_missing}: {outcome:?}");
            }
        }
    }
}

#[test]
fn each_message_of_a_batch_has_its_own_row() {
    let id = |id: Value| Record::json(json!({ "customer": { "id": id } }));
    let batch = [id(json!("c-1")), Record::text("{"), Record::null(), id(json!("c-9")), id(json!(7))];
    let outcomes = enrich(json!({ "fields": ["name"] })).run(&batch);
    assert_eq!(outcomes[0], Outcome::Emit(vec![Record::json(json!({ "customer": { "name": "Ada" } }))]));
    assert_eq!(outcomes[1].code(), Some("payload-not-json"));
    assert_eq!(outcomes[2], Outcome::Pass);
    assert_eq!(outcomes[3], Outcome::Pass);
    assert_eq!(outcomes[4], Outcome::Emit(vec![Record::json(json!({ "customer": { "name": "Bob" } }))]));
}

#[test]
fn a_table_that_is_not_granted_rejects() {
    let mut plugin = enrich(json!({ "table": "others" }));
    let outcomes = plugin.run(&[Record::json(json!({ "customer": { "id": "c-1" } })), Record::text("{")]);
    assert_eq!(outcomes[0].code(), Some("not-granted"));
    assert_eq!(outcomes[1].code(), Some("payload-not-json"));
}

#[test]
fn a_payload_that_cannot_take_the_row_is_rejected() {
    let mut plugin = enrich(json!({ "key": { "key": true }, "target": "/a/b" }));
    assert_eq!(plugin.run_one(Record::text(r#"{"a":1}"#).key("7")).code(), Some("enrich-target"));
    assert_eq!(plugin.run_one(Record::text("text").key("7")).code(), Some("payload-not-json"));
}

#[test]
fn mistakes_of_the_configuration_name_their_field() {
    assert_eq!(error(json!({ "table": "" })).field, "/table");
    assert_eq!(error(json!({ "target": "" })).field, "/target");
    assert_eq!(error(json!({ "target": "/a/*" })).field, "/target");
    assert_eq!(error(json!({ "key": { "key": false } })).field, "/key/key");
    assert_eq!(error(json!({ "key": { "header": "" } })).field, "/key/header");
    assert_eq!(error(json!({ "key": { "pointer": "id" } })).field, "/key/pointer");
    assert_eq!(error(json!({ "key": { "pointer": "/ids/*" } })).field, "/key/pointer");
    assert_eq!(error(json!({ "key": { "column": "id" } })).field, "/key");
    assert_eq!(error(json!({ "fields": [] })).field, "/fields");
    assert_eq!(error(json!({ "fields": ["id", "name", "id"] })).field, "/fields/2");
    assert_eq!(error(json!({ "on_miss": "drop" })).field, "/on_miss");
}

#[test]
fn the_fixtures_hold() {
    check_fixtures(FOLDER, || with_table(Harness::of_example::<Enrich, _>(FOLDER, &[])));
}
