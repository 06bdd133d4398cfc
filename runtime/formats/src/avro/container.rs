//! Object container files: a head with the schema, then blocks of values, each with a marker behind it.

use super::compression::{Codec, Compression};
use super::read::Reader;
use super::{Resolved, Schema, write};
use crate::error::At;
use crate::{Error, ExtraFields, Value};

/// What such a file begins with: `Obj` and the version of the format.
pub const MAGIC: [u8; 4] = *b"Obj\x01";

const MARKER_BYTES: usize = 16;

/// Memory that the values of one block may take. Some take no bytes in the block at all, and a packed block is
/// unpacked into many.
const MAX_BLOCK_BYTES: usize = 256 << 20;

/// A file of which the head is known.
pub struct Container {
    schema: Schema,
    resolved: Option<Resolved>,
    codec: Codec,
    marker: [u8; MARKER_BYTES],
}

impl Container {
    /// From the head of a file, all of it; read by the schema of a reader, if there is one.
    ///
    /// # Errors
    /// It is no head, its schema is none or does not go together with the reader's, or its values are
    /// compressed in a way that is not known here.
    pub fn open(head: &[u8], reader: Option<&Schema>) -> Result<Container, Error> {
        let wrong = |what: String| Error::new(format!("no head of an Avro container file: {what}"));
        let rest = head
            .strip_prefix(&MAGIC)
            .ok_or_else(|| wrong(format!("it begins with {}", super::hex(&head[..head.len().min(4)]))))?;
        let (metadata, marker) = rest.split_last_chunk().ok_or_else(|| wrong("it ends too early".into()))?;
        let metadata = Schema::parse(r#"{"type":"map","values":"bytes"}"#, &[])?.decode(metadata)?;
        let Value::Map(metadata) = metadata else { return Err(wrong("it has no metadata".into())) };
        let of = |name: &str| {
            metadata.iter().find_map(|(key, value)| match (key, value) {
                (Value::Text(key), Value::Bytes(value)) if key == name => Some(value.as_slice()),
                _ => None,
            })
        };
        let schema = of("avro.schema").ok_or_else(|| wrong("it has no schema".into()))?;
        let schema = str::from_utf8(schema).map_err(|_| wrong("its schema is not UTF-8".into()))?;
        let schema = Schema::parse(schema, &[])?;
        let codec = Codec::named(of("avro.codec").unwrap_or(b"null")).map_err(wrong)?;
        let resolved = reader.map(|reader| Resolved::new(schema.clone(), reader.clone())).transpose()?;
        Ok(Container { schema, resolved, codec, marker: *marker })
    }

    /// The values of a block, which is given whole: count, size, values and marker. An error is one of the whole
    /// block, since what comes behind a value that cannot be read cannot be found.
    ///
    /// # Errors
    /// It is no block of this file.
    pub fn block(&self, block: &[u8]) -> Result<Vec<Value>, Error> {
        let wrong = |what: String| Error::new(format!("no block of this Avro container file: {what}"));
        let mut head = Reader::new(block, 0);
        let count = head.length().map_err(|_| wrong("no count of values".into()))?;
        let size = head.length().map_err(|_| wrong("no size".into()))?;
        let (data, marker) = head
            .rest()
            .split_last_chunk::<MARKER_BYTES>()
            .ok_or_else(|| wrong("it ends too early".into()))?;
        if data.len() != size {
            return Err(wrong(format!("{} bytes where it says {size}", data.len())));
        }
        if *marker != self.marker {
            return Err(wrong("the marker behind it is not that of the file".into()));
        }
        let data = self.codec.unpacked(data).map_err(wrong)?;
        let mut input = Reader::new(&data, MAX_BLOCK_BYTES);
        input.take(count.saturating_mul(size_of::<Value>()))?;
        let mut values = Vec::with_capacity(count.min(data.len()));
        for at in 0..count {
            let value = match &self.resolved {
                Some(resolved) => resolved.read(&mut input),
                None => input.root(self.schema.plan()),
            };
            values.push(value.at(at)?);
        }
        input.at_end()?;
        Ok(values)
    }
}

/// How many values a block says that it has, from its first bytes; 0 if it says none.
pub fn values_of(block: &[u8]) -> u64 {
    Reader::new(block, 0).long().ok().and_then(|count| count.try_into().ok()).unwrap_or(0)
}

/// The marker of files that are written here: the same for the same schema, so that a file can be gone on with.
fn marker(schema: &Schema) -> [u8; MARKER_BYTES] {
    let mut marker = *b"\0\0\0\0\0\0\0\0mstream\0";
    marker[..8].copy_from_slice(&schema.fingerprint());
    marker
}

/// The head of a file of this schema.
pub fn head(schema: &Schema, compression: Compression) -> Vec<u8> {
    let mut metadata = Vec::new();
    let entries = [("avro.codec", compression.name()), ("avro.schema", schema.to_json())];
    write::length(entries.len(), &mut metadata);
    for (name, value) in entries {
        write::bytes(name.as_bytes(), &mut metadata);
        write::bytes(value.as_bytes(), &mut metadata);
    }
    write::length(0, &mut metadata);
    [&MAGIC[..], &metadata, &marker(schema)].concat()
}

/// Appends a block with one value, so that each value that was written is there whatever comes after.
///
/// # Errors
/// As [`Schema::encode`].
pub fn block(
    schema: &Schema,
    compression: Compression,
    value: &Value,
    extra: ExtraFields,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let mut data = Vec::new();
    schema.encode(value, extra, &mut data)?;
    write::length(1, out);
    write::bytes(&compression.packed(data), out);
    out.extend_from_slice(&marker(schema));
    Ok(())
}

#[cfg(test)]
mod tests;
