//! Formats of messages, and the one data model between them.
//!
//! A format decodes into a [`Value`] and encodes from one; none knows of another. What becomes of a value on
//! its way from any format to any other follows from the table of the model, `runtime/docs/formats.md`. What
//! a format cannot say is an [`Error`] that names the field; nothing is changed silently.
//!
//! In reading order:
//! - [`model`]: the values
//! - [`error`]: what is wrong, and where in the value
//! - [`wanted`]: a value made into what a schema wants, by the rules of the table
//! - [`json`]: JSON, what plugins see by default
//! - [`avro`]: Avro, its single-object encoding and its container files
//! - [`protobuf`]: Protocol Buffers, by a schema
//! - [`msgpack`]: MessagePack, which needs no schema
//! - [`cbor`]: CBOR, which needs none either
//! - [`compatibility`]: whether one schema reads what another one wrote

pub mod avro;
pub mod cbor;
pub mod compatibility;
mod entries;
pub mod error;
pub mod json;
pub mod model;
pub mod msgpack;
pub mod protobuf;
pub mod wanted;

pub use error::Error;
pub use model::Value;

/// How deep a value may be nested, in every format: decoders refuse more before they go there.
pub const MAX_DEPTH: usize = 100;

/// What becomes of a field that the schema of the target does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExtraFields {
    /// An error that names it.
    #[default]
    Reject,
    /// It is left out.
    Drop,
}

/// The error of such a field.
pub(crate) fn unknown_field(record: &str) -> Error {
    Error::new(format!("{record} has no such field; `extra_fields = \"drop\"` leaves such fields out"))
}
