use millstream_sdk::testing::{Harness, Outcome, Record, check_fixtures};
use serde_json::{Value, json};

use super::*;

/// Whether the condition holds for the message.
#[track_caller]
fn holds(condition: Value, record: Record) -> bool {
    let config = json!({ "rules": [{ "when": [condition], "routes": ["yes"] }] });
    let outcome = Harness::new::<Route, _>(config).unwrap().run_one(record.clone());
    match outcome {
        Outcome::Pass => false,
        outcome => {
            assert_eq!(outcome, Outcome::Emit(vec![record.route("yes")]));
            true
        }
    }
}

fn payload(json: &str) -> Record {
    Record::text(json).key("k").header("h", "1")
}

#[test]
fn equals_compares_values_not_texts() {
    let equals = |value: Value, json: &str| holds(json!({ "pointer": "/a", "equals": value }), payload(json));
    assert!(equals(json!("x"), r#"{"a":"x"}"#));
    assert!(equals(json!("x"), r#"{"a":"\u0078"}"#));
    assert!(!equals(json!("x"), r#"{"a":"xy"}"#));
    assert!(!equals(json!("1"), r#"{"a":1}"#));
    assert!(equals(json!(1), r#"{"a":1.0}"#));
    assert!(equals(json!(1.5), r#"{"a":15e-1}"#));
    assert!(equals(json!(-3), r#"{"a":-3}"#));
    assert!(!equals(json!(9007199254740993_i64), r#"{"a":9007199254740992}"#));
    assert!(equals(json!(true), r#"{"a":true}"#));
    assert!(!equals(json!(true), r#"{"a":"true"}"#));
    assert!(!equals(json!("x"), r#"{"b":"x"}"#));
    assert!(!equals(json!("x"), r#"{"a":["x"]}"#));
}

#[test]
fn in_is_any_of_several() {
    let condition = json!({ "pointer": "/a/b", "in": ["x", 2, false] });
    for value in ["\"x\"", "2", "false"] {
        assert!(holds(condition.clone(), payload(&format!("{{\"a\":{{\"b\":{value}}}}}"))), "{value}");
    }
    for value in ["\"y\"", "3", "true", "null", "{}"] {
        assert!(!holds(condition.clone(), payload(&format!("{{\"a\":{{\"b\":{value}}}}}"))), "{value}");
    }
}

#[test]
fn prefix_is_of_text_only() {
    let condition = json!({ "pointer": "/type", "prefix": "order." });
    assert!(holds(condition.clone(), payload(r#"{"type":"order.placed"}"#)));
    assert!(!holds(condition.clone(), payload(r#"{"type":"reorder.placed"}"#)));
    assert!(!holds(json!({ "pointer": "/type", "prefix": "1" }), payload(r#"{"type":12}"#)));
}

#[test]
fn exists_asks_for_a_field_whatever_its_value() {
    let exists = |exists: bool, record| holds(json!({ "pointer": "/a", "exists": exists }), record);
    assert!(exists(true, payload(r#"{"a":null}"#)));
    assert!(!exists(false, payload(r#"{"a":null}"#)));
    assert!(exists(false, payload(r#"{"b":1}"#)));
    assert!(!exists(true, payload(r#"{"b":1}"#)));
}

#[test]
fn a_star_holds_if_one_value_does() {
    let condition = json!({ "pointer": "/items/*/sku", "equals": "b" });
    assert!(holds(condition.clone(), payload(r#"{"items":[{"sku":"a"},{"sku":"b"}]}"#)));
    assert!(!holds(condition, payload(r#"{"items":[{"sku":"a"},{}]}"#)));
}

#[test]
fn what_is_not_json_has_no_fields() {
    for record in [Record::text("{\"a\":1"), Record::text(""), Record::null()] {
        assert!(!holds(json!({ "pointer": "/a", "exists": true }), record.clone()));
        assert!(!holds(json!({ "pointer": "/a", "equals": 1 }), record.clone()));
        assert!(holds(json!({ "pointer": "/a", "exists": false }), record));
    }
}

#[test]
fn headers_and_keys_are_compared_as_text() {
    let message = Record::null().key("eu-1").header("Type", "a").header("type", "b");
    for condition in [
        json!({ "header": "TYPE", "equals": "b" }),
        json!({ "header": "type", "in": ["x", "a"] }),
        json!({ "header": "type", "prefix": "" }),
        json!({ "header": "type", "exists": true }),
        json!({ "header": "other", "exists": false }),
        json!({ "key": true, "prefix": "eu-" }),
        json!({ "key": true, "equals": "eu-1" }),
    ] {
        assert!(holds(condition.clone(), message.clone()), "{condition}");
    }
    for condition in [
        json!({ "header": "type", "equals": "ab" }),
        json!({ "header": "other", "prefix": "" }),
        json!({ "key": true, "in": ["eu", "eu-10"] }),
        json!({ "key": true, "exists": false }),
    ] {
        assert!(!holds(condition.clone(), message.clone()), "{condition}");
    }
    assert!(!holds(json!({ "key": true, "exists": true }), Record::null()));
}

fn two_rules(more: Value) -> Vec<Outcome> {
    let mut config = json!({ "rules": [
        { "when": [{ "pointer": "/a", "exists": true }], "routes": ["a", "any"] },
        { "when": [{ "pointer": "/b", "exists": true }, { "key": true, "equals": "k" }], "routes": ["b", "any"] },
    ]});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut plugin = Harness::new::<Route, _>(config).unwrap();
    plugin.run(&[payload(r#"{"a":1,"b":1}"#), payload(r#"{"b":1}"#), Record::text(r#"{"b":1}"#)])
}

#[test]
fn a_message_gets_the_routes_of_all_rules_that_match() {
    let outcomes = two_rules(json!({}));
    let both = payload(r#"{"a":1,"b":1}"#).route("a").route("any").route("b");
    assert_eq!(outcomes[0], Outcome::Emit(vec![both]));
    assert_eq!(outcomes[1], Outcome::Emit(vec![payload(r#"{"b":1}"#).route("b").route("any")]));
    assert_eq!(outcomes[2], Outcome::Pass);
}

#[test]
fn with_match_first_the_first_rule_counts_and_a_default_takes_the_rest() {
    let outcomes = two_rules(json!({ "match": "first", "default": ["rest"] }));
    assert_eq!(outcomes[0], Outcome::Emit(vec![payload(r#"{"a":1,"b":1}"#).route("a").route("any")]));
    assert_eq!(outcomes[2], Outcome::Emit(vec![Record::text(r#"{"b":1}"#).route("rest")]));
}

#[test]
fn a_bad_configuration_names_the_field() {
    let error = |config: Value| match Harness::new::<Route, _>(config) {
        Ok(_) => panic!("the configuration was taken"),
        Err(error) => error.field,
    };
    let condition = |condition: Value| {
        let fine = json!({ "key": true, "exists": true });
        error(json!({ "rules": [{ "when": [fine, condition], "routes": ["r"] }] }))
    };
    assert_eq!(error(json!({ "rules": [] })), "/rules");
    assert_eq!(error(json!({ "rules": [{ "when": [], "routes": ["r"] }] })), "/rules/0/when");
    let when = json!([{ "key": true, "exists": true }]);
    assert_eq!(error(json!({ "rules": [{ "when": when, "routes": [] }] })), "/rules/0/routes");
    assert_eq!(error(json!({ "rules": [{ "when": when, "routes": ["a", ""] }] })), "/rules/0/routes/1");
    assert_eq!(error(json!({ "rules": [{ "when": when, "routes": ["a"] }], "default": [""] })), "/default/0");
    assert_eq!(condition(json!({ "equals": 1 })), "/rules/0/when/1");
    assert_eq!(condition(json!({ "pointer": "/a", "key": true, "equals": 1 })), "/rules/0/when/1");
    assert_eq!(condition(json!({ "pointer": "/a" })), "/rules/0/when/1");
    assert_eq!(condition(json!({ "pointer": "/a", "equals": 1, "exists": true })), "/rules/0/when/1");
    assert_eq!(condition(json!({ "pointer": "a", "equals": 1 })), "/rules/0/when/1/pointer");
    assert_eq!(condition(json!({ "pointer": "/a", "equals": [1] })), "/rules/0/when/1/equals");
    assert_eq!(condition(json!({ "header": "a", "in": ["a", 1] })), "/rules/0/when/1/in");
    assert_eq!(condition(json!({ "key": true, "matches": ".*" })), "/rules/0/when/1/matches");
}

#[test]
fn the_example_does_what_the_fixtures_say() {
    let folder = env!("CARGO_MANIFEST_DIR");
    check_fixtures(folder, || Harness::of_example::<Route, _>(folder, &[]));
}
