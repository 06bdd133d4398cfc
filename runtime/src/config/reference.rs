//! The reference of every component, made from the comments of the structs that read it.

use std::fmt::Write;

use schemars::Schema;

use super::assemble::{FileKeys, SinkType};
use super::plugin_section::PluginKeys;
use super::shape::{Field, Shape, Word, fields_of};
use super::test_section::TestCase;
use super::tracing_section::TracingKeys;
use super::{DeadLettersCommon, Retry, Settings, SinkCommon, SourceCommon};
use crate::codecs::CODECS;
use crate::plugin::{BUILT_INS, BuiltIn, Inspection};
use crate::sinks::SINKS;
use crate::sources::SOURCES;

/// What the command is called that writes the pages, for those who find one stale.
pub const WRITE_COMMAND: &str = "cargo run -p millstream -- components --write runtime/docs/reference";

/// Something a pipeline names, with its page.
pub struct Entry {
    pub kind: Kind,
    pub name: String,
    /// The beginning of its page.
    pub summary: String,
    /// Markdown.
    pub page: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Source,
    Sink,
    Codec,
    Plugin,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Source, Kind::Sink, Kind::Codec, Kind::Plugin];

    pub fn singular(self) -> &'static str {
        match self {
            Kind::Source => "source",
            Kind::Sink => "sink",
            Kind::Codec => "codec",
            Kind::Plugin => "plugin",
        }
    }
}

/// Everything there is, in the order of the tables.
pub fn entries() -> Vec<Entry> {
    let sources = SOURCES.iter().map(|spec| {
        let codec = spec.default_codec;
        entry(
            Kind::Source,
            spec.name,
            &(spec.schema)(),
            Some(codec),
            &fields_of::<SourceCommon>(),
            spec.example,
        )
    });
    let sinks = SINKS.iter().map(|spec| {
        let codec = spec.default_codec;
        entry(Kind::Sink, spec.name, &(spec.schema)(), Some(codec), &fields_of::<SinkCommon>(), spec.example)
    });
    let codecs =
        CODECS.iter().map(|spec| entry(Kind::Codec, spec.name, &(spec.schema)(), None, &[], spec.example));
    let plugins = BUILT_INS.iter().map(|built_in| Entry {
        kind: Kind::Plugin,
        name: built_in.name.to_owned(),
        summary: summary_of(built_in.page),
        page: built_in.page.to_owned(),
    });
    sources.chain(sinks).chain(codecs).chain(plugins).collect()
}

/// The page of a built-in plugin, of what it says of itself. It takes a compiler to ask it, so the
/// page that was made of the answer is in the binary.
pub fn plugin_page(built_in: &BuiltIn, inspection: &Inspection) -> anyhow::Result<String> {
    let schema: serde_json::Value = serde_json::from_str(&inspection.config_schema)?;
    let name = built_in.name;
    let mut page = format!("# plugin `{name}`\n\n{}\n", inspection.summary);
    let _ = write!(page, "\nReads of a message: {}.\n", inspection.reads.join(", "));
    let _ = match &Shape::of(&schema).fields()[..] {
        [] => write!(page, "\nIt has no configuration.\n"),
        fields => write!(page, "\nKeys of its `config`:\n{}", table(fields)),
    };
    let _ = write!(page, "\nKeys of every plugin:\n{}", table(&fields_of::<PluginKeys>()));
    let _ = write!(page, "\nExample:\n\n```toml\n{}\n```\n", built_in.example.trim());
    Ok(page)
}

