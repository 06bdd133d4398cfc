//! `protobuf`: by a schema of files, or of a registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_formats::protobuf::{Descriptors, Message, UnknownFields, read_indexes, write_indexes};
use millstream_formats::{Error, Value, compatibility};
use millstream_registry::{Kind, Resolved, Schema};
use schemars::JsonSchema;
use serde::Deserialize;

use super::references::Referred;
use super::registered::{Compiled, Pinned, Target, reading, writing};
use super::registry::{Names, RegistryKeys};
use super::subject::{Subject, only_for};
use super::{Convert, Encoding, Extra, Payload, Reads, Unchecked, Writes, converted, files};
use crate::codecs::{Around, CodecSpec, DecodeError, DecoderConfig, EncodeError, Encoder};
use crate::config::problem::Problem;
use crate::config::{Parsed, parse};
use crate::message::MessageRef;

pub const SPEC: CodecSpec = CodecSpec {
    name: "protobuf",
    schema: || schemars::schema_for!(Protobuf),
    example: "codec = { type = \"protobuf\", files = [\"shop/order.proto\"], include = [\"proto\"], message = \"shop.Order\" }",
    decoder: |value, around| Protobuf::for_reading(parse(value)?)?.decoder(around),
    encoder: |value, around| Protobuf::for_writing(parse(value)?)?.encoder(around),
};

/// Protocol Buffers, proto2 and proto3, one message of it a message. Plugins see JSON, or what `payload` says.
/// See `docs/formats.md` for what becomes of which type.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Protobuf {
    /// Files of the schema (`.proto`), compiled when the pipeline starts: each is looked for in the folders of
    /// `include`. For writing with a `registry` the one to write by, where the newest version of the subject is
    /// the default.
    #[serde(default)]
    files: Vec<PathBuf>,
    /// Folders in which `files` and what they import are, relative to the pipeline file; by default that of
    /// the pipeline file.
    #[serde(default)]
    include: Vec<PathBuf>,
    /// A compiled schema in place of `files`, as `protoc --include_imports --descriptor_set_out` writes it.
    descriptor_set: Option<PathBuf>,
    /// Full name of the message: `shop.v1.Order`. With a `registry`, where messages that are read say which
    /// one they are, it is for writing: the one of the schema, by default its first.
    message: Option<String>,
    /// Where schemas are registered. Messages then name theirs by its id (Confluent's wire format).
    registry: Option<RegistryKeys>,
    /// For writing with a `registry`: how its subject is named.
    #[serde(default)]
    subject_names: Names,
    /// For writing with a `registry`: the topic in the name of the subject.
    topic: Option<String>,
    /// For writing with a `registry`: the subject itself, whatever `subject_names` says.
    subject: Option<String>,
    /// For writing with a `registry`: where what the file imports is registered, but for `google/protobuf/*`, each
    /// as it is imported: `{ file = "common/money.proto", subject = "money", version = 1 }`.
    #[serde(default)]
    references: Vec<Referred>,
    /// For writing with a `registry`: register the file in the subject if it is not there.
    #[serde(default)]
    register: bool,
    /// What plugins see of a message.
    #[serde(default)]
    payload: Payload,
    /// For reading: what becomes of fields that the schema does not have, such as those of a newer one.
    #[serde(default)]
    unknown_fields: Extra,
    /// For writing: what becomes of fields that the schema does not have.
    #[serde(default)]
    extra_fields: Extra,
}

impl From<Extra> for UnknownFields {
    fn from(extra: Extra) -> UnknownFields {
        match extra {
            Extra::Reject => UnknownFields::Reject,
            Extra::Drop => UnknownFields::Drop,
        }
    }
}

