//! From a document to a pipeline: every section read, then what no section can say alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::document::{Document, Mark};
use super::names::{self, Names};
use super::problem::Problem;
use super::shape::fields_of;
use super::units::{ByteSize, Interval};
use super::validate::{self, Section};
use super::variables::Environment;
use super::{
    DeadLetterStore, DeadLetters, DeadLettersCommon, Delivery, Guarantee, Ordering, Pipeline, Reading, Retry,
    Settings, SinkSection, SourceSection, exactly_once, guarantee, plugin_section, sections, test_section,
    tracing_section,
};
use crate::codecs::Around;
use crate::plugin::{LoadError, Plugin, PluginEngine, PluginSpec};

/// Each sink of a message is a bit of a word.
const MAX_SINKS: usize = 64;

/// Below this a few lanes with one plugin each would already stop the source.
const MIN_BUDGET: ByteSize = ByteSize::mib(16);

/// Keys of a pipeline file.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used: a file with mistakes is read section by section")]
pub struct FileKeys {
    /// What the pipeline is called in metrics, logs and dead letters, and its folder in the data
    /// folder: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Which messages keep their order, through every retry.
    #[serde(default)]
    pub ordering: Ordering,
    /// How messages are delivered.
    #[serde(default)]
    pub delivery: Delivery,
    /// The pipeline is refused if it cannot give this.
    pub require: Option<Guarantee>,
    /// Folder for what the pipeline must remember, relative to this file; by default
    /// `.millstream/NAME`.
    pub data_dir: Option<PathBuf>,
    /// Where messages come from.
    pub source: Map<String, Value>,
    /// What they go through, in order.
    #[serde(default)]
    pub plugin: Vec<Map<String, Value>>,
    /// Where they go.
    pub sink: Vec<Map<String, Value>>,
    /// When a failed message is tried again.
    #[serde(default)]
    pub retry: Map<String, Value>,
    /// Where messages go that were given up.
    #[serde(default)]
    pub dead_letters: Map<String, Value>,
    /// If it is there, messages are traced, and their spans exported by OTLP.
    #[serde(default)]
    pub tracing: Map<String, Value>,
    /// What `millstream test` runs the pipeline through.
    #[serde(default)]
    pub test: Vec<Map<String, Value>>,
    /// Variables of the tests, which see none of the environment.
    #[serde(default)]
    pub test_variables: BTreeMap<String, String>,
}

/// Names and folders that sections need.
pub struct Folders {
    pub name: String,
    pub base: PathBuf,
    /// Nothing of the source and the sinks is opened, so what they would need need not be there.
    pub is_for_tests: bool,
}

impl Folders {
    /// Where its codecs are configured.
    pub fn around_codec(&self) -> Around<'_> {
        Around { base: &self.base, is_for_tests: self.is_for_tests }
    }
}

/// The pipeline of a document, `None` if it has problems.
pub fn pipeline(document: &mut Document, environment: &Environment) -> Option<Pipeline> {
    let mut root = document.value.clone();
    let section = Section { at: "", label: "the file", example: "name = \"orders\"" };
    let mut keys = fields_of::<FileKeys>();
    keys.extend(fields_of::<Settings>());
    validate::section(document, section, &keys, &mut root);
    let Value::Object(mut root) = root else { return None };
    let name = names::read(document, "/name", root.get("name"));
    let folders = Folders {
        name: name.clone().unwrap_or_default(),
        base: base_of(&document.file),
        is_for_tests: environment.is_of_tests(),
    };

    let ordering: Option<Ordering> = read_or_default(document, &mut root, "ordering");
    let delivery: Option<Delivery> = read_or_default(document, &mut root, "delivery");
    let require: Option<Option<Guarantee>> = read_or_default(document, &mut root, "require");
    let source = root.remove("source").and_then(|value| sections::source(document, &folders, value));
    let engine = environment.engine.as_ref();
    let plugins = plugins(document, &folders, engine, root.remove("plugin"));
    let sinks = sinks(document, &folders, root.remove("sink"));
    let retry = retry(document, root.remove("retry"));
    let dead_letters = dead_letters(document, &folders, root.remove("dead_letters"));
    let tracing = match root.remove("tracing") {
        Some(value) => tracing_section::tracing(document, &folders, environment, value).map(Some),
        None => Some(None),
    };
    let settings = settings(document, &mut root, source.as_ref());
    let known = known_names(plugins.as_ref(), sinks.as_ref());
    let test = root.remove("test");
    let tests = test_section::tests(document, &folders, known.as_ref(), test);
    if root.get("data_dir").and_then(Value::as_str) == Some("") {
        let message = "this would be the folder of the file itself".to_owned();
        document.problem("/data_dir", Mark::Value, message, Some("a folder of its own".into()));
    }
    let data_dir = match (&environment.data_dir, root.get("data_dir").and_then(Value::as_str)) {
        (Some(base), _) => base.join(&folders.name),
        (None, Some(folder)) => folders.base.join(folder),
        (None, None) => folders.base.join(super::DATA_FOLDER).join(&folders.name),
    };

    let (plugins, loaded_plugins) = plugins?;
    let pipeline = Pipeline {
        name: name?,
        file: document.file.clone(),
        base: folders.base,
        data_dir,
        ordering: ordering?,
        delivery: delivery?,
        require: require?,
        source: source?,
        plugins,
        loaded_plugins,
        read: Reading::of(document),
        sinks: sinks?,
        retry: retry?,
        dead_letters: dead_letters?,
        tracing: tracing?,
        settings: settings?,
        tests: tests?,
    };
    require_what_is_given(document, &pipeline);
    (!document.has_problems()).then_some(pipeline)
}

