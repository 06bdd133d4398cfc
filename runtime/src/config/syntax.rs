//! TOML to JSON, with the place of every value and every syntax error.
//!
//! The parser goes on behind a mistake. Only a bracket that is never closed would swallow the rest
//! of the file: it is closed before the next statement, so that what follows can still be checked.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::parse::escape;

/// A TOML text, read as far as it goes.
#[derive(Debug, Default)]
pub struct Syntax {
    pub value: Value,
    /// By JSON pointer. The root has none.
    pub spots: HashMap<String, Spot>,
    /// In no order, but for a place those of the parser come first.
    pub errors: Vec<SyntaxError>,
    /// False if nothing is known of what stands behind some error.
    pub complete: bool,
}

/// Where a value stands, in bytes of the text.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Its key; `None` for an element of an array.
    pub key: Option<Range<usize>>,
    /// The value; of a table its header.
    pub value: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub span: Range<usize>,
    pub message: String,
}

/// Text put in to close a bracket: at which byte of the original, and how many bytes.
struct Insertions(Vec<(usize, usize)>);

impl Insertions {
    /// Byte of the original for a byte of the text with insertions.
    fn original(&self, position: usize) -> usize {
        let mut original = position;
        for (at, bytes) in &self.0 {
            if original > *at {
                original = (*at).max(original.saturating_sub(*bytes));
            }
        }
        original
    }

    fn original_span(&self, span: &Range<usize>) -> Range<usize> {
        self.original(span.start)..self.original(span.end)
    }

    fn insert(&mut self, text: &mut String, position: usize, inserted: &str) {
        let at = self.original(position);
        text.insert_str(position, inserted);
        let place = self.0.partition_point(|(other, _)| *other <= at);
        self.0.insert(place, (at, inserted.len()));
    }
}

/// Reads a TOML text.
pub fn read(text: &str) -> Syntax {
    let mut closed = text.to_owned();
    let mut insertions = Insertions(Vec::new());
    let mut errors = Vec::new();
    // Each round closes a bracket, and every bracket takes a byte.
    for _ in 0..text.len() {
        let Some((position, closing, error)) = unclosed(&closed) else { break };
        errors.push(SyntaxError { span: insertions.original_span(&error.span), message: error.message });
        insertions.insert(&mut closed, position, &closing);
    }
    let (table, rest) = DeTable::parse_recoverable(&closed);
    let complete = !rest.iter().any(|error| is_endless_string(error, &closed));
    let mut reader = Reader { insertions, spots: HashMap::new(), errors, complete };
    for error in rest {
        let span = error.span().unwrap_or(0..0);
        // The brackets around a string that never ends may well be closed in it.
        if !complete && error.message().starts_with("unclosed") {
            continue;
        }
        if is_endless_string(&error, &closed) {
            let opening = match multi_line_start(table.get_ref(), closed.len()) {
                Some(string) => string.start..string.start + 3,
                None => span,
            };
            reader
                .error(opening, "string that never ends, expected three quotes; nothing behind it was read");
        } else {
            reader.error(span, error.message().trim_end_matches(", expected nothing"));
        }
    }
    let value = reader.table(table.get_ref(), "");
    Syntax { value, spots: reader.spots, errors: reader.errors, complete: reader.complete }
}

/// Whether it is that a multi-line string goes on to the end of the text.
fn is_endless_string(error: &toml::de::Error, text: &str) -> bool {
    error.message().starts_with("invalid multi-line")
        && error.span().is_some_and(|span| span.start >= text.trim_end().len())
}

/// The first bracket that is never closed: where to close it, with what, and what is wrong.
fn unclosed(text: &str) -> Option<(usize, String, SyntaxError)> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut unclosed = errors.iter().filter(|error| error.message().starts_with("unclosed"));
    let first = unclosed.next()?;
    let span = first.span()?;
    let message = first.message().to_owned();
    if message.starts_with("unclosed table") || message.starts_with("unclosed array table") {
        let closing = if message.ends_with("`]]`") { "]]" } else { "]" };
        return Some((span.end, closing.to_owned(), SyntaxError { span, message }));
    }
    if errors.iter().any(|error| is_endless_string(error, text)) {
        return None;
    }
    let start = outermost_ending_at(table.get_ref(), span.end)?;
    let boundary = next_statement(text, start);
    let (_, inner) = DeValue::parse_recoverable(&text[start..boundary]);
    let closing: String = inner
        .iter()
        .filter_map(|error| match error.message() {
            message if message.starts_with("unclosed array") => Some(']'),
            message if message.starts_with("unclosed inline table") => Some('}'),
            _ => None,
        })
        .collect();
    if closing.is_empty() {
        return None;
    }
    let kind =
        if text[start..].starts_with('[') { "array, expected `]`" } else { "inline table, expected `}`" };
    let error = SyntaxError { span: start..start + 1, message: format!("unclosed {kind}") };
    Some((boundary, closing + "\n", error))
}

