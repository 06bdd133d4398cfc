//! Reads a type from a JSON value. Unlike `serde_json::from_value` it knows the place of a mistake,
//! takes an unknown field for one, and never repeats a value.

use std::fmt::{self, Display};

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::Value;

use super::ConfigError;

pub(super) fn from_value<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T, ConfigError> {
    T::deserialize(Place(value)).map_err(|mistake| {
        let mut field = String::new();
        for step in mistake.path.iter().rev() {
            field.push('/');
            field.push_str(&step.replace('~', "~0").replace('/', "~1"));
        }
        ConfigError { field, message: mistake.message }
    })
}

/// The path is from the inside out.
#[derive(Debug)]
struct Mistake {
    path: Vec<String>,
    message: String,
}

impl Mistake {
    fn new(message: String) -> Mistake {
        Mistake { path: Vec::new(), message }
    }

    fn under(mut self, step: impl Display) -> Mistake {
        self.path.push(step.to_string());
        self
    }
}

impl Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mistake {}

impl Error for Mistake {
    fn custom<T: Display>(message: T) -> Mistake {
        Mistake::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Mistake {
        let got = match unexpected {
            Unexpected::Bool(_) => "a boolean",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) => "an integer",
            Unexpected::Float(_) => "a number with a fraction",
            Unexpected::Char(_) | Unexpected::Str(_) => "a string",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a table",
            Unexpected::Unit | Unexpected::Option => "null",
            _ => "something else",
        };
        Mistake::new(format!("expected {expected}, got {got}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Mistake {
        Mistake::new(format!("this value cannot be: expected {expected}"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Mistake {
        Mistake::new(format!("unknown value, expected {}", OneOf(expected)))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Mistake {
        Mistake::new(match expected {
            [] => "unknown field; there are none".to_owned(),
            _ => format!("unknown field, expected {}", OneOf(expected)),
        })
    }

    fn missing_field(field: &'static str) -> Mistake {
        Mistake::new("this field is missing".to_owned()).under(field)
    }
}

struct OneOf(&'static [&'static str]);

impl Display for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let before = match index {
                0 => "",
                _ if index + 1 == self.0.len() => " or ",
                _ => ", ",
            };
            write!(f, "{before}`{name}`")?;
        }
        Ok(())
    }
}

struct Place<'de>(&'de Value);

impl<'de> Deserializer<'de> for Place<'de> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, Some(value)) => visitor.visit_f64(value),
                _ => Err(Mistake::new("this number is too large".to_owned())),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => {
                let mut list = List { items: items.iter(), index: 0 };
                let value = visitor.visit_seq(&mut list)?;
                match list.items.len() {
                    0 => Ok(value),
                    left => Err(Mistake::new(format!("the list has {left} elements too many"))),
                }
            }
            Value::Object(fields) => visitor.visit_map(Table { fields: fields.iter(), next: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::String(variant) => visitor.visit_enum(Choice { variant, content: None }),
            Value::Object(fields) if fields.len() == 1 => match fields.iter().next() {
                Some((variant, content)) => visitor.visit_enum(Choice { variant, content: Some(content) }),
                None => unreachable!("it has one field"),
            },
            _ => Err(Mistake::new(format!("expected {}", OneOf(variants)))),
        }
    }

    /// serde would take a list of the fields' values too, in their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        if self.0.is_array() {
            return Err(Mistake::new("expected a table, got a list".to_owned()));
        }
        self.deserialize_any(visitor)
    }

    /// A derived `Deserialize` asks for this to skip a field that it does not know.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Mistake> {
        Err(Mistake::new("unknown field".to_owned()))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier
    }
}

struct List<'de> {
    items: std::slice::Iter<'de, Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for &mut List<'de> {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mistake> {
        let Some(item) = self.items.next() else { return Ok(None) };
        self.index += 1;
        seed.deserialize(Place(item)).map(Some).map_err(|mistake| mistake.under(self.index - 1))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Table<'de> {
    fields: serde_json::map::Iter<'de>,
    next: Option<(&'de str, &'de Value)>,
}

impl<'de> MapAccess<'de> for Table<'de> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        let Some((name, value)) = self.fields.next() else { return Ok(None) };
        self.next = Some((name, value));
        let name: StrDeserializer<'_, Mistake> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|mistake| match self.next {
            Some((name, _)) => mistake.under(name),
            None => mistake,
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let Some((name, value)) = self.next.take() else {
            return Err(Mistake::new("a value was read before its name".to_owned()));
        };
        seed.deserialize(Place(value)).map_err(|mistake| mistake.under(name))
    }
}

struct Choice<'de> {
    variant: &'de str,
    content: Option<&'de Value>,
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = Mistake;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Mistake> {
        let variant: StrDeserializer<'_, Mistake> = self.variant.into_deserializer();
        Ok((seed.deserialize(variant)?, self))
    }
}

impl<'de> Choice<'de> {
    fn content(&self) -> Result<Place<'de>, Mistake> {
        match self.content {
            Some(content) => Ok(Place(content)),
            None => Err(Mistake::new("expected a table with this name and its content".to_owned())),
        }
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = Mistake;

    fn unit_variant(self) -> Result<(), Mistake> {
        match self.content {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(Mistake::new("expected only the name, without content".to_owned())),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mistake> {
        seed.deserialize(self.content()?).map_err(|mistake| mistake.under(self.variant))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.content()?.deserialize_any(visitor).map_err(|mistake| mistake.under(self.variant))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.content()?.deserialize_struct("", fields, visitor).map_err(|mistake| mistake.under(self.variant))
    }
}
