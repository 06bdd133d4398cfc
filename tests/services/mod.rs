//! The real servers that tests run against, started by the tests themselves on free ports of this
//! machine. README.md says what each needs.

pub mod kafka;
mod server;
