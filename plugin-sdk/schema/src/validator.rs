//! A compiled schema, and the verdict on a document.

use std::sync::Arc;

use jsonschema::{Registry, ValidationOptions};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::closest::{Closest, closest};
use crate::config::{self, Config, Mistake};
use crate::references::References;
use crate::report::Report;

/// The name that parts of the schema are referred to by.
const SCHEMA_URI: &str = "millstream:///schema";

/// What is escaped in the fragment of a URI: more than must be.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'~');

pub struct Validator {
    whole: jsonschema::Validator,
    schema: Arc<Value>,
    /// The schema again, to compile a part of it; `None` if it cannot be referred to.
    registry: Option<Registry<'static>>,
    references: References,
    draft: jsonschema::Draft,
    formats: bool,
    max_violations: usize,
    show_values: bool,
}

impl Validator {
    /// Compiles the schema. Nothing outside of the configuration is read.
    pub fn new(config: Config) -> Result<Self, Mistake> {
        let schema = config::schema(|| "/schema".to_owned(), config.schema)?;
        let references = References::new(config.references)?;
        let options = options(&references, config.formats);
        let options = match config.draft {
            Some(draft) => options.with_draft(draft.into()),
            None => options,
        };
        let whole = options.build(&schema).map_err(|error| {
            // For a schema that is none, the instance is the schema.
            let message = match error.instance_path().as_str() {
                "" => error.to_string(),
                place => format!("{error}, at {place} of the schema"),
            };
            Mistake { field: "/schema".to_owned(), message }
        })?;
        let schema = Arc::new(schema);
        let registry = Registry::new().retriever(references.clone()).draft(whole.draft());
        let registry = registry.add(SCHEMA_URI, Arc::clone(&schema));
        Ok(Self {
            registry: registry.and_then(|builder| builder.prepare()).ok(),
            draft: whole.draft(),
            whole,
            schema,
            references,
            formats: config.formats,
            max_violations: config.max_violations.get() as usize,
            show_values: config.show_values,
        })
    }

    /// Says what is wrong with `document`, if anything.
    pub fn violations(&self, document: &Value) -> Option<String> {
        // The verdict alone takes microseconds, a report of a large schema milliseconds.
        if self.whole.is_valid(document) {
            return None;
        }
        Some(self.closest_report(document).unwrap_or_else(|| {
            let mut report = self.report();
            self.whole.iter_errors(document).for_each(|error| report.add(&error));
            report.into_text()
        }))
    }

    /// The violations of the alternative that the document was probably meant to be. `None` if
    /// there is none, or it fits: then what is wrong is the union itself.
    fn closest_report(&self, document: &Value) -> Option<String> {
        let Closest { pointer, unions } = closest(&self.schema, document)?;
        let validator = options(&self.references, self.formats)
            .with_draft(self.draft)
            .with_registry(self.registry.as_ref()?)
            .build(&json!({ "$ref": format!("{SCHEMA_URI}#{}", utf8_percent_encode(&pointer, ESCAPED)) }))
            .ok()?;
        let mut report = self.report();
        validator.iter_errors(document).for_each(|error| report.add(&error));
        if report.is_empty() {
            return None;
        }
        let unions: Vec<_> = unions.iter().map(|(at, count)| format!("{count} of {at}")).collect();
        let unions = unions.join(", then ");
        Some(format!("fits no alternative ({unions}); closest is {pointer}, but\n{}", report.into_text()))
    }

    fn report(&self) -> Report {
        Report::new(self.max_violations, self.show_values)
    }
}

fn options(references: &References, formats: bool) -> ValidationOptions<'static> {
    jsonschema::options().with_retriever(references.clone()).should_validate_formats(formats)
}
