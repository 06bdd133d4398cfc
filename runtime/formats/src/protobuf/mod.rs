//! Protocol Buffers: proto2 and proto3, of a descriptor set, of files or of what a schema registry has.
//!
//! In reading order:
//! - [`schema`]: descriptors, turned into what is looked up for every field
//! - [`decode`]: messages into values
//! - [`encode`]: values into messages
//! - [`well_known`]: `google.protobuf.Timestamp` and the like
//! - [`indexes`]: which message of a file, in the wire format of schema registries
//!
//! The rows of the table in `runtime/docs/formats.md` are tested in `tests.rs` one by one, and all together in
//! `protobuf_gives_back_all`, `protobuf_takes_what_json_has` and `protobuf_goes_both_ways`.

mod decode;
mod encode;
mod indexes;
mod schema;
mod well_known;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use prost_reflect::prost_types::FileDescriptorProto;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

pub use self::indexes::{read_indexes, write_indexes};

use self::decode::Decoder;
use self::encode::Encoder;
use self::schema::{Layout, Schema};
use crate::model::Value;
use crate::{Error, ExtraFields, MAX_DEPTH};

/// What becomes of a field of a message that its schema lacks: one that a newer schema has, or an extension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// The message is not decoded.
    #[default]
    Reject,
    /// The value is without it.
    Drop,
}

/// The messages of some files. A clone is the same ones.
#[derive(Clone)]
pub struct Descriptors {
    schema: Arc<Schema>,
    /// The file that was asked for; the others are what it imports.
    main_file: Arc<str>,
}

/// How messages of one type are decoded and encoded. A clone is cheap.
#[derive(Clone)]
pub struct Message {
    schema: Arc<Schema>,
    at: usize,
    unknown: UnknownFields,
    extra: ExtraFields,
}

impl Descriptors {
    /// Of a `FileDescriptorSet`, as `protoc --include_imports --descriptor_set_out` writes it. The main file
    /// is the last, which protoc puts behind those that it imports.
    ///
    /// # Errors
    /// It is none, or a file is missing or wrong.
    pub fn from_set(set: &[u8]) -> Result<Descriptors, Error> {
        let pool =
            DescriptorPool::decode(set).map_err(|error| Error::new(format!("no descriptor set: {error}")))?;
        let main_file = pool.files().last().map(|file| file.name().to_owned());
        let main_file = main_file.ok_or_else(|| Error::new("the descriptor set has no file"))?;
        Ok(Descriptors::new(&pool, &main_file))
    }

    /// Of `.proto` files, which import from `include_dirs`. The main file is the first.
    ///
    /// # Errors
    /// A file is missing or wrong; it names the place.
    pub fn from_files(
        files: &[impl AsRef<Path>],
        include_dirs: &[impl AsRef<Path>],
    ) -> Result<Descriptors, Error> {
        let (first, others) = files.split_first().ok_or_else(|| Error::new("no .proto file is given"))?;
        let mut compiler = Compiler::new(include_dirs).map_err(|error| not_compiled(&error))?;
        compiler.open_file(first).map_err(|error| not_compiled(&error))?;
        // Behind all that it imports.
        let main_file = compiler.files().last().map(|file| file.name().to_owned()).unwrap_or_default();
        compiler.open_files(others).map_err(|error| not_compiled(&error))?;
        Ok(Descriptors::new(&linked(&mut compiler)?, &main_file))
    }

    /// Of the text of a file and of those that it imports, by the names by which they are imported: what a
    /// schema registry has. In place of a text may stand its descriptor in base64. `google/protobuf/*.proto` need not be among them.
    ///
    /// # Errors
    /// A text is missing or wrong; it names the place.
    pub fn from_sources(main_text: &str, references: &[(&str, &str)]) -> Result<Descriptors, Error> {
        let (pool, main) = pool_of_sources(main_text, references)?;
        Ok(Descriptors::new(&pool, &main))
    }

    fn new(pool: &DescriptorPool, main_file: &str) -> Descriptors {
        Descriptors { schema: Arc::new(Schema::new(pool)), main_file: main_file.into() }
    }

    /// The message of this name, with its package: `shop.v1.Order`.
    ///
    /// # Errors
    /// There is none; it names those of the main file.
    pub fn message(&self, name: &str) -> Result<Message, Error> {
        let at = self.schema.message(name).ok_or_else(|| {
            let names: Vec<_> = self.of_main_file().map(|(_, layout)| layout.name.as_str()).collect();
            Error::new(format!("there is no message {name:?}; {} has {}", self.main_file, names.join(", ")))
        })?;
        Ok(Message::new(&self.schema, at))
    }

