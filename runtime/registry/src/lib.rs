//! A client of schema registries that speak Confluent's HTTP API: Confluent's own, Apicurio, Karapace,
//! Redpanda and others.
//!
//! In reading order:
//! - [`framing`]: what stands before a message and names its schema
//! - [`names`]: under which subject the schema of a message is
//! - [`schema`]: schemas, their versions, and what they refer to
//! - [`error`]: what can go wrong, told apart by who has to do something about it
//! - [`registry`]: the requests
//! - [`http`]: what clients of HTTP read in answers and errors, of any server
//! - [`answers`]: what an answer of a registry says
//! - [`references`]: a schema with all that it refers to
//! - [`cache`]: what was made of schemas, by id for ever and by subject for a time

mod answers;
pub mod cache;
pub mod error;
pub mod framing;
pub mod http;
pub mod names;
mod references;
pub mod registry;
pub mod schema;

pub use cache::{Cache, Keep, Latest};
pub use error::Error;
pub use names::SubjectNames;
pub use registry::{Authentication, Registry, Settings};
pub use schema::{Kind, Level, Reference, Registered, Resolved, Schema, Version};
