use super::*;

fn through(text: &str) -> String {
    let mut out = Vec::new();
    encode(&decode(text.as_bytes()).unwrap(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn numbers_keep_their_digits() {
    for (text, value) in [
        ("0", Value::Int(0)),
        ("-9223372036854775808", Value::Int(i64::MIN)),
        ("9007199254740993", Value::Int(9_007_199_254_740_993)),
        ("18446744073709551615", Value::UInt(u64::MAX)),
        ("0.1", Value::Double(0.1)),
        ("1e3", Value::Double(1000.0)),
        ("0.30000000000000004", Value::Double(0.1 + 0.2)),
    ] {
        assert_eq!(decode(text.as_bytes()).unwrap(), value, "{text}");
    }
    assert_eq!(decode(b"5e-324").unwrap(), Value::Double(5e-324));
    assert_eq!(decode(b"0e5").unwrap(), Value::Double(0.0));
    for text in ["1e-400", "5.1e-324", "1.23456789012345e-320"] {
        assert!(matches!(decode(text.as_bytes()).unwrap(), Value::Decimal(_)), "{text}");
    }
    for text in ["123456789012345678901234567890", "0.1234567890123456789", "0.12345678901234567", "1e400"] {
        assert!(matches!(decode(text.as_bytes()).unwrap(), Value::Decimal(_)), "{text}");
    }
    assert_eq!(through("123456789012345678901234567890"), "123456789012345678901234567890");
    assert_eq!(through("0.1234567890123456789"), "\"0.1234567890123456789\"");
    assert_eq!(through("-0.0"), "-0.0");
    assert_eq!(through("-0"), "-0.0");
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    for (text, what) in [
        ("{\"a\":1,}", "not JSON: trailing comma at line 1 column 8"),
        ("{\"a\":{\"b\":1,\"b\":2}}", "/a: the key \"b\" is there twice"),
        ("", "EOF"),
        ("01", "invalid number"),
        ("{} {}", "trailing characters"),
        ("NaN", "expected"),
        ("\"\\ud800\"", "hex escape"),
        ("\"\u{1}\"", "control character"),
    ] {
        let error = decode(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(what), "{text}: {error}");
    }
    assert!(decode(b"\"\xff\"").is_err());
    assert!(decode("[".repeat(1_000_000).as_bytes()).unwrap_err().to_string().contains("deeper than 100"));
    assert!(decode("9".repeat(1001).as_bytes()).unwrap_err().to_string().contains("1001 digits"));
    for long in ["1e999999999", "1e1000", "-1e997", "1e-998"] {
        assert!(decode(long.as_bytes()).unwrap_err().to_string().contains("more than 1000 digits"), "{long}");
    }
    for long in ["1e996", "-1e-997"] {
        let written = through(long);
        assert_eq!(through(&written), written);
        decimal(written.trim_matches('"')).unwrap();
    }
}

#[test]
fn keys_of_maps_are_text_or_refused() {
    let encode = |key: Value| {
        let mut out = Vec::new();
        encode(&Value::Map(vec![(key, Value::Null)]), &mut out).map(|()| String::from_utf8(out).unwrap())
    };
    assert_eq!(encode(Value::Int(-1)).unwrap(), r#"{"-1":null}"#);
    assert_eq!(encode(Value::Bool(true)).unwrap(), r#"{"true":null}"#);
    assert_eq!(
        encode(Value::Double(1.0)).unwrap_err().to_string(),
        "a floating point number cannot be a key of a map"
    );
    let mut out = Vec::new();
    let twice = Value::Map(vec![(Value::Int(1), Value::Null), ("1".into(), Value::Null)]);
    assert_eq!(
        super::encode(&twice, &mut out).unwrap_err().to_string(),
        "two keys of the map are both written \"1\""
    );
}

proptest::proptest! {
    #[test]
    fn what_is_written_reads_as_it_was(text in "\\PC*[\u{0}-\u{1f}\"\\\\]?\\PC*", number: i64, big: u64, double: f64) {
        let value = Value::Record(vec![
            ("text".into(), Value::Text(text.clone())),
            (text, Value::List(vec![Value::Int(number), Value::from_u64(big), Value::Null, Value::Bool(true)])),
        ]);
        let mut out = Vec::new();
        encode(&value, &mut out).unwrap();
        serde_json::from_slice::<serde_json::Value>(&out).unwrap();
        if value_has_two_keys(&value) {
            proptest::prop_assert_eq!(decode(&out).unwrap(), value);
        }
        let mut out = Vec::new();
        encode(&Value::Double(double), &mut out).unwrap();
        let read = crate::wanted::double(&decode(&out).unwrap()).unwrap();
        proptest::prop_assert!(read.to_bits() == double.to_bits() || read.is_nan() && double.is_nan());
    }
}

fn value_has_two_keys(value: &Value) -> bool {
    matches!(value, Value::Record(fields) if fields[0].0 != fields[1].0)
}
