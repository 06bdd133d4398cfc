//! A value made into what a schema wants. A value may come from a format that has no type for it (a timestamp
//! in JSON is a string): these are all the ways there are, in both directions, and each is a row of the table.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use jiff::civil;
use num_bigint::BigInt;
use num_traits::ToPrimitive;

use crate::Error;
use crate::json::decimal;
use crate::model::{Decimal, Duration, Interval, Time, Timestamp, Unit, Value};

const PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, PADDING);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, PADDING);

/// 2^53: up to here a double has every integer.
const DOUBLE_INTEGERS: i64 = 1 << 53;

/// Digits that a double can be told by.
const DOUBLE_DIGITS: usize = 17;

/// How a value is written where there is no type for it.
pub enum TextOf {
    /// As a number of JSON.
    Number(String),
    Text(String),
}

/// What a value of a type that JSON lacks is written as.
///
/// # Errors
/// It is beyond what the form can say (a year over 9999), or it is no such value.
pub fn text_of(value: &Value) -> Result<TextOf, Error> {
    let text = |text: String| Ok(TextOf::Text(text));
    match value {
        Value::Float(number) => Ok(float_text(f64::from(*number), || format!("{number:?}"))),
        Value::Double(number) => Ok(float_text(*number, || format!("{number:?}"))),
        // A number, so that what reads it as one may; with all its digits.
        Value::Decimal(decimal) if decimal.scale == 0 => Ok(TextOf::Number(decimal.unscaled.to_string())),
        Value::Decimal(decimal) => text(decimal.to_string()),
        Value::Uuid(bytes) => text(uuid::Uuid::from_bytes(*bytes).to_string()),
        Value::Date(days) => text(date_of(*days)?.to_string()),
        Value::Time(time) => text(time_text(time.nanos, time.unit)),
        Value::Timestamp(timestamp) => text(timestamp_text(timestamp)?),
        Value::Duration(duration) => text(duration_text(duration)),
        Value::Interval(interval) => text(interval_text(interval)),
        other => Err(Error::new(format!("{} has no form as text", other.kind()))),
    }
}

/// The same for where a number cannot be of any length either, and bytes are in base64.
///
/// # Errors
/// As [`text_of`].
pub fn plain_text(value: &Value) -> Result<String, Error> {
    match value {
        Value::Bytes(bytes) => Ok(base64::engine::general_purpose::STANDARD.encode(bytes)),
        value => match text_of(value)? {
            TextOf::Number(text) | TextOf::Text(text) => Ok(text),
        },
    }
}

fn float_text(number: f64, finite: impl FnOnce() -> String) -> TextOf {
    match number {
        _ if number.is_nan() => TextOf::Text("NaN".to_owned()),
        f64::INFINITY => TextOf::Text("Infinity".to_owned()),
        f64::NEG_INFINITY => TextOf::Text("-Infinity".to_owned()),
        _ => TextOf::Number(finite()),
    }
}

fn date_of(days: i32) -> Result<civil::Date, Error> {
    let span = jiff::Span::new().try_days(days);
    span.and_then(|span| civil::Date::constant(1970, 1, 1).checked_add(span))
        .map_err(|_| Error::new(format!("the date {days} days after 1970 is beyond the year 9999")))
}

fn time_text(nanos: u64, unit: Unit) -> String {
    let seconds = nanos / 1_000_000_000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}{}", fraction((nanos % 1_000_000_000) as u32, unit))
}

/// The digits behind the point, as many as the unit has.
fn fraction(nanos: u32, unit: Unit) -> String {
    match unit {
        Unit::Seconds => String::new(),
        _ => format!(".{:0width$}", nanos / unit.nanos(), width = unit.digits()),
    }
}

