//! What a test expects beside what came.

use serde_json::{Map, Value};

use crate::cli::plugin::diff;
use crate::codecs::take_apart;
use crate::config::test_section::{ExpectedLetter, ExpectedMessage, milliseconds};
use crate::dead_letters::{DeadLetter, time_text};

/// Something by the names of its parts; of what is expected, only those that are compared.
pub type Parts = Map<String, Value>;

pub fn of_message(expected: &ExpectedMessage) -> Parts {
    let ExpectedMessage { payload, key, headers, timestamp } = expected;
    let headers = headers.as_ref().map(|headers| serde_json::json!(headers));
    let timestamp = timestamp.as_deref().and_then(milliseconds).map(time_text);
    parts([
        ("key", key.clone().map(Value::from)),
        ("headers", headers),
        ("payload", payload.clone()),
        ("timestamp", timestamp.map(Value::from)),
    ])
}

pub fn of_expected_letter(expected: &ExpectedLetter) -> Parts {
    let ExpectedLetter { message, stage, code, reason, attempts } = expected.clone();
    parts([
        ("message", message.map(Value::from)),
        ("stage", stage.map(Value::from)),
        ("code", code.map(Value::from)),
        ("reason", reason.map(Value::from)),
        ("attempts", attempts.map(Value::from)),
    ])
}

pub fn of_letter(letter: &DeadLetter) -> Parts {
    parts([
        ("message", Some(letter.position.record.into())),
        ("stage", Some(letter.stage.to_string().into())),
        ("code", Some(letter.code.clone().into())),
        ("reason", Some(letter.reason.clone().into())),
        ("attempts", Some(letter.attempts.into())),
    ])
}

fn parts<const N: usize>(all: [(&str, Option<Value>); N]) -> Parts {
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// What is different, as a diff of JSON; `None` if everything that is expected came, in order, and
/// nothing else.
pub fn difference(expected: &[Parts], got: &[Parts]) -> Option<String> {
    let mut left = expected.iter();
    let mut shown = Vec::new();
    let mut is_complete = expected.len() == got.len();
    for one in got {
        let found = left.as_slice().iter().position(|expected| matches(expected, one));
        match found.and_then(|at| left.nth(at)) {
            // As it is expected, so that the parts that nobody asked for make no difference.
            Some(expected) => shown.push(Value::Object(expected.clone())),
            None => {
                is_complete = false;
                shown.push(Value::Object(only_asked_for(expected, one)));
            }
        }
    }
    if is_complete && left.as_slice().is_empty() {
        return None;
    }
    let expected: Vec<Value> = expected.iter().cloned().map(|parts| Value::Object(readable(parts))).collect();
    let shown: Vec<Value> = shown
        .into_iter()
        .map(|parts| match parts {
            Value::Object(parts) => Value::Object(readable(parts)),
            other => other,
        })
        .collect();
    Some(diff(&expected, &shown))
}

fn matches(expected: &Parts, got: &Parts) -> bool {
    expected.iter().all(|(name, expected)| {
        let Some(got) = got.get(name) else { return false };
        match (name.as_str(), expected, got) {
            ("payload", ..) => same_payload(expected, got),
            ("headers", ..) => has_headers(expected, got),
            ("reason", Value::String(part), Value::String(reason)) => reason.contains(part),
            _ => expected == got,
        }
    })
}

fn same_payload(expected: &Value, got: &Value) -> bool {
    match (json_of(expected), json_of(got)) {
        (Some(expected), Some(got)) => same_json(&expected, &got),
        _ => expected == got,
    }
}

/// The JSON that a payload holds, written as a text or as a value.
fn json_of(payload: &Value) -> Option<Value> {
    match payload {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    }
}

/// Whether it is the same JSON, in which 1 and 1.0 are the same number.
fn same_json(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_json(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same =
                |(name, one): (&String, &Value)| other.get(name).is_some_and(|other| same_json(one, other));
            one.len() == other.len() && one.iter().all(same)
        }
        _ => one == other,
    }
}

/// Whether each of these headers is among those.
fn has_headers(expected: &Value, got: &Value) -> bool {
    let got = pairs(got);
    let is_there = |(name, value): &(String, Value)| {
        got.iter().any(|(known, has)| known.eq_ignore_ascii_case(name) && has == value)
    };
    pairs(expected).iter().all(is_there)
}

/// Headers as the codec `record` writes them: an object, or a list of pairs where names repeat.
fn pairs(headers: &Value) -> Vec<(String, Value)> {
    match headers {
        Value::Object(headers) => headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Value::Array(headers) => {
            let pair = |pair: &Value| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.clone()));
            headers.iter().filter_map(pair).collect()
        }
        _ => Vec::new(),
    }
}

/// The parts of something unexpected that are worth looking at: those that are asked for elsewhere.
fn only_asked_for(expected: &[Parts], got: &Parts) -> Parts {
    let is_asked_for =
        |name: &String| expected.is_empty() || expected.iter().any(|one| one.contains_key(name));
    got.iter()
        .filter(|(name, _)| is_asked_for(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// With a payload of JSON taken apart.
fn readable(mut parts: Parts) -> Parts {
    parts.get_mut("payload").map(take_apart);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn all(values: &[Value]) -> Vec<Parts> {
        values.iter().map(|value| value.as_object().unwrap().clone()).collect()
    }

    #[test]
    fn only_what_is_given_is_compared() {
        let got = all(&[json!({
            "payload": "{\"a\":1.0,\"b\":[2]}", "key": "k", "headers": [["X", "1"], ["x", "2"]],
        })]);
        for expected in [
            json!({}),
            json!({ "payload": { "b": [2], "a": 1 } }),
            json!({ "payload": "{ \"a\": 1.0, \"b\": [2] }", "key": "k" }),
            json!({ "headers": { "x": "2" } }),
        ] {
            assert_eq!(difference(&all(std::slice::from_ref(&expected)), &got), None, "{expected}");
        }
        for expected in [
            json!({ "payload": { "a": 1 } }),
            json!({ "payload": "a" }),
            json!({ "key": "l" }),
            json!({ "headers": { "x": "3" } }),
            json!({ "timestamp": "1970-01-01T00:00:00.000Z" }),
        ] {
            assert!(difference(&all(std::slice::from_ref(&expected)), &got).is_some(), "{expected}");
        }
    }

    #[test]
    fn one_that_is_missing_too_much_or_out_of_order_is_shown() {
        let (a, b, c) = (json!({ "key": "a" }), json!({ "key": "b" }), json!({ "key": "c" }));
        let diff = |expected: &[&Value], got: &[&Value]| {
            let owned =
                |values: &[&Value]| all(&values.iter().map(|value| (*value).clone()).collect::<Vec<_>>());
            difference(&owned(expected), &owned(got))
        };
        assert_eq!(diff(&[&a, &b, &c], &[&a, &b, &c]), None);
        for (expected, got, line) in [
            (vec![&a, &b, &c], vec![&a, &c], "-  \"key\": \"b\""),
            (vec![&a, &c], vec![&a, &b, &c], "+  \"key\": \"b\""),
            (vec![], vec![&b], "+  \"key\": \"b\""),
            (vec![&b], vec![], "-  \"key\": \"b\""),
            (vec![&a, &b], vec![&b, &a], "+  \"key\": \"a\""),
        ] {
            let told = diff(&expected, &got).expect("a difference");
            assert!(told.contains(line), "{told}");
        }
    }
}
