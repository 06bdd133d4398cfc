//! Headers as message attributes of SQS and SNS.

use std::collections::{BTreeMap, HashMap};

use aws_smithy_types::Blob;
use aws_smithy_types::error::operation::BuildError;

use super::batches::Refused;
use crate::aws::{TYPE_HEADER, is_allowed};
use crate::config::escape;
use crate::config::problem::Problem;
use crate::dead_letters::REPLAYS_HEADER;
use crate::dead_letters::story::HEADER_PREFIX;
use crate::message::MessageRef;
use crate::traces::context::{TRACEPARENT, TRACESTATE};

/// A message of SQS has at most ten
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html>).
/// SNS takes more, and then does not deliver the message to queues that are subscribed with raw delivery,
/// without a word (<https://docs.aws.amazon.com/sns/latest/dg/sns-message-attributes.html>).
pub const MAX_ATTRIBUTES: usize = 10;

/// Characters of a name, and of a type (the page of SQS above).
const MAX_NAME_CHARS: usize = 256;

const INVALID: &str = "invalid-attribute";

/// How the names of headers begin that the sources on AWS make of what they know of a message, which is
/// not true of the message that is sent; those with the types of attributes; and those of the story of a
/// dead letter, which has a place of its own.
const NOT_SENT: [&str; 5] = ["sqs-", "sns-", "kinesis-", TYPE_HEADER, HEADER_PREFIX];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attribute {
    pub name: String,
    pub data_type: String,
    pub value: Value,
}

impl Attribute {
    /// Whether it is of the trace context.
    pub fn is_trace(&self) -> bool {
        is_trace(&self.name)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    Text(String),
    Bytes(Vec<u8>),
}

impl Value {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Value::Text(text) => text.as_bytes(),
            Value::Bytes(bytes) => bytes,
        }
    }
}

/// Which headers become attributes, and of which types.
pub struct Attributes {
    /// `None` for all but those of sources.
    pub names: Option<Vec<String>>,
    /// By name; of the others the value says it.
    pub types: BTreeMap<String, String>,
}

impl Attributes {
    /// Adds what is wrong with the keys `attributes` and `attribute_types`.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        for (index, name) in self.names.iter().flatten().enumerate() {
            if let Some(why) = wrong_name(name) {
                problems.push(Problem::new(format!("/attributes/{index}"), format!("{name:?} {why}")));
            }
        }
        if let Some(names) = &self.names
            && names.len() > MAX_ATTRIBUTES
        {
            let message = format!("a message cannot have {} attributes", names.len());
            problems.push(Problem::new("/attributes", message).help(format!("up to {MAX_ATTRIBUTES}")));
        }
        for (name, data_type) in &self.types {
            let at = format!("/attribute_types/{}", escape(name));
            if !is_type(data_type) {
                problems.push(
                    Problem::new(at, format!("{data_type:?} is no type of an attribute"))
                        .help("String, Number or Binary, and a label if you like, as in \"Number.int\""),
                );
            }
        }
    }

    /// The attributes of a message. Of a header that repeats it is the first.
    ///
    /// # Errors
    /// There are too many, or a header can be none.
    pub fn of(&self, message: &MessageRef<'_>) -> Result<Vec<Attribute>, Refused> {
        let mut attributes: Vec<Attribute> = Vec::new();
        for (name, value) in message.headers() {
            let Some(name) = self.name(name)? else { continue };
            if attributes.iter().any(|known| known.name.eq_ignore_ascii_case(&name)) {
                continue;
            }
            let is_trace = is_trace(&name);
            let data_type = self.type_of(&name, message);
            match attribute(name, data_type, value) {
                Ok(attribute) => attributes.push(attribute),
                // A trace is no reason to refuse a message.
                Err(_) if is_trace => {}
                Err(refused) => return Err(refused),
            }
        }
        if attributes.len() > MAX_ATTRIBUTES {
            drop_trace(&mut attributes);
        }
        if attributes.len() > MAX_ATTRIBUTES {
            let reason = format!(
                "it has {} headers and a message has at most {MAX_ATTRIBUTES} attributes; name those that \
                 matter in `attributes`",
                attributes.len()
            );
            return Err(Refused::new("too-many-attributes", reason));
        }
        Ok(attributes)
    }

    /// The name of a header as an attribute; `None` if it is to be none.
    fn name(&self, name: &[u8]) -> Result<Option<String>, Refused> {
        let text = String::from_utf8_lossy(name).into_owned();
        // What comes back to the pipeline that sent it must be known for a replay, or a loop never ends; and
        // a trace goes on whatever a section names.
        if text.eq_ignore_ascii_case(REPLAYS_HEADER) || is_trace(&text) {
            return Ok(Some(text));
        }
        let name = match &self.names {
            Some(names) => names.iter().find(|known| known.eq_ignore_ascii_case(&text)).cloned(),
            None => {
                let lower = text.to_ascii_lowercase();
                (!NOT_SENT.iter().any(|prefix| lower.starts_with(prefix))).then_some(text)
            }
        };
        match name.as_deref().and_then(wrong_name) {
            Some(why) => Err(Refused::new(INVALID, format!("header {:?} {why}", name.unwrap_or_default()))),
            None => Ok(name),
        }
    }

    /// The type of an attribute, where something says it: the section, or what the source knew of it.
    fn type_of(&self, name: &str, message: &MessageRef<'_>) -> Option<String> {
        let of_section = self.types.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        if let Some((_, data_type)) = of_section {
            return Some(data_type.clone());
        }
        let of_source = message.header(&format!("{TYPE_HEADER}{name}"))?;
        str::from_utf8(of_source).ok().filter(|data_type| is_type(data_type)).map(str::to_owned)
    }
}

