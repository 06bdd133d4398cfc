//! Beside apache-avro, which has another model: what it writes is read here, and what is written here it reads.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use millstream_formats::model::{Branch, Unit, Value};
use millstream_formats::{ExtraFields, avro};
use num_bigint::BigInt;
use proptest::prelude::*;

mod generated;

/// Whether the two are the same value, of which each branch of a union has its name.
fn same(ours: &Value, theirs: &Avro) -> bool {
    match (ours, theirs) {
        (Value::Union(Branch { value, .. }), Avro::Union(_, theirs)) => same(value, theirs),
        (Value::Null, Avro::Union(_, theirs)) => **theirs == Avro::Null,
        (Value::Null, Avro::Null) => true,
        (Value::Bool(ours), Avro::Boolean(theirs)) => ours == theirs,
        (Value::Int(ours), Avro::Int(theirs)) => *ours == i64::from(*theirs),
        (Value::Int(ours), Avro::Long(theirs)) => ours == theirs,
        (Value::Float(ours), Avro::Float(theirs)) => ours.to_bits() == theirs.to_bits(),
        (Value::Double(ours), Avro::Double(theirs)) => ours.to_bits() == theirs.to_bits(),
        (Value::Text(ours), Avro::String(theirs)) => ours == theirs,
        (Value::Bytes(ours), Avro::Bytes(theirs) | Avro::Fixed(_, theirs)) => ours == theirs,
        (Value::Enum(ours), Avro::Enum(_, theirs)) => ours.name == *theirs,
        (Value::Decimal(ours), Avro::Decimal(theirs)) => ours.unscaled == BigInt::from(theirs.clone()),
        (Value::Decimal(ours), Avro::BigDecimal(theirs)) => {
            theirs.as_bigint_and_exponent() == (ours.unscaled.clone(), ours.scale.into())
        }
        (Value::Uuid(ours), Avro::Uuid(theirs)) => ours == theirs.as_bytes(),
        (Value::Date(ours), Avro::Date(theirs)) => ours == theirs,
        (Value::Time(ours), Avro::TimeMillis(theirs)) => ours.nanos == *theirs as u64 * 1_000_000,
        (Value::Time(ours), Avro::TimeMicros(theirs)) => ours.nanos == *theirs as u64 * 1_000,
        (Value::Timestamp(ours), theirs) => {
            let (unit, is_local, count) = match *theirs {
                Avro::TimestampMillis(count) => (Unit::Millis, false, count),
                Avro::TimestampMicros(count) => (Unit::Micros, false, count),
                Avro::TimestampNanos(count) => (Unit::Nanos, false, count),
                Avro::LocalTimestampMillis(count) => (Unit::Millis, true, count),
                Avro::LocalTimestampMicros(count) => (Unit::Micros, true, count),
                Avro::LocalTimestampNanos(count) => (Unit::Nanos, true, count),
                _ => return false,
            };
            ours.unit == unit && ours.is_local == is_local && ours.count(unit) == Some(count)
        }
        (Value::Interval(ours), Avro::Duration(theirs)) => {
            let theirs: [u32; 3] = [theirs.months().into(), theirs.days().into(), theirs.millis().into()];
            [ours.months, ours.days, ours.millis] == theirs
        }
        (Value::List(ours), Avro::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }
        (Value::Map(ours), Avro::Map(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|(key, ours)| match key {
                    Value::Text(key) => theirs.get(key).is_some_and(|theirs| same(ours, theirs)),
                    _ => false,
                })
        }
        (Value::Record(ours), Avro::Record(theirs)) => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .zip(theirs)
                    .all(|(ours, theirs)| ours.0 == theirs.0 && same(&ours.1, &theirs.1))
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn both_read_what_the_other_writes(
        (schema, value) in generated::avro::schema().prop_flat_map(|schema| {
            let value = schema.value();
            (Just(schema), value)
        })
    ) {
        let text = schema.json.to_string();
        let ours = avro::Schema::parse(&text, &[]).unwrap();
        let theirs = apache_avro::Schema::parse_str(&text).unwrap();
        let reader = GenericDatumReader::builder(&theirs).build().unwrap();
        let writer = GenericDatumWriter::builder(&theirs).validate(false).build().unwrap();

        let mut bytes = Vec::new();
        ours.encode(&value, ExtraFields::Reject, &mut bytes).unwrap();
        let mut rest = bytes.as_slice();
        let read = reader.read_value(&mut rest).unwrap();
        prop_assert!(rest.is_empty(), "{} bytes are left", rest.len());
        prop_assert!(same(&value, &read), "{value:?}\n{read:?}\n{text}");

        let written = writer.write_value_to_vec(read).unwrap();
        let again = ours.decode(&written).unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{:?}", ours.decode(&bytes).unwrap()));
        // What was read is the value that was written, and all of it.
        let mut rewritten = Vec::new();
        ours.encode(&again, ExtraFields::Reject, &mut rewritten).unwrap();
        prop_assert!(same(&value, &reader.read_value(&mut rewritten.as_slice()).unwrap()));
        for end in 0..bytes.len() {
            prop_assert!(ours.decode(&bytes[..end]).is_err(), "{end} of {} bytes, {text}", bytes.len());
        }
    }
}