/// What tests may name, if it is known.
fn known_names<'a>(
    plugins: Option<&'a (Vec<PluginSpec>, Vec<Plugin>)>,
    sinks: Option<&'a Vec<SinkSection>>,
) -> Option<test_section::Known<'a>> {
    Some(test_section::Known {
        sinks: sinks?.iter().map(|sink| sink.name.as_str()).collect(),
        plugins: plugins?.0.iter().map(|plugin| plugin.step.as_str()).collect(),
    })
}

fn read_or_default<T: DeserializeOwned + Default>(
    document: &mut Document,
    root: &mut Map<String, Value>,
    key: &str,
) -> Option<T> {
    match root.remove(key) {
        Some(value) => sections::typed(document, &format!("/{key}"), value, super::parse),
        None => Some(T::default()),
    }
}

/// P10: a pipeline that requires more than it can give is refused.
fn require_what_is_given(document: &mut Document, pipeline: &Pipeline) {
    if pipeline.delivery == Delivery::ExactlyOnce {
        for (reason, help) in exactly_once::obstacles(pipeline) {
            document.problem("/delivery", Mark::Value, format!("not exactly once: {reason}"), Some(help));
        }
    }
    let given = guarantee::of(pipeline);
    let Some(required) = pipeline.require.filter(|required| *required > given.delivery) else { return };
    let message = format!("this pipeline cannot give {required}, only {}", given.delivery);
    let help = given.weakest_link.map(|link| format!("because of {link}"));
    document.problem("/require", Mark::Value, message, help);
}

fn settings(
    document: &mut Document,
    root: &mut Map<String, Value>,
    source: Option<&SourceSection>,
) -> Option<Settings> {
    let keys = fields_of::<Settings>();
    let values: Map<String, Value> = keys.iter().filter_map(|key| root.remove_entry(&key.name)).collect();
    let settings: Settings = sections::typed(document, "", Value::Object(values), super::parse)?;
    if settings.type_header.as_deref() == Some("") {
        let message = "a header has a name".to_owned();
        document.problem("/type_header", Mark::Value, message, Some("leave the key out to have none".into()));
    }
    let (budget, at) = (settings.budget, "/budget");
    if budget < MIN_BUDGET {
        let shown = document.show(at, &budget.to_string().into());
        let message = format!("a budget of {shown} is too small, for it holds the memory of the plugins too");
        document.problem(at, Mark::Value, message, Some(format!("at least \"{MIN_BUDGET}\"")));
    }
    if let Some(source) = source
        && source.common.max_message_bytes > budget.max(MIN_BUDGET)
    {
        let at = "/source/max_message_bytes";
        let shown = document.show(at, &source.common.max_message_bytes.to_string().into());
        let message = format!("one message of {shown} is more than the budget of the pipeline");
        document.problem(at, Mark::Value, message, Some("a higher `budget`, or a lower limit here".into()));
    }
    Some(settings)
}

fn retry(document: &mut Document, value: Option<Value>) -> Option<Retry> {
    let section = Section { at: "/retry", label: "[retry]", example: "" };
    let retry: Retry = sections::read(document, section, value.unwrap_or_else(empty))?;
    if retry.base_delay > retry.max_delay {
        let shown =
            |key: &str, time: Interval| document.show(&format!("/retry/{key}"), &time.to_string().into());
        let message = format!(
            "`base_delay` of {} is over `max_delay` of {}",
            shown("base_delay", retry.base_delay),
            shown("max_delay", retry.max_delay)
        );
        document.problem("/retry/base_delay", Mark::Value, message, None);
    }
    Some(retry)
}

/// Folder of a file: relative paths in it start there.
fn base_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The plugins of a document and nothing else of it, `None` if they have problems. It may be a part
/// of a pipeline file.
pub fn only_plugins(document: &mut Document) -> Option<Vec<PluginSpec>> {
    let folders = Folders { name: String::new(), base: base_of(&document.file), is_for_tests: false };
    let value = document.value.get("plugin").cloned();
    plugins(document, &folders, None, value).map(|(specs, _)| specs)
}

