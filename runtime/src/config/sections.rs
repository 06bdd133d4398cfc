//! Sources, sinks and codecs: from a section of the file to the component that its table names.

use std::sync::Arc;
use std::time::Duration;

use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::document::{Document, Mark};
use super::parse::parse;
use super::plugin_section::put_files_in;
use super::problem::Problem;
use super::shape::{Field, Shape, fields_of};
use super::source_checks::{Checks, Validate};
use super::validate::{self, Section, allowed};
use super::{DeadLettersCommon, Parsed, SinkCommon, SinkSection, SourceCommon, SourceSection};
use crate::codecs::{CODECS, CodecSpec};
use crate::config::assemble::Folders;
use crate::pipeline::native::{Convert, NativeSpec};
use crate::sinks::{SINKS, SinkContext};
use crate::sources::{SOURCES, SourceContext};
use crate::store::{Checkpoints, FailureCounts};

/// `[source]`.
pub fn source(document: &mut Document, folders: &Folders, mut value: Value) -> Option<SourceSection> {
    let section = Section { at: "/source", label: "[source]", example: "" };
    if let Some(validate) = value.get_mut("validate") {
        put_files_in(document, &folders.base, validate, "/source/validate");
    }
    let spec = component(document, section, &value, SOURCES, |spec| spec.name);
    let own = spec.map(|spec| (spec.schema)());
    let example = spec.map_or("", |spec| spec.example);
    let (mut common, mut own) =
        keys::<SourceCommon>(document, Section { example, ..section }, own.as_ref(), value);
    let spec = spec?;
    let codec = codec(document, section, own.remove("codec"), spec.default_codec, |spec, value| {
        (spec.decoder)(value, folders.around_codec())
    });
    own.remove("type");
    let config = typed(document, section.at, Value::Object(own), spec.parse);
    let checks = match common.as_mut().and_then(|common| common.validate.take()).map(Validate::checks) {
        None => Some(Checks::default()),
        Some(Ok(checks)) => Some(checks),
        Some(Err(problems)) => {
            foreign(document, "/source/validate", problems);
            None
        }
    };
    let (common, config, codec, checks) = (common?, config?, codec?, checks?);
    let context = SourceContext {
        pipeline: folders.name.clone(),
        base: folders.base.clone(),
        codec: Arc::clone(&codec),
        max_message_bytes: common.max_message_bytes.as_usize(),
        checkpoints: Arc::new(NoCheckpoints),
        failures: Arc::new(NoCheckpoints),
        budget: super::Settings::default().budget.as_usize(),
        budget_is_used_up: Arc::default(),
        waits: Arc::default(),
        metrics: Arc::default(),
    };
    if !folders.is_for_tests {
        let mut problems = Vec::new();
        config.check(&context, &mut problems);
        foreign(document, section.at, problems);
    }
    let conversion =
        codec.conversion().map(|conversion| Arc::new(Convert(conversion)) as Arc<dyn NativeSpec>);
    let natives = checks.before.into_iter().chain(conversion).chain(checks.after).collect();
    Some(SourceSection { kind: spec.name, config, codec, common, natives })
}

/// A `[[sink]]`, the first of which has the number 0. Where it gives itself no name, `name` makes
/// one of its type.
pub fn sink(
    document: &mut Document,
    folders: &Folders,
    number: usize,
    value: Value,
    name: impl FnOnce(&str) -> String,
) -> Option<SinkSection> {
    let at = format!("/sink/{number}");
    let section = Section { at: &at, label: "[[sink]]", example: "" };
    let (mut sink, common) = sink_section(document, folders, section, value, name)?;
    sink.common = common;
    Some(sink)
}

/// The sink of `[dead_letters]`. It has none of the keys that sinks share: dead letters are rare,
/// and while they cannot be written the pipeline waits.
pub fn dead_letter_sink(
    document: &mut Document,
    folders: &Folders,
    value: Value,
) -> Option<(SinkSection, DeadLettersCommon)> {
    let section = Section { at: "/dead_letters", label: "[dead_letters]", example: "" };
    sink_section(document, folders, section, value, |_| "dead-letters".into())
}

