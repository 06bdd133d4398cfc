use millstream_sdk::testing::{Harness, Outcome, Record, check_fixtures};
use serde_json::{Value, json};

use super::*;

fn mask(rules: Value) -> Harness {
    Harness::new::<Mask, _>(json!({ "rules": rules })).unwrap()
}

#[track_caller]
fn assert_masked(rules: Value, payload: &str, expected: &str) {
    let outcome = mask(rules).run_one(Record::text(payload));
    assert_eq!(outcome, Outcome::Emit(vec![Record::text(expected)]));
}

#[test]
fn the_rest_of_the_payload_stays_as_it_is() {
    assert_masked(
        json!([{ "pointers": ["/b/c", "/n"], "action": "redact" }]),
        "{ \"z\":1.50,\n \"b\": {\"c\" : \"secret\", \"a\":\"\\u00fc\"}, \"n\":12345678901234567890123 }",
        "{ \"z\":1.50,\n \"b\": {\"c\" : \"***\", \"a\":\"\\u00fc\"}, \"n\":\"***\" }",
    );
}

#[test]
fn redact_hides_a_value_of_any_type() {
    assert_masked(
        json!([{ "pointers": ["/*"], "action": "redact", "replacement": "\"gone\"" }]),
        r#"["a",1,true,null,{"a":1},[1]]"#,
        r#"["\"gone\"","\"gone\"","\"gone\"","\"gone\"","\"gone\"","\"gone\""]"#,
    );
}

#[test]
fn hash_is_sha256_of_the_text_or_an_hmac_with_the_salt() {
    // By `printf abc | sha256sum`, `printf 12.0 | sha256sum` and `openssl dgst -sha256 -hmac salt`.
    assert_masked(
        json!([{ "pointers": ["/a", "/n"], "action": "hash" }]),
        r#"{"a":"\u0061bc","n":12.0}"#,
        concat!(
            r#"{"a":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","#,
            r#""n":"77c52f3feed5acdd119b1f8449d5ccc2d39be94bd0314d5b7302f36e20b6cea9"}"#
        ),
    );
    assert_masked(
        json!([{ "pointers": ["/a"], "action": "hash", "salt": "salt" }]),
        r#"{"a":"abc"}"#,
        r#"{"a":"5031dfb5b067c1d64e70ad09acb9c5421c194ebb0ecff635f6eea656d1fc8e2c"}"#,
    );
}

#[test]
fn keep_last_counts_characters_and_never_shows_a_whole_value() {
    assert_masked(
        json!([{ "pointers": ["/*"], "action": "keep-last", "keep": 4 }]),
        r#"["4111111111111111","Müller","1234","12","",123456,true,null,{"a":"bcdef"},"a\"b\"cd"]"#,
        r#"["***1111","***ller","***","***","***","***3456","***","***","***","***b\"cd"]"#,
    );
    assert_masked(json!([{ "pointers": [""], "action": "keep-last", "keep": 0 }]), r#""abc""#, r#""***""#);
}

#[test]
fn a_star_reaches_into_lists_and_lists_of_lists() {
    assert_masked(
        json!([{ "pointers": ["/people/*/phones/*"], "action": "redact" }]),
        r#"{"people":[{"phones":["1","2"]},{"phones":[]},{"phones":["3"],"name":"a"},7]}"#,
        r#"{"people":[{"phones":["***","***"]},{"phones":[]},{"phones":["***"],"name":"a"},7]}"#,
    );
}

#[test]
fn of_two_rules_the_first_counts_and_an_outer_value_hides_those_within() {
    assert_masked(
        json!([
            { "pointers": ["/a/0"], "action": "redact", "replacement": "first" },
            { "pointers": ["/a/*"], "action": "redact", "replacement": "second" },
            { "pointers": ["/b/c", "/b", "/b/d"], "action": "redact", "replacement": "outer" },
        ]),
        r#"{"a":[1,2],"b":{"c":1,"d":2}}"#,
        r#"{"a":["first","second"],"b":"outer"}"#,
    );
}

#[test]
fn a_field_that_comes_twice_is_hidden_twice() {
    assert_masked(
        json!([{ "pointers": ["/a"], "action": "redact" }]),
        r#"{"a":1,"\u0061":2}"#,
        r#"{"a":"***","\u0061":"***"}"#,
    );
}

#[test]
fn headers_are_hidden_each_time_they_come() {
    let rules = json!([
        { "headers": ["Authorization"], "action": "redact" },
        { "headers": ["x-card"], "action": "keep-last", "keep": 2 },
    ]);
    let mut plugin = mask(rules);
    let message = Record::text("not json")
        .header("authorization", "Bearer a")
        .header("other", "1")
        .header("AUTHORIZATION", "Bearer b")
        .header("X-Card", "1234")
        .header("x-card", b"\xff\xfe\xfd".to_vec());
    let expected = Record::text("not json")
        .header("other", "1")
        .header("authorization", "***")
        .header("AUTHORIZATION", "***")
        .header("X-Card", "***34")
        .header("x-card", "***");
    assert_eq!(plugin.run_one(message), Outcome::Emit(vec![expected]));
    assert_eq!(plugin.run_one(Record::null().header("other", "1")), Outcome::Pass);
}

#[test]
fn what_holds_nothing_to_hide_passes() {
    let mut plugin = mask(json!([{ "pointers": ["/a"], "action": "redact" }]));
    assert_eq!(plugin.run_one(Record::text(r#"{"b":1}"#)), Outcome::Pass);
    assert_eq!(plugin.run_one(Record::null()), Outcome::Pass);
}

#[test]
fn what_is_not_json_is_rejected_and_never_passed_unmasked() {
    let mut plugin = mask(json!([{ "pointers": ["/a"], "action": "redact" }]));
    for payload in ["", "a=1", r#"{"a":1} {"a":2}"#, r#"{"a":1"#] {
        assert_eq!(plugin.run_one(Record::text(payload)).code(), Some("payload-not-json"), "{payload}");
    }
}

#[test]
fn a_bad_configuration_names_the_field() {
    let error = |rules: Value| match Harness::new::<Mask, _>(json!({ "rules": rules })) {
        Ok(_) => panic!("the configuration was taken"),
        Err(error) => error.field,
    };
    let rule = |more: Value| {
        let mut rule = json!({ "pointers": ["/a"] });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([{ "headers": ["h"], "action": "redact" }, rule])
    };
    assert_eq!(error(json!([])), "/rules");
    assert_eq!(error(json!([{ "action": "redact" }])), "/rules/0/pointers");
    assert_eq!(error(rule(json!({}))), "/rules/1/action");
    assert_eq!(error(rule(json!({ "action": "hide" }))), "/rules/1/action");
    assert_eq!(error(rule(json!({ "action": "keep-last" }))), "/rules/1/keep");
    assert_eq!(error(rule(json!({ "action": "redact", "keep": 1 }))), "/rules/1/keep");
    assert_eq!(error(rule(json!({ "action": "redact", "salt": "s" }))), "/rules/1/salt");
    assert_eq!(error(rule(json!({ "action": "hash", "replacement": "s" }))), "/rules/1/replacement");
    assert_eq!(error(rule(json!({ "action": "hash", "salt": "" }))), "/rules/1/salt");
    assert_eq!(error(rule(json!({ "action": "redact", "pointers": ["/a", "b"] }))), "/rules/1/pointers/1");
}

#[test]
fn the_example_does_what_the_fixtures_say() {
    let folder = env!("CARGO_MANIFEST_DIR");
    check_fixtures(folder, || Harness::of_example::<Mask, _>(folder, &[("MASK_SALT", "salt")]));
}
