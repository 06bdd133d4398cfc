use super::*;
use crate::model::{Branch, Duration, Symbol, Time};

fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, &mut out).unwrap();
    out
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn decoded(hex: &str) -> Value {
    decode(&bytes(hex)).unwrap_or_else(|error| panic!("{hex}: {error}"))
}

fn refused(hex: &str) -> String {
    decode(&bytes(hex)).unwrap_err().to_string()
}

/// Two to the power.
fn big(power: u32) -> BigInt {
    BigInt::from(2).pow(power)
}

fn timestamp(seconds: i64, nanos: u32, unit: Unit) -> Value {
    Value::Timestamp(Timestamp { seconds, nanos, unit, is_local: false })
}

fn decimal_of(unscaled: i64, scale: i32) -> Value {
    Value::Decimal(Decimal { unscaled: unscaled.into(), scale })
}

/// Examples of RFC 8949, appendix A, and those of tags.
#[test]
fn examples_are_read() {
    for (hex, value) in [
        ("00", Value::Int(0)),
        ("1903e8", Value::Int(1000)),
        ("1bffffffffffffffff", Value::UInt(u64::MAX)),
        ("c249010000000000000000", Value::from_big(big(64))),
        ("3bffffffffffffffff", Value::from_big(-big(64))),
        ("c349010000000000000000", Value::from_big(-big(64) - 1)),
        ("3903e7", Value::Int(-1000)),
        ("3b7fffffffffffffff", Value::Int(i64::MIN)),
        ("f93c00", Value::Float(1.0)),
        ("f90001", Value::Float(5.960_464_5e-8)),
        ("fa47c35000", Value::Float(100_000.0)),
        ("fb3ff199999999999a", Value::Double(1.1)),
        ("f97c00", Value::Float(f32::INFINITY)),
        ("fbfff0000000000000", Value::Double(f64::NEG_INFINITY)),
        ("f4", Value::Bool(false)),
        ("f5", Value::Bool(true)),
        ("f6", Value::Null),
        ("4401020304", Value::Bytes(vec![1, 2, 3, 4])),
        ("62c3bc", "\u{fc}".into()),
        ("80", Value::List(vec![])),
        ("a201020304", Value::Map(vec![(Value::Int(1), Value::Int(2)), (Value::Int(3), Value::Int(4))])),
        ("a161610a", Value::Record(vec![("a".into(), Value::Int(10))])),
        ("5f42010243030405ff", Value::Bytes(vec![1, 2, 3, 4, 5])),
        ("7f657374726561646d696e67ff", "streaming".into()),
        ("9f01820203ff", Value::List(vec![Value::Int(1), Value::List(vec![Value::Int(2), Value::Int(3)])])),
        (
            "bf6161019f02fff6ff",
            Value::Map(vec![("a".into(), Value::Int(1)), (Value::List(vec![Value::Int(2)]), Value::Null)]),
        ),
        ("c11a514b67b0", timestamp(1_363_896_240, 0, Unit::Seconds)),
        ("c1fb41d452d9ec200000", timestamp(1_363_896_240, 500_000_000, Unit::Micros)),
        ("c074323031332d30332d32315432303a30343a30305a", timestamp(1_363_896_240, 0, Unit::Seconds)),
        ("c48221196ab3", decimal_of(27315, 2)),
        ("c482020f", decimal_of(15, -2)),
        ("d8255000000000000000000000000000000001", Value::Uuid(*b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01")),
        ("d86420", Value::Date(-1)),
        ("d903ec6a313937302d30312d3032", Value::Date(1)),
        ("d9d9f7d9d9f701", Value::Int(1)),
        ("c24105", Value::Int(5)),
    ] {
        assert_eq!(decoded(hex), value, "{hex}");
        assert_eq!(decode(&encoded(&value)).unwrap(), value, "{hex}");
        let whole = bytes(hex);
        for end in 0..whole.len() {
            let error = decode(&whole[..end]).unwrap_err().to_string();
            assert!(error.ends_with("it is cut short"), "{hex} {end}: {error}");
        }
        assert_eq!(refused(&format!("{hex}f6")), "1 bytes after the CBOR data item");
    }
    let Value::Float(nan) = decoded("f97e00") else { panic!() };
    assert!(nan.is_nan());
    assert_eq!(encoded(&Value::Double(f64::NAN)), bytes("fb7ff8000000000000"));
}

#[test]
fn what_has_a_tag_keeps_its_type() {
    for value in [
        decimal_of(5, 0),
        decimal_of(-150, 2),
        Value::Decimal(Decimal { unscaled: -big(200), scale: 30 }),
        Value::Decimal(Decimal { unscaled: -big(64), scale: 1 }),
        Value::Date(i32::MAX),
        timestamp(i64::MAX, 0, Unit::Seconds),
        timestamp(1, 5_000_000, Unit::Millis),
        timestamp(-1, 5_000, Unit::Micros),
        timestamp(1, 0, Unit::Nanos),
        Value::Uuid([9; 16]),
    ] {
        assert_eq!(decode(&encoded(&value)).unwrap(), value);
    }
}

#[test]
fn a_timestamp_is_as_precise_as_it_is_written() {
    for (text, nanos, unit) in [
        ("1970-01-01T00:00:07Z", 0, Unit::Seconds),
        ("1970-01-01T00:00:07.5Z", 500_000_000, Unit::Millis),
        ("1970-01-01T01:00:07.5000+01:00", 500_000_000, Unit::Micros),
        ("1970-01-01T00:00:07,123456789Z", 123_456_789, Unit::Nanos),
    ] {
        let mut tagged = vec![0xc0];
        encode(&text.into(), &mut tagged).unwrap();
        assert_eq!(decode(&tagged).unwrap(), timestamp(7, nanos, unit));
    }
}

#[test]
fn what_has_no_tag_is_a_text() {
    let local = Value::Timestamp(Timestamp { seconds: 0, nanos: 0, unit: Unit::Seconds, is_local: true });
    for (value, text) in [
        (local, "1970-01-01T00:00:00"),
        (Value::Time(Time { nanos: 0, unit: Unit::Millis }), "00:00:00.000"),
        (Value::Duration(Duration { seconds: 1, nanos: 0 }), "1s"),
        (Value::Enum(Symbol { name: "PAID".into(), number: Some(1) }), "PAID"),
    ] {
        assert_eq!(decode(&encoded(&value)).unwrap(), text.into());
    }
    let branch = Value::Union(Branch { name: "b".into(), value: Box::new(Value::Int(1)) });
    assert_eq!(decode(&encoded(&branch)).unwrap(), Value::Record(vec![("b".into(), Value::Int(1))]));
}

#[test]
fn what_has_no_place_in_the_model_is_refused() {
    for (hex, expected) in [
        ("f7", "undefined, which is neither null nor a value"),
        ("a16161f7", "/a: undefined, which is neither null nor a value"),
        ("f0", "the simple value 16, which is nothing in particular"),
        ("f8ff", "the simple value 255, which is nothing in particular"),
        // False in two bytes is none.
        ("f814", "the simple value 20"),
        ("81d82001", "/0: an integer with the unknown tag 32"),
        ("c001", "tag 0 with an integer: a text is wanted"),
        ("c06161", "\"a\" is no timestamp"),
        ("c16161", "tag 1 with a text: a number of 64 bits is wanted"),
        ("c1f97e00", "NaN s after 1970 are no timestamp"),
        ("c1fb42a0000000000000", "8796093022208 s after 1970 is beyond the year 9999"),
        ("c201", "tag 2 with an integer: bytes is wanted"),
        ("c48101", "a decimal is a list of an exponent and a number"),
        ("c4821903e901", "a decimal of 1 digits with the exponent 1001: too long"),
        ("c4820161", "/1: no CBOR: it is cut short"),
        ("d8254100", "1 bytes are no UUID, which has 16"),
        ("d8641b0000ffffffffffff", "281474976710655 days are no date"),
        ("ff", "no CBOR: a break where nothing is to be ended"),
        ("8201ff", "/1: no CBOR: a break where nothing is to be ended"),
        ("bf01ff", "/1: no CBOR: a break where nothing is to be ended"),
        ("5f6161ff", "no CBOR: a chunk of another type"),
        ("5f5f4100ffff", "no CBOR: a chunk of another type"),
        ("7f61c361bcff", "a text: incomplete utf-8"),
        ("61ff", "a text: invalid utf-8"),
        ("1c", "no CBOR: the byte 0x1c at 0"),
        ("1f", "no CBOR: the byte 0x1f at 0"),
        ("a201020103", "the key 1 is there twice"),
        ("a2616101616102", "the key \"a\" is there twice"),
    ] {
        let error = refused(hex);
        assert!(error.starts_with(expected), "{hex}: {error}");
    }
    let long = format!("c259019f{}", "ff".repeat(415));
    assert_eq!(refused(&long), "a number of 415 bytes, more than 414");
    // What is not refused can be read as JSON.
    let longest = decoded(&format!("c359019e{}", "ff".repeat(414)));
    let mut json = Vec::new();
    crate::json::encode(&longest, &mut json).unwrap();
    assert_eq!(crate::json::decode(&json).unwrap(), longest);
}

#[test]
fn depth_and_memory_have_bounds() {
    assert!(refused(&"81".repeat(100_000)).ends_with("nested deeper than 100 levels"));
    assert!(refused(&"9f".repeat(100_000)).ends_with("nested deeper than 100 levels"));
    assert_eq!(refused(&"c2".repeat(100_000)), "more than 8 tags, each of the next");
    let mut value = Value::Uuid([0; 16]);
    for _ in 0..MAX_DEPTH {
        value = Value::List(vec![value]);
    }
    assert_eq!(decode(&encoded(&value)).unwrap(), value);
    encode(&Value::List(vec![value]), &mut Vec::new()).unwrap_err();
    for huge in
        ["9bffffffffffffffff01", "bbffffffffffffffff01", "5bffffffffffffffff01", "7bffffffffffffffff01"]
    {
        assert!(refused(huge).ends_with("cut short"));
    }
}
