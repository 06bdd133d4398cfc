//! Descriptors, turned into what the decoder and the encoder look up for every field.

use std::collections::HashMap;
use std::ops::Range;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind as Described, MessageDescriptor, Syntax,
};

use crate::Error;
use crate::model::{Symbol, Value};

/// All messages of some files and of what those import.
pub(super) struct Schema {
    pub messages: Vec<Layout>,
    pub enums: Vec<Enumeration>,
    by_name: HashMap<String, usize>,
}

pub(super) struct Layout {
    /// With its package, without a dot before it.
    pub name: String,
    pub kind: MessageKind,
    /// In the order in which the file has them.
    pub fields: Vec<Field>,
    /// Numbers in ascending order, each with the place of its field.
    pub by_number: Vec<(u32, usize)>,
    /// Names and JSON names.
    by_name: HashMap<String, usize>,
    pub oneofs: Vec<Oneof>,
    extension_ranges: Vec<Range<u32>>,
    pub file: String,
    /// Its place in the file: of the outermost message, then of each within it.
    pub indexes: Vec<i32>,
}

pub(super) struct Oneof {
    pub name: String,
    pub members: Vec<usize>,
}

/// Messages that have a form of their own in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageKind {
    Plain,
    Timestamp,
    Duration,
    /// A scalar that may be missing.
    Wrapper,
    Struct,
    Value,
    ListValue,
    Any,
}

pub(super) struct Field {
    pub number: u32,
    pub name: String,
    pub kind: Kind,
    pub shape: Shape,
    /// The place of its oneof. The one that the compiler makes for an `optional` field is none.
    pub oneof: Option<usize>,
    /// What it has if it is not there and nothing tells that from having it.
    pub default: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Not there is not the same as there with its default.
    Optional,
    Required,
    Implicit,
    List {
        is_packed: bool,
    },
    /// Its kind is the message of an entry.
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    UInt32,
    UInt64,
    SInt32,
    SInt64,
    Fixed32,
    Fixed64,
    SFixed32,
    SFixed64,
    Bool,
    Text,
    Bytes,
    Message(usize),
    Group(usize),
    Enum(usize),
}

pub(super) struct Enumeration {
    pub name: String,
    /// Of proto2: a number that it lacks is an unknown field.
    pub is_closed: bool,
    by_name: HashMap<String, i32>,
    /// Of two names of a number the first.
    by_number: HashMap<i32, String>,
}

impl Schema {
    pub fn new(pool: &DescriptorPool) -> Schema {
        let messages: Vec<MessageDescriptor> = pool.all_messages().collect();
        let enums: Vec<EnumDescriptor> = pool.all_enums().collect();
        let place = |(at, name): (usize, &str)| (name.to_owned(), at);
        let by_name: HashMap<_, _> =
            messages.iter().map(|message| message.full_name()).enumerate().map(place).collect();
        let enum_by_name: HashMap<_, _> =
            enums.iter().map(|described| described.full_name()).enumerate().map(place).collect();

        let enums: Vec<Enumeration> = enums.iter().map(Enumeration::new).collect();
        let kinds = Kinds { messages: &by_name, enums: &enum_by_name };
        let messages = messages.iter().map(|message| Layout::new(message, &kinds, &enums)).collect();
        Schema { messages, enums, by_name }
    }

    pub fn message(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

struct Kinds<'a> {
    messages: &'a HashMap<String, usize>,
    enums: &'a HashMap<String, usize>,
}

impl Kinds<'_> {
    fn of(&self, field: &FieldDescriptor) -> Kind {
        match field.kind() {
            Described::Double => Kind::Double,
            Described::Float => Kind::Float,
            Described::Int32 => Kind::Int32,
            Described::Int64 => Kind::Int64,
            Described::Uint32 => Kind::UInt32,
            Described::Uint64 => Kind::UInt64,
            Described::Sint32 => Kind::SInt32,
            Described::Sint64 => Kind::SInt64,
            Described::Fixed32 => Kind::Fixed32,
            Described::Fixed64 => Kind::Fixed64,
            Described::Sfixed32 => Kind::SFixed32,
            Described::Sfixed64 => Kind::SFixed64,
            Described::Bool => Kind::Bool,
            Described::String => Kind::Text,
            Described::Bytes => Kind::Bytes,
            Described::Message(message) if field.is_group() => {
                Kind::Group(self.messages[message.full_name()])
            }
            Described::Message(message) => Kind::Message(self.messages[message.full_name()]),
            Described::Enum(described) => Kind::Enum(self.enums[described.full_name()]),
        }
    }
}