fn timestamp_text(timestamp: &Timestamp) -> Result<String, Error> {
    let Timestamp { seconds, nanos, unit, is_local } = *timestamp;
    let at = jiff::Timestamp::from_second(seconds)
        .map_err(|_| Error::new(format!("{seconds} s after 1970 is beyond the year 9999")))?;
    let civil = jiff::tz::Offset::UTC.to_datetime(at);
    let zone = if is_local { "" } else { "Z" };
    Ok(format!("{}T{}{zone}", civil.date(), time_text(civil_nanos(civil.time()) + u64::from(nanos), unit)))
}

fn civil_nanos(time: civil::Time) -> u64 {
    let seconds = i64::from(time.hour()) * 3600 + i64::from(time.minute()) * 60 + i64::from(time.second());
    seconds as u64 * 1_000_000_000 + time.subsec_nanosecond() as u64
}

/// As the Protocol Buffers JSON mapping has it: seconds with a fraction of 0, 3, 6 or 9 digits.
fn duration_text(duration: &Duration) -> String {
    let sign = if duration.seconds < 0 || duration.nanos < 0 { "-" } else { "" };
    let (seconds, nanos) = (duration.seconds.unsigned_abs(), duration.nanos.unsigned_abs());
    let unit = [Unit::Seconds, Unit::Millis, Unit::Micros]
        .into_iter()
        .find(|unit| nanos.is_multiple_of(unit.nanos()))
        .unwrap_or(Unit::Nanos);
    format!("{sign}{seconds}{}s", fraction(nanos, unit))
}

/// ISO 8601 without carrying: `P1M2DT3.004S`.
fn interval_text(interval: &Interval) -> String {
    let Interval { months, days, millis } = *interval;
    format!("P{months}M{days}DT{}.{:03}S", millis / 1000, millis % 1000)
}

fn misfit(value: &Value, wanted: &str) -> Error {
    Error::new(format!("{} where {wanted} is wanted", value.kind()))
}

/// A value that is what is wanted, or why it is not.
type Wanted<T> = Result<T, Error>;

pub fn boolean(value: &Value) -> Wanted<bool> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        other => Err(misfit(other, "a boolean")),
    }
}

/// A boolean that is a key of a map: where keys are texts, it is one.
pub fn boolean_key(key: &Value) -> Wanted<bool> {
    match key {
        Value::Text(text) if text == "true" => Ok(true),
        Value::Text(text) if text == "false" => Ok(false),
        Value::Text(text) => Err(Error::new(format!("{text:?} where true or false is wanted"))),
        key => boolean(key),
    }
}

/// An integer from these to these; also a floating point number or decimal without a fraction.
pub fn integer(value: &Value, min: i128, max: i128, name: &str) -> Wanted<i128> {
    let whole = |decimal: &Decimal| decimal.rescaled(0).and_then(|number| number.to_i128());
    let number = match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::UInt(number) => Some(i128::from(*number)),
        Value::Double(number) if number.fract() == 0.0 && number.abs() < 1e30 => Some(*number as i128),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e30 => Some(*number as i128),
        Value::Double(number) => return Err(Error::new(format!("{number} where {name} is wanted"))),
        Value::Float(number) => return Err(Error::new(format!("{number} where {name} is wanted"))),
        Value::Decimal(decimal) => whole(decimal),
        // 64-bit integers are strings in the Protocol Buffers JSON mapping.
        Value::Text(text) => match decimal(text).ok().as_ref().and_then(whole) {
            None => return Err(Error::new(format!("{text:?} where {name} is wanted"))),
            number => number,
        },
        other => return Err(misfit(other, name)),
    };
    number
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| Error::new(format!("{} where {name} is wanted: from {min} to {max}", shown(value))))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Decimal(decimal) => decimal.to_string(),
        Value::Text(text) => format!("{text:?}"),
        other => other.kind().to_owned(),
    }
}

