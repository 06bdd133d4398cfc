//! Whether what one schema writes can be read by another one, and where it cannot.
//!
//! In reading order:
//! - [`avro`]: by the rules of schema resolution
//! - [`protobuf`]: by what the wire format says of a field
//! - [`json`]: whether what is valid by one schema is valid by the other, as far as that can be told

pub mod avro;
pub mod json;
pub mod protobuf;

use std::fmt;

/// Which of two versions of a schema must read the data of the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The new one reads what the old one wrote: readers are changed first.
    Backward,
    /// The old one reads what the new one writes: writers are changed first.
    Forward,
    /// Both.
    Full,
}

impl Mode {
    /// The ways of data that it asks for.
    fn ways(self) -> &'static [Way] {
        match self {
            Mode::Backward => &[Way::OldToNew],
            Mode::Forward => &[Way::NewToOld],
            Mode::Full => &[Way::OldToNew, Way::NewToOld],
        }
    }
}

/// Whose data is read by whom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// What the old schema wrote, by the new one.
    OldToNew,
    /// What the new schema writes, by the old one.
    NewToOld,
}

impl Way {
    pub fn writer(self) -> &'static str {
        match self {
            Way::OldToNew => "old",
            Way::NewToOld => "new",
        }
    }

    pub fn reader(self) -> &'static str {
        match self {
            Way::OldToNew => "new",
            Way::NewToOld => "old",
        }
    }

    /// One of two things by who it is of.
    fn pair<T>(self, old: T, new: T) -> (T, T) {
        match self {
            Way::OldToNew => (old, new),
            Way::NewToOld => (new, old),
        }
    }

    /// Whichever fits whoever may still be changed: the new schema.
    fn remedy<'a>(self, of_the_reader: &'a str, of_the_writer: &'a str) -> &'a str {
        match self {
            Way::OldToNew => of_the_reader,
            Way::NewToOld => of_the_writer,
        }
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Weight {
    /// Some data cannot be read, or is read as something else.
    Breaks,
    /// Whether it can is beyond what is compared here.
    Unknown,
    /// All of it can be read if it keeps to what the schema does not say.
    Warning,
}

/// Something that one schema writes and the other one does not read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    pub weight: Weight,
    pub way: Way,
    /// Where: of a value (Avro), of a schema (JSON Schema), or the full name of a field (Protocol Buffers).
    pub path: String,
    pub what: String,
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = match self.weight {
            Weight::Breaks => "breaks",
            Weight::Unknown => "cannot tell",
            Weight::Warning => "warning",
        };
        let (reader, writer) = (self.way.reader(), self.way.writer());
        let path = if self.path.is_empty() { "/" } else { &self.path };
        write!(f, "{weight}: {path}: {} ({reader} reads {writer}); {}", self.what, self.remedy)
    }
}

/// What is found on the way from a writer to a reader.
struct Findings {
    way: Way,
    list: Vec<Finding>,
}

impl Findings {
    /// Of all the ways that a mode asks for, the worst first.
    fn of(mode: Mode, compare: impl Fn(&mut Findings)) -> Vec<Finding> {
        let mut all = Vec::new();
        for way in mode.ways() {
            let mut findings = Findings { way: *way, list: Vec::new() };
            compare(&mut findings);
            all.extend(findings.list);
        }
        all.sort();
        all.dedup();
        all
    }

    fn add(&mut self, weight: Weight, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let (path, what, remedy) = (path.to_owned(), what.into(), remedy.into());
        self.list.push(Finding { weight, way: self.way, path, what, remedy });
    }

    fn breaks(&mut self, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Weight::Breaks, path, what, remedy);
    }

    fn warn(&mut self, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Weight::Warning, path, what, remedy);
    }

    fn unknown(&mut self, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Weight::Unknown, path, what, remedy);
    }
}