impl Layout {
    fn new(message: &MessageDescriptor, kinds: &Kinds<'_>, enums: &[Enumeration]) -> Layout {
        let declared = declared(message);
        let fields: Vec<Field> = declared.iter().map(|field| Field::new(field, kinds, enums)).collect();
        let mut by_number: Vec<_> = fields.iter().enumerate().map(|(at, field)| (field.number, at)).collect();
        by_number.sort_unstable();
        let mut by_name: HashMap<_, _> =
            declared.iter().enumerate().map(|(at, field)| (field.json_name().to_owned(), at)).collect();
        // A name goes before what is a JSON name of another.
        by_name.extend(fields.iter().enumerate().map(|(at, field)| (field.name.clone(), at)));
        let oneofs = message
            .oneofs()
            .map(|oneof| Oneof {
                name: oneof.name().to_owned(),
                members: oneof
                    .fields()
                    .filter_map(|member| fields.iter().position(|field| field.number == member.number()))
                    .collect(),
            })
            .collect();
        Layout {
            name: message.full_name().to_owned(),
            kind: MessageKind::of(message),
            fields,
            by_number,
            by_name,
            oneofs,
            extension_ranges: message.extension_ranges().collect(),
            file: message.parent_file().name().to_owned(),
            // Each place follows on the number of the field of the descriptor that it is in.
            indexes: message.path().iter().skip(1).step_by(2).copied().collect(),
        }
    }

    /// The place of the field of this number. `next` is where in the order of numbers it is expected, and
    /// then where the one after it is.
    pub fn numbered(&self, number: u32, next: &mut usize) -> Option<usize> {
        let found = match self.by_number.get(*next) {
            Some(&(expected, _)) if expected == number => *next,
            _ => self.by_number.binary_search_by_key(&number, |&(number, _)| number).ok()?,
        };
        let field = self.by_number[found].1;
        // An element of a list is followed by another, mostly.
        let is_list = matches!(self.fields[field].shape, Shape::List { .. } | Shape::Map);
        *next = if is_list { found } else { found + 1 };
        Some(field)
    }

    /// The place of the field of this name, which is expected at `next`.
    pub fn named(&self, name: &str, next: usize) -> Option<usize> {
        match self.fields.get(next) {
            Some(field) if field.name == name => Some(next),
            _ => self.by_name.get(name).copied(),
        }
    }

    /// The error of a field. What a message has that is a value itself has no name there.
    pub fn place(&self, at: usize, error: Error) -> Error {
        match self.kind {
            MessageKind::Wrapper | MessageKind::Struct | MessageKind::Value | MessageKind::ListValue => error,
            _ => error.at(&self.fields[at].name),
        }
    }

    pub fn is_extension(&self, number: u32) -> bool {
        self.extension_ranges.iter().any(|range| range.contains(&number))
    }
}

/// The fields in the order in which the file has them.
fn declared(message: &MessageDescriptor) -> Vec<FieldDescriptor> {
    let numbers = message.descriptor_proto().field.iter().map(|field| field.number() as u32);
    numbers.filter_map(|number| message.get_field(number)).collect()
}

