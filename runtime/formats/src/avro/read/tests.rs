use serde_json::{Value as Json, json};

use crate::avro::Resolved;
use crate::avro::tests::{a_value_of_everything, as_json, everything, record, schema};
use crate::{ExtraFields, MAX_DEPTH, Value, json};

#[test]
fn a_value_may_be_nested_as_deep_as_any_other() {
    let list = schema(&record(json!([{ "name": "next", "type": ["null", "n.r"] }])));
    let nested = |levels: usize| [vec![2; levels - 1], vec![0]].concat();
    let read = list.decode(&nested(MAX_DEPTH)).unwrap();
    let mut again = Vec::new();
    list.encode(&read, ExtraFields::Reject, &mut again).unwrap();
    assert_eq!(again, nested(MAX_DEPTH));
    for levels in [MAX_DEPTH + 1, 1 << 20] {
        let error = list.decode(&nested(levels)).unwrap_err();
        assert_eq!(error.what(), "nested deeper than 100 levels");
        let resolved = Resolved::new(list.clone(), list.clone()).unwrap();
        assert_eq!(resolved.decode(&nested(levels)).unwrap_err(), error);
    }
    let value = Value::Record(vec![("next".into(), read)]);
    let mut out = b"before".to_vec();
    let error = list.encode(&value, ExtraFields::Reject, &mut out).unwrap_err();
    assert_eq!((error.what(), out.as_slice()), ("nested deeper than 100 levels", &b"before"[..]));
    // Lists and maps are levels too: with 50 records in each other there are 100.
    let lists = schema(&record(json!([{ "name": "l", "type": { "type": "array", "items": "n.r" } }])));
    let maps = schema(&record(json!([{ "name": "m", "type": { "type": "map", "values": "n.r" } }])));
    for (schema, one) in [(lists, &[2][..]), (maps, &[2, 0])] {
        let nested = |records: usize| [one.repeat(records - 1), vec![0; records]].concat();
        schema.decode(&nested(50)).unwrap();
        assert_eq!(schema.decode(&nested(51)).unwrap_err().what(), "nested deeper than 100 levels");
    }
}

#[test]
fn what_a_length_or_a_count_says_must_be_there() {
    // 2^41 of them.
    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    let error = |json: Json| schema(&json).decode(&huge).unwrap_err().to_string();
    let no_bytes = "not Avro of this schema: 2199023255552 bytes are wanted, and 0 are left";
    assert_eq!(error(json!("bytes")), no_bytes);
    assert_eq!(error(json!("string")), no_bytes);
    let no_memory = "decoded it would take more than 67108864 bytes of memory";
    assert_eq!(error(json!({ "type": "array", "items": "null" })), no_memory);
    assert_eq!(error(json!({ "type": "map", "values": "null" })), no_memory);
    // The lowest of all counts has no number above zero.
    let lowest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00];
    let nulls = schema(&json!({ "type": "array", "items": "null" }));
    assert_eq!(nulls.decode(&lowest).unwrap_err().to_string(), no_memory);
    // Many small ones are too many too, also where each list has few.
    let lists = schema(&json!({ "type": "array", "items": { "type": "array", "items": "null" } }));
    let thousand = [0xd0, 0x0f, 0x00];
    let bytes =
        [&[0xd0, 0x0f][..], &thousand.repeat(1000), &[0xd0, 0x0f], &thousand.repeat(1000), &[0]].concat();
    assert_eq!(lists.decode(&bytes).unwrap_err().what(), no_memory);
}

#[test]
fn blocks_may_say_their_size() {
    let ints = schema(&json!({ "type": "array", "items": "int" }));
    let ones = |count: usize| Value::List(vec![Value::Int(1); count]);
    // Two, then two behind their size of two bytes, then one.
    assert_eq!(ints.decode(&[4, 2, 2, 3, 4, 2, 2, 2, 2, 0]).unwrap(), ones(5));
    assert_eq!(ints.decode(&[0]).unwrap(), ones(0));
    let texts = schema(&json!({ "type": "map", "values": "string" }));
    let read = texts.decode(&[1, 8, 2, b'b', 2, b'x', 2, 2, b'a', 2, b'y', 0]).unwrap();
    assert_eq!(as_json(&read), json!({ "a": "y", "b": "x" }));
    assert!(ints.decode(&[3, 3, 2, 2, 0]).unwrap_err().what().contains("a length of -2"));
}

