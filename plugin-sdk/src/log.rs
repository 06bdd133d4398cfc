//! The host's log. What a plugin writes there is limited in lines and bytes. A line is logged with
//! the message that is being processed.

use std::cell::Cell;
use std::fmt::Display;

pub use crate::bindings::millstream::plugin::log::Level;

thread_local! {
    static ROW: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Says which row of the batch the next lines are about.
#[inline]
pub(crate) fn set_row(row: Option<u32>) {
    ROW.set(row);
}

/// Writes a line, such as `log::write(Level::Warn, format_args!("{count} fields are gone"))`.
pub fn write(level: Level, message: impl Display) {
    to_host(level, ROW.get(), &message.to_string());
}

pub fn error(message: impl Display) {
    write(Level::Error, message);
}

pub fn warn(message: impl Display) {
    write(Level::Warn, message);
}

pub fn info(message: impl Display) {
    write(Level::Info, message);
}

pub fn debug(message: impl Display) {
    write(Level::Debug, message);
}

#[cfg(target_arch = "wasm32")]
fn to_host(level: Level, row: Option<u32>, message: &str) {
    crate::bindings::millstream::plugin::log::write(level, row, message);
}

#[cfg(not(target_arch = "wasm32"))]
fn to_host(level: Level, row: Option<u32>, message: &str) {
    crate::testing::host::log(level, row, message);
}