    /// The message of this name, if the main file itself has it.
    ///
    /// # Errors
    /// It has none; it names those that it has.
    pub fn message_of_main_file(&self, name: &str) -> Result<Message, Error> {
        let message = self.message(name)?;
        if *message.layout().file != *self.main_file {
            return Err(Error::new(format!(
                "the message {name:?} is of {}, which {} imports",
                message.layout().file,
                self.main_file
            )));
        }
        Ok(message)
    }

    /// The message of the main file at these indexes: which of the file's messages, then which of those
    /// within it, and so on.
    ///
    /// # Errors
    /// There is none.
    pub fn message_at_indexes(&self, indexes: &[i32]) -> Result<Message, Error> {
        let found = self.of_main_file().find(|(_, layout)| layout.indexes == indexes);
        let (at, _) =
            found.ok_or_else(|| Error::new(format!("{} has no message at {indexes:?}", self.main_file)))?;
        Ok(Message::new(&self.schema, at))
    }

    fn of_main_file(&self) -> impl Iterator<Item = (usize, &Layout)> {
        self.schema.messages.iter().enumerate().filter(|(_, layout)| *layout.file == *self.main_file)
    }
}

/// What [`Descriptors::from_sources`] is made of, and the name of the main file.
pub(crate) fn pool_of_sources(
    main_text: &str,
    references: &[(&str, &str)],
) -> Result<(DescriptorPool, String), Error> {
    const MAIN: &str = "schema.proto";
    let mut texts: HashMap<String, String> =
        references.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let main = (0..)
        .map(|count| if count == 0 { MAIN.to_owned() } else { format!("{count}-{MAIN}") })
        .find(|name| !texts.contains_key(name))
        .expect("there are more names than references");
    texts.insert(main.clone(), main_text.to_owned());
    let mut resolver = ChainFileResolver::new();
    resolver.add(Texts(texts));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.open_file(&main).map_err(|error| not_compiled(&error))?;
    Ok((linked(&mut compiler)?, main))
}

impl Message {
    fn new(schema: &Arc<Schema>, at: usize) -> Message {
        let (unknown, extra) = (UnknownFields::default(), ExtraFields::default());
        Message { schema: schema.clone(), at, unknown, extra }
    }

    #[must_use]
    pub fn with_unknown_fields(mut self, unknown: UnknownFields) -> Message {
        self.unknown = unknown;
        self
    }

    #[must_use]
    pub fn with_extra_fields(mut self, extra: ExtraFields) -> Message {
        self.extra = extra;
        self
    }

    /// Its name, with its package.
    pub fn name(&self) -> &str {
        &self.layout().name
    }

    /// Where it is in its file; see [`Descriptors::message_at_indexes`].
    pub fn message_index_path(&self) -> &[i32] {
        &self.layout().indexes
    }

    fn layout(&self) -> &Layout {
        &self.schema.messages[self.at]
    }

    /// The value of a message.
    ///
    /// # Errors
    /// It is cut short or of another schema, has a field that the schema lacks, is nested too deep, or would
    /// take far more memory than its own length.
    pub fn decode(&self, bytes: &[u8]) -> Result<Value, Error> {
        Decoder::new(&self.schema, self.unknown, bytes.len()).message(self.layout(), bytes, MAX_DEPTH)
    }

    /// Appends the value as a message. The same value always gives the same bytes.
    ///
    /// # Errors
    /// It does not fit into the schema. Then something may have been appended.
    pub fn encode(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        let encoder = Encoder { schema: &self.schema, extra: self.extra };
        encoder.message(self.layout(), value, out, MAX_DEPTH)
    }
}

impl fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptors({})", self.main_file)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({})", self.name())
    }
}

/// Files that are there as texts.
struct Texts(HashMap<String, String>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let text = self.0.get(name).ok_or_else(|| protox::Error::file_not_found(name))?;
        match serialized(text) {
            Some(file) => Ok(File::from_file_descriptor_proto(FileDescriptorProto {
                name: Some(name.to_owned()),
                ..file
            })),
            None => File::from_source(name, text),
        }
    }
}

/// A file that is given as its descriptor in base64, as Confluent's client for Python registers it.
fn serialized(text: &str) -> Option<FileDescriptorProto> {
    FileDescriptorProto::decode(STANDARD.decode(text.trim()).ok()?.as_slice()).ok()
}

/// What was compiled, linked once more: while it compiles a file its options are not known yet, and so not
/// what is packed.
fn linked(compiler: &mut Compiler) -> Result<DescriptorPool, Error> {
    let set = compiler.include_imports(true).encode_file_descriptor_set();
    DescriptorPool::decode(set.as_slice()).map_err(|error| Error::new(error.to_string()))
}

fn not_compiled(error: &protox::Error) -> Error {
    // Its `Debug` has the file, the line and the column too.
    Error::new(format!("{error:?}"))
}

#[cfg(test)]
mod tests;
