//! Counters and histograms of a plugin's own.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::super::bindings::metrics::{self, Measure, MetricsError, Point};
use super::super::guest::{Clock, Guest};
use super::line_to_add;

const MAX_NAME_BYTES: usize = 64;

impl metrics::Host for Guest {
    fn add_many(&mut self, points: Vec<Point>) -> wasmtime::Result<Result<(), MetricsError>> {
        Clock::host_call(self, |guest| {
            let Some(granted) = guest.capabilities.grants.metrics else {
                let text = line_to_add("metrics of its own are", "grants.metrics = {}");
                return Ok(Err(MetricsError::NotGranted(text)));
            };
            let mut names = guest.capabilities.names.lock().unwrap_or_else(PoisonError::into_inner);
            let mut new: BTreeSet<&str> = BTreeSet::new();
            for Point { name, measure } in &points {
                if let Some(wrong) = wrong_in(name, *measure) {
                    return Ok(Err(MetricsError::Refused(wrong)));
                }
                if !names.contains(name) {
                    new.insert(name);
                }
            }
            if names.len() + new.len() > granted.names {
                let text = format!(
                    "the metrics {:?} would be more than {}; raise grants.metrics = {{ names = {} }}",
                    new,
                    granted.names,
                    names.len() + new.len()
                );
                return Ok(Err(MetricsError::Refused(text)));
            }
            names.extend(new.into_iter().map(str::to_owned));
            drop(names);
            guest.points.extend(points);
            Ok(Ok(()))
        })
    }
}

fn wrong_in(name: &str, measure: Measure) -> Option<String> {
    let is_name = name.len() <= MAX_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if !is_name {
        let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
        return Some(format!(
            "{shown:?} is no name of a metric: lower-case letters, digits and `_`, at most {MAX_NAME_BYTES}"
        ));
    }
    match measure {
        Measure::Observe(value) if !value.is_finite() => {
            Some(format!("{value} cannot be observed in {name:?}; give a finite number"))
        }
        _ => None,
    }
}
