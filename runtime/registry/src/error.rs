//! What can go wrong, told apart by who has to do something about it. No error holds credentials.

use std::time::Duration;

/// Why there is no answer to work with.
///
/// [`Error::is_of_the_schema`] tells those that stay as they are whenever one asks again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// There is no such schema, subject or version. A message that names it can never be read.
    #[error("{what} is not in the registry {registry}: {message} (error code {code})")]
    NotFound { what: String, registry: String, code: u32, message: String },
    /// No connection, no answer in time, an answer 429 or 5xx: to be tried again, not before
    /// `retry_after` if the registry says so.
    #[error("the registry {registry} is not available ({what}): {reason}")]
    Unavailable { what: String, registry: String, reason: String, retry_after: Option<Duration> },
    /// 401, 403 or 407. No message's fault.
    #[error("the registry {registry} refuses our credentials ({what}): {reason}")]
    Refused { what: String, registry: String, reason: String },
    /// The registry does not take this schema: 409 as incompatible, 422 as none.
    #[error("the registry {registry} refuses {what}: {message} (error code {code})")]
    Rejected { what: String, registry: String, code: u32, message: String },
    /// It is there, and cannot be used: it is too large, refers to too much or in a circle, or
    /// nothing could be made of it.
    #[error("{what} cannot be used: {reason}")]
    Unusable { what: String, reason: String },
    /// What answers is no registry, or not at this url. No message's fault.
    #[error("{registry} does not answer as a schema registry ({what}): {reason}")]
    Invalid { what: String, registry: String, reason: String },
}

impl Error {
    /// Whether the schema is at fault, or whoever named it: asking again does not help. Otherwise the
    /// registry, its url or the credentials are, and whoever asks waits.
    #[must_use]
    pub fn is_of_the_schema(&self) -> bool {
        match self {
            Error::NotFound { .. } | Error::Rejected { .. } | Error::Unusable { .. } => true,
            Error::Unavailable { .. } | Error::Refused { .. } | Error::Invalid { .. } => false,
        }
    }

    /// How long the registry asks to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