/// A sink, and the keys of its section that are not its own.
fn sink_section<Common: DeserializeOwned + JsonSchema>(
    document: &mut Document,
    folders: &Folders,
    section: Section<'_>,
    value: Value,
    name: impl FnOnce(&str) -> String,
) -> Option<(SinkSection, Common)> {
    let spec = component(document, section, &value, SINKS, |spec| spec.name);
    let own = spec.map(|spec| (spec.schema)());
    let example = spec.map_or("", |spec| spec.example);
    let (common, mut own) = keys::<Common>(document, Section { example, ..section }, own.as_ref(), value);
    let spec = spec?;
    let codec = codec(document, section, own.remove("codec"), spec.default_codec, |spec, value| {
        (spec.encoder)(value, folders.around_codec())
    });
    own.remove("type");
    let config = typed(document, section.at, Value::Object(own), spec.parse);
    let (common, config, codec) = (common?, config?, codec?);
    let context = SinkContext {
        pipeline: folders.name.clone(),
        name: name(spec.name),
        base: folders.base.clone(),
        codec: Arc::clone(&codec),
        transactions: None,
    };
    let mut problems = Vec::new();
    if !folders.is_for_tests {
        config.check(&context, &mut problems);
    }
    if context.codec.needs_headers() && !config.sends_headers() {
        problems.push(
            Problem::new(
                "/codec",
                "this codec writes headers, and here the sink sends messages without headers of their own",
            )
            .help("sinks `kafka`, and `http` with a message a request (mode = \"single\")"),
        );
    }
    foreign(document, section.at, problems);
    let common_of_sinks = SinkCommon::default();
    Some((
        SinkSection { kind: spec.name, name: context.name, config, codec, common: common_of_sinks },
        common,
    ))
}

/// Checks the keys of a section and parts them: what `Common` reads of them, and the component's
/// own. Where its type is not known, only those of `Common` are checked.
fn keys<Common: DeserializeOwned + JsonSchema>(
    document: &mut Document,
    section: Section<'_>,
    own: Option<&Schema>,
    mut value: Value,
) -> (Option<Common>, Map<String, Value>) {
    let common_keys = fields_of::<Common>();
    if let Some(schema) = own {
        let mut all = own_keys(schema);
        all.extend_from_slice(&common_keys);
        validate::section(document, section, &all, &mut value);
    }
    let Value::Object(mut own_part) = value else { return (None, Map::new()) };
    let mut common_part: Value =
        common_keys.iter().filter_map(|key| own_part.remove_entry(&key.name)).collect();
    if own.is_none() {
        validate::section(document, section, &common_keys, &mut common_part);
    }
    (typed(document, section.at, common_part, parse), own_part)
}

/// The row of a table that the section's `type` names.
fn component<T>(
    document: &mut Document,
    section: Section<'_>,
    value: &Value,
    table: &'static [T],
    name: fn(&T) -> &'static str,
) -> Option<&'static T> {
    let at = format!("{}/type", section.at);
    let known = || table.iter().map(name);
    match value.get("type") {
        None => {
            let message = format!("missing key `type` in {}", section.label);
            let help = format!("add: type = \"...\"\n{}", allowed(None, known()));
            document.missing(section.at, "type", message, help);
            None
        }
        Some(Value::String(kind)) => {
            let found = table.iter().find(|spec| name(spec) == kind);
            if found.is_none() {
                let visible = document.variable_of(&at).is_none().then_some(kind.as_str());
                let message =
                    format!("unknown type {} in {}", document.show(&at, &value["type"]), section.label);
                document.problem(&at, Mark::Value, message, Some(allowed(visible, known())));
            }
            found
        }
        Some(other) => {
            let message = format!("`type` must be a string, found {}", document.show(&at, other));
            document.problem(&at, Mark::Value, message, Some(allowed(None, known())));
            None
        }
    }
}

