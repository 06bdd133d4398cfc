//! Schemas that another one refers to, in files and in a registry.

use std::path::{Path, PathBuf};

use millstream_registry::Reference;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::problem::Problem;

/// A schema that others refer to.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected the path of a file, or { file = \"...\", subject = \"...\", version = 1 }"
)]
pub enum Referred {
    /// Its file.
    File(PathBuf),
    Registered(RegisteredFile),
}

/// A schema in a file that a registry has, too.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisteredFile {
    /// Its file.
    file: PathBuf,
    /// The subject that it is registered in.
    subject: String,
    /// Which version of that it is.
    version: u32,
}

impl Referred {
    pub fn file(&self) -> &Path {
        match self {
            Referred::File(file) => file,
            Referred::Registered(registered) => &registered.file,
        }
    }

    /// As a registry is told of it, by what the others call it. `at` is its key.
    pub fn registered(&self, name: &str, at: &str) -> Result<Reference, Problem> {
        match self {
            Referred::File(file) => {
                Err(Problem::new(at, "the registry is to be told which version of which subject this is")
                    .help(format!(
                        "{{ file = {:?}, subject = \"...\", version = 1 }}",
                        file.display().to_string()
                    )))
            }
            Referred::Registered(RegisteredFile { subject, version, .. }) => {
                Ok(Reference { name: name.to_owned(), subject: subject.clone(), version: *version })
            }
        }
    }
}
