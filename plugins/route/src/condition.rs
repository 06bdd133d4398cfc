//! Conditions on a message.

use std::borrow::Cow;

use millstream_sdk::pointer::Pointers;
use millstream_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Number, Value};

/// One of `pointer`, `header` and `key`, and one of `equals`, `in`, `prefix` and `exists`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConditionConfig {
    /// JSON pointer (RFC 6901) to a value in the payload. `*` stands for every element of a list or
    /// every field of an object; the condition holds if it holds for one of them.
    pointer: Option<String>,
    /// Name of a header; case does not matter. The condition holds if it holds for one of this name.
    header: Option<String>,
    /// `true`: the key of the message.
    #[serde(default)]
    key: bool,
    /// The value is this one.
    equals: Option<Value>,
    /// The value is one of these.
    #[serde(rename = "in")]
    one_of: Option<Vec<Value>>,
    /// The value is text that starts with this.
    prefix: Option<String>,
    /// There is a value, be it null (`true`), or there is none (`false`).
    exists: Option<bool>,
}

/// A condition that makes sense.
pub struct Condition {
    subject: Subject,
    test: Test,
}

enum Subject {
    /// By its number.
    Pointer(usize),
    Header(String),
    Key,
}

enum Test {
    OneOf(Vec<Value>),
    Prefix(String),
    Exists(bool),
}

impl ConditionConfig {
    /// An error is a field and what is wrong with it.
    pub fn check(self, pointers: &mut Pointers) -> Result<Condition, (&'static str, String)> {
        let ConditionConfig { pointer, header, key, equals, one_of, prefix, exists } = self;
        let subject = match (pointer, header, key) {
            (Some(pointer), None, false) => {
                Subject::Pointer(pointers.push(&pointer).map_err(|error| ("pointer", error.to_string()))?)
            }
            (None, Some(header), false) => Subject::Header(header),
            (None, None, true) => Subject::Key,
            _ => return Err(("", "give one of `pointer`, `header` and `key = true`".to_owned())),
        };
        let (test, field) = match (equals, one_of, prefix, exists) {
            (Some(value), None, None, None) => (Test::OneOf(vec![value]), "equals"),
            (None, Some(values), None, None) => (Test::OneOf(values), "in"),
            (None, None, Some(prefix), None) => (Test::Prefix(prefix), "prefix"),
            (None, None, None, Some(exists)) => (Test::Exists(exists), "exists"),
            _ => return Err(("", "give one of `equals`, `in`, `prefix` and `exists`".to_owned())),
        };
        if let Test::OneOf(values) = &test {
            let wrong = |value: &Value| match subject {
                Subject::Pointer(_) => value.is_array() || value.is_object(),
                Subject::Header(_) | Subject::Key => !value.is_string(),
            };
            if values.iter().any(wrong) {
                return Err((
                    field,
                    match subject {
                        Subject::Pointer(_) => "compare with a string, a number or a boolean".to_owned(),
                        _ => "a header or a key is compared with a string".to_owned(),
                    },
                ));
            }
        }
        Ok(Condition { subject, test })
    }
}

impl Condition {
    /// `values` are the JSON texts found in the payload, each with the number of its pointer.
    pub fn holds(&self, message: &Message<'_>, values: &[(usize, &str)]) -> bool {
        match &self.subject {
            Subject::Pointer(pointer) => {
                let mut texts = values.iter().filter(|(found, _)| found == pointer).map(|(_, text)| *text);
                match &self.test {
                    Test::Exists(exists) => texts.next().is_some() == *exists,
                    Test::OneOf(wanted) => {
                        texts.any(|text| wanted.iter().any(|wanted| is_json(text, wanted)))
                    }
                    Test::Prefix(prefix) => {
                        texts.any(|text| string(text).is_some_and(|text| text.starts_with(prefix)))
                    }
                }
            }
            Subject::Header(name) => self.holds_for(
                message
                    .headers()
                    .filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
                    .map(|(_, value)| value),
            ),
            Subject::Key => self.holds_for(message.key().into_iter()),
        }
    }

    fn holds_for<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        match &self.test {
            Test::Exists(exists) => values.next().is_some() == *exists,
            Test::OneOf(wanted) => values.any(|value| {
                wanted.iter().any(|wanted| wanted.as_str().is_some_and(|wanted| wanted.as_bytes() == value))
            }),
            Test::Prefix(prefix) => values.any(|value| value.starts_with(prefix.as_bytes())),
        }
    }
}

/// The text of a JSON string; `None` if it is another value.
fn string(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str(json).ok().map(|Text(text)| text)
}

fn is_json(json: &str, wanted: &Value) -> bool {
    match wanted {
        Value::String(wanted) => string(json).is_some_and(|text| text == wanted.as_str()),
        Value::Number(wanted) => serde_json::from_str(json).is_ok_and(|number| same(&number, wanted)),
        Value::Bool(wanted) => json == if *wanted { "true" } else { "false" },
        Value::Null => json == "null",
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// 1 and 1.0 are the same number.
fn same(one: &Number, other: &Number) -> bool {
    one == other || (one.is_f64() || other.is_f64()) && one.as_f64() == other.as_f64()
}