/// Where the outermost array or inline table starts that ends there.
fn outermost_ending_at(table: &DeTable<'_>, end: usize) -> Option<usize> {
    fn of(value: &Spanned<DeValue<'_>>, end: usize) -> Option<usize> {
        let inner = match value.get_ref() {
            DeValue::Array(elements) => elements.iter().filter_map(|element| of(element, end)).min(),
            DeValue::Table(fields) => fields.iter().filter_map(|(_, field)| of(field, end)).min(),
            _ => return None,
        };
        if value.span().end == end { Some(value.span().start) } else { inner }
    }
    table.iter().filter_map(|(_, value)| of(value, end)).min()
}

/// Where the multi-line string starts that goes on to the end of the text.
fn multi_line_start(table: &DeTable<'_>, end: usize) -> Option<Range<usize>> {
    fn of(value: &Spanned<DeValue<'_>>, end: usize) -> Option<Range<usize>> {
        match value.get_ref() {
            DeValue::Array(elements) => elements.iter().find_map(|element| of(element, end)),
            DeValue::Table(fields) => fields.iter().find_map(|(_, field)| of(field, end)),
            DeValue::String(_) if value.span().end == end => Some(value.span()),
            _ => None,
        }
    }
    table.iter().find_map(|(_, value)| of(value, end))
}

/// Start of the first line behind `start` that looks like a statement of its own.
fn next_statement(text: &str, start: usize) -> usize {
    let is_array = text[start..].starts_with('[');
    let mut previous = "";
    let mut position = start;
    for line in text[start..].split_inclusive('\n') {
        let content = line.trim();
        let open = previous.ends_with([',', '{', '[']);
        if position > start && (is_header(content) || is_assignment(content) && (is_array || !open)) {
            return position;
        }
        if !content.is_empty() && !content.starts_with('#') {
            previous = content;
        }
        position += line.len();
    }
    text.len()
}

fn is_header(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or(line).trim_end();
    line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).is_some_and(|name| {
        let name = name.trim_start_matches('[').trim_end_matches(']');
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_key_char)
    })
}

fn is_assignment(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim_end();
        !key.is_empty() && key.chars().all(is_key_char)
    })
}

fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

struct Reader {
    insertions: Insertions,
    spots: HashMap<String, Spot>,
    errors: Vec<SyntaxError>,
    complete: bool,
}

impl Reader {
    fn error(&mut self, span: Range<usize>, message: &str) {
        let span = self.insertions.original_span(&span);
        self.errors.push(SyntaxError { span, message: message.to_owned() });
    }

