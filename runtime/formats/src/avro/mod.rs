//! Avro, by the schema of who wrote it and, if there is another one, of who reads it.
//!
//! Schemas are parsed, and values taken apart and put together, by the crate `apache-avro`. What is ours is the
//! way between its values and the model, and the resolution of schemas: that of the crate goes by the value
//! alone, without aliases, and it takes a text for bytes.

mod canonical;
mod container;
mod default;
mod input;
pub(crate) mod plan;
mod read;
pub(crate) mod resolve;
mod write;

use std::sync::Arc;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{NamesRef, ResolvedSchema};
use apache_avro::writer::datum::GenericDatumWriter;
use ouroboros::self_referencing;

pub use container::{Container, block, head, values_of};

use self::input::Input;
use self::plan::Plan;
use self::resolve::Resolution;
use crate::{Error, ExtraFields, Value};

/// Memory that one value may take while it is decoded, before it is a [`Value`]: what a hostile length or a
/// compressed block may ask for.
const MAX_ALLOCATION_BYTES: usize = 64 << 20;

/// Magic of the single-object encoding.
const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

/// A schema, ready to decode and encode by it. Cheap to clone.
#[derive(Clone)]
pub struct Schema {
    shared: Arc<Shared>,
}

struct Shared {
    parsed: Parsed,
    plan: Plan,
    /// The schema with all types in it that it refers to.
    json: String,
    fingerprint: [u8; 8],
}

/// A schema beside what is derived from it.
#[self_referencing]
struct Parsed {
    schema: apache_avro::Schema,
    references: Vec<apache_avro::Schema>,
    #[borrows(schema, references)]
    #[covariant]
    reader: GenericDatumReader<'this>,
    #[borrows(schema, references)]
    #[covariant]
    writer: GenericDatumWriter<'this>,
    #[borrows(schema, references)]
    #[covariant]
    names: NamesRef<'this>,
}

impl Schema {
    /// Parses a schema, with those that it refers to by name.
    ///
    /// # Errors
    /// One of them is no schema, a name is missing, or a record would contain itself without end.
    pub fn parse(text: &str, references: &[&str]) -> Result<Schema, Error> {
        apache_avro::util::max_allocation_bytes(MAX_ALLOCATION_BYTES);
        let (schema, references) =
            apache_avro::Schema::parse_str_with_list(text, references).map_err(wrong)?;
        Schema::of(schema, references)
    }