#[test]
fn of_a_key_that_comes_twice_the_last_value_counts() {
    let ints = schema(&json!({ "type": "map", "values": "int" }));
    let read = ints.decode(&[8, 2, b'k', 2, 2, b'a', 4, 2, b'k', 6, 2, b'k', 8, 0]).unwrap();
    assert_eq!(as_json(&read), json!({ "a": 2, "k": 4 }));
}

#[test]
fn numbers_are_zigzag_in_groups_of_seven_bits() {
    let long = schema(&json!("long"));
    for (number, bytes) in [
        (0, &[0][..]),
        (-1, &[1]),
        (1, &[2]),
        (-64, &[0x7f]),
        (64, &[0x80, 0x01]),
        (i64::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
    ] {
        assert_eq!(long.decode(bytes).unwrap(), Value::Int(number));
        let mut out = Vec::new();
        long.encode(&Value::Int(number), ExtraFields::Reject, &mut out).unwrap();
        assert_eq!(out, bytes);
    }
}

#[test]
fn what_is_no_value_of_the_schema_is_told() {
    let symbols = json!({ "type": "enum", "name": "E", "symbols": ["A", "B"] });
    let uuid = |of: &str| json!({ "type": of, "logicalType": "uuid" });
    let decimal = json!({ "type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 0 });
    let big = json!({ "type": "bytes", "logicalType": "big-decimal" });
    for (of, bytes, error) in [
        (json!("boolean"), &[2][..], "2 is no boolean, which is 0 or 1"),
        (json!("boolean"), &[], "1 bytes are wanted, and 0 are left"),
        (json!("int"), &[0x80, 0x80, 0x80, 0x80, 0x10], "2147483648 is no int"),
        (json!("int"), &[0x81, 0x80, 0x80, 0x80, 0x10], "-2147483649 is no int"),
        (json!("long"), &[0x80; 11], "a number of more than 64 bits"),
        (
            json!("long"),
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            "a number of more than 64 bits",
        ),
        (json!("long"), &[0x80], "1 bytes are wanted, and 0 are left"),
        (json!("double"), &[0; 7], "8 bytes are wanted, and 7 are left"),
        (json!("string"), &[4, b'a', 0xff], "a text that is not UTF-8: invalid utf-8 sequence"),
        (json!("string"), &[1], "a length of -1"),
        (symbols.clone(), &[4], "the symbol 2 of the enum n.E, which has 2"),
        (symbols, &[1], "the symbol -1 of the enum n.E, which has 2"),
        (json!(["null", "int"]), &[4], "the branch 2 of a union that has 2"),
        (json!(["null", "int"]), &[1], "the branch -1 of a union that has 2"),
        (uuid("string"), &[2, b'x'], "a text that is no UUID"),
        (uuid("bytes"), &[2, 0], "a UUID that does not have 16 bytes"),
        (
            json!({ "type": "int", "logicalType": "date" }),
            &[0x80, 0x80, 0x80, 0x80, 0x10],
            "2147483648 is no int",
        ),
        (big.clone(), &[4, 2, 1], "1 bytes are wanted, and 0 are left"),
        (big, &[8, 2, 1, 0, 0], "1 bytes behind the value"),
    ] {
        let schema = schema(&record(json!([{ "name": "f", "type": of }])));
        let found = schema.decode(bytes).unwrap_err().to_string();
        assert!(found.starts_with(&format!("/f: not Avro of this schema: {error}")), "{found}");
    }
    let time = schema(&json!({ "type": "int", "logicalType": "time-millis" }));
    assert_eq!(time.decode(&[1]).unwrap_err().what(), "-1 Millis is no time of day");
    let mut digits = vec![0xbe, 0x06];
    digits.extend([1; 415]);
    assert_eq!(schema(&decimal).decode(&digits).unwrap_err().what(), "a decimal of 415 bytes, beyond 414");
}

#[test]
fn truncated_and_longer_bytes_are_refused() {
    let schema = schema(&everything());
    let value = json::decode(a_value_of_everything().to_string().as_bytes()).unwrap();
    let mut bytes = Vec::new();
    schema.encode(&value, ExtraFields::Reject, &mut bytes).unwrap();
    for end in 0..bytes.len() {
        assert!(schema.decode(&bytes[..end]).is_err(), "{end} of {} bytes", bytes.len());
    }
    bytes.push(0);
    assert_eq!(
        schema.decode(&bytes).unwrap_err().what(),
        "not Avro of this schema: 1 bytes behind the value"
    );
}