/// A double; an integer or decimal must not lose digits by it.
pub fn double(value: &Value) -> Wanted<f64> {
    match value {
        Value::Double(number) => Ok(*number),
        Value::Float(number) => Ok(f64::from(*number)),
        Value::Int(number) if (-DOUBLE_INTEGERS..=DOUBLE_INTEGERS).contains(number) => Ok(*number as f64),
        Value::Int(number) if (*number as f64) as i128 == i128::from(*number) => Ok(*number as f64),
        Value::UInt(number) if (*number as f64) as u128 == u128::from(*number) => Ok(*number as f64),
        Value::Decimal(decimal) if decimal.digits() <= DOUBLE_DIGITS => {
            decimal.to_string().parse().map_err(|_| Error::new(format!("{decimal} where a double is wanted")))
        }
        Value::Text(text) => match text.as_str() {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            _ => Err(misfit(value, "a double")),
        },
        Value::Int(_) | Value::UInt(_) | Value::Decimal(_) => {
            Err(Error::new(format!("{} has more digits than a double holds", shown(value))))
        }
        other => Err(misfit(other, "a double")),
    }
}

/// A float of 32 bits: one that was one, or a number whose shortest form it is.
pub fn float(value: &Value) -> Wanted<f32> {
    if let Value::Float(number) = value {
        return Ok(*number);
    }
    let double = double(value)?;
    let float = double as f32;
    let is_same = !double.is_finite()
        || f64::from(float) == double
        || float.is_finite() && float.to_string().parse() == Ok(double)
        // Of a float in the middle between two forms of one length either may be given; and some give more
        // digits than it takes to tell a float from all others, all of them its own.
        || float.is_normal() && shortest_digits(&double) <= shortest_digits(&float)
        || format!("{:.*e}", shortest_digits(&double) - 1, f64::from(float)).parse() == Ok(double);
    match is_same {
        true => Ok(float),
        false => Err(Error::new(format!("{double} has more digits than a float of 32 bits holds"))),
    }
}

/// Digits of the shortest form of a number.
fn shortest_digits(number: &impl std::fmt::LowerExp) -> usize {
    let text = format!("{number:e}");
    text.split('e').next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).count()
}

pub fn text(value: &Value) -> Wanted<String> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Enum(symbol) => Ok(symbol.name.clone()),
        Value::Bytes(_) => Err(misfit(value, "a text")),
        other => match text_of(other) {
            Ok(TextOf::Text(text)) => Ok(text),
            _ => Err(misfit(value, "a text")),
        },
    }
}

/// Bytes; of a text those that it stands for as base64, with or without padding, also URL-safe.
pub fn bytes(value: &Value) -> Wanted<Vec<u8>> {
    match value {
        Value::Bytes(bytes) => Ok(bytes.clone()),
        Value::Text(text) => BASE64
            .decode(text)
            .or_else(|_| BASE64_URL.decode(text))
            .map_err(|error| Error::new(format!("a text where bytes are wanted must be base64: {error}"))),
        Value::Uuid(bytes) => Ok(bytes.to_vec()),
        other => Err(misfit(other, "bytes")),
    }
}

/// A decimal of any scale.
pub fn any_decimal(value: &Value) -> Wanted<Decimal> {
    match value {
        Value::Decimal(number) => Ok(number.clone()),
        Value::Int(number) => Ok(Decimal { unscaled: (*number).into(), scale: 0 }),
        Value::UInt(number) => Ok(Decimal { unscaled: (*number).into(), scale: 0 }),
        Value::Double(number) if number.is_finite() => decimal(&number.to_string()),
        Value::Float(number) if number.is_finite() => decimal(&number.to_string()),
        Value::Text(text) => decimal(text),
        other => Err(misfit(other, "a decimal")),
    }
}

/// The unscaled number of a decimal of this scale and at most so many digits.
pub fn decimal_of(value: &Value, scale: i32, precision: usize) -> Wanted<BigInt> {
    let number = any_decimal(value)?;
    let unscaled = number.rescaled(scale).ok_or_else(|| {
        Error::new(format!("{number} has more digits behind the point than the schema's scale of {scale}"))
    })?;
    match unscaled.magnitude().to_string().len() <= precision {
        true => Ok(unscaled),
        false => {
            Err(Error::new(format!("{number} has more digits than the schema's precision of {precision}")))
        }
    }
}

