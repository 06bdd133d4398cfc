//! Avro, by the schema of who wrote it and, if there is another one, of who reads it.
//!
//! Schemas are parsed by the crate `apache-avro`. The values are read and written here, straight into the model and
//! from it: by way of the crate's own values it takes twice as long, its deserializer for serde says no branch of a
//! union and resolves no schemas, and what it reads it takes in places for a null where the input ends. Its
//! resolution goes by the value alone, without aliases.

mod canonical;
mod compression;
mod container;
mod default;
pub(crate) mod plan;
mod read;
pub(crate) mod resolve;
mod resolved;
mod write;

use std::sync::Arc;

use apache_avro::schema::ResolvedSchema;

pub use compression::Compression;
pub use container::{Container, block, head, values_of};
pub use resolved::Resolved;

use self::plan::Plan;
use self::read::Reader;
use self::write::Writer;
use crate::{Error, ExtraFields, MAX_DEPTH, Value};

/// Magic of the single-object encoding.
const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

/// A schema, ready to decode and encode by it. Cheap to clone.
#[derive(Clone)]
pub struct Schema {
    shared: Arc<Shared>,
}

struct Shared {
    plan: Plan,
    name: Option<String>,
    /// The schema with all types in it that it refers to.
    json: String,
    fingerprint: [u8; 8],
}

impl Schema {
    /// Parses a schema, with those that it refers to by name.
    ///
    /// # Errors
    /// One of them is no schema, a name is missing, or a record would contain itself without end.
    pub fn parse(text: &str, references: &[&str]) -> Result<Schema, Error> {
        let (mut schema, references) =
            apache_avro::Schema::parse_str_with_list(text, references).map_err(wrong)?;
        let resolved = ResolvedSchema::new_with_schemata(references.iter().chain([&schema]).collect());
        let resolved = resolved.map_err(wrong)?;
        let names = resolved.get_names();
        let plan = Plan::of(&schema, names)?;
        let types: Vec<_> = names.values().map(|&schema| schema.clone()).collect();
        schema.denormalize(&types).map_err(wrong)?;
        let fingerprint = canonical::fingerprint(&schema);
        let json = serde_json::to_string(&schema).expect("a schema that was parsed is JSON");
        let name = schema.name().map(|name| name.fullname(None));
        Ok(Schema { shared: Arc::new(Shared { plan, name, json, fingerprint }) })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Its full name, of a record, an enum or a fixed.
    pub fn name(&self) -> Option<String> {
        self.shared.name.clone()
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
        Reader::whole(bytes, |reader| reader.root(self.plan()))
    }

    /// Appends a value.
    ///
    /// # Errors
    /// The value does not fit the schema. Then nothing was appended.
    pub fn encode(&self, value: &Value, extra: ExtraFields, out: &mut Vec<u8>) -> Result<(), Error> {
        let before = out.len();
        let plan = self.plan();
        let mut writer = Writer { plan, extra, out };
        writer.value(plan.root(), value, MAX_DEPTH).inspect_err(|_| out.truncate(before))
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

fn wrong(error: apache_avro::Error) -> Error {
    Error::new(format!("no Avro schema: {error}"))
}

#[cfg(test)]
mod tests;
