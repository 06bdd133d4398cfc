//! The real servers that tests run against, started by the tests themselves on free ports of this
//! machine. README.md says what each needs.

#[cfg(feature = "aws")]
pub mod aws;
pub mod certificates;
pub mod installed;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod otlp;
pub mod python;
#[allow(dead_code, reason = "the tests of `runtime/registry` use it too, each a part")]
pub mod registry;
mod server;