pub fn date(value: &Value) -> Wanted<i32> {
    match value {
        Value::Date(days) => Ok(*days),
        Value::Int(days) => i32::try_from(*days).map_err(|_| Error::new(format!("{days} days are no date"))),
        Value::Text(text) => {
            let date: civil::Date =
                text.parse().map_err(|_| Error::new(format!("{text:?} is no date such as 2026-01-31")))?;
            Ok((date - civil::Date::constant(1970, 1, 1)).get_days())
        }
        other => Err(misfit(other, "a date")),
    }
}

/// Time of day in this unit, none of it lost.
pub fn time(value: &Value, unit: Unit) -> Wanted<u64> {
    const DAY: u64 = 86_400_000_000_000;
    let nanos = match value {
        Value::Time(time) => time.nanos,
        Value::Int(count) => u64::try_from(*count)
            .ok()
            .and_then(|count| count.checked_mul(u64::from(unit.nanos())))
            .filter(|&nanos| nanos < DAY)
            .ok_or_else(|| Error::new(format!("{count} is no time of day")))?,
        Value::Text(text) => {
            let time: civil::Time =
                text.parse().map_err(|_| Error::new(format!("{text:?} is no time such as 13:45:00.5")))?;
            civil_nanos(time)
        }
        other => return Err(misfit(other, "a time of day")),
    };
    match nanos.is_multiple_of(u64::from(unit.nanos())) {
        true => Ok(nanos / u64::from(unit.nanos())),
        false => Err(too_precise(&time_text(nanos, Unit::Nanos), unit)),
    }
}

fn too_precise(text: &str, unit: Unit) -> Error {
    Error::new(format!("{text} is more precise than the schema's {unit:?}"))
}

/// A timestamp; a number counts units.
pub fn timestamp(value: &Value, unit: Unit, is_local: bool) -> Wanted<Timestamp> {
    let kind = if is_local { "a local timestamp" } else { "a timestamp" };
    match value {
        Value::Timestamp(timestamp) if timestamp.is_local == is_local => Ok(*timestamp),
        Value::Timestamp(_) => Err(Error::new(format!(
            "{kind} is wanted: a timestamp of a zone and one of a wall clock do not convert into each other"
        ))),
        Value::Int(count) => Ok(Timestamp::from_count(*count, unit, is_local)),
        Value::Text(text) => {
            let parsed = match is_local {
                false => text.parse::<jiff::Timestamp>(),
                // With a zone it is none of a wall clock.
                true if text.parse::<jiff::Timestamp>().is_ok() => {
                    return Err(Error::new(format!("{text:?} has a zone, and {kind} is wanted")));
                }
                true => text
                    .parse::<civil::DateTime>()
                    .and_then(|civil| jiff::tz::Offset::UTC.to_timestamp(civil)),
            };
            let example = if is_local { "2026-01-31T13:45:00" } else { "2026-01-31T13:45:00Z" };
            let at = parsed.map_err(|_| Error::new(format!("{text:?} is no timestamp such as {example}")))?;
            let nanos = at.as_nanosecond();
            Ok(Timestamp {
                seconds: nanos.div_euclid(1_000_000_000) as i64,
                nanos: nanos.rem_euclid(1_000_000_000) as u32,
                unit,
                is_local,
            })
        }
        other => Err(misfit(other, kind)),
    }
}

/// The same as a count of units since 1970.
pub fn timestamp_count(value: &Value, unit: Unit, is_local: bool) -> Wanted<i64> {
    let timestamp = timestamp(value, unit, is_local)?;
    timestamp.count(unit).ok_or_else(|| {
        let text = timestamp_text(&Timestamp { unit: Unit::Nanos, ..timestamp });
        match timestamp.nanos.is_multiple_of(unit.nanos()) {
            true => Error::new(format!("{} s after 1970 do not fit into {unit:?}", timestamp.seconds)),
            false => too_precise(&text.unwrap_or_default(), unit),
        }
    })
}

