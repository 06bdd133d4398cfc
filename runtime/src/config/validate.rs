//! Values against shapes: every unknown or missing key and every value of a wrong kind, told with
//! what is allowed.

use serde_json::{Map, Value};

use super::document::{Document, Mark};
use super::parse::{escape, unescape};
use super::shape::{Field, Shape};
use super::units::{ByteSize, Interval};

/// A table of the file, for messages and look-ups.
#[derive(Clone, Copy)]
pub struct Section<'a> {
    /// Its JSON pointer.
    pub at: &'a str,
    /// As the file writes it: `[source]`.
    pub label: &'a str,
    /// TOML that works, to take lines for missing keys from.
    pub example: &'a str,
}

/// Checks a section that has these keys. A string with variables in it that stands for a number,
/// `true` or `false` becomes one.
pub fn section(document: &mut Document, section: Section<'_>, keys: &[Field], value: &mut Value) {
    let mut validator = Validator { document, section };
    match value {
        Value::Object(fields) => validator.table(keys, fields, section.at),
        other => validator.wrong_kind(&Shape::Table(Vec::new()), other, section.at),
    }
}

/// The keys that are known in place of one that is not.
pub fn allowed<'a>(word: Option<&str>, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let list: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
    let allowed = if list.is_empty() { "nothing".into() } else { list.join(", ") };
    match word.and_then(|word| nearest(word, &known)) {
        Some(nearest) => format!("did you mean `{nearest}`?\nallowed: {allowed}"),
        None => format!("allowed: {allowed}"),
    }
}

/// The known word that was probably meant.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace(['-', '_', ' '], "");
    let word = plain(word);
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &plain(known)), *known))
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

struct Validator<'a> {
    document: &'a mut Document,
    section: Section<'a>,
}

