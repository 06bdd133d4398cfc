//! What is encoded is decoded as the table of the model says.

use millstream_formats::model::{Timestamp, Unit, Value};
use millstream_formats::protobuf::Descriptors;
use millstream_formats::wanted::plain_text;
use millstream_formats::{ExtraFields, avro, cbor, json, msgpack};
use proptest::prelude::*;
use prost_reflect::DynamicMessage;

mod generated;

use generated::{schemas, values};

/// NaN is equal to NaN, and -0.0 not to 0.0.
fn same(a: &Value, b: &Value) {
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

/// What a format without a schema gives back for a value; `leaf` says it of what has no parts.
fn given_back(value: &Value, leaf: &impl Fn(&Value) -> Value) -> Value {
    let part = |value: &Value| given_back(value, leaf);
    match value {
        Value::List(list) => Value::List(list.iter().map(part).collect()),
        Value::Record(fields) => {
            Value::Record(fields.iter().map(|(name, value)| (name.clone(), part(value))).collect())
        }
        Value::Map(entries) => {
            let entries: Vec<_> = entries.iter().map(|(key, value)| (part(key), part(value))).collect();
            let names: Option<Vec<_>> = entries
                .iter()
                .map(|(key, value)| match key {
                    Value::Text(name) => Some((name.clone(), value.clone())),
                    _ => None,
                })
                .collect();
            names.map_or(Value::Map(entries), Value::Record)
        }
        Value::Union(branch) => Value::Record(vec![(branch.name.clone(), part(&branch.value))]),
        Value::Enum(symbol) => Value::Text(symbol.name.clone()),
        other => leaf(other),
    }
}

fn text(value: &Value) -> Value {
    Value::Text(plain_text(value).unwrap())
}

fn of_msgpack(value: &Value) -> Value {
    match value {
        Value::Timestamp(at) if !at.is_local => {
            let is_short = at.unit == Unit::Seconds && u32::try_from(at.seconds).is_ok();
            let unit = if is_short { Unit::Seconds } else { Unit::Nanos };
            Value::Timestamp(Timestamp { unit, ..*at })
        }
        Value::Decimal(_)
        | Value::Date(_)
        | Value::Time(_)
        | Value::Timestamp(_)
        | Value::Duration(_)
        | Value::Interval(_)
        | Value::Uuid(_) => text(value),
        other => other.clone(),
    }
}

fn of_cbor(value: &Value) -> Value {
    match value {
        Value::Timestamp(at) if !at.is_local => value.clone(),
        Value::Time(_) | Value::Timestamp(_) | Value::Duration(_) | Value::Interval(_) => text(value),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn msgpack_gives_back_what_it_can(value in values::value()) {
        let mut out = Vec::new();
        msgpack::encode(&value, &mut out).unwrap();
        let back = msgpack::decode(&out).unwrap();
        same(&back, &given_back(&value, &of_msgpack));
        let mut again = Vec::new();
        msgpack::encode(&back, &mut again).unwrap();
        prop_assert_eq!(again, out);
    }

    #[test]
    fn cbor_gives_back_what_it_can(value in values::value()) {
        let mut out = Vec::new();
        cbor::encode(&value, &mut out).unwrap();
        let back = cbor::decode(&out).unwrap();
        same(&back, &given_back(&value, &of_cbor));
        let mut again = Vec::new();
        cbor::encode(&back, &mut again).unwrap();
        prop_assert_eq!(again, out);
    }

    #[test]
    fn what_is_cut_short_or_garbled_is_refused_or_read(
        value in values::value(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        for (encode, decode) in [
            (msgpack::encode as fn(&Value, &mut Vec<u8>) -> _, msgpack::decode as fn(&[u8]) -> _),
            (cbor::encode, cbor::decode),
        ] {
            let mut out = Vec::new();
            encode(&value, &mut out).unwrap();
            let at = at.index(out.len());
            prop_assert!(decode(&out[..at]).is_err());
            out[at] ^= 1u8 << bit;
            // It may be another value, which is then written and read the same.
            if let Ok(read) = decode(&out) {
                let mut again = Vec::new();
                if encode(&read, &mut again).is_ok() {
                    same(&decode(&again).unwrap(), &read);
                }
            }
        }
    }
}

fn schema_and_value() -> impl Strategy<Value = (schemas::Schema, Vec<Value>)> {
    schemas::schema().prop_flat_map(|schema| {
        let values = prop::collection::vec(schema.value(), 4);
        (Just(schema), values)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Also beside prost-reflect, which knows the descriptors but has another model.
    #[test]
    fn protobuf_gives_back_all(( schema, values) in schema_and_value()) {
        let text = schema.text();
        let message = Descriptors::from_sources(&text, &[]).unwrap().message("generated.M0").unwrap();
        let set = schemas::descriptor_set(&text);
        let pool = prost_reflect::DescriptorPool::decode(set.as_slice()).unwrap();
        let described = pool.get_message_by_name("generated.M0").unwrap();
        for value in values {
            let mut out = Vec::new();
            message.encode(&value, &mut out).unwrap();
            same(&message.decode(&out).unwrap(), &value);

            let theirs = DynamicMessage::decode(described.clone(), out.as_slice()).unwrap();
            prop_assert_eq!(theirs.unknown_fields().count(), 0);
            let written = prost::Message::encode_to_vec(&theirs);
            // Their maps are in no order, and without keys and values that are defaults. To them -0.0 is a
            // default too, which it is not to others.
            let has_map = ["map<", "protobuf.Struct ", "protobuf.Value "].iter().any(|map| text.contains(map));
            if !has_map && !format!("{value:?}").contains("-0.0") {
                prop_assert_eq!(&written, &out);
            }
            let ours = message.decode(&written).unwrap();
            let theirs = DynamicMessage::decode(described.clone(), written.as_slice()).unwrap();
            out.clear();
            message.encode(&ours, &mut out).unwrap();
            let back = DynamicMessage::decode(described.clone(), out.as_slice()).unwrap();
            prop_assert_eq!(format!("{}", shown(&back)), format!("{}", shown(&theirs)));
        }
    }

    /// From a value of the schema through JSON, where most types are texts.
    #[test]
    fn protobuf_takes_what_json_has((schema, values) in schema_and_value()) {
        let message = Descriptors::from_sources(&schema.text(), &[]).unwrap().message("generated.M0").unwrap();
        for value in values {
            let mut text = Vec::new();
            json::encode(&value, &mut text).unwrap();
            let mut out = Vec::new();
            message.encode(&json::decode(&text).unwrap(), &mut out).unwrap();
            same(&message.decode(&out).unwrap(), &value);
        }
    }
}

/// With maps in the order of their keys.
fn shown(message: &DynamicMessage) -> String {
    fn of(value: &prost_reflect::Value) -> String {
        match value {
            prost_reflect::Value::Message(message) => shown(message),
            prost_reflect::Value::List(list) => list.iter().map(of).collect::<Vec<_>>().join(","),
            prost_reflect::Value::Map(map) => {
                let mut entries: Vec<_> =
                    map.iter().map(|(key, value)| format!("{key:?}: {}", of(value))).collect();
                entries.sort_unstable();
                entries.join(",")
            }
            other => format!("{other:?}"),
        }
    }
    let fields: Vec<_> =
        message.fields().map(|(field, value)| format!("{}={}", field.number(), of(value))).collect();
    format!("{{{}}}", fields.join(";"))
}

proptest! {
    #[test]
    fn avro_comes_back_and_goes_through_json(
        (schema, value) in generated::avro::schema().prop_flat_map(|schema| {
            let value = schema.value();
            (Just(schema), value)
        })
    ) {
        let text = schema.json.to_string();
        // Of a scale below zero JSON has the digits alone.
        prop_assume!(!text.contains("big-decimal"));
        let schema = avro::Schema::parse(&text, &[]).unwrap();
        let mut bytes = Vec::new();
        schema.encode(&value, ExtraFields::Reject, &mut bytes).unwrap();
        let read = schema.decode(&bytes).unwrap();
        let itself = avro::Resolved::new(schema.clone(), schema.clone()).unwrap().decode(&bytes).unwrap();
        same(&itself, &read);
        let mut text = Vec::new();
        json::encode(&read, &mut text).unwrap();
        bytes.clear();
        schema.encode(&json::decode(&text).unwrap(), ExtraFields::Reject, &mut bytes).unwrap();
        same(&schema.decode(&bytes).unwrap(), &read);
    }
}