/// A codec by name, or with its settings.
fn codec<T>(
    document: &mut Document,
    section: Section<'_>,
    value: Option<Value>,
    default: &str,
    half: impl Fn(&CodecSpec, Value) -> Parsed<T>,
) -> Option<T> {
    let at = format!("{}/codec", section.at);
    let find = |name: &str| CODECS.iter().find(|spec| spec.name == name);
    match value {
        None => {
            let spec = find(default)?;
            typed(document, &at, Value::Object(Map::new()), |value| half(spec, value))
        }
        Some(Value::String(name)) => match find(&name) {
            Some(spec) => typed(document, &at, Value::Object(Map::new()), |value| half(spec, value)),
            None => {
                let visible = document.variable_of(&at).is_none().then_some(name.as_str());
                let help = allowed(visible, CODECS.iter().map(|spec| spec.name));
                let shown = document.show(&at, &Value::String(name.clone()));
                document.problem(&at, Mark::Value, format!("unknown codec {shown}"), Some(help));
                None
            }
        },
        Some(mut value @ Value::Object(_)) => {
            let section = Section { at: &at, label: "`codec`", example: "" };
            let spec = component(document, section, &value, CODECS, |spec| spec.name)?;
            let mut keys = own_keys(&(spec.schema)());
            keys.retain(|key| key.name != "codec");
            validate::section(document, section, &keys, &mut value);
            if let Value::Object(fields) = &mut value {
                fields.remove("type");
            }
            typed(document, &at, value, |value| half(spec, value))
        }
        Some(other) => {
            let shown = document.show(&at, &other);
            let message = format!("`codec` must be a name or a table, found {shown}");
            document.problem(&at, Mark::Value, message, Some("codec = \"json\"".into()));
            None
        }
    }
}

/// Keys of a component, with `type` and `codec`, which are read before the others.
fn own_keys(schema: &Schema) -> Vec<Field> {
    let key = |name: &str, description: &str| Field {
        name: name.into(),
        shape: Shape::Any,
        required: false,
        default: None,
        description: description.into(),
    };
    let mut keys = vec![key("type", "Which one it is."), key("codec", "The format of its messages.")];
    keys.extend(Shape::of(schema.as_value()).fields());
    keys
}

/// Reads a value whose keys were checked. What is already known to be wrong is left out, and what
/// then turns out to be wrong is told and left out too: so that checks behind it still run.
pub fn typed<T>(
    document: &mut Document,
    at: &str,
    value: Value,
    parse: impl Fn(Value) -> Parsed<T>,
) -> Option<T> {
    let value = document.without_broken(at, value);
    let problems = match parse(value.clone()) {
        Ok(parsed) => return Some(parsed),
        Err(problems) => problems,
    };
    let places: Vec<String> = problems.iter().map(|problem| problem.at.clone()).collect();
    foreign(document, at, problems);
    for place in places.iter().filter(|place| !place.is_empty()) {
        document.set_broken(&format!("{at}{place}"));
    }
    parse(document.without_broken(at, value)).ok()
}

/// Reads a section that is no component into its type.
pub fn read<T: DeserializeOwned + JsonSchema>(
    document: &mut Document,
    section: Section<'_>,
    mut value: Value,
) -> Option<T> {
    validate::section(document, section, &fields_of::<T>(), &mut value);
    typed(document, section.at, value, parse)
}

/// Tells problems that a type or a component found.
pub fn foreign(document: &mut Document, at: &str, problems: Vec<Problem>) {
    // Missing keys were told with the line to add, unless the schema does not have them.
    let (missing, others): (Vec<Problem>, Vec<Problem>) =
        problems.into_iter().partition(|problem| problem.message.starts_with("missing field `"));
    for problem in others {
        document.foreign_problem(at, problem);
    }
    if !document.has_problems() {
        for problem in missing {
            document.foreign_problem(at, problem);
        }
    }
}

/// Checkpoints while nothing runs.
struct NoCheckpoints;

impl Checkpoints for NoCheckpoints {
    fn load(&self) -> anyhow::Result<Vec<(String, Value)>> {
        Ok(Vec::new())
    }

    fn save(&self, checkpoints: &[(String, Value)]) -> anyhow::Result<()> {
        anyhow::bail!("{} checkpoints were saved during a check", checkpoints.len())
    }
}

impl FailureCounts for NoCheckpoints {
    fn load_failures(&self, _retention: Duration) -> anyhow::Result<Vec<(String, u32)>> {
        Ok(Vec::new())
    }

    fn add_failures(&self, messages: &[String]) -> anyhow::Result<()> {
        anyhow::bail!("{} messages failed during a check", messages.len())
    }

    fn forget_failures(&self, _messages: &[String]) -> anyhow::Result<()> {
        Ok(())
    }
}