/// All of them as files: name and Markdown.
pub fn pages(entries: &[Entry]) -> Vec<(String, String)> {
    let mut index = String::from(
        "# Reference\n\nMade from the comments in the code; `millstream components` prints the same.\n\n\
         - [The pipeline file](file.md): keys outside of components\n",
    );
    for kind in Kind::ALL {
        let of_kind: Vec<&Entry> = entries.iter().filter(|entry| entry.kind == kind).collect();
        if !of_kind.is_empty() {
            let _ = write!(index, "\n## {}s\n\n", kind.singular());
        }
        for entry in of_kind {
            let _ = writeln!(index, "- [{}]({}): {}", entry.name, file_name(entry), entry.summary);
        }
    }
    index.push_str(
        "\n## Types\n\n- size: a number of bytes, in quotes with B, KiB, MiB, GiB, kB, MB or GB, or a bare \
         number\n- time: a number with ms, s, m, h or d, in quotes; `\"1m 30s\"` too\n",
    );
    let mut pages = vec![("README.md".to_owned(), index), ("file.md".to_owned(), file_page())];
    pages.extend(entries.iter().map(|entry| (file_name(entry), entry.page.clone())));
    pages
}

fn file_name(entry: &Entry) -> String {
    format!("{}-{}.md", entry.kind.singular(), entry.name)
}

fn entry(
    kind: Kind,
    name: &str,
    schema: &Schema,
    default_codec: Option<&str>,
    common: &[Field],
    example: &str,
) -> Entry {
    let kind_name = kind.singular();
    let description = schema.get("description").and_then(|text| text.as_str()).unwrap_or_default();
    let mut page = format!("# {kind_name} `{name}`\n\n{}\n", description.trim());
    page.push_str(&table(&Shape::of(schema.as_value()).fields()));
    if let Some(default_codec) = default_codec {
        let codecs: Vec<&str> = CODECS.iter().map(|spec| spec.name).collect();
        let codec = Field {
            name: "codec".into(),
            shape: Shape::Text,
            required: false,
            default: Some(default_codec.into()),
            description: format!(
                "The format of its messages: {}. With settings a table: `{{ type = \"...\", ... }}`.",
                codecs.join(", ")
            ),
        };
        let keys: Vec<Field> = std::iter::once(codec).chain(common.iter().cloned()).collect();
        let _ = write!(page, "\nKeys of every {kind_name}:\n{}", table(&keys));
    }
    let _ = write!(page, "\nExample:\n\n```toml\n{}\n```\n", example.trim());
    Entry { kind, name: name.to_owned(), summary: first_sentence(description), page }
}

/// Keys that belong to no component.
fn file_page() -> String {
    let mut keys = fields_of::<FileKeys>();
    keys.extend(fields_of::<Settings>());
    let mut dead_letters = fields_of::<SinkType>();
    dead_letters.extend(fields_of::<DeadLettersCommon>());
    let mut page = String::from("# The pipeline file\n\nThe file itself:\n");
    for (heading, keys) in [
        ("", keys),
        ("[[plugin]]", fields_of::<PluginKeys>()),
        ("[retry]", fields_of::<Retry>()),
        ("[dead_letters]", dead_letters),
        ("[tracing]", fields_of::<TracingKeys>()),
        ("[[test]]", fields_of::<TestCase>()),
    ] {
        if !heading.is_empty() {
            let _ = write!(page, "\n## `{heading}`\n");
        }
        page.push_str(&table(&keys));
    }
    page
}

impl Entry {
    pub fn set_page(&mut self, page: String) {
        self.summary = summary_of(&page);
        self.page = page;
    }
}

/// The first sentence behind the heading.
fn summary_of(page: &str) -> String {
    first_sentence(page.split("\n\n").nth(1).unwrap_or_default())
}

/// Up to the first stop, or what is as good as one.
fn first_sentence(description: &str) -> String {
    let text = description.split_whitespace().collect::<Vec<_>>().join(" ");
    match [". ", "; ", ": "].iter().filter_map(|end| text.find(end)).min() {
        Some(end) => text[..end].to_owned(),
        None => text.trim_end_matches('.').to_owned(),
    }
}

