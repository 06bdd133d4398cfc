use serde_json::{Value, json};

use super::*;

fn config(value: Value) -> Config {
    serde_json::from_value(value).unwrap()
}

fn verdict(check: &Check, payload: &Value) -> Option<String> {
    check.check(Some(payload.to_string().as_bytes())).err().map(|refusal| refusal.reason)
}

#[test]
fn a_payload_that_is_no_json_has_a_code_of_its_own() {
    let check = Check::new(Config::of(json!({}))).unwrap();
    let code = |payload: Option<&[u8]>| check.check(payload).unwrap_err().code;
    assert_eq!(code(None), "payload-null");
    for broken in [&b""[..], b"{", b"\xff", b"{} x", b"nan"] {
        assert_eq!(code(Some(broken)), "payload-not-json", "{broken:?}");
    }
    let deep = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
    assert_eq!(code(Some(&deep(129))), "payload-not-json");
    assert_eq!(check.check(Some(&deep(100))), Ok(()));
}

#[test]
fn formats_are_checked_unless_told_otherwise() {
    for (format, good, bad) in [
        ("uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08aa9811eab4aa73b441d16380"),
        ("date-time", "2024-02-29T00:00:00Z", "2023-02-29T00:00:00Z"),
        ("email", "joe@example.com", "joe"),
        ("no-such-format", "x", ""),
    ] {
        let check = Check::new(config(json!({ "schema": { "format": format } }))).unwrap();
        assert_eq!(verdict(&check, &json!(good)), None, "{format}");
        let is_known = format != "no-such-format";
        assert_eq!(verdict(&check, &json!(bad)).is_some(), is_known, "{format}");
        let lax = Check::new(config(json!({ "schema": { "format": format }, "formats": false }))).unwrap();
        assert_eq!(verdict(&lax, &json!(bad)), None, "{format}");
    }
}

#[test]
fn references_are_those_that_were_given() {
    let given = json!({
        "schema": {
            "$id": "https://example.com/order.json",
            "oneOf": [
                { "properties": { "to": { "$ref": "address.json#/$defs/address" } }, "required": ["to"] },
                { "type": "null" },
            ],
        },
        "references": {
            "https://example.com/address.json#":
                "{\"$defs\": {\"address\": {\"required\": [\"city\"], \"properties\": {\"code\": {\"$ref\": \"urn:code\"}}}}}",
            "urn:code": { "pattern": "^[0-9]+$" },
        },
    });
    let check = Check::new(config(given.clone())).unwrap();
    assert_eq!(verdict(&check, &json!({ "to": { "city": "Bonn", "code": "53111" } })), None);
    let broken = verdict(&check, &json!({ "to": { "code": "x" } })).unwrap();
    assert!(broken.contains("/to: \"city\" is a required property"), "{broken}");
    assert!(broken.contains("/to/code: value does not match"), "{broken}");

    let mut without = given;
    without["references"].as_object_mut().unwrap().remove("urn:code");
    let Err(mistake) = Check::new(config(without.clone())) else { panic!("it was fetched") };
    assert_eq!(mistake.field, "/schema");
    assert!(mistake.message.contains("urn:code") && mistake.message.contains("`references`"), "{mistake:?}");

    without["references"]["https://a/b~c"] = json!("{");
    let Err(mistake) = Check::new(config(without)) else { panic!("it is no JSON") };
    assert_eq!(mistake.field, "/references/https:~1~1a~1b~0c");
}

#[test]
fn a_draft_of_ones_own_is_a_reference_too() {
    let given = json!({
        "schema": { "$schema": "https://example.com/draft", "items": [{ "type": "string" }] },
        "references": { "https://example.com/draft": { "$schema": "http://json-schema.org/draft-07/schema#" } },
        "draft": "7",
    });
    let check = Check::new(config(given)).unwrap();
    assert!(verdict(&check, &json!([1])).is_some());
}