    fn table(&mut self, table: &DeTable<'_>, pointer: &str) -> Value {
        let mut fields = Map::new();
        for (key, value) in table {
            let pointer = format!("{pointer}/{}", escape(key.get_ref()));
            let key_span = self.insertions.original_span(&key.span());
            let value_span = self.insertions.original_span(&value.span());
            self.spots.insert(pointer.clone(), Spot { key: Some(key_span), value: value_span });
            fields.insert(key.get_ref().to_string(), self.value(value, &pointer));
        }
        Value::Object(fields)
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, pointer: &str) -> Value {
        match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(yes) => Value::Bool(*yes),
            // JSON has no dates: what reads one reads it from a string.
            DeValue::Datetime(time) => Value::String(time.to_string()),
            DeValue::Integer(number) => {
                let (digits, radix) = (number.as_str(), number.radix());
                let read = i64::from_str_radix(digits, radix)
                    .map(Number::from)
                    .or_else(|_| u64::from_str_radix(digits, radix).map(Number::from));
                self.number(read.ok(), value, "number out of range, expected 64 bits")
            }
            DeValue::Float(number) => {
                let read = number.as_str().parse().ok().and_then(Number::from_f64);
                self.number(read, value, "number that cannot be used, expected a finite one")
            }
            DeValue::Table(table) => self.table(table, pointer),
            DeValue::Array(elements) => {
                let mut read = Vec::new();
                for (index, element) in elements.iter().enumerate() {
                    let pointer = format!("{pointer}/{index}");
                    let span = self.insertions.original_span(&element.span());
                    self.spots.insert(pointer.clone(), Spot { key: None, value: span });
                    read.push(self.value(element, &pointer));
                }
                Value::Array(read)
            }
        }
    }

    fn number(&mut self, read: Option<Number>, value: &Spanned<DeValue<'_>>, otherwise: &str) -> Value {
        read.map(Value::Number).unwrap_or_else(|| {
            self.error(value.span(), otherwise);
            Value::from(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(text: &str) -> (Value, Vec<(&str, String)>) {
        let syntax = read(text);
        let errors = syntax.errors.iter().map(|e| (&text[e.span.clone()], e.message.clone())).collect();
        (syntax.value, errors)
    }

    #[test]
    fn values_have_their_places() {
        let text = "a.b = 0x10\n[[sink]]\nt = 'x'\nc = [1, { y = 2.5 }]\nd = 2024-01-02\n";
        let syntax = read(text);
        assert_eq!(syntax.errors, []);
        assert_eq!(
            syntax.value,
            json!({ "a": { "b": 16 }, "sink": [{ "t": "x", "c": [1, { "y": 2.5 }], "d": "2024-01-02" }] })
        );
        let at = |pointer: &str| {
            let spot = &syntax.spots[pointer];
            (spot.key.clone().map(|key| &text[key]), &text[spot.value.clone()])
        };
        assert_eq!(at("/a/b"), (Some("b"), "0x10"));
        assert_eq!(at("/sink/0"), (None, "[[sink]]"));
        assert_eq!(at("/sink/0/t"), (Some("t"), "'x'"));
        assert_eq!(at("/sink/0/c/1/y"), (Some("y"), "2.5"));
    }

    #[test]
    fn a_bracket_that_is_never_closed_swallows_nothing() {
        let (value, errors) =
            told("a = [1, 2\nb = 3\n[c\nd = { e = [4, # four\n  5\n[[f]]\ng = 6\n[[h]\ni = 7\n");
        assert_eq!(
            value,
            json!({ "a": [1, 2], "b": 3, "c": { "d": { "e": [4, 5] } }, "f": [{ "g": 6 }], "h": [{ "i": 7 }] })
        );
        let mut messages: Vec<&str> = errors.iter().map(|(_, message)| message.as_str()).collect();
        messages.sort_unstable();
        assert_eq!(
            messages,
            [
                "unclosed array table, expected `]`",
                "unclosed array, expected `]`",
                "unclosed inline table, expected `}`",
                "unclosed table, expected `]`"
            ]
        );
    }

    #[test]
    fn what_follows_an_insertion_keeps_its_place() {
        let text = "a = [1, 2\nb = 3\nc = { d = 1\ne = 'x\n";
        let syntax = read(text);
        assert_eq!(&text[syntax.spots["/b"].value.clone()], "3");
        assert_eq!(&text[syntax.spots["/e"].key.clone().expect("it has a key")], "e");
        assert!(
            syntax.errors.iter().any(|e| e.message.starts_with("invalid literal string")
                && e.span == (text.len() - 1..text.len() - 1))
        );
    }

    #[test]
    fn a_string_that_never_ends_hides_the_rest() {
        let text = "a = { c = \"\"\"x }\nb = 1\n";
        let syntax = read(text);
        assert!(!syntax.complete);
        let places: Vec<&str> = syntax.errors.iter().map(|error| &text[error.span.clone()]).collect();
        assert_eq!(places, ["\"\"\""]);
    }

    #[test]
    fn numbers_that_json_cannot_hold_are_told() {
        let (_, errors) = told("a = 99999999999999999999999\nb = nan\nc = 18446744073709551615\n");
        let places: Vec<&str> = errors.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, ["99999999999999999999999", "nan"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-c=\\[\\]{},\"'#\n 0-9.$é]{0,60}") {
            for error in read(&text).errors {
                proptest::prop_assert!(text.get(error.span.clone()).is_some(), "{:?}", error);
            }
        }
    }
}