/// A Markdown table that also reads well as it is; the last column is as long as it is.
fn table(keys: &[Field]) -> String {
    let mut rows = vec![["key", "type", "default", "what it is"].map(String::from)];
    add_rows(&mut rows, "", keys, "");
    if rows.len() == 1 {
        return String::new();
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut table = String::from("\n");
    for (number, [key, kind, default, text]) in rows.iter().enumerate() {
        let [w0, w1, w2] = widths;
        let _ = writeln!(table, "| {key:w0$} | {kind:w1$} | {default:w2$} | {text} |");
        if number == 0 {
            let lines = widths.map(|width| "-".repeat(width));
            let _ = writeln!(table, "| {} | {} | {} | --- |", lines[0], lines[1], lines[2]);
        }
    }
    table
}

/// `condition` says when these keys count: ` (with ...)`.
fn add_rows(rows: &mut Vec<[String; 4]>, prefix: &str, keys: &[Field], condition: &str) {
    for key in keys {
        let name = format!("{prefix}{}", key.name);
        let default = match (&key.default, key.required, inner(&key.shape)) {
            (_, true, _) => "required".to_owned(),
            (Some(default), false, Inner::Nothing) => format!("`{default}`"),
            _ => String::new(),
        };
        let words = match &key.shape {
            Shape::OneOf(words) => explained(words),
            _ => String::new(),
        };
        let text = format!("{}{words}{condition}", key.description).replace('|', "\\|");
        rows.push([format!("`{name}`"), type_of(&key.shape), default, text]);
        match inner(&key.shape) {
            Inner::Nothing => {}
            Inner::Fields(dots, fields) => add_rows(rows, &format!("{name}{dots}."), fields, condition),
            Inner::Variants(tag, variants) => {
                let words: Vec<Word> = variants.iter().map(|(word, _)| word.clone()).collect();
                let text = explained(&words).trim_start().to_owned();
                rows.push([
                    format!("`{name}.{tag}`"),
                    type_of(&Shape::OneOf(words)),
                    "required".into(),
                    text,
                ]);
                for (word, fields) in variants {
                    let condition = format!(" (with `{tag} = \"{}\"`)", word.word);
                    add_rows(rows, &format!("{name}."), fields, &condition);
                }
            }
        }
    }
}

/// What a key's value holds that has keys of its own.
enum Inner<'a> {
    Nothing,
    /// And what stands between the name of the key and theirs.
    Fields(&'static str, &'a [Field]),
    Variants(&'a str, &'a [(Word, Vec<Field>)]),
}

fn inner(shape: &Shape) -> Inner<'_> {
    match shape {
        Shape::Table(fields) => Inner::Fields("", fields),
        Shape::Map(shape) => match &**shape {
            Shape::Table(fields) => Inner::Fields(".NAME", fields),
            _ => Inner::Nothing,
        },
        Shape::List(shape) => match &**shape {
            Shape::Table(fields) => Inner::Fields("[]", fields),
            _ => Inner::Nothing,
        },
        Shape::Tagged { tag, variants } => Inner::Variants(tag, variants),
        // A short form and a table: the table is the one with keys.
        Shape::Either(shapes) => {
            shapes.iter().map(inner).find(|inner| !matches!(inner, Inner::Nothing)).unwrap_or(Inner::Nothing)
        }
        _ => Inner::Nothing,
    }
}

/// Words with their comments, as sentences behind a description.
fn explained(words: &[Word]) -> String {
    let explained = words.iter().filter(|word| !word.description.is_empty());
    explained.map(|word| format!(" `\"{}\"`: {}", word.word, word.description)).collect()
}

fn type_of(shape: &Shape) -> String {
    match shape {
        Shape::Any => "any".into(),
        Shape::Text => "string".into(),
        Shape::Boolean => "boolean".into(),
        Shape::Integer { min, max } => number("integer", *min, *max),
        Shape::Number { min, max } => number("number", *min, *max),
        Shape::Size => "size".into(),
        Shape::Time => "time".into(),
        Shape::OneOf(words) => {
            words.iter().map(|word| format!("`\"{}\"`", word.word)).collect::<Vec<_>>().join(", ")
        }
        Shape::List(shape) => format!("list of {}", type_of(shape)),
        Shape::Table(_) | Shape::Tagged { .. } => "table".into(),
        Shape::Map(shape) if matches!(**shape, Shape::Any | Shape::Table(_)) => "table".into(),
        Shape::Map(shape) => format!("table of {}", type_of(shape)),
        Shape::Either(shapes) => shapes.iter().map(type_of).collect::<Vec<_>>().join(" or "),
    }
}

