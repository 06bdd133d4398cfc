use super::*;
use crate::model::{Branch, Decimal, Symbol};

fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, &mut out).unwrap();
    out
}

fn refused(bytes: &[u8]) -> String {
    decode(bytes).unwrap_err().to_string()
}

fn timestamp(seconds: i64, nanos: u32, unit: Unit) -> Value {
    Value::Timestamp(Timestamp { seconds, nanos, unit, is_local: false })
}

#[test]
fn values_are_read_in_every_length() {
    for (bytes, value) in [
        (&[0xc0][..], Value::Null),
        (&[0xc3], Value::Bool(true)),
        (&[0xc2], Value::Bool(false)),
        (&[0x7f], Value::Int(127)),
        (&[0xe0], Value::Int(-32)),
        (&[0xcc, 255], Value::Int(255)),
        (&[0xcd, 1, 0], Value::Int(256)),
        (&[0xce, 0, 1, 0, 0], Value::Int(65536)),
        (&[0xcf, 255, 255, 255, 255, 255, 255, 255, 255], Value::UInt(u64::MAX)),
        (&[0xcf, 0, 0, 0, 0, 0, 0, 0, 1], Value::Int(1)),
        (&[0xd0, 128], Value::Int(-128)),
        (&[0xd1, 128, 0], Value::Int(-32768)),
        (&[0xd2, 128, 0, 0, 0], Value::Int(i32::MIN.into())),
        (&[0xd3, 128, 0, 0, 0, 0, 0, 0, 0], Value::Int(i64::MIN)),
        (&[0xca, 0x3f, 0, 0, 0], Value::Float(0.5)),
        (&[0xcb, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0], Value::Double(0.5)),
        (&[0xa1, b'x'], "x".into()),
        (&[0xd9, 1, b'x'], "x".into()),
        (&[0xda, 0, 1, b'x'], "x".into()),
        (&[0xdb, 0, 0, 0, 1, b'x'], "x".into()),
        (&[0xc4, 1, 9], Value::Bytes(vec![9])),
        (&[0xc5, 0, 1, 9], Value::Bytes(vec![9])),
        (&[0xc6, 0, 0, 0, 1, 9], Value::Bytes(vec![9])),
        (&[0x91, 1], Value::List(vec![Value::Int(1)])),
        (&[0xdc, 0, 1, 1], Value::List(vec![Value::Int(1)])),
        (&[0xdd, 0, 0, 0, 1, 1], Value::List(vec![Value::Int(1)])),
        (&[0x81, 0xa1, b'x', 1], Value::Record(vec![("x".into(), Value::Int(1))])),
        (&[0xde, 0, 1, 1, 2], Value::Map(vec![(Value::Int(1), Value::Int(2))])),
        (&[0xdf, 0, 0, 0, 1, 1, 2], Value::Map(vec![(Value::Int(1), Value::Int(2))])),
        (&[0xd6, 0xff, 0, 0, 0, 7], timestamp(7, 0, Unit::Seconds)),
        (&[0xd7, 0xff, 0, 0, 0, 4, 0, 0, 0, 7], timestamp(7, 1, Unit::Nanos)),
        (
            &[0xc7, 12, 0xff, 0, 0, 0, 1, 255, 255, 255, 255, 255, 255, 255, 255],
            timestamp(-1, 1, Unit::Nanos),
        ),
    ] {
        assert_eq!(decode(bytes).unwrap(), value, "{bytes:x?}");
        assert_eq!(decode(&encoded(&value)).unwrap(), value);
        for end in 0..bytes.len() {
            assert_eq!(
                refused(&bytes[..end]).rsplit(": ").next(),
                Some("it is cut short"),
                "{bytes:x?} {end}"
            );
        }
        let trailing = [bytes, &[0xc0]].concat();
        assert_eq!(refused(&trailing), "1 bytes after the MessagePack object");
    }
}