/// The plugins, and with an engine what it made of them.
fn plugins(
    document: &mut Document,
    folders: &Folders,
    engine: Option<&Arc<PluginEngine>>,
    value: Option<Value>,
) -> Option<(Vec<PluginSpec>, Vec<Plugin>)> {
    let Value::Array(values) = value.unwrap_or_else(|| Value::Array(Vec::new())) else { return None };
    let count = values.len();
    let mut names = Names::of("plugin");
    let given = given_names(document, "/plugin", &mut names, &values);
    let mut plugins = Vec::new();
    let mut loaded = Vec::new();
    for (number, (value, name)) in values.into_iter().zip(given).enumerate() {
        let Some(mut plugin) = plugin_section::plugin(document, folders, number, value) else { continue };
        plugin.step = name.unwrap_or_else(|| names.number(&plugin.step));
        if let Some(shadow) = &mut plugin.shadow {
            shadow.plugin.step = format!("{}:shadow", plugin.step);
        }
        match engine.map(|engine| engine.check_both(&plugin)) {
            Some(Ok(plugin)) => loaded.push(plugin),
            Some(Err(error)) => tell_load_error(document, number, error),
            None => {}
        }
        plugins.push(plugin);
    }
    (plugins.len() == count).then_some((plugins, loaded))
}

/// Tells why a plugin cannot be used. Only it knows the keys of its configuration, so nobody has told
/// of these.
pub fn tell_load_error(document: &mut Document, number: usize, error: LoadError) {
    let at = format!("/plugin/{number}");
    for mut problem in error.problems {
        let pointer = format!("{at}{}", problem.at);
        let words = [Some(&problem.message), problem.help.as_ref()];
        let quoted = words.into_iter().flatten().find_map(|text| document.quoted_in_part(&pointer, text));
        if let Some(variable) = quoted {
            problem.message =
                format!("the plugin cannot use it; why is not told, as that quotes a part of {variable}");
            problem.help = None;
        }
        document.foreign_problem(&at, problem);
    }
}

fn sinks(document: &mut Document, folders: &Folders, value: Option<Value>) -> Option<Vec<SinkSection>> {
    let Value::Array(values) = value? else { return None };
    let count = values.len();
    if count == 0 || count > MAX_SINKS {
        let message = format!("a pipeline has 1 to {MAX_SINKS} sinks, found {count}");
        document.problem("/sink", Mark::Value, message, None);
        return None;
    }
    let mut names = Names::of("sink");
    let given = given_names(document, "/sink", &mut names, &values);
    let mut sinks = Vec::new();
    for (number, (value, name)) in values.into_iter().zip(given).enumerate() {
        let name = |kind: &str| name.unwrap_or_else(|| names.number(kind));
        sinks.extend(sections::sink(document, folders, number, value, name));
    }
    (sinks.len() == count).then_some(sinks)
}

fn given_names(
    document: &mut Document,
    at: &str,
    names: &mut Names,
    sections: &[Value],
) -> Vec<Option<String>> {
    let sections = sections.iter().enumerate();
    sections.map(|(number, section)| names.given(document, &format!("{at}/{number}/name"), section)).collect()
}

fn dead_letters(document: &mut Document, folders: &Folders, value: Option<Value>) -> Option<DeadLetters> {
    let at = "/dead_letters";
    let value = value.unwrap_or_else(empty);
    let (to, common) = if value.get("type").is_some() {
        if value.get("retention").is_some() {
            let message = "`retention` is for the embedded store, but these dead letters go to a sink";
            document.problem("/dead_letters/retention", Mark::Key, message, Some("remove it".into()));
            document.set_broken("/dead_letters/retention");
        }
        let (sink, common) = sections::dead_letter_sink(document, folders, value)?;
        (DeadLetterStore::Sink(sink), common)
    } else {
        let section = Section { at, label: "[dead_letters]", example: "" };
        let mut keys = fields_of::<DeadLettersCommon>();
        keys.extend(fields_of::<SinkType>());
        let mut value = value;
        validate::section(document, section, &keys, &mut value);
        (DeadLetterStore::Embedded, sections::typed(document, at, value, super::parse)?)
    };
    check_dead_letters(document, &common);
    Some(DeadLetters { to, common })
}

/// The key that makes `[dead_letters]` a sink.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct SinkType {
    /// A sink that dead letters go to, with its own keys beside it; by default the embedded store.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

fn check_dead_letters(document: &mut Document, common: &DeadLettersCommon) {
    let mut problems = Vec::new();
    if common.retention == Interval::millis(0) {
        problems.push(Problem::new("/retention", "dead letters would be deleted at once"));
    }
    if common.stop_above.as_ref().is_some_and(|stop| stop.window == Interval::millis(0)) {
        problems.push(Problem::new("/stop_above/window", "a window of no time holds no messages"));
    }
    sections::foreign(document, "/dead_letters", problems);
}

fn empty() -> Value {
    Value::Object(Map::new())
}
