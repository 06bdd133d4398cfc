use super::*;
use proptest::prelude::*;

fn written(value: &Value) -> Value {
    match text_of(value).unwrap() {
        TextOf::Text(text) => Value::Text(text),
        TextOf::Number(text) => crate::json::decode(text.as_bytes()).unwrap(),
    }
}

#[test]
fn types_that_json_lacks_have_forms() {
    let text = |value: Value| match text_of(&value).unwrap() {
        TextOf::Text(text) | TextOf::Number(text) => text,
    };
    let timestamp = |count, unit, is_local| Value::Timestamp(Timestamp::from_count(count, unit, is_local));
    assert_eq!(text(timestamp(1_700_000_000_123, Unit::Millis, false)), "2023-11-14T22:13:20.123Z");
    assert_eq!(text(timestamp(-1, Unit::Micros, true)), "1969-12-31T23:59:59.999999");
    assert_eq!(text(Value::Date(-1)), "1969-12-31");
    assert_eq!(text(Value::Time(Time { nanos: 3_600_000_000_001, unit: Unit::Nanos })), "01:00:00.000000001");
    assert_eq!(text(Value::Duration(Duration { seconds: -1, nanos: -500_000_000 })), "-1.500s");
    assert_eq!(text(Value::Interval(Interval { months: 1, days: 2, millis: 3004 })), "P1M2DT3.004S");
    assert_eq!(text(Value::Decimal(Decimal { unscaled: (-5).into(), scale: 3 })), "-0.005");
    assert_eq!(text(Value::Double(f64::NEG_INFINITY)), "-Infinity");
    assert_eq!(text(Value::Double(1.0)), "1.0");
    assert_eq!(text(Value::Float(0.1)), "0.1");
}

#[test]
fn nothing_is_lost_silently() {
    let fails = |result: Result<String, Error>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let shown = |value: Wanted<f64>| value.map(|number| number.to_string());
    fails(shown(double(&Value::Int(9_007_199_254_740_993))), "more digits than a double");
    fails(shown(double(&Value::Decimal(decimal("0.1234567890123456789").unwrap()))), "more digits");
    assert_eq!(double(&Value::Int(1 << 60)).unwrap(), (1u64 << 60) as f64);
    fails(float(&Value::Double(0.123456789)).map(|n| n.to_string()), "more digits than a float");
    assert_eq!(float(&Value::Double(0.1)).unwrap(), 0.1);
    // It is 1642113.25, and some write it with a 2 at the end, some with a 3.
    for written in [1_642_113.2, 1_642_113.3] {
        assert_eq!(f64::from(float(&Value::Double(written)).unwrap()), 1_642_113.25);
    }
    assert_eq!(float(&Value::Double(8.29541e-41)).unwrap(), 8.29541e-41);
    for other in [1_642_113.21, 1e-50, 2e-45, 1e39] {
        fails(float(&Value::Double(other)).map(|n| n.to_string()), "more digits than a float");
    }
    fails(integer(&Value::Double(1.5), 0, 10, "an int").map(|n| n.to_string()), "1.5 where an int");
    fails(integer(&Value::Int(11), 0, 10, "an int").map(|n| n.to_string()), "from 0 to 10");
    fails(decimal_of(&"1.234".into(), 2, 9).map(|n| n.to_string()), "scale of 2");
    fails(decimal_of(&"1234567890".into(), 0, 9).map(|n| n.to_string()), "precision of 9");
    fails(
        timestamp_count(&"2026-01-01T00:00:00.0001Z".into(), Unit::Millis, false).map(|n| n.to_string()),
        "precise",
    );
    fails(
        timestamp_count(&"2026-01-01T00:00:00".into(), Unit::Millis, false).map(|n| n.to_string()),
        "such as",
    );
    fails(timestamp_count(&"2026-01-01T00:00:00Z".into(), Unit::Millis, true).map(|n| n.to_string()), "zone");
    fails(bytes(&"*".into()).map(|b| format!("{b:?}")), "base64");
    assert_eq!(bytes(&"_-8".into()).unwrap(), [255, 239]);
    fails(uuid(&"x".into()).map(|b| format!("{b:?}")), "no UUID");
    fails(date(&"2026-02-30".into()).map(|d| d.to_string()), "no date");
}

proptest! {
    #[test]
    fn forms_read_as_they_were(
        count in -60_000_000_000_000i64..250_000_000_000_000,
        days in -100_000i32..100_000,
        of_day in 0u64..86_400_000,
        unscaled: i128,
        scale in 0i32..40,
        months: u32, millis: u32,
        seconds in -1_000_000_000i64..1_000_000_000,
        float: f32,
        id: [u8; 16],
    ) {
        let at = Value::Timestamp(Timestamp::from_count(count, Unit::Millis, false));
        prop_assert_eq!(timestamp_count(&written(&at), Unit::Millis, false).unwrap(), count);
        let wall = Value::Timestamp(Timestamp::from_count(count, Unit::Millis, true));
        prop_assert_eq!(timestamp_count(&written(&wall), Unit::Millis, true).unwrap(), count);
        prop_assert_eq!(date(&written(&Value::Date(days))).unwrap(), days);
        let of_day_value = Value::Time(Time::from_count(of_day as i64, Unit::Millis).unwrap());
        prop_assert_eq!(time(&written(&of_day_value), Unit::Millis).unwrap(), of_day);
        let number = Decimal { unscaled: unscaled.into(), scale };
        prop_assert_eq!(decimal_of(&written(&Value::Decimal(number.clone())), scale, 80).unwrap(), number.unscaled);
        let interval = Interval { months, days: days.unsigned_abs(), millis };
        prop_assert_eq!(super::interval(&written(&Value::Interval(interval))).unwrap(), interval);
        let duration = Duration { seconds, nanos: 5 * seconds.signum() as i32 };
        prop_assert_eq!(super::duration(&written(&Value::Duration(duration))).unwrap(), duration);
        let read = super::float(&written(&Value::Float(float))).unwrap();
        prop_assert!(read.to_bits() == float.to_bits() || read.is_nan() && float.is_nan());
        prop_assert_eq!(uuid(&written(&Value::Uuid(id))).unwrap(), id);
    }
}
