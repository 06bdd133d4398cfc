//! `avro`: by a schema of a file, or of a registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_formats::avro::{self, Resolved as Resolving, Schema, single};
use millstream_formats::{Error, Value, compatibility};
use millstream_registry::{Kind, Reference, Resolved, Schema as RegisteredSchema};
use schemars::JsonSchema;
use serde::Deserialize;

use super::container::ContainerDecoder;
use super::references::Referred;
use super::registered::{Compiled, Pinned, Target, reading, writing};
use super::registry::{Names, RegistryKeys};
use super::subject::{Subject, only_for};
use super::{Convert, Encoding, Extra, Payload, Reads, Unchecked, Writes, converted, files};
use crate::codecs::{
    Around, CodecSpec, Conversion, DecodeError, Decoder, DecoderConfig, EncodeError, Encoder, Ends, Framing,
};
use crate::config::problem::Problem;
use crate::config::{Parsed, parse};
use crate::message::MessageRef;

pub const SPEC: CodecSpec = CodecSpec {
    name: "avro",
    schema: || schemars::schema_for!(Avro),
    example: "codec = { type = \"avro\", registry = { url = \"https://registry.example\" }, topic = \"orders\" }",
    decoder: |value, around| Avro::for_reading(parse(value)?)?.decoder(around),
    encoder: |value, around| Avro::for_writing(parse(value)?)?.encoder(around),
};

