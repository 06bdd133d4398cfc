//! `json` with a registry: messages name the JSON Schema that they fit.

use std::path::Path;
use std::sync::Arc;

use millstream_formats::compatibility;
use millstream_registry::{Kind, Resolved, Schema};
use millstream_schema::{Check, Config};
use serde_json::Value;

use super::registered::{self, Compare, Compiled, Pinned, Target};
use super::registry::{Names, RegistryKeys};
use super::subject::Subject;
use super::{Extra, Payload, files};
use crate::codecs::{Conversion, DecodeError, EncodeError, Encoder, no_payload};
use crate::config::Parsed;
use crate::config::problem::Problem;
use crate::message::MessageRef;

/// From messages that name their schema into the JSON behind it, as it stands there.
pub fn reading(registry: &RegistryKeys, base: &Path) -> Parsed<Arc<dyn Conversion>> {
    registered::reading::<Checked>(registry, base, (), Payload::Json)
}

/// What a sink says of its schema.
pub struct Written<'a> {
    pub subject: Subject<'a>,
    pub schema: Option<&'a Path>,
    pub register: bool,
}

/// What writes messages that name their schema.
pub fn writing(registry: &RegistryKeys, written: &Written<'_>, base: &Path) -> Parsed<Arc<dyn Encoder>> {
    let mut problems = Vec::new();
    if written.register && written.schema.is_none() {
        problems.push(
            Problem::new("/register", "there is no schema to register")
                .help("schema = \"order.schema.json\""),
        );
    }
    written.subject.check(written.schema.is_some(), &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let (pinned, title) = match written.schema {
        None => (Pinned::Latest, String::new()),
        Some(file) => {
            let wrong = |error: String| vec![Problem::new("/schema", format!("{}: {error}", file.display()))];
            let text = files::read(base, file, "/schema").map_err(|problem| vec![problem])?;
            let value: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
            let title = value.get("title").and_then(Value::as_str).map(str::to_owned);
            if title.is_none() && written.subject.subject.is_none() && written.subject.names != Names::Topic {
                return Err(wrong("it has no `title`, which `subject_names` wants as its name".to_owned()));
            }
            let compiled = Check::new(Config::of(value)).map_err(|mistake| wrong(mistake.message))?;
            let schema = Schema::new(Kind::Json, text.clone());
            let compiled = Arc::new(Checked(compiled));
            let compare: Compare =
                Box::new(move |old, mode| compatibility::json::check(&old.schema.text, &text, mode));
            let register = written.register;
            (Pinned::This { schema, compiled, register, compare }, title.unwrap_or_default())
        }
    };
    let subject = written.subject.name(&title);
    let target = Target { subject, pinned, payload: Payload::Json, extra: Extra::Reject };
    registered::writing::<Checked>(registry, base, (), target)
}

/// Messages of one schema.
struct Checked(Check);

impl Compiled for Checked {
    const MEDIA_TYPE: &'static str = "application/json";

    type Settings = ();

    fn compile(schema: &Resolved, (): &()) -> Result<Checked, String> {
        if schema.schema.kind != Kind::Json {
            return Err(format!("it is {}, not JSON Schema", schema.schema.kind));
        }
        let json = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
        let mut config = Config::of(json(&schema.schema.text)?);
        for other in &schema.dependencies {
            config.references.insert(other.name.clone(), json(&other.text)?);
        }
        Check::new(config).map(Checked).map_err(|mistake| mistake.message)
    }

    fn read(&self, bytes: &[u8], _payload: Payload, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.0.check(Some(bytes)).map_err(|refusal| DecodeError(refusal.reason))?;
        out.extend_from_slice(bytes);
        Ok(())
    }

    fn write(
        &self,
        message: &MessageRef<'_>,
        _payload: Payload,
        _extra: Extra,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let payload = message.payload().ok_or_else(no_payload)?;
        self.0.check(Some(payload)).map_err(|refusal| EncodeError(refusal.reason))?;
        out.extend_from_slice(payload);
        Ok(())
    }
}
