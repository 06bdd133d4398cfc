//! Counters and histograms of the plugin's own, which the pipeline grants with `grants.metrics = {}`.
//! They stand as `millstream_plugin_counter_total` and `millstream_plugin_histogram`, with the name
//! as a label, and count once the call is over and went well.

use crate::bindings::millstream::plugin::metrics as host;
use crate::plugin::Failure;

pub use host::{Measure, Point};

/// Why nothing was counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetricsError {
    /// The text tells which line to add.
    NotGranted(String),
    /// More names than the grant allows, or a name that is none.
    Refused(String),
}

impl From<MetricsError> for Failure {
    fn from(error: MetricsError) -> Failure {
        match error {
            MetricsError::NotGranted(text) => Failure::reject("not-granted", text),
            MetricsError::Refused(text) => Failure::reject("metrics-refused", text),
        }
    }
}

/// Adds to the counter of this name: lower-case letters, digits and `_`.
///
/// # Errors
/// See [`MetricsError`].
pub fn count(name: &str, by: u64) -> Result<(), MetricsError> {
    add_many(&[Point { name: name.to_owned(), measure: Measure::Count(by) }])
}

/// Observes a value in the histogram of this name.
///
/// # Errors
/// See [`MetricsError`].
pub fn observe(name: &str, value: f64) -> Result<(), MetricsError> {
    add_many(&[Point { name: name.to_owned(), measure: Measure::Observe(value) }])
}

/// All of these in one call, or none.
///
/// # Errors
/// See [`MetricsError`].
pub fn add_many(points: &[Point]) -> Result<(), MetricsError> {
    to_host(points).map_err(|error| match error {
        host::MetricsError::NotGranted(text) => MetricsError::NotGranted(text),
        host::MetricsError::Refused(text) => MetricsError::Refused(text),
    })
}

#[cfg(target_arch = "wasm32")]
fn to_host(points: &[Point]) -> Result<(), host::MetricsError> {
    host::add_many(points)
}

#[cfg(not(target_arch = "wasm32"))]
fn to_host(points: &[Point]) -> Result<(), host::MetricsError> {
    crate::testing::host::add_many(points)
}
