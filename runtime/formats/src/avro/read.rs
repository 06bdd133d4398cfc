//! Values of the binary encoding, straight into the model. Nothing stands between, and nothing is allocated
//! for what a length or a count only says.

use num_bigint::BigInt;

use super::plan::{Node, NodeId, Plan};
use crate::error::At;
use crate::json::deeper;
use crate::model::{Branch, Decimal, Interval, Symbol, Time, Timestamp, Unit};
use crate::{Error, MAX_DEPTH, Value};

/// What a value may take beside what its length allows: a few bytes say that there are many nulls.
const FREE_MEMORY: usize = 64 << 20;

/// How much larger than its bytes a value may be. A byte of a list of booleans becomes a value, whose size is a
/// fifth of this.
const GROWTH: usize = 256;

/// The longest decimal that is read: 414 bytes have 997 digits, and JSON reads up to 1000.
const MAX_DECIMAL_BYTES: usize = 414;

/// A scale beyond any use.
const MAX_SCALE: u64 = 1000;

/// Bytes that are read from their beginning on.
pub struct Reader<'a> {
    rest: &'a [u8],
    /// Bytes that values may take, and how many of them are left.
    allowed: usize,
    left: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], allowed: usize) -> Reader<'a> {
        Reader { rest: bytes, allowed, left: allowed }
    }

    /// What is read of bytes that are one value and nothing else.
    pub fn whole<T>(
        bytes: &'a [u8],
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut reader = Reader::new(bytes, FREE_MEMORY.max(bytes.len().saturating_mul(GROWTH)));
        let value = read(&mut reader)?;
        reader.at_end()?;
        Ok(value)
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// # Errors
    /// There is more.
    pub fn at_end(&self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(wrong(format!("{more} bytes behind the value"))),
        }
    }

    /// Accounts for what is about to be allocated.
    ///
    /// # Errors
    /// With it values would take more than they may.
    pub fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            Error::new(format!("decoded it would take more than {} bytes of memory", self.allowed))
        })?;
        Ok(())
    }

    /// A value of the schema.
    pub fn root(&mut self, plan: &Plan) -> Result<Value, Error> {
        self.value(plan, plan.root(), MAX_DEPTH)
    }

    pub fn value(&mut self, plan: &Plan, id: NodeId, depth: usize) -> Result<Value, Error> {
        match plan.node(id) {
            Node::Array(items) => self.list(depth, |reader, depth| reader.value(plan, *items, depth)),
            Node::Map(values) => self.map(depth, |reader, depth| reader.value(plan, *values, depth)),
            Node::Record(record) => {
                let depth = deeper(depth)?;
                self.take(record.memory)?;
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    let value = self.value(plan, field.node, depth).at(&field.name)?;
                    fields.push((field.name.clone(), value));
                }
                Ok(Value::Record(fields))
            }
            Node::Union(union) => {
                let at = self.branch(union.branches.len())?;
                let value = self.value(plan, union.branches[at].1, depth)?;
                self.tagged(plan.tag(union, at), value)
            }
            node => self.scalar(node),
        }
    }

    pub fn list(
        &mut self,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<Value, Error>,
    ) -> Result<Value, Error> {
        let depth = deeper(depth)?;
        let mut list = Vec::new();
        while let Some(count) = self.block()? {
            self.take(count.saturating_mul(size_of::<Value>()))?;
            // Items may take no bytes, so there may be more.
            list.reserve(count.min(self.rest.len()));
            for _ in 0..count {
                list.push(item(self, depth).at(list.len())?);
            }
        }
        Ok(Value::List(list))
    }

    /// Entries in the order of their keys, since they have none in Avro. Of a key that comes twice the last
    /// one counts.
    pub fn map(
        &mut self,
        depth: usize,
        mut value: impl FnMut(&mut Self, usize) -> Result<Value, Error>,
    ) -> Result<Value, Error> {
        let depth = deeper(depth)?;
        let mut entries: Vec<(String, Value)> = Vec::new();
        while let Some(count) = self.block()? {
            self.take(count.saturating_mul(size_of::<(Value, Value)>()))?;
            entries.reserve(count.min(self.rest.len()));
            for _ in 0..count {
                let key = self.text()?.to_owned();
                let value = value(self, depth).at(&key)?;
                entries.push((key, value));
            }
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same {
                std::mem::swap(&mut later.1, &mut earlier.1);
            }
            is_same
        });
        Ok(Value::Map(entries.into_iter().map(|(key, value)| (Value::Text(key), value)).collect()))
    }

    /// The number of items in the next block; `None` at the end.
    fn block(&mut self) -> Result<Option<usize>, Error> {
        let count = match self.long()? {
            0 => return Ok(None),
            count @ 1.. => count.unsigned_abs(),
            // Below zero it is followed by the size of the block, for those that skip it.
            count => {
                self.length()?;
                count.unsigned_abs()
            }
        };
        // Of more than there can be it is all the same how many.
        Ok(Some(usize::try_from(count).unwrap_or(usize::MAX)))
    }

    /// Which branch of a union comes.
    pub fn branch(&mut self, count: usize) -> Result<usize, Error> {
        let at = self.long()?;
        usize::try_from(at)
            .ok()
            .filter(|&at| at < count)
            .ok_or_else(|| wrong(format!("the branch {at} of a union that has {count}")))
    }

    /// A value of a branch, with its name where that is needed.
    pub fn tagged(&mut self, name: Option<&str>, value: Value) -> Result<Value, Error> {
        let Some(name) = name else { return Ok(value) };
        self.take(size_of::<Value>() + name.len())?;
        Ok(Value::Union(Branch { name: name.to_owned(), value: Box::new(value) }))
    }

    /// A value that holds no others.
    pub fn scalar(&mut self, node: &Node) -> Result<Value, Error> {
        Ok(match node {
            Node::Null => Value::Null,
            Node::Boolean => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(wrong(format!("{other} is no boolean, which is 0 or 1"))),
            },
            Node::Int => Value::Int(self.int()?.into()),
            Node::Long => Value::Int(self.long()?),
            Node::Float => Value::Float(f32::from_le_bytes(self.array()?)),
            Node::Double => Value::Double(f64::from_le_bytes(self.array()?)),
            Node::Bytes => {
                let length = self.length()?;
                Value::Bytes(self.kept(length)?.to_vec())
            }
            Node::String => Value::Text(self.text()?.to_owned()),
            Node::Fixed { size, .. } => Value::Bytes(self.kept(*size)?.to_vec()),
            Node::Enum { name, symbols, .. } => {
                let at = self.long()?;
                let symbol = usize::try_from(at).ok().and_then(|at| symbols.get(at)).ok_or_else(|| {
                    wrong(format!("the symbol {at} of the enum {name}, which has {}", symbols.len()))
                })?;
                self.take(symbol.len())?;
                Value::Enum(Symbol { name: symbol.clone(), number: None })
            }
            Node::Decimal { scale, fixed, .. } => {
                let bytes = match fixed {
                    Some((_, size)) => self.bytes(*size)?,
                    None => {
                        let length = self.length()?;
                        decimal_bytes(self.bytes(length)?)?
                    }
                };
                Value::Decimal(Decimal { unscaled: BigInt::from_signed_bytes_be(bytes), scale: *scale })
            }
            Node::BigDecimal => {
                let length = self.length()?;
                big_decimal(self.bytes(length)?)?
            }
            Node::Uuid { is_text: true, .. } => {
                let length = self.length()?;
                Value::Uuid(uuid_of(self.bytes(length)?)?)
            }
            Node::Uuid { fixed, .. } => {
                if fixed.is_none() && self.length()? != 16 {
                    return Err(wrong("a UUID that does not have 16 bytes".into()));
                }
                Value::Uuid(self.array()?)
            }
            Node::Date => Value::Date(self.int()?),
            Node::Time(unit) => {
                let count = match unit {
                    Unit::Seconds | Unit::Millis => self.int()?.into(),
                    Unit::Micros | Unit::Nanos => self.long()?,
                };
                Value::Time(time(count, *unit)?)
            }
            Node::Timestamp { unit, is_local } => {
                Value::Timestamp(Timestamp::from_count(self.long()?, *unit, *is_local))
            }
            Node::Duration { .. } => Value::Interval(Interval {
                months: u32::from_le_bytes(self.array()?),
                days: u32::from_le_bytes(self.array()?),
                millis: u32::from_le_bytes(self.array()?),
            }),
            Node::Array(_) | Node::Map(_) | Node::Union(_) | Node::Record(_) | Node::Unfinished => {
                unreachable!("it holds others")
            }
        })
    }

    /// A number: zigzag, in groups of seven bits, the lowest first.
    pub fn long(&mut self) -> Result<i64, Error> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            // Of the tenth byte one bit is left.
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
        Err(wrong("a number of more than 64 bits".into()))
    }

    fn int(&mut self) -> Result<i32, Error> {
        let number = self.long()?;
        i32::try_from(number).map_err(|_| wrong(format!("{number} is no int")))
    }

    /// How many things follow.
    pub fn length(&mut self) -> Result<usize, Error> {
        let length = self.long()?;
        usize::try_from(length).map_err(|_| wrong(format!("a length of {length}")))
    }

    fn text(&mut self) -> Result<&'a str, Error> {
        let length = self.length()?;
        str::from_utf8(self.kept(length)?)
            .map_err(|error| wrong(format!("a text that is not UTF-8: {error}")))
    }

    /// Bytes that become part of the value.
    fn kept(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let bytes = self.bytes(length)?;
        self.take(length)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (bytes, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| ends_early(length, self.rest.len()))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Error> {
        let (bytes, rest) =
            self.rest.split_first_chunk().ok_or_else(|| ends_early(LENGTH, self.rest.len()))?;
        self.rest = rest;
        Ok(*bytes)
    }
}