impl MessageKind {
    /// By its name, if it also has the fields that it should have.
    fn of(message: &MessageDescriptor) -> MessageKind {
        let (kind, fields): (MessageKind, &[&str]) = match message.full_name() {
            "google.protobuf.Timestamp" => (MessageKind::Timestamp, &["seconds: int64", "nanos: int32"]),
            "google.protobuf.Duration" => (MessageKind::Duration, &["seconds: int64", "nanos: int32"]),
            "google.protobuf.Any" => (MessageKind::Any, &["type_url: string", "value: bytes"]),
            "google.protobuf.DoubleValue" => (MessageKind::Wrapper, &["value: double"]),
            "google.protobuf.FloatValue" => (MessageKind::Wrapper, &["value: float"]),
            "google.protobuf.Int64Value" => (MessageKind::Wrapper, &["value: int64"]),
            "google.protobuf.UInt64Value" => (MessageKind::Wrapper, &["value: uint64"]),
            "google.protobuf.Int32Value" => (MessageKind::Wrapper, &["value: int32"]),
            "google.protobuf.UInt32Value" => (MessageKind::Wrapper, &["value: uint32"]),
            "google.protobuf.BoolValue" => (MessageKind::Wrapper, &["value: bool"]),
            "google.protobuf.StringValue" => (MessageKind::Wrapper, &["value: string"]),
            "google.protobuf.BytesValue" => (MessageKind::Wrapper, &["value: bytes"]),
            "google.protobuf.Struct" => {
                (MessageKind::Struct, &["fields: google.protobuf.Struct.FieldsEntry"])
            }
            "google.protobuf.ListValue" => (MessageKind::ListValue, &["values: google.protobuf.Value"]),
            "google.protobuf.Value" => (
                MessageKind::Value,
                &[
                    "null_value: google.protobuf.NullValue",
                    "number_value: double",
                    "string_value: string",
                    "bool_value: bool",
                    "struct_value: google.protobuf.Struct",
                    "list_value: google.protobuf.ListValue",
                ],
            ),
            _ => return MessageKind::Plain,
        };
        let declared = declared(message);
        let is_it = declared.len() == fields.len()
            && declared.iter().zip(fields).zip(1..).all(|((field, expected), number)| {
                let is_list = *expected == "values: google.protobuf.Value";
                let is_map = *expected == "fields: google.protobuf.Struct.FieldsEntry";
                format!("{}: {:?}", field.name(), field.kind()) == *expected
                    && field.number() == number
                    && field.is_list() == is_list
                    && field.is_map() == is_map
                    && !field.is_required()
            });
        if is_it { kind } else { MessageKind::Plain }
    }
}

impl Field {
    fn new(field: &FieldDescriptor, kinds: &Kinds<'_>, enums: &[Enumeration]) -> Field {
        let kind = kinds.of(field);
        let shape = if field.is_map() {
            Shape::Map
        } else if field.is_list() {
            Shape::List { is_packed: field.is_packed() }
        } else if field.is_required() {
            Shape::Required
        } else if field.supports_presence() {
            Shape::Optional
        } else {
            Shape::Implicit
        };
        let default = match (shape, kind) {
            (Shape::Map, _) => Value::Map(Vec::new()),
            (Shape::List { .. }, _) => Value::List(Vec::new()),
            (_, Kind::Double) => Value::Double(0.0),
            (_, Kind::Float) => Value::Float(0.0),
            (_, Kind::Bool) => Value::Bool(false),
            (_, Kind::Text) => Value::Text(String::new()),
            (_, Kind::Bytes) => Value::Bytes(Vec::new()),
            (_, Kind::Message(_) | Kind::Group(_)) => Value::Null,
            (_, Kind::Enum(at)) => enums[at].value(match field.default_value() {
                prost_reflect::Value::EnumNumber(number) => number,
                _ => 0,
            }),
            _ => Value::Int(0),
        };
        let oneof = field
            .containing_oneof()
            .filter(|oneof| !oneof.is_synthetic())
            .and_then(|oneof| field.parent_message().oneofs().position(|other| other.name() == oneof.name()));
        Field { number: field.number(), name: field.name().to_owned(), kind, shape, oneof, default }
    }
}

impl Enumeration {
    fn new(described: &EnumDescriptor) -> Enumeration {
        let mut by_number = HashMap::new();
        for symbol in &described.enum_descriptor_proto().value {
            by_number.entry(symbol.number()).or_insert_with(|| symbol.name().to_owned());
        }
        Enumeration {
            name: described.full_name().to_owned(),
            is_closed: described.parent_file().syntax() == Syntax::Proto2,
            by_name: described.values().map(|symbol| (symbol.name().to_owned(), symbol.number())).collect(),
            by_number,
        }
    }

    pub fn has(&self, number: i32) -> bool {
        self.by_number.contains_key(&number)
    }

    pub fn number(&self, name: &str) -> Option<i32> {
        self.by_name.get(name).copied()
    }

    /// The symbol of a number; one without a symbol stays a number.
    pub fn value(&self, number: i32) -> Value {
        match self.by_number.get(&number) {
            Some(name) => Value::Enum(Symbol { name: name.clone(), number: Some(number) }),
            None => Value::Int(number.into()),
        }
    }

    /// Its symbols, for an error.
    pub fn symbols(&self) -> String {
        let mut symbols: Vec<_> = self.by_name.iter().map(|(name, number)| (number, name.as_str())).collect();
        symbols.sort_unstable();
        let names: Vec<_> = symbols.iter().take(20).map(|(_, name)| *name).collect();
        let more = if symbols.len() > names.len() { ", and more" } else { "" };
        format!("{}{more}", names.join(", "))
    }
}