impl Validator<'_> {
    fn table(&mut self, keys: &[Field], fields: &mut Map<String, Value>, at: &str) {
        for (name, value) in fields.iter_mut() {
            let at = format!("{at}/{}", escape(name));
            match keys.iter().find(|key| &key.name == name) {
                Some(key) => self.value(&key.shape, value, &at),
                None => {
                    let message = format!("unknown key `{name}` in {}", self.label(&at));
                    let help = allowed(Some(name), keys.iter().map(|key| key.name.as_str()));
                    self.document.problem(&at, Mark::Key, message, Some(help));
                    self.document.set_broken(&at);
                }
            }
        }
        for key in keys.iter().filter(|key| key.required && !fields.contains_key(&key.name)) {
            let message = format!("missing key `{}` in {}", key.name, self.label(&format!("{at}/-")));
            let help = self.line_to_add(key, at);
            self.document.missing(at, &key.name, message, help);
        }
    }

    fn value(&mut self, shape: &Shape, value: &mut Value, at: &str) {
        if self.document.is_interpolated(at)
            && let Some(converted) = convert(shape, value)
        {
            self.document.hide_also(at, &converted.to_string());
            *value = converted;
        }
        match (shape, &mut *value) {
            (Shape::Any, _) | (Shape::Text, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) => {}
            (Shape::Integer { min, max }, Value::Number(number)) if !number.is_f64() => {
                self.range(number.as_f64(), *min, *max, value, at);
            }
            (Shape::Number { min, max }, Value::Number(number)) => {
                self.range(number.as_f64(), *min, *max, value, at);
            }
            (Shape::Size, Value::Number(number)) if number.is_u64() => {}
            (Shape::Size, Value::String(text)) if ByteSize::parse(text).is_ok() => {}
            (Shape::Time, Value::String(text)) if Interval::parse(text).is_ok() => {}
            (Shape::OneOf(words), Value::String(word)) => {
                if !words.iter().any(|known| known.word == *word) {
                    let known: Vec<&str> = words.iter().map(|known| known.word.as_str()).collect();
                    let visible = self.document.variable_of(at).is_none().then_some(word.as_str());
                    let help = allowed(visible, known);
                    let shown = self.document.show(at, value);
                    self.tell(at, format!("{} cannot be {shown}", self.name(at)), Some(help));
                }
            }
            (Shape::List(shape), Value::Array(elements)) => {
                for (index, element) in elements.iter_mut().enumerate() {
                    self.value(shape, element, &format!("{at}/{index}"));
                }
            }
            (Shape::Table(keys), Value::Object(fields)) => self.table(keys, fields, at),
            (Shape::Map(shape), Value::Object(fields)) => {
                for (name, field) in fields {
                    self.value(shape, field, &format!("{at}/{}", escape(name)));
                }
            }
            (Shape::Tagged { tag, variants }, Value::Object(fields)) => {
                let chosen = fields.get(tag).and_then(Value::as_str);
                let variant = variants.iter().find(|(word, _)| Some(word.word.as_str()) == chosen);
                let tag_field = Field {
                    name: tag.clone(),
                    shape: Shape::OneOf(variants.iter().map(|(word, _)| word.clone()).collect()),
                    required: true,
                    default: None,
                    description: String::new(),
                };
                match variant {
                    Some((_, keys)) => {
                        let mut keys = keys.clone();
                        keys.push(tag_field);
                        self.table(&keys, fields, at);
                    }
                    None => match fields.get_mut(tag) {
                        Some(word) => self.value(&tag_field.shape, word, &format!("{at}/{}", escape(tag))),
                        None => {
                            let message =
                                format!("missing key `{tag}` in {}", self.label(&format!("{at}/-")));
                            let help = self.line_to_add(&tag_field, at);
                            self.document.missing(at, tag, message, help);
                        }
                    },
                }
            }
            (Shape::Either(shapes), _) => match shapes.iter().find(|shape| is_of_kind(shape, value)) {
                Some(shape) => self.value(shape, value, at),
                None => self.wrong_kind(shape, value, at),
            },
            _ => self.wrong_kind(shape, value, at),
        }
    }

    fn range(&mut self, number: Option<f64>, min: Option<f64>, max: Option<f64>, value: &Value, at: &str) {
        let Some(number) = number else { return };
        let limit = match (min, max) {
            (Some(min), _) if number < min => format!("at least {min}"),
            (_, Some(max)) if number > max => format!("at most {max}"),
            _ => return,
        };
        let shown = self.document.show(at, value);
        self.tell(at, format!("{} must be {limit}, found {shown}", self.name(at)), None);
    }

    fn wrong_kind(&mut self, shape: &Shape, value: &Value, at: &str) {
        let name = at.rsplit('/').next().unwrap_or_default();
        let is_section = self.section.at.is_empty() && at.matches('/').count() == 1;
        let help = match (shape, value) {
            (Shape::Size, Value::String(_)) => Some(ByteSize::ALLOWED.to_owned()),
            (Shape::Time, _) => Some(Interval::ALLOWED.to_owned()),
            (Shape::List(inner), _) if is_section && matches!(**inner, Shape::Map(_)) => {
                Some(format!("there may be several: write [[{name}]]"))
            }
            (Shape::Map(_), _) if is_section => Some(format!("there is one: write [{name}]")),
            (Shape::Text, Value::Number(_) | Value::Bool(_)) => Some("put it in quotes".into()),
            (Shape::List(_), _) => Some(format!("write {name} = [...]")),
            _ => None,
        };
        let shown = self.document.show(at, value);
        self.tell(at, format!("{} must be {}, found {shown}", self.name(at), words_for(shape)), help);
    }

    fn tell(&mut self, at: &str, message: String, help: Option<String>) {
        self.document.problem(at, Mark::Value, message, help);
        self.document.set_broken(at);
    }

    /// A value, in a message.
    fn name(&self, at: &str) -> String {
        let name = self.path(at);
        if name.is_empty() { self.section.label.to_owned() } else { format!("`{name}`") }
    }

    /// The table a value is in, in a message.
    fn label(&self, at: &str) -> String {
        let table = at.rsplit_once('/').map_or("", |(table, _)| table);
        self.name(table)
    }

    /// A value within the section as TOML would write its key.
    fn path(&self, at: &str) -> String {
        let inner = at.strip_prefix(self.section.at).unwrap_or(at);
        inner.split('/').skip(1).map(unescape).collect::<Vec<_>>().join(".")
    }

    fn line_to_add(&self, key: &Field, at: &str) -> String {
        let from_example = (at == self.section.at)
            .then(|| {
                let lines = self.section.example.lines().map(str::trim);
                lines.into_iter().find(|line| {
                    line.strip_prefix(&key.name).is_some_and(|rest| rest.trim_start().starts_with('='))
                })
            })
            .flatten()
            // A value that goes on over more lines would not stand alone.
            .filter(|line| toml::from_str::<toml::Table>(line).is_ok());
        let is_section = |shape: &Shape| at.is_empty() && matches!(shape, Shape::Map(_));
        match (from_example, &key.shape) {
            (Some(line), _) => format!("add: {line}"),
            (None, shape) if is_section(shape) => format!("add:\n[{}]\ntype = \"...\"", key.name),
            (None, Shape::List(shape)) if is_section(shape) => {
                format!("add:\n[[{}]]\ntype = \"...\"", key.name)
            }
            (None, shape) => format!("add: {} = {}", key.name, sample(shape)),
        }
    }
}

