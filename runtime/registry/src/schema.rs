//! Schemas, their versions, and what they refer to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// In which language a schema is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Kind {
    /// What an answer means that does not say it.
    #[default]
    Avro,
    Protobuf,
    Json,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Avro => "Avro",
            Kind::Protobuf => "Protocol Buffers",
            Kind::Json => "JSON Schema",
        })
    }
}

/// A schema as it was registered.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Schema {
    #[serde(rename = "schemaType", default)]
    pub kind: Kind,
    #[serde(rename = "schema")]
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
}

impl Schema {
    /// One that refers to no other.
    pub fn new(kind: Kind, text: impl Into<String>) -> Schema {
        Schema { kind, text: text.into(), references: Vec::new() }
    }
}

/// Another schema that a schema needs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Reference {
    /// What the schema calls it: the full name of a type (Avro), the path of an import (Protocol
    /// Buffers), a `$ref` (JSON Schema).
    pub name: String,
    pub subject: String,
    pub version: u32,
}

/// A version of a subject.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Registered {
    pub subject: String,
    pub version: u32,
    /// What messages of this schema are marked with, see [`crate::framing`].
    pub id: u32,
    #[serde(flatten)]
    pub schema: Schema,
}

/// Which version of a subject.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    Latest,
    Number(u32),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Latest => f.write_str("latest"),
            Version::Number(number) => number.fmt(f),
        }
    }
}

/// A schema with all that it refers to, directly or through others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    pub schema: Schema,
    /// Each once, and behind those that it refers to itself.
    pub dependencies: Vec<Dependency>,
}

/// A schema that others refer to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dependency {
    /// What the others call it, as in [`Reference::name`].
    pub name: String,
    pub text: String,
}

/// What the registry asks of a new version of a subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Level {
    None,
    /// It reads what was written with the version before.
    Backward,
    BackwardTransitive,
    /// What is written with it is read by the version before.
    Forward,
    ForwardTransitive,
    /// Both.
    Full,
    FullTransitive,
}

/// Whether a schema could be a new version of a subject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compatibility {
    pub compatible: bool,
    /// What is incompatible, in the words of the registry; not every registry says it.
    pub messages: Vec<String>,
}
