//! The parsing canonical form of a schema, of which its fingerprint is made.
//!
//! That of apache-avro keeps what a logical type is wrapped in (`{"type":"int"}` for a date, where the
//! specification has `"int"`), and so other implementations would not know the schema by its fingerprint.

use std::fmt::Write;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::schema::{FixedSchema, InnerDecimalSchema, Name, UuidSchema};
use digest::Digest;

/// The CRC-64-AVRO of the canonical form. The schema is to have all types in it that it refers to.
pub fn fingerprint(schema: &Schema) -> [u8; 8] {
    let mut text = String::new();
    write(schema, None, &mut text);
    Rabin::digest(text.as_bytes()).into()
}

fn write(schema: &Schema, namespace: Option<&str>, out: &mut String) {
    match schema {
        Schema::Null => out.push_str("\"null\""),
        Schema::Boolean => out.push_str("\"boolean\""),
        Schema::Int | Schema::Date | Schema::TimeMillis => out.push_str("\"int\""),
        Schema::Long
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => out.push_str("\"long\""),
        Schema::Float => out.push_str("\"float\""),
        Schema::Double => out.push_str("\"double\""),
        Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => out.push_str("\"bytes\""),
        Schema::String | Schema::Uuid(UuidSchema::String) => out.push_str("\"string\""),
        Schema::Decimal(decimal) => match &decimal.inner {
            InnerDecimalSchema::Bytes => out.push_str("\"bytes\""),
            InnerDecimalSchema::Fixed(fixed) => write_fixed(fixed, namespace, out),
        },
        Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
            write_fixed(fixed, namespace, out);
        }
        Schema::Ref { name } => quoted(&name.fullname(namespace), out),
        Schema::Array(array) => {
            out.push_str("{\"type\":\"array\",\"items\":");
            write(&array.items, namespace, out);
            out.push('}');
        }
        Schema::Map(map) => {
            out.push_str("{\"type\":\"map\",\"values\":");
            write(&map.types, namespace, out);
            out.push('}');
        }
        Schema::Union(union) => list(union.variants(), out, |branch, out| write(branch, namespace, out)),
        Schema::Enum(symbols) => {
            named(&symbols.name, "enum", namespace, out);
            out.push_str(",\"symbols\":");
            list(&symbols.symbols, out, |symbol, out| quoted(symbol, out));
            out.push('}');
        }
        Schema::Record(record) => {
            let full = named(&record.name, "record", namespace, out);
            let inner = full.rsplit_once('.').map(|(namespace, _)| namespace);
            out.push_str(",\"fields\":");
            list(&record.fields, out, |field, out| {
                out.push_str("{\"name\":");
                quoted(&field.name, out);
                out.push_str(",\"type\":");
                write(&field.schema, inner, out);
                out.push('}');
            });
            out.push('}');
        }
    }
}

fn write_fixed(fixed: &FixedSchema, namespace: Option<&str>, out: &mut String) {
    named(&fixed.name, "fixed", namespace, out);
    write!(out, ",\"size\":{}}}", fixed.size).expect("a text takes all");
}

/// The beginning of a type with a name; gives the name in full.
fn named(name: &Name, kind: &str, namespace: Option<&str>, out: &mut String) -> String {
    let full = name.fullname(namespace);
    out.push_str("{\"name\":");
    quoted(&full, out);
    write!(out, ",\"type\":\"{kind}\"").expect("a text takes all");
    full
}

fn list<T>(items: &[T], out: &mut String, one: impl Fn(&T, &mut String)) {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        one(item, out);
    }
    out.push(']');
}

/// Names are letters, digits, underscores and dots: there is nothing to escape.
fn quoted(name: &str, out: &mut String) {
    out.push('"');
    out.push_str(name);
    out.push('"');
}