/// The number, `true` or `false` that a string stands for where its shape wants one.
fn convert(shape: &Shape, value: &Value) -> Option<Value> {
    let Value::String(text) = value else { return None };
    match shape {
        Shape::Boolean => text.parse::<bool>().ok().map(Value::Bool),
        Shape::Integer { .. } => {
            text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from)).ok()
        }
        Shape::Number { .. } => text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from),
        // A string is taken as it is.
        Shape::Either(shapes) if !shapes.iter().any(|shape| is_of_kind(shape, value)) => {
            shapes.iter().find_map(|shape| convert(shape, value))
        }
        _ => None,
    }
}

fn is_of_kind(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Any, _)
        | (Shape::Text | Shape::Size | Shape::Time | Shape::OneOf(_), Value::String(_))
        | (Shape::Boolean, Value::Bool(_))
        | (Shape::Number { .. }, Value::Number(_))
        | (Shape::List(_), Value::Array(_))
        | (Shape::Table(_) | Shape::Map(_) | Shape::Tagged { .. }, Value::Object(_)) => true,
        (Shape::Integer { .. } | Shape::Size, Value::Number(number)) => !number.is_f64(),
        (Shape::Either(shapes), _) => shapes.iter().any(|shape| is_of_kind(shape, value)),
        _ => false,
    }
}

/// What a shape is called in a message.
fn words_for(shape: &Shape) -> String {
    match shape {
        Shape::Any => "anything".into(),
        Shape::Text => "a string".into(),
        Shape::Boolean => "true or false".into(),
        Shape::Integer { .. } => "a whole number".into(),
        Shape::Number { .. } => "a number".into(),
        Shape::Size => "a size like \"64MiB\"".into(),
        Shape::Time => "a time like \"500ms\"".into(),
        Shape::OneOf(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("{:?}", word.word)).collect();
            format!("one of {}", words.join(", "))
        }
        Shape::List(_) => "a list".into(),
        Shape::Table(_) | Shape::Map(_) | Shape::Tagged { .. } => "a table".into(),
        Shape::Either(shapes) => shapes.iter().map(words_for).collect::<Vec<_>>().join(" or "),
    }
}

