use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Secret, parse};

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "read by Debug")]
struct Loose {
    #[serde(default)]
    rules: Vec<Rule>,
    limit: Option<u8>,
    secret: Option<Secret>,
    secrets: Option<Vec<Secret>>,
    mode: Option<Mode>,
    #[serde(default)]
    tables: BTreeMap<String, Rule>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "read by Debug")]
#[serde(deny_unknown_fields)]
struct Rule {
    pointer: String,
    pair: Option<(u8, u8)>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Redact,
    KeepLast(u32),
    Hash { salt: Option<Secret> },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by Debug")]
enum OneOrMany {
    One(Secret),
    Many(Vec<Secret>),
}

fn error<T: serde::de::DeserializeOwned + std::fmt::Debug>(json: &str) -> (String, String) {
    let error = parse::<T>(json).unwrap_err();
    (error.field, error.message)
}

#[track_caller]
fn assert_error(json: &str, field: &str, message: &str) {
    let (got_field, got_message) = error::<Loose>(json);
    assert_eq!((got_field.as_str(), got_message.as_str()), (field, message));
}

#[test]
fn a_mistake_is_named_with_its_place() {
    assert_error("{", "", "not json, at line 1 column 1");
    assert_error("[]", "", "expected a table, got a list");
    assert_error(r#"{"limit": "hunter2"}"#, "/limit", "expected u8, got a string");
    assert_error(r#"{"limit": 300}"#, "/limit", "this value cannot be: expected u8");
    assert_error(r#"{"rules": [{"pointer": "/a"}, {}]}"#, "/rules/1/pointer", "this field is missing");
    assert_error(
        r#"{"rules": [{"pointer": "/a", "pointr": "/b"}]}"#,
        "/rules/0/pointr",
        "unknown field, expected `pointer` or `pair`",
    );
    assert_error(
        r#"{"tables": {"a/b~c": {"pointer": 1}}}"#,
        "/tables/a~1b~0c/pointer",
        "expected a string, got an integer",
    );
    assert_error(
        r#"{"rules": [{"pointer": "", "pair": [1, 2, 3]}]}"#,
        "/rules/0/pair",
        "the list has 1 elements too many",
    );
}

#[test]
fn an_unknown_field_is_an_error_without_deny_unknown_fields_too() {
    assert_error(r#"{"limt": {"x": ["y"]}}"#, "/limt", "unknown field");
}

#[test]
fn enums_are_read_by_name_and_by_content() {
    let mode = |json: &str| parse::<Loose>(json).unwrap().mode.unwrap();
    assert!(matches!(mode(r#"{"mode": "redact"}"#), Mode::Redact));
    assert!(matches!(mode(r#"{"mode": {"keep-last": 4}}"#), Mode::KeepLast(4)));
    assert!(matches!(mode(r#"{"mode": {"hash": {"salt": "x"}}}"#), Mode::Hash { salt: Some(_) }));
    assert_error(
        r#"{"mode": "hunter2"}"#,
        "/mode",
        "unknown value, expected `redact`, `keep-last` or `hash`",
    );
    assert_error(r#"{"mode": 1}"#, "/mode", "expected `redact`, `keep-last` or `hash`");
    assert_error(r#"{"mode": {"keep-last": "x"}}"#, "/mode/keep-last", "expected u32, got a string");
    assert_error(r#"{"mode": {"hash": {"slt": "x"}}}"#, "/mode/hash/slt", "unknown field");
}

#[test]
fn no_error_holds_a_value() {
    let wrong = [
        r#"{"secret": 8675309}"#,
        r#"{"secret": ["8675309"]}"#,
        r#"{"secrets": "8675309"}"#,
        r#"{"secrets": [8675309]}"#,
        r#"{"limit": "8675309"}"#,
        r#"{"limit": 8675309}"#,
        r#"{"mode": "8675309"}"#,
        r#"{"rules": "8675309"}"#,
        r#"{"mode": {"hash": {"salt": 8675309}}}"#,
        "8675309",
        "\"8675309",
    ];
    for json in wrong {
        let (field, message) = error::<Loose>(json);
        assert!(!message.contains("8675309"), "{field}: {message}");
    }
    for json in ["8675309", r#"{"a": "8675309"}"#, "[8675309]"] {
        let (_, message) = error::<OneOrMany>(json);
        assert!(!message.contains("8675309"), "{message}");
    }
}

#[test]
fn a_secret_is_not_shown() {
    let config: Loose = parse(r#"{"secret": "hunter2", "secrets": ["a"]}"#).unwrap();
    assert_eq!(config.secret.as_ref().unwrap().expose(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn no_configuration_is_an_empty_one() {
    assert!(parse::<Loose>("null").is_ok());
    let (field, message) = error::<super::NoConfig>(r#"{"a": 1}"#);
    assert_eq!((field.as_str(), message.as_str()), ("/a", "unknown field; there are none"));
}
