//! Values of the model, of every kind and in every nesting.

use std::collections::HashSet;

use millstream_formats::model::{Branch, Decimal, Duration, Interval, Symbol, Time, Timestamp, Unit, Value};
use num_bigint::BigInt;
use proptest::prelude::*;

/// Any value. Its texts, dates and times have forms as text.
pub fn value() -> BoxedStrategy<Value> {
    nested(leaf())
}

/// Lists, records, maps and branches of these.
pub fn nested(leaf: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::vec((".{0,6}", inner.clone()), 0..6)
                .prop_map(|fields| Value::Record(distinct(fields))),
            prop::collection::vec((key(), inner.clone()), 0..6)
                .prop_map(|entries| Value::Map(distinct(entries))),
            (".{1,6}", inner).prop_map(|(name, value)| Value::Union(Branch { name, value: Box::new(value) })),
        ]
    })
    .boxed()
}

/// Without those whose key came before.
pub fn distinct<Key: std::fmt::Debug>(entries: Vec<(Key, Value)>) -> Vec<(Key, Value)> {
    let mut seen = HashSet::new();
    entries.into_iter().filter(|(key, _)| seen.insert(format!("{key:?}"))).collect()
}

/// Keys that no language takes for one another: in some, 1 is also true and 1.0.
fn key() -> impl Strategy<Value = Value> {
    prop_oneof![
        (2i64..).prop_map(Value::Int),
        (i64::MIN..-1).prop_map(Value::Int),
        ".{0,6}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(Value::Bytes),
    ]
}

pub fn leaf() -> BoxedStrategy<Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-200i64..70_000).prop_map(Value::Int),
        (i64::MAX as u64 + 1..).prop_map(Value::UInt),
        prop::num::f32::ANY.prop_map(Value::Float),
        prop::num::f64::ANY.prop_map(Value::Double),
        ".{0,40}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
        decimal(1 << 90),
        (any::<i128>(), 1i32..90)
            .prop_map(|(number, shift)| Value::from_big(BigInt::from(number) << (shift as usize))),
        date(),
        (0u64..86_400_000_000_000, unit()).prop_map(|(nanos, unit)| {
            Value::Time(Time { nanos: nanos - nanos % u64::from(unit.nanos()), unit })
        }),
        (timestamp(), any::<bool>())
            .prop_map(|(at, is_local)| Value::Timestamp(Timestamp { is_local, ..at })),
        duration(),
        (any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(months, days, millis)| Value::Interval(Interval { months, days, millis })),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        ("[A-Z]{1,8}", any::<Option<i32>>()).prop_map(|(name, number)| Value::Enum(Symbol { name, number })),
    ]
    .boxed()
}

pub fn decimal(below: i128) -> impl Strategy<Value = Value> {
    (-below..below, -20i32..40)
        .prop_map(|(number, scale)| Value::Decimal(Decimal { unscaled: number.into(), scale }))
}

/// From the year 1 to 9999.
pub fn date() -> impl Strategy<Value = Value> {
    (-719_162i32..=2_932_896).prop_map(Value::Date)
}

pub fn unit() -> impl Strategy<Value = Unit> {
    prop_oneof![Just(Unit::Seconds), Just(Unit::Millis), Just(Unit::Micros), Just(Unit::Nanos)]
}

/// From the year 1 to 9999.
pub fn timestamp() -> impl Strategy<Value = Timestamp> {
    let seconds = prop_oneof![-62_135_596_800i64..=253_402_207_200, 0i64..4_294_967_296];
    (seconds, 0u32..1_000_000_000, unit()).prop_map(|(seconds, nanos, unit)| Timestamp {
        seconds,
        nanos: nanos - nanos % unit.nanos(),
        unit,
        is_local: false,
    })
}

pub fn duration() -> impl Strategy<Value = Value> {
    (-315_575_999_999i64..=315_575_999_999, 0i32..1_000_000_000).prop_map(|(seconds, nanos)| {
        Value::Duration(Duration { seconds, nanos: if seconds < 0 { -nanos } else { nanos } })
    })
}