#[cold]
fn wrong(what: String) -> Error {
    Error::new(format!("not Avro of this schema: {what}"))
}

#[cold]
fn ends_early(wanted: usize, left: usize) -> Error {
    wrong(format!("{wanted} bytes are wanted, and {left} are left"))
}

/// About how much memory a value takes beside itself.
pub fn memory_of(value: &Value) -> usize {
    let whole = |value: &Value| size_of::<Value>() + memory_of(value);
    match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Enum(symbol) => symbol.name.len(),
        Value::List(list) => list.iter().map(whole).sum(),
        Value::Record(fields) => {
            fields.iter().map(|(name, value)| size_of::<String>() + name.len() + whole(value)).sum()
        }
        Value::Map(entries) => entries.iter().map(|(key, value)| whole(key) + whole(value)).sum(),
        Value::Union(branch) => branch.name.len() + whole(&branch.value),
        _ => 0,
    }
}

/// A time of day, if the count is one.
pub fn time(count: i64, unit: Unit) -> Result<Time, Error> {
    Time::from_count(count, unit).ok_or_else(|| Error::new(format!("{count} {unit:?} is no time of day")))
}

fn uuid_of(text: &[u8]) -> Result<[u8; 16], Error> {
    uuid::Uuid::try_parse_ascii(text)
        .map(uuid::Uuid::into_bytes)
        .map_err(|error| wrong(format!("a text that is no UUID: {error}")))
}

fn decimal_bytes(bytes: &[u8]) -> Result<&[u8], Error> {
    match bytes.len() <= MAX_DECIMAL_BYTES {
        true => Ok(bytes),
        false => Err(Error::new(format!("a decimal of {} bytes, beyond {MAX_DECIMAL_BYTES}", bytes.len()))),
    }
}

/// The unscaled number as bytes, and the scale.
fn big_decimal(bytes: &[u8]) -> Result<Value, Error> {
    let mut reader = Reader::new(bytes, 0);
    let length = reader.length()?;
    let unscaled = BigInt::from_signed_bytes_be(decimal_bytes(reader.bytes(length)?)?);
    let scale = reader.long()?;
    reader.at_end()?;
    match i32::try_from(scale) {
        Ok(fits) if scale.unsigned_abs() <= MAX_SCALE => {
            Ok(Value::Decimal(Decimal { unscaled, scale: fits }))
        }
        _ => Err(Error::new(format!("a decimal with a scale of {scale}, beyond {MAX_SCALE}"))),
    }
}

#[cfg(test)]
mod tests;
