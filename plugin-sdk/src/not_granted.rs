//! What a pipeline did not grant.

use crate::plugin::Failure;

/// The pipeline does not grant this; the text tells which line to add.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotGranted(pub String);

impl std::fmt::Display for NotGranted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotGranted {}

impl From<NotGranted> for Failure {
    fn from(not_granted: NotGranted) -> Failure {
        Failure::reject("not-granted", not_granted.0)
    }
}
