//! Protocol Buffers: what becomes of a field on the wire when another version of its message reads it.
//!
//! Paths are full names of messages and fields, with the number of a field. A field that the reader does not
//! have is skipped by it, as Protocol Buffers have it, so a field may be added and, if its number is reserved,
//! removed.

use std::collections::HashSet;
use std::path::Path;

pub use prost_reflect::DescriptorPool;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use protox::Compiler;

use super::{Finding, Findings, Mode, Way};
use crate::Error;
use crate::protobuf::pool_of_sources;

/// The descriptors of a `.proto` file, which imports from `include_dirs`.
///
/// # Errors
/// It cannot be read or is wrong; says where.
pub fn of_file(file: &Path, include_dirs: &[impl AsRef<Path>]) -> Result<DescriptorPool, Error> {
    let wrong = |error: protox::Error| Error::new(format!("{error:?}"));
    let mut compiler = Compiler::new(include_dirs).map_err(wrong)?;
    compiler.include_imports(true).open_file(file).map_err(wrong)?;
    Ok(compiler.descriptor_pool())
}

/// Those of the text of a file and of what it imports, as [`crate::protobuf::Descriptors::from_sources`].
///
/// # Errors
/// As there.
pub fn of_sources(main_text: &str, references: &[(&str, &str)]) -> Result<DescriptorPool, Error> {
    Ok(pool_of_sources(main_text, references)?.0)
}

/// Those of a `FileDescriptorSet`.
///
/// # Errors
/// It is none, or lacks a file.
pub fn of_set(set: &[u8]) -> Result<DescriptorPool, Error> {
    DescriptorPool::decode(set).map_err(|error| Error::new(format!("no descriptor set: {error}")))
}

/// Compares two versions of a message with all that it holds, or of all messages.
///
/// # Errors
/// One of them does not have the message.
pub fn check(
    old: &DescriptorPool,
    new: &DescriptorPool,
    message: Option<&str>,
    mode: Mode,
) -> Result<Vec<Finding>, Error> {
    let roots = match message {
        Some(name) => {
            let find = |pool: &DescriptorPool, which: &str| {
                pool.get_message_by_name(name)
                    .ok_or_else(|| Error::new(format!("the {which} schema has no message {name:?}")))
            };
            vec![(find(old, "old")?, Some(find(new, "new")?))]
        }
        None => old
            .all_messages()
            .filter(|message| !message.is_map_entry() && message.package_name() != "google.protobuf")
            .map(|message| {
                let new = new.get_message_by_name(message.full_name());
                (message, new)
            })
            .collect(),
    };
    Ok(Findings::of(mode, |findings| {
        let mut pairs = Pairs { seen: HashSet::new() };
        for (old, new) in &roots {
            match new {
                Some(new) => {
                    let (writer, reader) = findings.way.pair(old, new);
                    pairs.messages(writer, reader, findings);
                }
                None => findings.breaks(old.full_name(), "the message is gone", "keep it, or its name"),
            }
        }
    }))
}

struct Pairs {
    /// Full names of messages and enums that were compared or are being compared.
    seen: HashSet<(String, String)>,
}

impl Pairs {
    fn messages(&mut self, writer: &MessageDescriptor, reader: &MessageDescriptor, findings: &mut Findings) {
        if !self.seen.insert((writer.full_name().to_owned(), reader.full_name().to_owned())) {
            return;
        }
        let (old, new) = findings.way.pair(writer, reader);
        for field in writer.fields() {
            match reader.get_field(field.number()) {
                Some(read) => self.fields(&field, &read, findings),
                None => unread(&field, reader, findings),
            }
        }
        for field in reader.fields() {
            if field.is_required()
                && writer.get_field(field.number()).is_none_or(|field| !field.is_required())
            {
                findings.breaks(
                    &path(&field),
                    format!(
                        "the {} schema requires it, the {} one may leave it out",
                        findings.way.reader(),
                        findings.way.writer()
                    ),
                    findings.way.remedy("make it optional", "keep it required until no reader requires it"),
                );
            }
        }
        for field in new.fields() {
            if old.reserved_ranges().any(|range| range.contains(&field.number())) {
                let remedy = "take a number that was never used";
                findings.breaks(&path(&field), "the old schema has reserved this number", remedy);
            }
        }
        oneofs(writer, reader, findings);
    }

    fn fields(&mut self, writes: &FieldDescriptor, reads: &FieldDescriptor, findings: &mut Findings) {
        let path = path(writes);
        if writes.name() != reads.name() {
            findings.warn(
                &path,
                format!(
                    "number {} is {:?} in the {} schema",
                    writes.number(),
                    reads.name(),
                    findings.way.reader()
                ),
                "good only if it is the same field by another name; numbers are not used twice",
            );
        }
        if writes.is_list() && !reads.is_list() && !reads.is_map() {
            let what = format!("it is repeated, and the {} schema reads one of it", findings.way.reader());
            findings.breaks(&path, what, "keep it as it was, and add a field of a new number");
        } else if !writes.is_list() && !writes.is_map() && reads.is_list() {
            findings.warn(
                &path,
                "one is read as a list of one, none as an empty list",
                "good if that is meant",
            );
        }
        match (writes.kind(), reads.kind()) {
            (Kind::Message(writer), Kind::Message(reader)) if writes.is_group() == reads.is_group() => {
                self.messages(&writer, &reader, findings);
            }
            (Kind::Enum(writer), Kind::Enum(reader)) => self.enums(&writer, &reader, findings),
            (from, to) if from == to => {}
            (from, to) => match change(&from, &to) {
                Change::Good => {}
                Change::Depends(on) => {
                    findings.warn(&path, format!("{} is read as {}", named(&from), named(&to)), on);
                }
                Change::Breaks(why) => findings.breaks(
                    &path,
                    format!("{} is read as {}: {why}", named(&from), named(&to)),
                    "keep the type, and add a field of a new number",
                ),
            },
        }
    }