#[test]
fn a_map_with_texts_for_keys_is_a_record() {
    let mixed = Value::Map(vec![("a".into(), Value::Int(1)), (Value::Int(2), Value::Null)]);
    assert_eq!(decode(&encoded(&mixed)).unwrap(), mixed);
    assert_eq!(decode(&[0x80]).unwrap(), Value::Record(vec![]));
    assert_eq!(refused(&[0x82, 0xa1, b'x', 1, 0xa1, b'x', 2]), "the key \"x\" is there twice");
    // Of whatever length it is.
    assert_eq!(refused(&[0x82, 1, 1, 0xcc, 1, 2]), "the key 1 is there twice");
    assert_eq!(refused(&[0x82, 0x91, 1, 1, 0x91, 1, 2]), "the key a list is there twice");
}

#[test]
fn what_has_no_type_is_a_text() {
    let local = Value::Timestamp(Timestamp { seconds: 0, nanos: 0, unit: Unit::Seconds, is_local: true });
    for (value, text) in [
        (Value::Decimal(Decimal { unscaled: 150.into(), scale: 2 }), "1.50"),
        (
            Value::Decimal(Decimal { unscaled: num_bigint::BigInt::from(1) << 64, scale: 0 }),
            "18446744073709551616",
        ),
        (Value::Date(0), "1970-01-01"),
        (Value::Uuid([0; 16]), "00000000-0000-0000-0000-000000000000"),
        (local, "1970-01-01T00:00:00"),
        (Value::Enum(Symbol { name: "PAID".into(), number: Some(1) }), "PAID"),
    ] {
        assert_eq!(decode(&encoded(&value)).unwrap(), text.into());
    }
    let branch = Value::Union(Branch { name: "b".into(), value: Box::new(Value::Int(1)) });
    assert_eq!(decode(&encoded(&branch)).unwrap(), Value::Record(vec![("b".into(), Value::Int(1))]));
    let after_9999 = Value::List(vec![Value::Date(i32::MAX)]);
    let error = encode(&after_9999, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with("/0: the date 2147483647 days after 1970"), "{error}");
}

#[test]
fn a_timestamp_is_as_precise_as_it_was() {
    for (value, length) in [
        (timestamp(u32::MAX.into(), 0, Unit::Seconds), 6),
        (timestamp(0, 0, Unit::Nanos), 10),
        (timestamp((1 << 34) - 1, 999_999_999, Unit::Nanos), 10),
        (timestamp(1 << 34, 0, Unit::Nanos), 15),
        (timestamp(i64::MIN, 1, Unit::Nanos), 15),
    ] {
        assert_eq!(encoded(&value).len(), length);
        assert_eq!(decode(&encoded(&value)).unwrap(), value);
    }
    // The same instant.
    let millis = timestamp(1, 5_000_000, Unit::Millis);
    assert_eq!(decode(&encoded(&millis)).unwrap(), timestamp(1, 5_000_000, Unit::Nanos));
}

#[test]
fn what_has_no_place_in_the_model_is_refused() {
    assert_eq!(refused(&[0xc1]), "no MessagePack: the byte 0xc1");
    assert_eq!(
        refused(&[0x81, 0xa1, b'x', 0xd4, 5, 0]),
        "/x: an extension of type 5: only -1, a timestamp, is known"
    );
    assert_eq!(refused(&[0xd4, 0xff, 0]), "a timestamp of 1 bytes: 4, 8 or 12 are wanted");
    assert!(refused(&[0xd7, 0xff, 255, 255, 255, 255, 0, 0, 0, 7]).contains("below 1000000000 are wanted"));
    assert!(refused(&[0x91, 0xa1, 0xff]).starts_with("/0: a text: invalid utf-8"));
}

#[test]
fn depth_and_memory_have_bounds() {
    assert!(refused(&vec![0x91; 1_000_000]).ends_with("nested deeper than 100 levels"));
    let mut value = Value::Null;
    for _ in 0..MAX_DEPTH {
        value = Value::List(vec![value]);
    }
    assert_eq!(decode(&encoded(&value)).unwrap(), value);
    encode(&Value::List(vec![value]), &mut Vec::new()).unwrap_err();
    // Four billion elements, it says.
    assert!(refused(&[0xdd, 255, 255, 255, 255, 1]).ends_with("cut short"));
    assert!(refused(&[0xdf, 255, 255, 255, 255, 1]).ends_with("cut short"));
    assert!(refused(&[0xc6, 255, 255, 255, 255, 1]).ends_with("cut short"));
}