/// Leaves the trace context out, of a message that has no room for it: it is no reason to refuse one.
pub fn drop_trace(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| !attribute.is_trace());
}

fn is_trace(name: &str) -> bool {
    [TRACEPARENT, TRACESTATE].iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn is_type(data_type: &str) -> bool {
    let (base, label) = data_type.split_once('.').unwrap_or((data_type, "-"));
    matches!(base, "String" | "Number" | "Binary") && !label.is_empty()
}

fn attribute(name: String, data_type: Option<String>, value: &[u8]) -> Result<Attribute, Refused> {
    let refused = |why: &str| Refused::new(INVALID, format!("the value of header {name:?} {why}"));
    if value.is_empty() {
        return Err(refused("is empty, as that of no attribute may be"));
    }
    let text = std::str::from_utf8(value).ok().filter(|text| text.chars().all(is_allowed));
    let (data_type, value) = match data_type {
        None => match text {
            Some(text) => ("String".to_owned(), Value::Text(text.to_owned())),
            None => ("Binary".to_owned(), Value::Bytes(value.to_vec())),
        },
        Some(data_type) if data_type.starts_with("Binary") => (data_type, Value::Bytes(value.to_vec())),
        Some(data_type) => {
            let text = text.ok_or_else(|| refused("is no text that may be sent"))?;
            if data_type.starts_with("Number") && !is_number(text) {
                return Err(refused("is no number"));
            }
            (data_type, Value::Text(text.to_owned()))
        }
    };
    Ok(Attribute { data_type, value, name })
}

/// Attributes in a service's own type, which `build` makes of type, text and bytes; `None` if there are none.
///
/// # Errors
/// It makes none of one.
pub fn values<V>(
    attributes: Vec<Attribute>,
    build: impl Fn(String, Option<String>, Option<Blob>) -> Result<V, BuildError>,
) -> Result<Option<HashMap<String, V>>, Refused> {
    let mut values = HashMap::new();
    for Attribute { name, data_type, value } in attributes {
        let (text, bytes) = match value {
            Value::Text(text) => (Some(text), None),
            Value::Bytes(bytes) => (None, Some(Blob::new(bytes))),
        };
        let value =
            build(data_type, text, bytes).map_err(|error| Refused::new(INVALID, error.to_string()))?;
        values.insert(name, value);
    }
    Ok((!values.is_empty()).then_some(values))
}

/// Bytes of attributes, as they count to the size of a message: names, types and values.
pub fn bytes(attributes: &[Attribute]) -> usize {
    let of = |one: &Attribute| one.name.len() + one.data_type.len() + one.value.bytes().len();
    attributes.iter().map(of).sum()
}

/// Why it is no name of an attribute, if so (the page of SQS above).
fn wrong_name(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || name.len() > MAX_NAME_CHARS {
        return Some("has not 1 to 256 characters, as the name of an attribute must");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        return Some("is no name of an attribute: letters and digits of ASCII, `_`, `-` and `.`");
    }
    if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
        return Some("has a `.` where the name of an attribute must not have one");
    }
    (lower.starts_with("aws.") || lower.starts_with("amazon.")).then_some("begins as only names of AWS may")
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) && text.parse::<f64>().is_ok()
}
