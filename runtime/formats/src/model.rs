//! The values that all formats share.

use num_bigint::BigInt;

/// A value of the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Only beyond [`i64::MAX`]; what fits is an [`Value::Int`].
    UInt(u64),
    Float(f32),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Also an integer that fits neither [`Value::Int`] nor [`Value::UInt`].
    Decimal(Decimal),
    /// Days since 1970-01-01.
    Date(i32),
    Time(Time),
    Timestamp(Timestamp),
    Duration(Duration),
    Interval(Interval),
    Uuid([u8; 16]),
    Enum(Symbol),
    List(Vec<Value>),
    /// Entries in the order in which they came; no key twice.
    Map(Vec<(Value, Value)>),
    /// Named fields in the order of their schema.
    Record(Vec<(String, Value)>),
    /// A value of a union whose branches cannot be told by their JSON types alone.
    Union(Branch),
}

/// `unscaled` * 10^-`scale`. The scale is part of it: 1.10 is not 1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    pub unscaled: BigInt,
    pub scale: i32,
}

/// What a time is counted in, and so how precise it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

/// Time of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Since midnight, below 86 400 000 000 000.
    pub nanos: u64,
    pub unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Since 1970-01-01T00:00:00, of UTC unless `is_local`.
    pub seconds: i64,
    /// On top of `seconds`, below 1 000 000 000.
    pub nanos: u32,
    pub unit: Unit,
    /// What a clock on some wall shows; of which zone is not said.
    pub is_local: bool,
}

/// A length of time; `nanos` has the sign of `seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration {
    pub seconds: i64,
    pub nanos: i32,
}

/// Avro's `duration`: a length of time by the calendar, whose parts do not convert into each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub months: u32,
    pub days: u32,
    pub millis: u32,
}

/// A symbol of an enum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    pub name: String,
    /// Its number, in formats that write the number.
    pub number: Option<i32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// Its name within the union.
    pub name: String,
    pub value: Box<Value>,
}

impl Unit {
    /// Nanoseconds in one.
    pub fn nanos(self) -> u32 {
        match self {
            Unit::Seconds => 1_000_000_000,
            Unit::Millis => 1_000_000,
            Unit::Micros => 1_000,
            Unit::Nanos => 1,
        }
    }

    /// How many of them are in a second.
    pub fn per_second(self) -> u32 {
        1_000_000_000 / self.nanos()
    }

    /// Digits behind the point of a second.
    pub fn digits(self) -> usize {
        match self {
            Unit::Seconds => 0,
            Unit::Millis => 3,
            Unit::Micros => 6,
            Unit::Nanos => 9,
        }
    }
}

impl Timestamp {
    /// From a count of units since 1970.
    pub fn from_count(count: i64, unit: Unit, is_local: bool) -> Timestamp {
        let per_second = i64::from(unit.per_second());
        let rest = count.rem_euclid(per_second) as u32;
        Timestamp { seconds: count.div_euclid(per_second), nanos: rest * unit.nanos(), unit, is_local }
    }

    /// As a count of units since 1970; `None` if it is more precise than that, or does not fit.
    pub fn count(&self, unit: Unit) -> Option<i64> {
        if !self.nanos.is_multiple_of(unit.nanos()) {
            return None;
        }
        let count =
            i128::from(self.seconds) * i128::from(unit.per_second()) + i128::from(self.nanos / unit.nanos());
        i64::try_from(count).ok()
    }
}

impl Value {
    /// What it is, for messages: "a text", "a list".
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::UInt(_) => "an integer",
            Value::Float(_) | Value::Double(_) => "a floating point number",
            Value::Text(_) => "a text",
            Value::Bytes(_) => "bytes",
            Value::Decimal(_) => "a decimal",
            Value::Date(_) => "a date",
            Value::Time(_) => "a time of day",
            Value::Timestamp(_) => "a timestamp",
            Value::Duration(_) => "a duration",
            Value::Interval(_) => "an interval",
            Value::Uuid(_) => "a UUID",
            Value::Enum(_) => "a symbol of an enum",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Record(_) => "a record",
            Value::Union(_) => "a branch of a union",
        }
    }

    /// An integer of any size, in its smallest variant.
    pub fn from_u64(number: u64) -> Value {
        i64::try_from(number).map_or(Value::UInt(number), Value::Int)
    }

    /// The same for a big one.
    pub fn from_big(number: BigInt) -> Value {
        match (i64::try_from(&number), u64::try_from(&number)) {
            (Ok(number), _) => Value::Int(number),
            (_, Ok(number)) => Value::UInt(number),
            _ => Value::Decimal(Decimal { unscaled: number, scale: 0 }),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}