/// A duration; a text is one of the Protocol Buffers JSON mapping (`1.5s`).
pub fn duration(value: &Value) -> Wanted<Duration> {
    match value {
        Value::Duration(duration) => Ok(*duration),
        Value::Text(text) => {
            let wrong = || Error::new(format!("{text:?} is no duration such as 1.5s"));
            let number = decimal(text.strip_suffix('s').ok_or_else(wrong)?).map_err(|_| wrong())?;
            let nanos = number.rescaled(9).and_then(|nanos| nanos.to_i128()).ok_or_else(wrong)?;
            let seconds = i64::try_from(nanos / 1_000_000_000).map_err(|_| wrong())?;
            Ok(Duration { seconds, nanos: (nanos % 1_000_000_000) as i32 })
        }
        other => Err(misfit(other, "a duration")),
    }
}

/// An interval; a text is one as this model writes it (`P1M2DT3.004S`).
pub fn interval(value: &Value) -> Wanted<Interval> {
    match value {
        Value::Interval(interval) => Ok(*interval),
        Value::Text(text) => interval_of(text)
            .ok_or_else(|| Error::new(format!("{text:?} is no interval such as P1M2DT3.004S"))),
        other => Err(misfit(other, "an interval")),
    }
}

fn interval_of(text: &str) -> Option<Interval> {
    let (months, rest) = text.strip_prefix('P')?.split_once('M')?;
    let (days, rest) = rest.split_once("DT")?;
    let seconds = decimal(rest.strip_suffix('S')?).ok()?;
    Some(Interval {
        months: months.parse().ok()?,
        days: days.parse().ok()?,
        millis: seconds.rescaled(3)?.to_u32()?,
    })
}

pub fn uuid(value: &Value) -> Wanted<[u8; 16]> {
    match value {
        Value::Uuid(bytes) => Ok(*bytes),
        Value::Text(text) => uuid::Uuid::try_parse(text)
            .map(uuid::Uuid::into_bytes)
            .map_err(|error| Error::new(format!("{text:?} is no UUID: {error}"))),
        Value::Bytes(bytes) => <[u8; 16]>::try_from(bytes.as_slice())
            .map_err(|_| Error::new(format!("{} bytes are no UUID, which has 16", bytes.len()))),
        other => Err(misfit(other, "a UUID")),
    }
}

impl Decimal {
    /// The unscaled number at another scale, if no digit is lost by it.
    pub fn rescaled(&self, scale: i32) -> Option<BigInt> {
        let ten = |power: i32| BigInt::from(10).pow(power.unsigned_abs());
        match scale - self.scale {
            0 => Some(self.unscaled.clone()),
            more @ 1.. => Some(&self.unscaled * ten(more)),
            less => {
                let divisor = ten(less);
                let rest = &self.unscaled % &divisor;
                (rest == BigInt::ZERO).then(|| &self.unscaled / divisor)
            }
        }
    }

    /// Digits, without zeros before them.
    pub fn digits(&self) -> usize {
        self.unscaled.magnitude().to_string().len()
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Decimal { unscaled, scale } = self;
        let sign = if *unscaled < BigInt::ZERO { "-" } else { "" };
        let digits = unscaled.magnitude().to_string();
        match usize::try_from(*scale) {
            Ok(0) => write!(f, "{sign}{digits}"),
            Ok(scale) => {
                let digits = format!("{digits:0>width$}", width = scale + 1);
                let (whole, fraction) = digits.split_at(digits.len() - scale);
                write!(f, "{sign}{whole}.{fraction}")
            }
            Err(_) => write!(f, "{sign}{digits}{}", "0".repeat(scale.unsigned_abs() as usize)),
        }
    }
}

impl Time {
    /// From a count of units since midnight; `None` if it is no time of day.
    pub fn from_count(count: i64, unit: Unit) -> Option<Time> {
        let nanos = u64::try_from(count).ok()?.checked_mul(u64::from(unit.nanos()))?;
        (nanos < 86_400_000_000_000).then_some(Time { nanos, unit })
    }
}

#[cfg(test)]
mod tests;