    fn of(schema: apache_avro::Schema, references: Vec<apache_avro::Schema>) -> Result<Schema, Error> {
        let parsed = ParsedTryBuilder {
            schema,
            references,
            reader_builder: |schema, references| {
                let names = names(schema, references)?;
                GenericDatumReader::builder(schema).resolved_writer_schemata(names).build()
            },
            writer_builder: |schema, references| {
                let names = names(schema, references)?;
                GenericDatumWriter::builder(schema).resolved_schemata(names).validate(false).build()
            },
            names_builder: |schema, references| Ok(names(schema, references)?.get_names().clone()),
        }
        .try_build()
        .map_err(wrong)?;
        let plan = Plan::of(parsed.borrow_schema(), parsed.borrow_names())?;
        let mut whole = parsed.borrow_schema().clone();
        let types: Vec<_> = parsed.borrow_names().values().map(|&schema| schema.clone()).collect();
        whole.denormalize(&types).map_err(wrong)?;
        let fingerprint = canonical::fingerprint(&whole);
        let json = serde_json::to_string(&whole).expect("a schema that was parsed is JSON");
        Ok(Schema { shared: Arc::new(Shared { parsed, plan, json, fingerprint }) })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Its full name, of a record, an enum or a fixed.
    pub fn name(&self) -> Option<String> {
        self.shared.parsed.borrow_schema().name().map(|name| name.fullname(None))
    }

    /// The fingerprint (CRC-64-AVRO of the parsing canonical form) by which the single-object encoding names it.
    pub fn fingerprint(&self) -> [u8; 8] {
        self.shared.fingerprint
    }

    /// The schema as JSON, with all types in it that it refers to.
    pub fn to_json(&self) -> &str {
        &self.shared.json
    }

    /// Decodes a value that was written by this schema, and nothing else.
    ///
    /// # Errors
    /// The bytes are no such value, are fewer or more, or ask for too much.
    pub fn decode(&self, bytes: &[u8]) -> Result<Value, Error> {
        Input::whole(bytes, |input| self.decode_next(input))
    }

    fn decode_next(&self, input: &mut Input<'_>) -> Result<Value, Error> {
        let value = self.shared.parsed.borrow_reader().read_value(input).map_err(wrong_value);
        input.checked(value).and_then(|value| read::value(&self.shared.plan, self.shared.plan.root(), value))
    }

    /// Appends a value.
    ///
    /// # Errors
    /// The value does not fit the schema. Then nothing was appended.
    pub fn encode(&self, value: &Value, extra: ExtraFields, out: &mut Vec<u8>) -> Result<(), Error> {
        let plan = &self.shared.plan;
        let value = write::value(plan, plan.root(), value, extra, crate::MAX_DEPTH)?;
        let before = out.len();
        self.shared.parsed.borrow_writer().write_value_ref(out, &value).map_err(|error| {
            out.truncate(before);
            Error::new(format!("cannot be written as Avro: {error}"))
        })?;
        Ok(())
    }

    /// The same in the single-object encoding.
    ///
    /// # Errors
    /// As [`Schema::encode`].
    pub fn encode_single(&self, value: &Value, extra: ExtraFields, out: &mut Vec<u8>) -> Result<(), Error> {
        let before = out.len();
        out.extend_from_slice(&SINGLE_OBJECT);
        out.extend_from_slice(&self.shared.fingerprint);
        self.encode(value, extra, out).inspect_err(|_| out.truncate(before))
    }
}

/// The fingerprint of the schema of a message in the single-object encoding, and the value behind it.
///
/// # Errors
/// It is none.
pub fn single(bytes: &[u8]) -> Result<([u8; 8], &[u8]), Error> {
    let (fingerprint, value) = bytes
        .strip_prefix(&SINGLE_OBJECT)
        .and_then(<[u8]>::split_first_chunk::<8>)
        .ok_or_else(|| {
            Error::new(format!(
                "no single-object encoding of Avro, which begins with c3 01 and a fingerprint of 8 bytes: found {}",
                hex(&bytes[..bytes.len().min(10)])
            ))
        })?;
    Ok((*fingerprint, value))
}

fn hex(bytes: &[u8]) -> String {
    match bytes.is_empty() {
        true => "nothing".to_owned(),
        false => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    }
}

/// Decodes by the schema of who wrote into that of who reads.
pub struct Resolved {
    writer: Schema,
    reader: Schema,
    resolution: Resolution,
}

impl Resolved {
    /// # Errors
    /// The two can never go together; says where.
    pub fn new(writer: Schema, reader: Schema) -> Result<Resolved, Error> {
        let resolution = Resolution::of(&writer.shared.plan, &reader.shared.plan)?;
        Ok(Resolved { writer, reader, resolution })
    }

    /// As [`Schema::decode`].
    ///
    /// # Errors
    /// As there, or this value cannot be resolved: a symbol that the reader does not know, say.
    pub fn decode(&self, bytes: &[u8]) -> Result<Value, Error> {
        Input::whole(bytes, |input| self.decode_next(input))
    }

    fn decode_next(&self, input: &mut Input<'_>) -> Result<Value, Error> {
        let value = self.writer.shared.parsed.borrow_reader().read_value(input).map_err(wrong_value);
        let value = input.checked(value)?;
        self.resolution.value(&self.writer.shared.plan, &self.reader.shared.plan, value)
    }
}

/// The types that a schema and those that it refers to define.
fn names<'s>(
    schema: &'s apache_avro::Schema,
    references: &'s [apache_avro::Schema],
) -> Result<ResolvedSchema<'s>, apache_avro::Error> {
    ResolvedSchema::new_with_schemata(references.iter().chain([schema]).collect())
}

fn wrong(error: apache_avro::Error) -> Error {
    Error::new(format!("no Avro schema: {error}"))
}

fn wrong_value(error: apache_avro::Error) -> Error {
    Error::new(format!("not Avro of this schema: {error}"))
}

#[cfg(test)]
mod tests;