impl Protobuf {
    fn for_reading(self) -> Parsed<Protobuf> {
        let mut problems = self.problems();
        let given = [
            ("topic", self.topic.is_some()),
            ("subject", self.subject.is_some()),
            ("subject_names", self.subject_names != Names::default()),
            ("references", !self.references.is_empty()),
            ("register", self.register),
            ("extra_fields", self.extra_fields != Extra::default()),
        ];
        only_for("writing", &given, &mut problems);
        if self.registry.is_some() && !self.files.is_empty() {
            problems.push(
                Problem::new("/files", "messages name the schema in the registry that they were written by")
                    .help("remove it"),
            );
        }
        if self.registry.is_some() && self.message.is_some() {
            problems.push(
                Problem::new("/message", "messages with a `registry` say themselves which one they are")
                    .help("remove it"),
            );
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    fn for_writing(self) -> Parsed<Protobuf> {
        let mut problems = self.problems();
        only_for("reading", &[("unknown_fields", self.unknown_fields != Extra::default())], &mut problems);
        if self.registry.is_some() {
            self.subject().check(self.message.is_some(), &mut problems);
            if self.files.len() > 1 {
                problems.push(
                    Problem::new("/files/1", "a schema of a registry is one file")
                        .help("the one with the message; what it imports is in `references`"),
                );
            }
        }
        let pinned = self.registry.is_some() && !self.files.is_empty();
        for (name, given) in [("references", !self.references.is_empty()), ("register", self.register)] {
            if given && !pinned {
                problems.push(
                    Problem::new(
                        format!("/{name}"),
                        "there is no schema in a file to write by with a `registry`",
                    )
                    .help("files = [\"order.proto\"] and a `registry`"),
                );
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let has_schema = !self.files.is_empty() || self.descriptor_set.is_some();
        match (&self.registry, has_schema) {
            (Some(_), true) if self.descriptor_set.is_some() => problems.push(
                Problem::new("/descriptor_set", "the schema is that of the registry")
                    .help("remove `descriptor_set`, or `registry`"),
            ),
            (None, false) => problems.push(
                Problem::new("", "there is no schema")
                    .help("files = [\"order.proto\"], or a `descriptor_set`, or a `registry`"),
            ),
            (None, true) if self.message.is_none() => problems.push(
                Problem::new("", "it is not said which message it is").help("message = \"shop.v1.Order\""),
            ),
            _ => {}
        }
        if !self.files.is_empty() && self.descriptor_set.is_some() {
            problems.push(
                Problem::new("/descriptor_set", "the schema is in `files` already").help("one of the two"),
            );
        }
        problems
    }

    fn decoder(&self, around: Around<'_>) -> Parsed<Arc<dyn DecoderConfig>> {
        let (base, payload) = (around.base, self.payload);
        converted(around, || match &self.registry {
            None => Ok(Arc::new(Convert { format: self.message(base)?, payload })),
            Some(registry) => {
                let settings = Messages { unknown: self.unknown_fields, message: None };
                reading::<File>(registry, base, settings, payload)
            }
        })
    }

    fn encoder(&self, around: Around<'_>) -> Parsed<Arc<dyn Encoder>> {
        let (payload, media_type) = (self.payload, MEDIA_TYPE);
        match &self.registry {
            None => Ok(Arc::new(Encoding { format: self.message(around.base)?, payload, media_type })),
            Some(_) if around.is_for_tests => {
                Ok(Arc::new(Encoding { format: Unchecked, payload, media_type }))
            }
            Some(registry) => {
                let settings = Messages { unknown: Extra::Reject, message: self.message.clone() };
                let subject = self.subject().name(self.message.as_deref().unwrap_or_default());
                let extra = self.extra_fields;
                let pinned = match self.files.first() {
                    None => Pinned::Latest,
                    Some(file) => self.pinned(file, &settings, around.base)?,
                };
                let target = Target { subject, pinned, payload, extra };
                writing::<File>(registry, around.base, settings, target)
            }
        }
    }

    /// The schema in a file, as it is to be found in the registry.
    fn pinned(&self, file: &Path, settings: &Messages, base: &Path) -> Parsed<Pinned<File>> {
        let include = self.include(base);
        let wrong = |at: &'static str| move |error: Error| vec![Problem::new(at, error.to_string())];
        let descriptors = Descriptors::from_files(&self.files, &include).map_err(wrong("/files"))?;
        let compiled = File::new(descriptors, settings).map_err(wrong("/message"))?;
        let new = compatibility::protobuf::of_file(file, &include).map_err(wrong("/files"))?;
        let folder = include.iter().find(|folder| folder.join(file).is_file()).unwrap_or(&include[0]);
        let text = files::read(folder, file, "/files/0").map_err(|problem| vec![problem])?;
        let references = self.references.iter().enumerate().map(|(index, referred)| {
            referred.registered(&referred.file().to_string_lossy(), &format!("/references/{index}"))
        });
        let references = references.collect::<Result<_, _>>().map_err(|problem| vec![problem])?;
        Ok(Pinned::This {
            schema: Schema { references, ..Schema::new(Kind::Protobuf, text) },
            compiled: Arc::new(compiled),
            register: self.register,
            compare: Box::new(move |old, mode| {
                let old = compatibility::protobuf::of_sources(&old.schema.text, &dependencies(old))?;
                compatibility::protobuf::check(&old, &new, None, mode)
            }),
        })
    }

    fn include(&self, base: &Path) -> Vec<PathBuf> {
        match self.include.is_empty() {
            true => vec![base.to_owned()],
            false => self.include.iter().map(|folder| base.join(folder)).collect(),
        }
    }

    fn subject(&self) -> Subject<'_> {
        let (subject, topic) = (self.subject.as_deref(), self.topic.as_deref());
        Subject { subject, topic, names: self.subject_names }
    }

    /// The message of a schema in files.
    fn message(&self, base: &Path) -> Parsed<Message> {
        let one = |problem: Problem| vec![problem];
        let descriptors = match &self.descriptor_set {
            Some(file) => {
                let at = "/descriptor_set";
                let path = base.join(file);
                let set = std::fs::read(&path).map_err(|error| {
                    one(Problem::new(at, format!("cannot read {}: {error}", path.display())))
                })?;
                Descriptors::from_set(&set).map_err(|error| one(Problem::new(at, error.to_string())))?
            }
            None => Descriptors::from_files(&self.files, &self.include(base))
                .map_err(|error| one(Problem::new("/files", error.to_string())))?,
        };
        let name = self.message.as_deref().unwrap_or_default();
        let message =
            descriptors.message(name).map_err(|error| one(Problem::new("/message", error.to_string())))?;
        Ok(message
            .with_unknown_fields(self.unknown_fields.into())
            .with_extra_fields(self.extra_fields.into()))
    }
}

const MEDIA_TYPE: &str = "application/protobuf";

impl Reads for Message {
    fn decode(&self, bytes: &[u8]) -> Result<Value, Error> {
        Message::decode(self, bytes)
    }
}

impl Writes for Message {
    fn encode(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        let before = out.len();
        Message::encode(self, value, out).inspect_err(|_| out.truncate(before))
    }
}

/// What is wanted of the messages of a file in a registry.
#[derive(Clone)]
struct Messages {
    unknown: Extra,
    /// The one to write, by default the first.
    message: Option<String>,
}

/// A file in a registry. Which of its messages one is says a list of indexes before it.
struct File {
    descriptors: Descriptors,
    unknown: Extra,
    written: Message,
}

impl File {
    fn new(descriptors: Descriptors, settings: &Messages) -> Result<File, Error> {
        let written = match &settings.message {
            Some(name) => descriptors.message_of_main_file(name),
            None => descriptors.message_at_indexes(&[0]),
        };
        Ok(File { written: written?, descriptors, unknown: settings.unknown })
    }
}

/// What a schema of a registry imports, by its names.
fn dependencies(schema: &Resolved) -> Vec<(&str, &str)> {
    schema.dependencies.iter().map(|other| (other.name.as_str(), other.text.as_str())).collect()
}

impl Compiled for File {
    const MEDIA_TYPE: &'static str = MEDIA_TYPE;

    type Settings = Messages;

    fn compile(schema: &Resolved, settings: &Messages) -> Result<File, String> {
        if schema.schema.kind != Kind::Protobuf {
            return Err(format!("it is {}, not Protocol Buffers", schema.schema.kind));
        }
        let descriptors = Descriptors::from_sources(&schema.schema.text, &dependencies(schema));
        descriptors.and_then(|file| File::new(file, settings)).map_err(|error| error.to_string())
    }

    fn read(&self, mut bytes: &[u8], payload: Payload, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let value = read_indexes(&mut bytes)
            .and_then(|indexes| self.descriptors.message_at_indexes(&indexes))
            .and_then(|message| message.with_unknown_fields(self.unknown.into()).decode(bytes))
            .map_err(|error| DecodeError(error.to_string()))?;
        payload.write(&value, out)
    }

    fn write(
        &self,
        message: &MessageRef<'_>,
        payload: Payload,
        extra: Extra,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let value = payload.read(message)?;
        write_indexes(self.written.message_index_path(), out);
        let written = self.written.clone().with_extra_fields(extra.into());
        written.encode(&value, out).map_err(|error| EncodeError(error.to_string()))
    }
}