/// A number with its limits, if they are more than those of its type.
fn number(name: &str, min: Option<f64>, max: Option<f64>) -> String {
    let min = min.filter(|min| *min != 0.0 || max == Some(1.0));
    let max = max.filter(|max| *max < f64::from(u32::MAX) && *max != f64::from(u16::MAX));
    match (min, max) {
        (None, None) => name.to_owned(),
        (Some(min), None) => format!("{name}, from {min}"),
        (None, Some(max)) => format!("{name}, to {max}"),
        (Some(min), Some(max)) => format!("{name}, {min} to {max}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{PluginCode, inspect};
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The folder that `WRITE_COMMAND` writes.
    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference")
    }

    #[test]
    fn the_reference_is_not_stale() {
        let pages = pages(&entries());
        let engine = crate::plugin::test_engine();
        for built_in in BUILT_INS {
            let code = PluginCode::BuiltIn(built_in.name.to_owned());
            let page = plugin_page(built_in, &inspect(engine, &code).unwrap()).unwrap();
            assert!(
                page == built_in.page,
                "the page of plugin {} is stale; run: {WRITE_COMMAND}",
                built_in.name
            );
        }
        for (name, text) in &pages {
            let written = std::fs::read_to_string(folder().join(name)).unwrap_or_default();
            assert!(&written == text, "docs/reference/{name} is stale; run: {WRITE_COMMAND}");
        }
        let names: BTreeSet<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for file in std::fs::read_dir(folder()).expect("the folder is there") {
            let name = file.expect("it can be read").file_name().into_string().expect("our names are UTF-8");
            assert!(
                names.contains(name.as_str()),
                "docs/reference/{name} is of nothing; run: {WRITE_COMMAND}"
            );
        }
    }

    #[test]
    fn every_key_of_every_component_is_explained() {
        fn walk(place: &str, keys: &[Field], bare: &mut Vec<String>) {
            for key in keys {
                let place = format!("{place}.{}", key.name);
                if key.description.is_empty() {
                    bare.push(place.clone());
                }
                match inner(&key.shape) {
                    Inner::Nothing => {}
                    Inner::Fields(_, fields) => walk(&place, fields, bare),
                    Inner::Variants(_, variants) => {
                        variants.iter().for_each(|(_, fields)| walk(&place, fields, bare));
                    }
                }
            }
        }
        let sources = SOURCES.iter().map(|spec| ("source", spec.name, (spec.schema)()));
        let sinks = SINKS.iter().map(|spec| ("sink", spec.name, (spec.schema)()));
        let codecs = CODECS.iter().map(|spec| ("codec", spec.name, (spec.schema)()));
        let mut bare = Vec::new();
        for (kind, name, schema) in sources.chain(sinks).chain(codecs) {
            let place = format!("{kind} {name}");
            if schema.get("description").is_none() {
                bare.push(place.clone());
            }
            walk(&place, &Shape::of(schema.as_value()).fields(), &mut bare);
        }
        assert_eq!(bare, [""; 0], "without a doc comment");
    }

    /// Keys of a component and keys that all of its kind have are read by different structs.
    #[test]
    fn no_component_has_a_key_that_all_have() {
        let both = |own: &Schema, common: &[Field]| {
            let own = Shape::of(own.as_value()).fields();
            let reserved = ["type", "codec"].into_iter().chain(common.iter().map(|key| key.name.as_str()));
            reserved
                .filter(|name| own.iter().any(|key| key.name == *name))
                .map(String::from)
                .collect::<Vec<_>>()
        };
        for spec in SOURCES {
            assert_eq!(both(&(spec.schema)(), &fields_of::<SourceCommon>()), [""; 0], "{}", spec.name);
        }
        for spec in SINKS {
            assert_eq!(both(&(spec.schema)(), &fields_of::<SinkCommon>()), [""; 0], "{}", spec.name);
            assert_eq!(both(&(spec.schema)(), &fields_of::<DeadLettersCommon>()), [""; 0], "{}", spec.name);
        }
    }
}
