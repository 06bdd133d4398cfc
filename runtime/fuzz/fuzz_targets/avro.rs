//! Any bytes as a value of a schema that has everything, as what another schema reads of it, and as a file.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod formats;

#[cfg(fuzzing)]
mod target {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use libfuzzer_sys::fuzz_target;
    use millstream_formats::avro::{Compression, Container, Resolved, Schema, head, single};
    use millstream_formats::{Error, ExtraFields, Value};

    use crate::formats;

    const WRITER: &str = r#"{"type": "record", "name": "fuzz.All", "fields": [
        {"name": "flag", "type": "boolean"},
        {"name": "int", "type": "int"},
        {"name": "float", "type": "float"},
        {"name": "double", "type": "double"},
        {"name": "bytes", "type": "bytes"},
        {"name": "text", "type": "string"},
        {"name": "fixed", "type": {"type": "fixed", "name": "Two", "size": 2}},
        {"name": "symbol", "type": {"type": "enum", "name": "Symbol", "symbols": ["A", "B", "C"]}},
        {"name": "next", "type": ["null", "fuzz.All"]},
        {"name": "tagged", "type": ["null", "string", "bytes", "int", "double", {"type": "array", "items": "Two"}]},
        {"name": "list", "type": {"type": "array", "items": ["null", "long", "string"]}},
        {"name": "nulls", "type": {"type": "array", "items": "null"}},
        {"name": "map", "type": {"type": "map", "values": "Symbol"}},
        {"name": "decimal", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3}},
        {"name": "fixed_decimal", "type": {"type": "fixed", "name": "Four", "size": 4,
            "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "big", "type": ["null", {"type": "bytes", "logicalType": "big-decimal"}]},
        {"name": "uuid", "type": ["null", {"type": "string", "logicalType": "uuid"}]},
        {"name": "date", "type": {"type": "int", "logicalType": "date"}},
        {"name": "time", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-nanos"}},
        {"name": "duration", "type": ["null", {"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}]}
    ]}"#;

    const READER: &str = r#"{"type": "record", "name": "fuzz.All", "fields": [
        {"name": "int", "type": "double"},
        {"name": "float", "type": ["string", "double"]},
        {"name": "octets", "type": "string", "aliases": ["bytes"]},
        {"name": "text", "type": "bytes"},
        {"name": "symbol", "type": {"type": "enum", "name": "Symbol", "symbols": ["B", "X"], "default": "X"}},
        {"name": "next", "type": ["fuzz.All", "null"]},
        {"name": "tagged", "type": ["null", "string", "bytes", "long", "double"]},
        {"name": "list", "type": {"type": "array", "items": ["null", "float", "bytes"]}},
        {"name": "map", "type": {"type": "map", "values": "Symbol"}},
        {"name": "date", "type": "long"},
        {"name": "added", "type": ["null", "int"], "default": null}
    ]}"#;

    struct Schemas {
        writer: Schema,
        reader: Schema,
        resolved: Resolved,
        head: Vec<u8>,
    }

    fuzz_target!(|bytes: &[u8]| {
        static SCHEMAS: OnceLock<Schemas> = OnceLock::new();
        let schemas = SCHEMAS.get_or_init(|| {
            let (writer, reader) = (Schema::parse(WRITER, &[]).unwrap(), Schema::parse(READER, &[]).unwrap());
            let resolved = Resolved::new(writer.clone(), reader.clone()).unwrap();
            Schemas { head: head(&writer, Compression::Null), writer, reader, resolved }
        });
        let there_and_back = |schema: &Schema, decode: &dyn Fn(&[u8]) -> Result<Value, Error>| {
            let is_first = Cell::new(true);
            // What is written is always of the reader's schema. A decimal with more digits than it has is read,
            // as others do, and not written.
            let first = |bytes: &[u8]| {
                let value = decode(bytes)?;
                match schema.encode(&value, ExtraFields::Reject, &mut Vec::new()) {
                    Err(error) if error.what().contains("precision") => Err(error),
                    _ => Ok(value),
                }
            };
            formats::there_and_back(
                bytes,
                |bytes| if is_first.replace(false) { first(bytes) } else { schema.decode(bytes) },
                |value, out| schema.encode(value, ExtraFields::Reject, out),
            );
        };
        there_and_back(&schemas.writer, &|bytes| schemas.writer.decode(bytes));
        there_and_back(&schemas.reader, &|bytes| schemas.resolved.decode(bytes));
        let _ = single(bytes).map(|(_, rest)| schemas.writer.decode(rest));
        let _ = Container::open(bytes, Some(&schemas.reader));
        for reader in [None, Some(&schemas.reader)] {
            // The size and the marker are right, or little would come to the values.
            let container = Container::open(&schemas.head, reader).unwrap();
            let _ = container.block(bytes);
            if let Some((&count, values)) = bytes.split_first() {
                let size = (values.len() as u64) << 1;
                let mut block = vec![count & 0x7e];
                let mut left = size;
                while left >= 0x80 {
                    block.push(left as u8 | 0x80);
                    left >>= 7;
                }
                block.push(left as u8);
                block.extend_from_slice(values);
                block.extend_from_slice(&schemas.head[schemas.head.len() - 16..]);
                let _ = container.block(&block);
            }
        }
    });
}

#[cfg(not(fuzzing))]
fn main() {
    println!("runtime/fuzz/run.sh builds it as a fuzzer and runs it");
}