    fn enums(&mut self, writer: &EnumDescriptor, reader: &EnumDescriptor, findings: &mut Findings) {
        if !self.seen.insert((writer.full_name().to_owned(), reader.full_name().to_owned())) {
            return;
        }
        for value in writer.values() {
            let path = format!("{} ({})", value.full_name(), value.number());
            // Several names may have one number.
            let names: Vec<String> = reader
                .values()
                .filter(|known| known.number() == value.number())
                .map(|known| known.name().to_owned())
                .collect();
            if names.is_empty() {
                findings.warn(
                    &path,
                    format!("the {} schema does not know the value", findings.way.reader()),
                    "good only if its readers take numbers without a name",
                );
            } else if !names.iter().any(|name| name == value.name()) {
                findings.warn(
                    &path,
                    format!("it is {:?} in the {} schema", names[0], findings.way.reader()),
                    "good only if it means the same",
                );
            }
        }
    }
}

/// A field that the reader does not have at this number.
fn unread(field: &FieldDescriptor, reader: &MessageDescriptor, findings: &mut Findings) {
    let number = field.number();
    if let Some(moved) = reader.get_field_by_name(field.name()) {
        findings.breaks(
            &path(field),
            format!(
                "it has number {} in the {} schema, which skips it",
                moved.number(),
                findings.way.reader()
            ),
            format!("keep the number {number}"),
        );
    } else if findings.way == Way::OldToNew && !reader.reserved_ranges().any(|range| range.contains(&number))
    {
        findings.warn(
            &path(field),
            "it is gone, and its number may be taken again",
            format!("reserved {number}; in the new message"),
        );
    }
}

/// Of a oneof the reader keeps the field that came last, so the writer must not write two.
fn oneofs(writer: &MessageDescriptor, reader: &MessageDescriptor, findings: &mut Findings) {
    for oneof in reader.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        let written: Vec<FieldDescriptor> =
            oneof.fields().filter_map(|field| writer.get_field(field.number())).collect();
        let Some(first) = written.first() else { continue };
        let of = |field: &FieldDescriptor| {
            field
                .containing_oneof()
                .filter(|oneof| !oneof.is_synthetic())
                .map(|oneof| oneof.name().to_owned())
        };
        for field in &written[1..] {
            if of(field).is_none() || of(field) != of(first) {
                findings.breaks(
                    &path(field),
                    format!(
                        "it can be written beside {:?}, and the {} schema reads one of them (oneof {:?})",
                        first.name(),
                        findings.way.reader(),
                        oneof.name()
                    ),
                    findings.way.remedy("leave it out of the oneof", "leave both in the oneof"),
                );
            }
        }
    }
}

enum Change {
    Good,
    /// It is good on a condition.
    Depends(&'static str),
    Breaks(&'static str),
}

/// What becomes of a value that is written as one type and read as another one.
fn change(from: &Kind, to: &Kind) -> Change {
    const OTHER: &str = "it is written in another way";
    const CUT: &str = "large numbers are cut off";
    const SIGN: &str = "negative numbers are read as large ones, or the other way round";
    match (from, to) {
        // All of these are varints, and a negative one has ten bytes whatever its width.
        (Kind::Bool, Kind::Int32 | Kind::Uint32 | Kind::Int64 | Kind::Uint64)
        | (Kind::Uint32, Kind::Uint64 | Kind::Int64)
        | (Kind::Int32, Kind::Int64)
        | (Kind::Enum(_), Kind::Int32 | Kind::Int64)
        | (Kind::Sint32, Kind::Sint64)
        | (Kind::String, Kind::Bytes) => Change::Good,
        (Kind::Int32, Kind::Enum(_)) => Change::Depends("good only for numbers that the enum has"),
        (Kind::Bytes, Kind::String) => Change::Depends("good only if they are UTF-8"),
        (Kind::Message(_), Kind::Bytes) => Change::Depends("good only if who reads it expects a message"),
        (Kind::Int64 | Kind::Uint64, Kind::Int32 | Kind::Uint32 | Kind::Enum(_))
        | (Kind::Uint32, Kind::Enum(_))
        | (Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Enum(_), Kind::Bool)
        | (Kind::Bool, Kind::Enum(_))
        | (Kind::Sint64, Kind::Sint32) => Change::Breaks(CUT),
        (Kind::Int32 | Kind::Int64 | Kind::Enum(_), Kind::Uint32 | Kind::Uint64)
        | (Kind::Uint32, Kind::Int32)
        | (Kind::Uint64, Kind::Int64)
        | (Kind::Fixed32, Kind::Sfixed32)
        | (Kind::Sfixed32, Kind::Fixed32)
        | (Kind::Fixed64, Kind::Sfixed64)
        | (Kind::Sfixed64, Kind::Fixed64) => Change::Breaks(SIGN),
        _ => Change::Breaks(OTHER),
    }
}

fn named(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => format!("message {}", message.full_name()),
        Kind::Enum(described) => format!("enum {}", described.full_name()),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn path(field: &FieldDescriptor) -> String {
    format!("{} ({})", field.full_name(), field.number())
}

#[cfg(test)]
mod tests;