/// Avro, one value a message. Plugins see JSON, or what `payload` says. See `docs/formats.md` for what becomes
/// of which type.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Avro {
    /// How a message says its schema; by default `confluent` if there is a `registry`, otherwise `none`.
    framing: Option<AvroFraming>,
    /// File of the schema (`.avsc`), relative to the pipeline file. Of messages that are read it is the schema
    /// they were written by, and needed unless they name it; of those that are written the one to write by,
    /// where with a `registry` the newest version of the subject is the default.
    schema: Option<PathBuf>,
    /// Files of schemas that the schemas refer to by name. For writing with a `registry`, where each is
    /// registered: `{ file = "address.avsc", subject = "address", version = 1 }`.
    #[serde(default)]
    references: Vec<Referred>,
    /// For reading with `framing = "single-object"`: files of other schemas that messages may name.
    #[serde(default)]
    other_schemas: Vec<PathBuf>,
    /// For reading: file of the schema that plugins expect. Messages of older and newer schemas are brought
    /// into it as Avro resolves schemas: by defaults, promotions and aliases.
    reader_schema: Option<PathBuf>,
    /// Where schemas are registered.
    registry: Option<RegistryKeys>,
    /// For writing with a `registry`: how its subject is named.
    #[serde(default)]
    subject_names: Names,
    /// For writing with a `registry`: the topic in the name of the subject.
    topic: Option<String>,
    /// For writing with a `registry`: the subject itself, whatever `subject_names` says.
    subject: Option<String>,
    /// For writing with a `registry`: register `schema` in the subject if it is not there.
    #[serde(default)]
    register: bool,
    /// What plugins see of a message.
    #[serde(default)]
    payload: Payload,
    /// For writing: what becomes of fields that the schema does not have.
    #[serde(default)]
    extra_fields: Extra,
    /// For writing with `framing = "container"`: how each block is compressed.
    #[serde(default)]
    compression: Compression,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Compression {
    #[default]
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

impl From<Compression> for avro::Compression {
    fn from(compression: Compression) -> avro::Compression {
        match compression {
            Compression::Null => avro::Compression::Null,
            Compression::Deflate => avro::Compression::Deflate,
            Compression::Snappy => avro::Compression::Snappy,
            Compression::Zstandard => avro::Compression::Zstandard,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum AvroFraming {
    /// It does not: all are of `schema`.
    None,
    /// By its fingerprint (Avro's single-object encoding).
    SingleObject,
    /// By its id in the registry (Confluent's wire format).
    Confluent,
    /// They stand in object container files, which hold their schema. Read, a file may be compressed by
    /// deflate, snappy, zstandard, bzip2 or xz; written, each message is a block of its own.
    Container,
}

impl Avro {
    fn framing(&self) -> AvroFraming {
        match (self.framing, &self.registry) {
            (Some(framing), _) => framing,
            (None, Some(_)) => AvroFraming::Confluent,
            (None, None) => AvroFraming::None,
        }
    }

    fn for_reading(self) -> Parsed<Avro> {
        let mut problems = self.problems();
        let given = [
            ("topic", self.topic.is_some()),
            ("subject", self.subject.is_some()),
            ("subject_names", self.subject_names != Names::default()),
            ("register", self.register),
            ("extra_fields", self.extra_fields != Extra::default()),
            ("compression", self.compression != Compression::default()),
        ];
        only_for("writing", &given, &mut problems);
        if matches!(self.framing(), AvroFraming::Confluent | AvroFraming::Container) && self.schema.is_some()
        {
            problems.push(
                Problem::new("/schema", "messages come with the schema that they were written by")
                    .help("`reader_schema` is the one that plugins expect"),
            );
        }
        if !self.other_schemas.is_empty() && self.framing() != AvroFraming::SingleObject {
            problems.push(
                Problem::new("/other_schemas", "messages do not name their schema by its fingerprint")
                    .help("framing = \"single-object\""),
            );
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    fn for_writing(self) -> Parsed<Avro> {
        let mut problems = self.problems();
        let given = [
            ("reader_schema", self.reader_schema.is_some()),
            ("other_schemas", !self.other_schemas.is_empty()),
        ];
        only_for("reading", &given, &mut problems);
        if self.compression != Compression::default() && self.framing() != AvroFraming::Container {
            problems.push(
                Problem::new("/compression", "only blocks of files are compressed")
                    .help("framing = \"container\""),
            );
        }
        if self.register && self.schema.is_none() {
            problems.push(
                Problem::new("/register", "there is no schema to register").help("schema = \"order.avsc\""),
            );
        }
        if self.framing() == AvroFraming::Confluent {
            self.subject().check(self.schema.is_some(), &mut problems);
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        match (self.framing(), &self.registry) {
            (AvroFraming::Confluent, None) => problems.push(
                Problem::new(
                    "/framing",
                    "messages name their schema by its id in a registry, and there is none",
                )
                .help("registry = { url = \"https://registry.example\" }"),
            ),
            (_, Some(_)) if self.framing() != AvroFraming::Confluent => problems.push(
                Problem::new(
                    "/framing",
                    "without the id of its schema in a message the registry is not used",
                )
                .help("framing = \"confluent\", or no `registry`"),
            ),
            (AvroFraming::None | AvroFraming::SingleObject, None) if self.schema.is_none() => problems.push(
                Problem::new("", "there is no schema").help("schema = \"order.avsc\", or a `registry`"),
            ),
            _ => {}
        }
        problems
    }

    fn subject(&self) -> Subject<'_> {
        let (subject, topic) = (self.subject.as_deref(), self.topic.as_deref());
        Subject { subject, topic, names: self.subject_names }
    }

    fn schema(&self, base: &Path, file: &Path, at: &str) -> Result<(String, Schema), Problem> {
        let text = files::read(base, file, at)?;
        // They may refer to each other.
        let others = self.references.iter().map(Referred::file).filter(|other| *other != file);
        let references = files::read_all(base, others, "/references")?;
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        let schema = Schema::parse(&text, &references)
            .map_err(|error| Problem::new(at, format!("{}: {error}", file.display())))?;
        Ok((text, schema))
    }

    /// Where the schemas of messages are resolved into that of a reader, if there is one.
    fn reader(&self, base: &Path) -> Result<Option<Schema>, Problem> {
        let file = self.reader_schema.as_deref();
        file.map(|file| Ok(self.schema(base, file, "/reader_schema")?.1)).transpose()
    }

    fn decoder(&self, around: Around<'_>) -> Parsed<Arc<dyn DecoderConfig>> {
        if self.framing() == AvroFraming::Container && !around.is_for_tests {
            let reader = self.reader(around.base).map_err(one)?;
            return Ok(Arc::new(Containers { reader, payload: self.payload }));
        }
        converted(around, || self.conversion(around.base))
    }

    fn conversion(&self, base: &Path) -> Parsed<Arc<dyn Conversion>> {
        let reader = self.reader(base).map_err(one)?;
        let payload = self.payload;
        let resolving = |schema: Schema| {
            Written::new(schema, reader.as_ref()).map_err(|error| {
                one(Problem::new("/reader_schema", format!("it cannot read what `schema` writes: {error}")))
            })
        };
        if let (AvroFraming::Confluent, Some(registry)) = (self.framing(), &self.registry) {
            return reading::<Written>(registry, base, reader, payload);
        }
        let mut schemas = Vec::new();
        let known = self.schema.iter().map(|file| (file, "/schema".to_owned()));
        let others = self.other_schemas.iter().enumerate();
        let others = others.map(|(index, file)| (file, format!("/other_schemas/{index}")));
        for (file, at) in known.chain(others) {
            let (_, schema) = self.schema(base, file, &at).map_err(one)?;
            schemas.push((schema.fingerprint(), resolving(schema)?));
        }
        Ok(match self.framing() {
            AvroFraming::SingleObject => Arc::new(Convert { format: SingleObject(schemas), payload }),
            _ => Arc::new(Convert { format: schemas.swap_remove(0).1, payload }),
        })
    }

    fn encoder(&self, around: Around<'_>) -> Parsed<Arc<dyn Encoder>> {
        let base = around.base;
        let schema = self.schema.as_deref().map(|file| self.schema(base, file, "/schema")).transpose();
        let schema = schema.map_err(one)?;
        let registry = self.registry.as_ref().filter(|_| !around.is_for_tests);
        let (payload, media_type) = (self.payload, MEDIA_TYPE);
        match (registry, schema) {
            (Some(registry), schema) => self.registered(registry, schema, base),
            (None, Some((_, schema))) => {
                let format = Writer {
                    schema,
                    extra: self.extra_fields,
                    framing: self.framing(),
                    compression: self.compression.into(),
                };
                Ok(Arc::new(Encoding { format, payload, media_type }))
            }
            (None, None) if self.registry.is_some() => {
                Ok(Arc::new(Encoding { format: Unchecked, payload, media_type }))
            }
            (None, None) => Err(one(Problem::new("", "there is no schema"))),
        }
    }

    /// The references as the registry has them, by the names of their types.
    fn registered_references(&self, base: &Path) -> Parsed<Vec<Reference>> {
        let named = self.references.iter().enumerate().map(|(index, referred)| {
            let at = format!("/references/{index}");
            let (_, schema) = self.schema(base, referred.file(), &at)?;
            let name = schema
                .name()
                .ok_or_else(|| Problem::new(&at, "it has no name that others could refer to it by"))?;
            referred.registered(&name, &at)
        });
        let (mut references, mut problems) = (Vec::new(), Vec::new());
        for named in named {
            match named {
                Ok(reference) => references.push(reference),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(references) } else { Err(problems) }
    }

    fn registered(
        &self,
        registry: &RegistryKeys,
        schema: Option<(String, Schema)>,
        base: &Path,
    ) -> Parsed<Arc<dyn Encoder>> {
        let record = schema.as_ref().and_then(|(_, schema)| schema.name()).unwrap_or_default();
        let subject = self.subject().name(&record);
        let pinned = match schema {
            None => Pinned::Latest,
            Some((text, schema)) => {
                let references = self.registered_references(base)?;
                let whole = schema.to_json().to_owned();
                Pinned::This {
                    schema: RegisteredSchema { references, ..RegisteredSchema::new(Kind::Avro, text) },
                    compiled: Arc::new(Written { schema, resolved: None }),
                    register: self.register,
                    compare: Box::new(move |old, mode| {
                        compatibility::avro::check(of_registry(old)?.to_json(), &whole, mode)
                    }),
                }
            }
        };
        let (payload, extra) = (self.payload, self.extra_fields);
        writing::<Written>(registry, base, None, Target { subject, pinned, payload, extra })
    }
}

/// One problem, as a list of them.
fn one(problem: Problem) -> Vec<Problem> {
    vec![problem]
}

/// Object container files.
struct Containers {
    reader: Option<Schema>,
    payload: Payload,
}

impl DecoderConfig for Containers {
    fn framing(&self) -> Framing {
        Framing::AvroContainer
    }

    fn frame_is_payload(&self) -> bool {
        false
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(ContainerDecoder::new(self.reader.clone(), self.payload))
    }
}

const MEDIA_TYPE: &str = "application/vnd.apache.avro";

/// Values of a schema, as a reader has them if there is one.
struct Written {
    schema: Schema,
    resolved: Option<Resolving>,
}

impl Written {
    fn new(schema: Schema, reader: Option<&Schema>) -> Result<Written, Error> {
        let resolved = reader.map(|reader| Resolving::new(schema.clone(), reader.clone())).transpose()?;
        Ok(Written { schema, resolved })
    }
}

impl Reads for Written {
    fn decode(&self, bytes: &[u8]) -> Result<Value, Error> {
        match &self.resolved {
            Some(resolved) => resolved.decode(bytes),
            None => self.schema.decode(bytes),
        }
    }
}

impl Compiled for Written {
    const MEDIA_TYPE: &'static str = MEDIA_TYPE;

    type Settings = Option<Schema>;

    fn compile(schema: &Resolved, reader: &Option<Schema>) -> Result<Written, String> {
        if schema.schema.kind != Kind::Avro {
            return Err(format!("it is {}, not Avro", schema.schema.kind));
        }
        let schema = of_registry(schema).map_err(|error| error.to_string())?;
        Written::new(schema, reader.as_ref())
            .map_err(|error| format!("`reader_schema` cannot read what it writes: {error}"))
    }

    fn read(&self, bytes: &[u8], payload: Payload, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let value = self.decode(bytes).map_err(|error| DecodeError(error.to_string()))?;
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
        self.schema.encode(&value, extra.into(), out).map_err(|error| EncodeError(error.to_string()))
    }
}

/// A schema of a registry, with those that it refers to.
fn of_registry(schema: &Resolved) -> Result<Schema, Error> {
    let references: Vec<&str> = schema.dependencies.iter().map(|other| other.text.as_str()).collect();
    Schema::parse(&schema.schema.text, &references)
}

/// Messages of one of these schemas, which they name by its fingerprint.
struct SingleObject(Vec<([u8; 8], Written)>);

impl Reads for SingleObject {
    fn decode(&self, bytes: &[u8]) -> Result<Value, Error> {
        let (fingerprint, value) = single(bytes)?;
        let Some((_, written)) = self.0.iter().find(|(known, _)| *known == fingerprint) else {
            return Err(Error::new(format!(
                "it is of a schema with the fingerprint {:016x}, which none of `schema` and `other_schemas` has",
                u64::from_le_bytes(fingerprint)
            )));
        };
        written.decode(value)
    }
}

struct Writer {
    schema: Schema,
    extra: Extra,
    framing: AvroFraming,
    compression: avro::Compression,
}

impl Writes for Writer {
    fn encode(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        match self.framing {
            AvroFraming::SingleObject => self.schema.encode_single(value, self.extra.into(), out),
            AvroFraming::Container => {
                avro::block(&self.schema, self.compression, value, self.extra.into(), out)
            }
            AvroFraming::None | AvroFraming::Confluent => self.schema.encode(value, self.extra.into(), out),
        }
    }

    fn head(&self) -> Option<Vec<u8>> {
        (self.framing == AvroFraming::Container).then(|| avro::head(&self.schema, self.compression))
    }

    fn ends(&self) -> Ends {
        match self.framing {
            AvroFraming::Container => Ends::AvroBlocks,
            _ => Ends::Unmarked,
        }
    }
}
