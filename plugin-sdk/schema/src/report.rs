//! What is wrong with a document, for people: every violation with its place in the document and
//! in the schema.

use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{ValidationError, paths::Location};

/// Bytes of one violation's text: it may quote a value of the document, or name hundreds of
/// properties.
const MAX_VIOLATION_BYTES: usize = 300;

/// Violations, the first `max` of them with their text.
pub struct Report {
    lines: Vec<String>,
    count: usize,
    max: usize,
    show_values: bool,
}

impl Report {
    pub fn new(max: usize, show_values: bool) -> Self {
        Self { lines: Vec::new(), count: 0, max, show_values }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a violation. Of a union that nothing fits, the violations of the closest alternative
    /// are added too.
    pub fn add(&mut self, error: &ValidationError<'_>) {
        let alternatives = match error.kind() {
            Kind::OneOfNotValid { context } | Kind::AnyOf { context } => context,
            Kind::OneOfMultipleValid { context } => {
                let fitting = context.iter().enumerate().filter(|(_, errors)| errors.is_empty());
                let fitting: Vec<_> = fitting.map(|(index, _)| index.to_string()).collect();
                let text = format!("fits the alternatives {}, but only one may fit", fitting.join(" and "));
                return self.push(error, &text);
            }
            _ if self.show_values => return self.push(error, &error.to_string()),
            _ => return self.push(error, &error.masked().to_string()),
        };
        let at = error.instance_path();
        let closest = alternatives.iter().enumerate().min_by_key(|(_, errors)| weight(errors, at));
        let Some((index, errors)) = closest else { return self.push(error, "fits no alternative") };
        let count = alternatives.len();
        self.push(error, &format!("fits none of {count} alternatives; closest is {index}, but"));
        for error in errors {
            self.add(error);
        }
    }

    fn push(&mut self, error: &ValidationError<'_>, text: &str) {
        self.count += 1;
        if self.lines.len() < self.max {
            let instance = match error.instance_path().as_str() {
                "" => "the payload",
                path => path,
            };
            let schema = error.schema_path().as_str();
            self.lines.push(format!("{instance}: {} (schema: {schema})", shorten(text)));
        }
    }

    /// One violation a line.
    pub fn into_text(mut self) -> String {
        if self.count > self.lines.len() {
            self.lines.push(format!("and {} more", self.count - self.lines.len()));
        }
        self.lines.join("\n")
    }
}

/// How far an alternative is from a document at `at`: its violations, those most that say that it
/// is another kind of thing.
fn weight(errors: &[ValidationError<'_>], at: &Location) -> usize {
    let weigh = |error: &ValidationError<'_>| match error.kind() {
        Kind::Type { .. } if error.instance_path() == at => 10,
        Kind::Constant { .. } | Kind::Enum { .. } => 10,
        Kind::OneOfNotValid { context } | Kind::AnyOf { context } => {
            let inner = context.iter().map(|errors| weight(errors, error.instance_path()));
            inner.min().unwrap_or(1)
        }
        _ => 1,
    };
    errors.iter().map(weigh).sum()
}

fn shorten(text: &str) -> String {
    if text.len() <= MAX_VIOLATION_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_VIOLATION_BYTES);
    format!("{}... ({} bytes)", &text[..end], text.len())
}