/// A value to begin with.
fn sample(shape: &Shape) -> String {
    match shape {
        Shape::Any | Shape::Text => "\"...\"".into(),
        Shape::Boolean => "true".into(),
        Shape::Integer { min, .. } | Shape::Number { min, .. } => min.unwrap_or(1.0).max(1.0).to_string(),
        Shape::Size => "\"1MiB\"".into(),
        Shape::Time => "\"1s\"".into(),
        Shape::OneOf(words) => words.first().map_or("\"...\"".into(), |word| format!("{:?}", word.word)),
        Shape::List(shape) => format!("[{}]", sample(shape)),
        Shape::Table(_) | Shape::Map(_) | Shape::Tagged { .. } => "{ ... }".into(),
        Shape::Either(shapes) => shapes.first().map_or("\"...\"".into(), sample),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::shape::fields_of;
    use crate::config::variables::Environment;
    use schemars::JsonSchema;
    use serde_json::json;
    use std::path::Path;

    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Keys {
        path: String,
        #[serde(default)]
        #[schemars(range(min = 1))]
        batch: usize,
        port: Option<u16>,
        follow: Option<bool>,
        size: Option<ByteSize>,
        linger: Option<Interval>,
        ordering: Option<crate::config::Ordering>,
        tls: Option<Tls>,
        names: Option<Vec<String>>,
    }

    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Tls {
        cert: String,
    }

    fn check(text: &str) -> (Value, Vec<String>) {
        let environment = Environment::given(&[("PORT", "8080"), ("YES", "true"), ("WORD", "sesame")]);
        let mut document = Document::read(Path::new("p.toml"), format!("[s]\n{text}"), &environment);
        let mut value = document.value["s"].take();
        let about = Section { at: "/s", label: "[s]", example: "[s]\npath = \"data/in\" # where\n" };
        section(&mut document, about, &fields_of::<Keys>(), &mut value);
        let told = document
            .into_report()
            .problems()
            .iter()
            .map(|problem| {
                let line = problem.place.as_ref().map_or(0, |place| place.line);
                format!("{line}: {} | {}", problem.message, problem.help.clone().unwrap_or_default())
            })
            .collect();
        (value, told)
    }

    #[test]
    fn every_mistake_is_told_with_what_is_allowed() {
        let (_, told) = check(
            "pth = 'x'\nbatch = 0\nport = 70000\nfollow = 'yes'\nsize = '3 apples'\nlinger = 5\nordering = \
             'keys'\ntls = { cret = 1 }\nnames = ['a', 2]\n",
        );
        let keys = "`path`, `batch`, `follow`, `linger`, `names`, `ordering`, `port`, `size`, `tls`";
        assert_eq!(
            told,
            [
                "1: missing key `path` in [s] | add: path = \"data/in\" # where".to_owned(),
                format!("2: unknown key `pth` in [s] | did you mean `path`?\nallowed: {keys}"),
                "3: `batch` must be at least 1, found 0 | ".into(),
                "4: `port` must be at most 65535, found 70000 | ".into(),
                "5: `follow` must be true or false, found \"yes\" | ".into(),
                format!(
                    "6: `size` must be a size like \"64MiB\", found \"3 apples\" | {}",
                    ByteSize::ALLOWED
                ),
                format!("7: `linger` must be a time like \"500ms\", found 5 | {}", Interval::ALLOWED),
                "8: `ordering` cannot be \"keys\" | did you mean `key`?\nallowed: `partition`, `key`, `none`"
                    .into(),
                "9: missing key `cert` in `tls` | add: cert = \"...\"".into(),
                "9: unknown key `cret` in `tls` | did you mean `cert`?\nallowed: `cert`".into(),
                "10: `names.1` must be a string, found 2 | put it in quotes".into(),
            ]
        );
    }

    #[test]
    fn a_string_from_the_environment_may_be_a_number() {
        let (value, told) =
            check("path = '${PORT}'\nport = '${PORT}'\nfollow = '${YES}'\nbatch = '${NO:-7}'\n");
        assert_eq!(told, [""; 0]);
        assert_eq!(value, json!({ "path": "8080", "port": 8080, "follow": true, "batch": 7 }));
        let (_, told) = check("path = 'x'\nport = '8080'\n");
        assert_eq!(told, ["3: `port` must be a whole number, found \"8080\" | "]);
    }

    #[test]
    fn what_came_from_the_environment_is_not_shown() {
        let (_, told) = check(
            "path = 'x'\nport = '${WORD}'\nordering = '${WORD}'\nsize = '${WORD}'\nlinger = '${WORD}'\nbatch = \
             '${WORD}'\ntls = '${WORD}'\nnames = '${WORD}'",
        );
        assert_eq!(told.len(), 7, "{told:?}");
        for problem in told {
            assert!(problem.contains("(from ${WORD})") && !problem.contains("sesame"), "{problem}");
        }
    }
}
